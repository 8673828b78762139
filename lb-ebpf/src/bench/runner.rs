//! The runner: restores the frame, writes the next flow into it, tail-calls the program under test.
//!
//! A tail call does not return, so each repeat first undoes what the one before did to the frame: outer headers go,
//! Ethernet and the flow are written anew. What that costs is the same for every program.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::btf_maps::{Array, ProgramArray};
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;

use crate::frame::header;

/// What is run. Written by userspace before each batch.
#[repr(C)]
pub(crate) struct Run {
    /// Number of the next packet.
    next: u64,
    /// Flows, less one; a power of two less one.
    mask: u64,
    /// Half the bits of the mask.
    half: u64,
    /// Length of the frame as it arrives.
    length: u64,
    /// Odd: another one is another order of the flows.
    factor: u64,
}

#[btf_map]
static RUN: Array<Run, 1> = Array::new();

/// The program under test.
#[btf_map]
static UNDER_TEST: ProgramArray<1> = ProgramArray::new();

/// The n-th flow's number: a permutation of `0..=mask`, so that neighbours in time are none in memory.
#[inline(always)]
fn permute(n: u64, mask: u64, half: u64, factor: u64) -> u64 {
    let mut flow = n & mask;
    flow = flow.wrapping_mul(factor) & mask;
    flow ^= flow >> half;
    flow.wrapping_mul(0xbf58_476d_1ce4_e5b9) & mask
}

/// Source address bits and source port, for up to 2³⁹ flows.
#[derive(Clone, Copy)]
pub(crate) struct Flow(u32, u16);

impl Flow {
    /// The n-th flow.
    #[inline(always)]
    pub(crate) fn numbered(n: u64, mask: u64, half: u64, factor: u64) -> Self {
        let flow = permute(n, mask, half, factor);
        Self(flow as u32 & 0xff_ffff, 0x8000 | ((flow ^ flow >> 24) as u16 & 0x7fff))
    }

    /// The bits of the source address.
    #[inline(always)]
    pub(crate) fn address(self) -> u32 {
        self.0
    }
}

#[repr(C, packed)]
struct Ethernet {
    start: u64,
    end: u32,
    ethertype: u16,
}

/// The parts that are written for each packet; what lies between stays as userspace gave it.
#[repr(C, packed)]
pub(crate) struct FrameV4 {
    ethernet: Ethernet,
    head: [u32; 3],
    source: u32,
    pub(crate) destination: u32,
    ports: u32,
}

#[repr(C, packed)]
struct FrameV6 {
    ethernet: Ethernet,
    head: u64,
    source_high: u64,
    source_low: u64,
    destination: [u64; 2],
    ports: u32,
}

/// Cuts the frame to its first length; gives the flow to write.
#[inline(always)]
pub(crate) fn restore(context: &XdpContext) -> Option<Flow> {
    let run = RUN.get_ptr_mut(0)?;
    // SAFETY: the element lives as long as the program, and nothing writes it during a batch.
    let run = unsafe { &mut *run };
    // The mask keeps the compiler from subtracting the length from a packet pointer, which the verifier refuses.
    let held = (context.data_end() - context.data()) & 0xffff;
    let grown = held as i32 - run.length as i32;
    // SAFETY: the context is the program's own; no packet pointer exists yet.
    if unsafe { bpf_xdp_adjust_head(context.as_ptr().cast(), grown) } != 0 {
        return None;
    }
    let flow = Flow::numbered(run.next, run.mask, run.half, run.factor);
    run.next += 1;
    Some(flow)
}

/// Both ports, as they stand in the frame: one store, since a load that spans two recent stores stalls the CPU, which
/// no frame from a network card does.
#[inline(always)]
fn with_source_port(ports: u32, source: u16) -> u32 {
    ports & 0xffff_0000 | u32::from(source.to_be())
}

const fn ethernet(ethertype: u16) -> Ethernet {
    Ethernet { start: 0x0002_0100_0000_0002, end: 0x0200_0000, ethertype: ethertype.to_be() }
}

#[inline(always)]
pub(crate) fn call(context: &XdpContext) -> u32 {
    // SAFETY: nothing is left to drop.
    unsafe { UNDER_TEST.tail_call(context, 0) };
    XDP_ABORTED
}

/// Writes the parts of an IPv4 frame that differ between packets; the destination port only where one is given.
#[inline(always)]
pub(crate) fn write_v4(frame: &mut FrameV4, Flow(address, port): Flow, to: Option<u16>) {
    frame.ethernet = ethernet(0x0800);
    frame.source = (0x0a00_0000 | address).to_be();
    let ports = to.map_or(frame.ports, |to| u32::from(to.to_be()) << 16);
    frame.ports = with_source_port(ports, port);
}

#[inline(always)]
fn next_v4(context: &XdpContext) -> Option<()> {
    let flow = restore(context)?;
    // SAFETY: the frame holds the header, whose fields have no alignment.
    write_v4(unsafe { &mut *header(context, 0)? }, flow, None);
    Some(())
}

#[inline(always)]
fn next_v6(context: &XdpContext) -> Option<()> {
    let Flow(address, port) = restore(context)?;
    // SAFETY: the frame holds the header, whose fields have no alignment.
    let frame: &mut FrameV6 = unsafe { &mut *header(context, 0)? };
    frame.ethernet = ethernet(0x86dd);
    frame.source_low = u64::from(address).to_be();
    frame.ports = with_source_port(frame.ports, port);
    Some(())
}

/// Runs an IPv4 frame.
#[xdp]
fn run_v4(context: XdpContext) -> u32 {
    match next_v4(&context) {
        Some(()) => call(&context),
        None => XDP_ABORTED,
    }
}

/// Runs an IPv6 frame.
#[xdp]
fn run_v6(context: XdpContext) -> u32 {
    match next_v6(&context) {
        Some(()) => call(&context),
        None => XDP_ABORTED,
    }
}
