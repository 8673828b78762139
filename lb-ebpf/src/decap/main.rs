//! The backend's programs: `lb-common`'s decapsulation over XDP frames that come in, its MSS clamp over tc frames that
//! go out.
#![no_std]
#![no_main]

mod incoming;
mod maps;
mod outgoing;

use aya_ebpf::bindings::TC_ACT_UNSPEC;
use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS};
use aya_ebpf::macros::{classifier, xdp};
use aya_ebpf::programs::{TcContext, XdpContext};
use incoming::XdpFrame;
use lb_common::decap::{self, Verdict, mss};
use maps::Maps;
use outgoing::TcFrame;

/// Takes the outer header off tunnelled packets for a VIP. Headers are in the first buffer, so that frames of several
/// are welcome, too.
#[xdp(frags)]
pub(crate) fn weir_decap(context: XdpContext) -> u32 {
    match decap::process(&mut XdpFrame::new(context), &Maps).verdict() {
        Verdict::Open | Verdict::Pass => XDP_PASS,
        Verdict::Drop => XDP_DROP,
    }
}

/// Lowers the MSS of SYN-ACKs from a VIP. Whatever it finds, the next program on the interface comes after it.
#[classifier]
pub(crate) fn weir_mss(context: TcContext) -> i32 {
    let _ = mss::clamp(&mut TcFrame::new(context), &Maps);
    TC_ACT_UNSPEC
}

/// The packet logic has no panicking code; the build fails where the object has any.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// SAFETY: the kernel reads this section as the program's licence and runs nothing from it.
#[unsafe(link_section = "license")]
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
