//! The LRU reference: the table shapes of the best-known XDP balancers, written for this bench.
//!
//! A kernel hash from (address, port, protocol) to a VIP number, a `BPF_MAP_TYPE_LRU_HASH` from the full 5-tuple to a
//! backend, an array of Maglev slots per VIP, an array of backends, per-CPU counters for VIP and backend.

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::btf_maps::{Array, HashMap, LruHashMap, PerCpuArray};
use aya_ebpf::helpers::generated::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;

use crate::frame::{Packet, encapsulate, parse};

/// As many flows as weir's table for a million has ways.
const FLOWS: usize = 1 << 21;
const SLOTS: usize = 65_537;
const UDP: u8 = 17;

// Keys are double words: the compiler may write half of a smaller array's fields in one unaligned piece, and the
// verifier refuses that on the stack ("misaligned stack access").

/// Addresses take 16 bytes, as they do where one map holds both families.
#[repr(C)]
struct VipKey {
    address: [u64; 2],
    port_protocol: u64,
}

#[repr(C)]
struct FlowKey {
    source: [u64; 2],
    destination: [u64; 2],
    ports_protocol: u64,
}

#[repr(C)]
struct Known {
    backend: u32,
    reserved: u32,
    /// Nanoseconds; UDP only.
    seen: u64,
}

#[repr(C)]
struct Server {
    address: [u32; 4],
    flags: u32,
}

#[repr(C)]
struct Count {
    packets: u64,
    bytes: u64,
}

/// VIP numbers. Written by userspace.
#[btf_map]
static LRU_VIPS: HashMap<VipKey, u64, 512> = HashMap::new();
#[btf_map]
static LRU_FLOWS: LruHashMap<FlowKey, Known, FLOWS> = LruHashMap::new();
/// Backend ids by VIP number and slot. Written by userspace.
#[btf_map]
static LRU_SLOTS: Array<u32, SLOTS> = Array::new();
/// Written by userspace.
#[btf_map]
static LRU_BACKENDS: Array<Server, 4096> = Array::new();
#[btf_map]
static LRU_VIP_COUNTS: PerCpuArray<Count, 512> = PerCpuArray::new();
#[btf_map]
static LRU_BACKEND_COUNTS: PerCpuArray<Count, 4096> = PerCpuArray::new();

#[inline(always)]
fn count<const N: usize>(counts: &PerCpuArray<Count, N>, index: u32, bytes: u16) {
    if let Some(count) = counts.get_ptr_mut(index) {
        // SAFETY: the element is this CPU's.
        let count = unsafe { &mut *count };
        count.packets += 1;
        count.bytes += u64::from(bytes);
    }
}

#[inline(always)]
fn hash(packet: &Packet) -> u64 {
    let key = u64::from(packet.source) << 32 | u64::from(packet.ports);
    let product = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (product ^ product >> 32).wrapping_mul(0xbf58_476d_1ce4_e5b9)
}

#[inline(always)]
fn select(packet: &Packet, vip: u32, key: &FlowKey) -> Option<u32> {
    // A SYN is a new flow by definition: it is not looked up.
    if !packet.syn
        && let Some(known) = LRU_FLOWS.get_ptr_mut(key)
    {
        // SAFETY: the entry may be another flow's by now, which costs accuracy only; its memory stays.
        let known = unsafe { &mut *known };
        if packet.protocol == UDP {
            // SAFETY: the helper has no preconditions.
            known.seen = unsafe { bpf_ktime_get_ns() };
        }
        return Some(known.backend);
    }
    let slot = ((hash(packet) as u32 as u64 * SLOTS as u64) >> 32) as u32;
    let backend = *LRU_SLOTS.get(vip * SLOTS as u32 + slot)?;
    let _ = LRU_FLOWS.insert(key, Known { backend, reserved: 0, seen: 0 }, 0);
    Some(backend)
}

#[inline(always)]
fn balance(context: &XdpContext) -> Option<()> {
    let packet = parse(context)?;
    let vip = VipKey {
        address: [u64::from(packet.destination), 0],
        port_protocol: u64::from(packet.ports >> 16) | u64::from(packet.protocol) << 16,
    };
    // SAFETY: userspace does not remove VIPs during a run.
    let vip = *unsafe { LRU_VIPS.get(&vip) }? as u32;
    let key = FlowKey {
        source: [u64::from(packet.source), 0],
        destination: [u64::from(packet.destination), 0],
        ports_protocol: u64::from(packet.ports) | u64::from(packet.protocol) << 32,
    };
    let backend = select(&packet, vip, &key)?;
    let address = LRU_BACKENDS.get(backend)?.address[0];
    count(&LRU_VIP_COUNTS, vip, packet.length);
    count(&LRU_BACKEND_COUNTS, backend, packet.length);
    encapsulate(context, packet.length, u32::to_be(0x0a00_0001), address)
}

/// The balancer.
#[xdp]
fn lru(context: XdpContext) -> u32 {
    match balance(&context) {
        Some(()) => XDP_TX,
        None => XDP_PASS,
    }
}
