//! The backend's side of `ipip` and `gue`: takes the outer header off packets for a VIP, for hosts without a
//! tunnel device.
//!
//! Receives every frame of the interface. An unfragmented IPv4 or IPv6 packet whose payload, at once or behind
//! UDP and GUE, is an
//! IPv4 or IPv6 packet to an address in `VIPS_V4` or `VIPS_V6` loses its outer header and goes on
//! into the host's stack; anything else passes byte for byte. It never drops.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::{HashMap, PerCpuArray},
    helpers::generated::bpf_xdp_adjust_head,
    macros::{btf_map, xdp},
    programs::XdpContext,
};

const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
const IPV6_LEN: usize = 40;
const ETHERTYPE_IPV4: u16 = u16::to_be(0x0800);
const ETHERTYPE_IPV6: u16 = u16::to_be(0x86dd);
/// IPv4 in IP (RFC 2003, RFC 2473).
const PROTOCOL_IPV4: u8 = 4;
/// IPv6 in IP (RFC 4213, RFC 2473).
const PROTOCOL_IPV6: u8 = 41;
const PROTOCOL_UDP: u8 = 17;
const GUE_PORT: u16 = u16::to_be(6080);

// Keys are words, not byte arrays: the compiler moves bytes in pieces as large as it likes, and the
// verifier refuses those on a stack slot of lower alignment ("misaligned stack access").

/// The IPv4 VIPs this host serves, in network byte order; the value is unused. Written by userspace.
#[btf_map]
static VIPS_V4: HashMap<u32, u32, 1024> = HashMap::new();

/// The IPv6 VIPs this host serves, in network byte order; the value is unused. Written by userspace.
#[btf_map]
static VIPS_V6: HashMap<[u64; 2], u32, 1024> = HashMap::new();

/// Packets that lost their outer header.
#[btf_map]
static DECAPSULATED: PerCpuArray<u64, 1> = PerCpuArray::new();

#[repr(C, packed)]
struct Ethernet {
    macs_start: u64,
    macs_end: u32,
    ethertype: u16,
}

#[repr(C, packed)]
struct Ipv4 {
    version_ihl: u8,
    tos: u8,
    total_len: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

#[repr(C, packed)]
struct Ipv6 {
    version_class: u8,
    class_flow: [u8; 3],
    payload_len: u16,
    next_header: u8,
    hop_limit: u8,
    source: [u64; 2],
    destination: [u64; 2],
}

/// UDP, and GUE of variant 0 without optional fields (draft-ietf-intarea-gue).
#[repr(C, packed)]
struct UdpGue {
    source: u16,
    destination: u16,
    length: u16,
    checksum: u16,
    variant_length: u8,
    protocol: u8,
    flags: u16,
}

/// An outer header: where it ends and what it carries.
struct Outer {
    len: usize,
    protocol: u8,
}

/// Takes the outer header off tunnelled packets for a VIP.
#[xdp]
fn decap(ctx: XdpContext) -> u32 {
    // A frame that is not ours to open is the host's.
    let _ = strip(&ctx);
    xdp_action::XDP_PASS
}

#[inline(always)]
fn strip(ctx: &XdpContext) -> Option<()> {
    let ethernet: *const Ethernet = header(ctx, 0)?;
    // SAFETY: the frame holds the header.
    let Ethernet { macs_start, macs_end, ethertype } = unsafe { ethernet.read_unaligned() };
    let outer = match ethertype {
        ETHERTYPE_IPV4 => outer_ipv4(ctx)?,
        ETHERTYPE_IPV6 => outer_ipv6(ctx)?,
        _ => return None,
    };
    let outer = if outer.protocol == PROTOCOL_UDP { gue(ctx, outer.len)? } else { outer };
    let ethertype = match outer.protocol {
        PROTOCOL_IPV4 => {
            let inner: *const Ipv4 = header(ctx, ETHERNET_LEN + outer.len)?;
            // SAFETY: the frame holds the header.
            let inner = unsafe { inner.read_unaligned() };
            VIPS_V4.get_ptr(inner.destination).filter(|_| inner.version_ihl >> 4 == 4)?;
            ETHERTYPE_IPV4
        }
        PROTOCOL_IPV6 => {
            let inner: *const Ipv6 = header(ctx, ETHERNET_LEN + outer.len)?;
            // SAFETY: the frame holds the header.
            let inner = unsafe { inner.read_unaligned() };
            VIPS_V6.get_ptr(inner.destination).filter(|_| inner.version_class >> 4 == 6)?;
            ETHERTYPE_IPV6
        }
        _ => return None,
    };
    // SAFETY: the context is the program's own; packet pointers from before are not used after.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, outer.len as i32) } != 0 {
        return None;
    }
    let ethernet: *mut Ethernet = header::<Ethernet>(ctx, 0)?.cast_mut();
    // SAFETY: the frame holds the header.
    unsafe { ethernet.write_unaligned(Ethernet { macs_start, macs_end, ethertype }) };
    let count = DECAPSULATED.get_ptr_mut(0)?;
    // SAFETY: the element is this CPU's, and XDP programs of a CPU do not interrupt each other.
    unsafe { *count += 1 };
    Some(())
}

/// An outer header that ends behind the GUE header, where UDP to its port follows after `len` bytes.
#[inline(always)]
fn gue(ctx: &XdpContext, len: usize) -> Option<Outer> {
    let gue: *const UdpGue = header(ctx, ETHERNET_LEN + len)?;
    // SAFETY: the frame holds the header.
    let gue = unsafe { gue.read_unaligned() };
    let plain = gue.destination == GUE_PORT && gue.variant_length == 0 && gue.flags == 0;
    plain.then(|| Outer { len: len + size_of::<UdpGue>(), protocol: gue.protocol })
}

#[inline(always)]
fn outer_ipv4(ctx: &XdpContext) -> Option<Outer> {
    let outer: *const Ipv4 = header(ctx, ETHERNET_LEN)?;
    // SAFETY: the frame holds the header.
    let outer = unsafe { outer.read_unaligned() };
    let len = usize::from(outer.version_ihl & 0x0f) * 4;
    let total = usize::from(u16::from_be(outer.total_len));
    let fragment = u16::from_be(outer.fragment) & 0x3fff; // more-fragments bit and offset
    let valid = outer.version_ihl >> 4 == 4
        && len >= IPV4_LEN
        && total >= len
        && ETHERNET_LEN + total <= frame_len(ctx)
        && fragment == 0;
    valid.then_some(Outer { len, protocol: outer.protocol })
}

#[inline(always)]
fn outer_ipv6(ctx: &XdpContext) -> Option<Outer> {
    let outer: *const Ipv6 = header(ctx, ETHERNET_LEN)?;
    // SAFETY: the frame holds the header.
    let outer = unsafe { outer.read_unaligned() };
    let payload = usize::from(u16::from_be(outer.payload_len));
    let valid = outer.version_class >> 4 == 6 && ETHERNET_LEN + IPV6_LEN + payload <= frame_len(ctx);
    valid.then_some(Outer { len: IPV6_LEN, protocol: outer.next_header })
}

#[inline(always)]
fn frame_len(ctx: &XdpContext) -> usize {
    ctx.data_end().wrapping_sub(ctx.data())
}

/// Points at a header at `offset`, if the frame holds all of it.
#[inline(always)]
fn header<T>(ctx: &XdpContext, offset: usize) -> Option<*const T> {
    let start = ctx.data() + offset;
    (start + size_of::<T>() <= ctx.data_end()).then_some(start as *const T)
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
