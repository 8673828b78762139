//! Packets that are spread over many services: like `run_v4`, with a destination of each flow's own.

use aya_ebpf::bindings::xdp_action::XDP_ABORTED;
use aya_ebpf::btf_maps::Array;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;

use crate::frame::header;
use crate::runner::{FrameV4, call, restore, write_v4};

/// Services less one; a power of two less one. Written by userspace before each batch.
#[btf_map]
static SERVICES: Array<u64, 1> = Array::new();

/// Services of a VIP, as a shift.
const PORTS_PER_VIP: u32 = 4;
/// The first VIP, 198.18.0.0, and its first port.
const VIPS: u32 = 0xc612_0000;
const PORTS: u16 = 8000;

#[inline(always)]
fn next(context: &XdpContext) -> Option<()> {
    let flow = restore(context)?;
    let service = flow.address() & *SERVICES.get(0)? as u32;
    // SAFETY: the frame holds the header, whose fields have no alignment.
    let frame: &mut FrameV4 = unsafe { &mut *header(context, 0)? };
    write_v4(frame, flow, Some(PORTS + (service as u16 & ((1 << PORTS_PER_VIP) - 1))));
    frame.destination = (VIPS + (service >> PORTS_PER_VIP)).to_be();
    Some(())
}

/// Runs an IPv4 frame to one of the services.
#[xdp]
fn run_services(context: XdpContext) -> u32 {
    match next(&context) {
        Some(()) => call(&context),
        None => XDP_ABORTED,
    }
}
