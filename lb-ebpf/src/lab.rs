//! Programs of the test lab's switches: not part of the product.
//!
//! `pass` sits at the far end of the weir host's veths, because a veth delivers XDP_TX and
//! XDP_REDIRECT only to a peer that runs an XDP program. `gate_in` and `gate_out` sit on the switch
//! port of a backend: they cut off a frozen host and witness what was sent to it. `steer` stands in for
//! weir where the lab itself is tested. `lose_syns` is a link that loses packets, `refuse_echo` a filter
//! that lives behind weir. `hold` takes the core away that handles a certain packet.
#![no_std]
#![no_main]

use aya_ebpf::{
    bindings::{TC_ACT_OK, TC_ACT_SHOT, xdp_action},
    btf_maps::{Array, PerCpuArray},
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_ns, bpf_loop, bpf_redirect},
    macros::{btf_map, classifier, xdp},
    programs::{TcContext, XdpContext},
};

/// Ports are told apart by ifindex, which starts at 1 in each of the lab's namespaces.
const PORTS: usize = 256;

/// Where a proxy of the lab sends connections on.
const RELAYED_PORT: u16 = 8081;

/// How the host behind a port is cut off: 0 not at all, 1 from everything, 2 from what is for a VIP, tunnelled or not.
/// Written by userspace.
#[btf_map]
static FROZEN: Array<u32, PORTS> = Array::new();

/// Of how many in a hundred TCP SYNs for a VIP the host behind a port never hears. Written by userspace.
#[btf_map]
static SYN_LOSS: Array<u32, PORTS> = Array::new();

/// What went to the host behind a port for a VIP, tunnelled or not: packets, time of the last one,
/// TCP SYNs among them, time of the last one. Times are CLOCK_MONOTONIC in nanoseconds.
#[btf_map]
static TO_VIP: PerCpuArray<[u64; 4], PORTS> = PerCpuArray::new();

/// Where `steer` sends a packet for a VIP: the MAC address in the upper six bytes of a big-endian word,
/// and an ifindex, or 0 for back where it came from. Written by userspace.
#[btf_map]
static STEER: Array<[u64; 2], 1> = Array::new();

/// Stands in for weir where the lab itself is tested: the smallest DSR there is, one next hop for all.
#[xdp]
fn steer(ctx: XdpContext) -> u32 {
    rewrite(&ctx).unwrap_or(xdp_action::XDP_PASS)
}

#[inline(always)]
fn rewrite(ctx: &XdpContext) -> Option<u32> {
    let frame = ctx.data();
    if frame + 54 > ctx.data_end() {
        return None;
    }
    // SAFETY: 54 bytes are there, and unaligned reads suit any address.
    let ethertype = u16::from_be(unsafe { ((frame + 12) as *const u16).read_unaligned() });
    let to_vip = match ethertype {
        // SAFETY: as above.
        0x0800 => is_vip_v4(unsafe { ((frame + 30) as *const u32).read_unaligned() }),
        // SAFETY: as above.
        0x86dd => is_vip_v6(unsafe { ((frame + 38) as *const u64).read_unaligned() }),
        _ => false,
    };
    let [mac, ifindex] = *STEER.get(0).filter(|_| to_vip)?;
    let mac = mac.to_be();
    // SAFETY: as above, and the frame is writable.
    unsafe { (frame as *mut u32).write_unaligned(mac as u32) };
    // SAFETY: as above, and the frame is writable.
    unsafe { ((frame + 4) as *mut u16).write_unaligned((mac >> 32) as u16) };
    if ifindex == 0 {
        return Some(xdp_action::XDP_TX);
    }
    // SAFETY: the helper has no preconditions.
    Some(unsafe { bpf_redirect(ifindex as u32, 0) } as u32)
}

/// SYNs seen by `lose_syns`.
#[btf_map]
static SYNS: Array<u64, 1> = Array::new();

/// Loses every other TCP SYN over IPv4, the first to begin with. For one sender at a time.
#[xdp]
fn lose_syns(ctx: XdpContext) -> u32 {
    lose(&ctx).unwrap_or(xdp_action::XDP_PASS)
}

#[inline(always)]
fn lose(ctx: &XdpContext) -> Option<u32> {
    let frame = ctx.data();
    if frame + 54 > ctx.data_end() {
        return None;
    }
    // SAFETY: 54 bytes are there, and unaligned reads suit any address.
    let ethertype = u16::from_be(unsafe { ((frame + 12) as *const u16).read_unaligned() });
    // SAFETY: as above. Version 4, a header without options.
    let version = unsafe { ((frame + 14) as *const u8).read() };
    // SAFETY: as above.
    let protocol = unsafe { ((frame + 23) as *const u8).read() };
    // SAFETY: as above.
    let flags = unsafe { ((frame + 47) as *const u8).read() };
    if ethertype != 0x0800 || version != 0x45 || protocol != 6 || flags & 0x12 != 0x02 {
        return None;
    }
    let seen = SYNS.get_ptr_mut(0)?;
    // SAFETY: the element lives as long as the map, and there is one sender at a time.
    let seen = unsafe { &mut *seen };
    *seen += 1;
    (*seen % 2 == 1).then_some(xdp_action::XDP_DROP)
}

/// Passes everything.
#[xdp]
fn pass(_ctx: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

/// A filter of somebody else: lets everything by but IPv4 echo requests.
#[xdp]
fn refuse_echo(ctx: XdpContext) -> u32 {
    let frame = ctx.data();
    if frame + 42 > ctx.data_end() {
        return xdp_action::XDP_PASS;
    }
    // SAFETY: 42 bytes are there, and bytes suit any address.
    let byte = |offset: usize| unsafe { *((frame + offset) as *const u8) };
    let echo = byte(12) == 0x08 && byte(13) == 0 && byte(23) == 1 && byte(34) == 8;
    if echo { xdp_action::XDP_DROP } else { xdp_action::XDP_PASS }
}

/// Datagrams to this port are for `hold`; their first word, in network byte order, is a time in microseconds.
const HOLD_PORT: u16 = 9;
/// More readings of the clock than fit into any time that a test asks for.
const READINGS: u32 = 1 << 23;

/// Holds the core that handles a datagram to port [`HOLD_PORT`] for the time that it names, as a hypervisor does that takes
/// the core away: soft interrupts are not preempted.
#[classifier]
fn hold(ctx: TcContext) -> i32 {
    if let Some(micros) = hold_for(&ctx) {
        // SAFETY: the helper has no preconditions.
        let mut until = unsafe { bpf_ktime_get_ns() } + u64::from(micros) * 1000;
        // SAFETY: the function takes what `bpf_loop` passes, and `until` lives until it returns.
        unsafe { bpf_loop(READINGS, passed as *mut _, (&raw mut until).cast(), 0) };
    }
    TC_ACT_OK
}

#[inline(always)]
fn hold_for(ctx: &TcContext) -> Option<u32> {
    let header = (u16::from_be(ctx.load(12).ok()?) == 0x0800).then(|| ipv4(ctx, 14))??;
    let port = u16::from_be(ctx.load(14 + header.len + 2).ok()?);
    let is_hold = header.protocol == 17 && port == HOLD_PORT;
    is_hold.then(|| ctx.load(14 + header.len + 8).ok().map(u32::from_be))?
}

/// Whether a time has passed: 1 ends the loop.
unsafe extern "C" fn passed(_index: u32, until: *mut u64) -> i64 {
    // SAFETY: it points to `until` of `hold`.
    let until = unsafe { *until };
    // SAFETY: the helper has no preconditions.
    (unsafe { bpf_ktime_get_ns() } >= until).into()
}

/// Frames from the host behind the port.
#[classifier]
fn gate_in(ctx: TcContext) -> i32 {
    gate(port(&ctx))
}

/// Frames to the host behind the port.
#[classifier]
fn gate_out(ctx: TcContext) -> i32 {
    let port = port(&ctx);
    if let Some(kind) = to_vip(&ctx) {
        // Frames that a frozen host never sees were sent to it all the same.
        witness(port, kind);
        if let ToVip::Syn = kind
            && is_lost(port)
        {
            return TC_ACT_SHOT;
        }
        if FROZEN.get(port) == Some(&2) {
            return TC_ACT_SHOT;
        }
    }
    gate(port)
}

#[inline(always)]
fn port(ctx: &TcContext) -> u32 {
    // SAFETY: the context outlives the program, and the field is part of its stable layout.
    unsafe { (*ctx.skb.skb).ifindex }
}

#[inline(always)]
fn is_lost(port: u32) -> bool {
    // SAFETY: the helper has no preconditions.
    let draw = || unsafe { bpf_get_prandom_u32() } % 100;
    SYN_LOSS.get(port).is_some_and(|loss| *loss > draw())
}

#[inline(always)]
fn gate(port: u32) -> i32 {
    match FROZEN.get(port) {
        Some(1) => TC_ACT_SHOT,
        Some(_) | None => TC_ACT_OK,
    }
}

/// A packet to a VIP.
#[derive(Clone, Copy)]
enum ToVip {
    /// A TCP SYN.
    Syn,
    /// Any other.
    Other,
}

#[inline(always)]
fn witness(port: u32, kind: ToVip) {
    // SAFETY: the helper has no preconditions.
    let now = unsafe { bpf_ktime_get_ns() };
    let Some(seen) = TO_VIP.get_ptr_mut(port) else { return };
    // SAFETY: the element is this CPU's; a softirq of another CPU has its own.
    let [packets, last_packet, syns, last_syn] = unsafe { &mut *seen };
    *packets += 1;
    *last_packet = now;
    if let ToVip::Syn = kind {
        *syns += 1;
        *last_syn = now;
    }
}

/// A network header: its length, what it carries and whether it is addressed to a VIP of the lab.
struct Header {
    len: usize,
    protocol: u8,
    to_vip: bool,
}

#[inline(always)]
fn to_vip(ctx: &TcContext) -> Option<ToVip> {
    let outer = match u16::from_be(ctx.load(12).ok()?) {
        0x0800 => ipv4(ctx, 14)?,
        0x86dd => ipv6(ctx, 14)?,
        _ => return None,
    };
    let transport = 14 + outer.len;
    match outer.protocol {
        4 => ipv4(ctx, transport).and_then(|inner| kind(ctx, &inner, transport + inner.len)),
        41 => ipv6(ctx, transport).and_then(|inner| kind(ctx, &inner, transport + inner.len)),
        _ => kind(ctx, &outer, transport),
    }
}

#[inline(always)]
fn kind(ctx: &TcContext, header: &Header, transport: usize) -> Option<ToVip> {
    if !header.to_vip && !is_relayed(ctx, header, transport)? {
        return None;
    }
    if header.protocol == 6 && ctx.load::<u8>(transport + 13).ok()? & 0x12 == 0x02 {
        return Some(ToVip::Syn);
    }
    Some(ToVip::Other)
}

/// Whether a packet is one that a proxy of the lab sends on, to the backend's own address.
#[inline(always)]
fn is_relayed(ctx: &TcContext, header: &Header, transport: usize) -> Option<bool> {
    Some(header.protocol == 6 && u16::from_be(ctx.load(transport + 2).ok()?) == RELAYED_PORT)
}

// Fields are loaded one by one, as words: the compiler reads byte arrays on the stack in pieces of any
// size, and the verifier refuses those ("misaligned stack access").

#[inline(always)]
fn ipv4(ctx: &TcContext, at: usize) -> Option<Header> {
    let version_ihl: u8 = ctx.load(at).ok()?;
    let protocol: u8 = ctx.load(at + 9).ok()?;
    let to_vip = is_vip_v4(ctx.load(at + 16).ok()?);
    Some(Header { len: usize::from(version_ihl & 0x0f) * 4, protocol, to_vip })
}

#[inline(always)]
fn ipv6(ctx: &TcContext, at: usize) -> Option<Header> {
    let protocol: u8 = ctx.load(at + 6).ok()?;
    let to_vip = is_vip_v6(ctx.load(at + 24).ok()?);
    Some(Header { len: 40, protocol, to_vip })
}

/// VIPs of the lab are in 198.51.100.0/24; the address is in network byte order.
#[inline(always)]
fn is_vip_v4(address: u32) -> bool {
    u32::from_be(address) & 0xffff_ff00 == 0xc633_6400
}

/// VIPs of the lab are in 2001:db8::/64; the first half of the address is in network byte order.
#[inline(always)]
fn is_vip_v6(network: u64) -> bool {
    u64::from_be(network) == 0x2001_0db8_0000_0000
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
