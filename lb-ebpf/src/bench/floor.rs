//! The floors: what every balancer pays.

use aya_ebpf::bindings::xdp_action::{XDP_PASS, XDP_TX};
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use crate::bare::{BARE_FLOWS, BUCKETS, hash};
use crate::frame::{encapsulate, parse};

/// Does nothing: what the others are measured over.
#[xdp]
fn empty(_context: XdpContext) -> u32 {
    XDP_TX
}

/// Reads what a balancer must read of a packet.
#[xdp]
fn parse_only(context: XdpContext) -> u32 {
    match parse(&context) {
        // The fields reach the verdict, or the compiler would not read them.
        Some(packet) if packet.source ^ packet.destination ^ packet.ports != 0 && !packet.syn => XDP_TX,
        _ => XDP_PASS,
    }
}

/// Reads a packet and gives it a constant outer header.
#[xdp]
fn encap(context: XdpContext) -> u32 {
    match parse(&context) {
        Some(packet) if packet.ports != 0 => {
            match encapsulate(&context, packet.length, u32::to_be(0x0a00_0001), u32::to_be(0x0a00_0002)) {
                Some(()) => XDP_TX,
                None => XDP_PASS,
            }
        }
        _ => XDP_PASS,
    }
}

/// Reads a packet, and the line of the bare reference's table that its flow's hash names, and gives it an outer header made
/// of that: the least that anything costs that keeps a line a flow.
#[xdp]
fn line(context: XdpContext) -> u32 {
    let Some(packet) = parse(&context) else { return XDP_PASS };
    let Some(line) = BARE_FLOWS.get((hash(&packet) >> 32) as u32 & (BUCKETS as u32 - 1)) else {
        return XDP_PASS;
    };
    match encapsulate(&context, packet.length, u32::to_be(0x0a00_0001), line.backends[0]) {
        Some(()) => XDP_TX,
        None => XDP_PASS,
    }
}
