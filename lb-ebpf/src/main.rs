//! weir's XDP program: `lb-common`'s packet logic over `XdpContext` and BPF maps.
#![no_std]
#![no_main]

#[cfg(feature = "log")]
mod log;
mod maps;
mod packet;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::packet::Packet as _;
use lb_common::pipeline::{self, Stage, Step};
use lb_common::reason::Verdict;
use maps::Maps;
use packet::XdpPacket;

/// Picks a backend for every packet for a VIP.
#[xdp]
pub(crate) fn weir(context: XdpContext) -> u32 {
    run(Stage::Fast, context)
}

/// Takes frames that are not laid out as nearly all are.
#[xdp]
pub(crate) fn weir_rare(context: XdpContext) -> u32 {
    run(Stage::Rare, context)
}

/// Takes fragments.
#[xdp]
pub(crate) fn weir_fragment(context: XdpContext) -> u32 {
    run(Stage::Fragment, context)
}

#[inline(always)]
fn run(stage: Stage, context: XdpContext) -> u32 {
    #[cfg(feature = "log")]
    let log = log::Log::of(&context);
    let mut packet = XdpPacket::new(context);
    let outcome = match pipeline::enter(stage, &mut packet, &Maps) {
        Step::Left(outcome) => outcome,
        Step::Next(stage, reason) => {
            packet.enter(stage);
            pipeline::leave(&Maps, reason, packet.length() as u64)
        }
    };
    #[cfg(feature = "log")]
    log.tell(&outcome);
    match (outcome.reason.verdict(), outcome.egress) {
        (Verdict::Pass, _) => XDP_PASS,
        (Verdict::Forward, Some(egress)) if egress.port == packet.ingress() => XDP_TX,
        (Verdict::Forward, Some(_)) => XDP_REDIRECT,
        (Verdict::Forward, None) | (Verdict::Drop, _) => XDP_DROP,
    }
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
