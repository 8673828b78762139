//! Frames through a veth: `live_send` makes each a packet of another flow and sends it, `live_count` counts what
//! arrives.
//!
//! Userspace runs `live_send` with `BPF_F_TEST_XDP_LIVE_FRAMES`: the kernel hands it frames that come back with the
//! length that they started with, and with whatever the program under test wrote.

use aya_ebpf::bindings::xdp_action::{XDP_ABORTED, XDP_DROP};
use aya_ebpf::btf_maps::{Array, PerCpuArray};
use aya_ebpf::helpers::generated::bpf_redirect;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;

use crate::frame::header;
use crate::runner::{Flow, FrameV4, write_v4};

/// What is sent. Written by userspace before each batch.
#[repr(C)]
pub(crate) struct Live {
    /// Number of the next packet.
    next: u64,
    /// Flows, less one; a power of two less one.
    mask: u64,
    /// Half the bits of the mask.
    half: u64,
    /// Odd: another one is another order of the flows.
    factor: u64,
    /// The interface to send by.
    interface: u64,
}

#[btf_map]
static LIVE: Array<Live, 1> = Array::new();

/// Frames that `live_count` saw.
#[btf_map]
static COUNTED: PerCpuArray<u64, 1> = PerCpuArray::new();

/// Sends an IPv4 frame of the next flow.
#[xdp]
fn live_send(context: XdpContext) -> u32 {
    let Some(live) = LIVE.get_ptr_mut(0) else { return XDP_ABORTED };
    // SAFETY: the element lives as long as the program, and nothing else writes it during a batch.
    let live = unsafe { &mut *live };
    let Some(frame) = header::<FrameV4>(&context, 0) else { return XDP_ABORTED };
    let flow = Flow::numbered(live.next, live.mask, live.half, live.factor);
    live.next += 1;
    // SAFETY: the frame holds the header, whose fields have no alignment.
    write_v4(unsafe { &mut *frame }, flow, None);
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_redirect(live.interface as u32, 0) as u32 }
}

/// Counts a frame and ends it.
#[xdp]
fn live_count(_context: XdpContext) -> u32 {
    if let Some(count) = COUNTED.get_ptr_mut(0) {
        // SAFETY: the element is this CPU's; two packets of one CPU do not run at once.
        unsafe { *count += 1 };
    }
    XDP_DROP
}
