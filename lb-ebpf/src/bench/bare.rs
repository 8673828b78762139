//! The bare reference: services in a kernel hash, a 4-way array of flows, IPIP, and nothing else.
//!
//! No counters, no health, no expiry, no classes, no time, one look-up in one bucket: the least that remembers flows.

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::{Array, HashMap};
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;

use crate::frame::{Packet, encapsulate, parse};

/// As many buckets as weir's table for a million flows has.
pub(crate) const BUCKETS: usize = 1 << 19;
const SLOTS: usize = 65_537;

#[repr(C, align(64))]
pub(crate) struct Line {
    /// Source address and ports.
    keys: [u64; 4],
    pub(crate) backends: [u32; 4],
    reserved: [u32; 4],
}

/// Services by address, port and protocol. Written by userspace.
#[btf_map]
static BARE_SERVICES: HashMap<u64, u64, 1024> = HashMap::new();
#[btf_map]
pub(crate) static BARE_FLOWS: Array<Line, BUCKETS> = Array::new();
/// Backend ids by slot. Written by userspace.
#[btf_map]
static BARE_SLOTS: Array<u32, SLOTS> = Array::new();
/// Addresses of backends, network byte order. Written by userspace.
#[btf_map]
static BARE_BACKENDS: Array<u64, 4096> = Array::new();

#[inline(always)]
fn key(packet: &Packet) -> u64 {
    u64::from(packet.source) << 32 | u64::from(packet.ports)
}

/// The upper half names a flow's line.
#[inline(always)]
pub(crate) fn hash(packet: &Packet) -> u64 {
    let product = key(packet).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (product ^ product >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

#[inline(always)]
fn balance(context: &XdpContext) -> Option<()> {
    let packet = parse(context)?;
    let service = u64::from(packet.destination)
        | u64::from(packet.ports >> 16) << 32
        | u64::from(packet.protocol) << 48;
    // SAFETY: userspace does not remove services during a run.
    unsafe { BARE_SERVICES.get(service) }?;
    let key = key(&packet);
    let hash = hash(&packet);
    let line = BARE_FLOWS.get_ptr_mut((hash >> 32) as u32 & (BUCKETS as u32 - 1))?;
    // SAFETY: the element lives as long as the program; the bench runs on one CPU.
    let line = unsafe { &mut *line };
    let mut backend = 0;
    for way in 0..4 {
        if line.keys[way] == key {
            backend = line.backends[way];
        }
    }
    if backend == 0 {
        let slot = ((hash as u32 as u64 * SLOTS as u64) >> 32) as u32;
        backend = *BARE_SLOTS.get(slot)?;
        let way = hash as usize >> 8 & 3;
        line.keys[way] = key;
        line.backends[way] = backend;
    }
    let address = *BARE_BACKENDS.get(backend)?;
    encapsulate(context, packet.length, u32::to_be(0x0a00_0001), address as u32)
}

/// The balancer.
#[xdp]
fn bare(context: XdpContext) -> u32 {
    match balance(&context) {
        Some(()) => XDP_TX,
        None => XDP_PASS,
    }
}
