//! What `cargo xtask bench` runs in the kernel: not part of the product.
//!
//! `run_v4` and `run_v6` make every repeat of `BPF_PROG_TEST_RUN` a fresh packet and tail-call the program under test.
//! The others are what weir is compared with: `empty`, `parse`, `encap` and `line` are floors, `bare` and `lru` are balancers
//! with nothing but the one thing each is named after. `live_send` and `live_count` drive frames through a veth; `answer`
//! is the backends of the checks.
#![no_std]
#![no_main]

mod answers;
mod bare;
mod floor;
mod frame;
mod live;
mod lru;
mod runner;
mod services;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

// SAFETY: the kernel reads this section as the program's licence; nothing else defines the symbol.
#[unsafe(link_section = "license")]
// SAFETY: no other symbol has this name.
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
