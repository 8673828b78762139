//! weir's XDP program: `lb-common`'s packet logic over `XdpContext` and BPF maps.
#![no_std]
#![no_main]

#[cfg(feature = "log")]
mod log;
mod maps;
mod packet;
mod sample;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::forward::Egress;
use lb_common::packet::Packet as _;
use lb_common::pipeline::{self, Stage, Step, Variant};
use lb_common::reason::Verdict;
use maps::{Build, Maps};
use packet::XdpPacket;

macro_rules! programs {
    ($($variant:ident: $($program:ident = $stage:ident),*;)*) => {
        $(
            struct $variant;

            impl Build for $variant {
                const VARIANT: Variant = Variant::$variant;
            }

            $(
                // Inlined into the entry point: called as a subprogram it costs every packet 9 ns.
                #[xdp]
                #[inline(always)]
                pub(crate) fn $program(context: XdpContext) -> u32 {
                    run::<$variant>(Stage::$stage, context)
                }
            )*
        )*
    };
}

// As in `Stage::program`.
programs! {
    Live: weir = Fast, weir_rare = Rare, weir_icmp = Icmp, weir_answer = Answer, weir_fragment = Fragment, weir_choose = Choose, weir_quic = Quic,
        weir_filter = Filter, weir_limit = Limit, weir_nat = Nat, weir_nat_reply = NatReply, weir_nat_error = NatError, weir_nat_send = NatSend;
    Explain: explain = Fast, explain_rare = Rare, explain_icmp = Icmp, explain_answer = Answer, explain_fragment = Fragment, explain_choose = Choose, explain_quic = Quic,
        explain_filter = Filter, explain_limit = Limit, explain_nat = Nat, explain_nat_reply = NatReply, explain_nat_error = NatError, explain_nat_send = NatSend;
    Offline: offline = Fast, offline_rare = Rare, offline_icmp = Icmp, offline_answer = Answer, offline_fragment = Fragment, offline_choose = Choose, offline_quic = Quic,
        offline_filter = Filter, offline_limit = Limit, offline_nat = Nat, offline_nat_reply = NatReply, offline_nat_error = NatError, offline_nat_send = NatSend;
    Capture: capture = Fast, capture_rare = Rare, capture_icmp = Icmp, capture_answer = Answer, capture_fragment = Fragment, capture_choose = Choose, capture_quic = Quic,
        capture_filter = Filter, capture_limit = Limit, capture_nat = Nat, capture_nat_reply = NatReply, capture_nat_error = NatError, capture_nat_send = NatSend;
}

#[inline(always)]
fn run<B: Build>(stage: Stage, context: XdpContext) -> u32 {
    #[cfg(feature = "log")]
    let bytes = (context.data_end() - context.data()) as u64;
    let mut packet = XdpPacket::<B>::new(context);
    let tables = Maps::<B>::new();
    if matches!(B::VARIANT, Variant::Capture) && matches!(stage, Stage::Fast) {
        sample::arrives(&packet);
    }
    let outcome = match pipeline::enter(stage, &mut packet, &tables) {
        Step::Left(outcome) => outcome,
        Step::Next(stage, reason) => {
            packet.enter(stage);
            pipeline::leave(&tables, reason, packet.length() as u64)
        }
    };
    if matches!(B::VARIANT, Variant::Capture) {
        sample::leaves(&packet, &outcome);
    }
    #[cfg(feature = "log")]
    if matches!((B::VARIANT, stage), (Variant::Live, Stage::Fast)) {
        log::tell(&packet, bytes, &outcome);
    }
    // Only what is forwarded or answered has an egress: its reason need not be asked.
    match outcome.egress {
        Egress::BACK => XDP_TX,
        Egress::NONE => match outcome.reason.verdict() {
            Verdict::Pass => {
                if matches!(B::VARIANT, Variant::Live | Variant::Capture) {
                    packet.hand_on();
                }
                XDP_PASS
            }
            Verdict::Forward | Verdict::Answer | Verdict::Drop => XDP_DROP,
        },
        _ => XDP_REDIRECT,
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
