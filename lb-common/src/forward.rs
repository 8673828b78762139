//! Sending a packet on: the next hop's Ethernet addresses, with or without an outer header.
//!
//! The inner packet is left as it came. The outer header has TTL 64 and DF, the inner DSCP and ECN (RFC 6040 section
//! 4.1, normal mode), and the backend's selected source (RFC 2003, RFC 2473, RFC 4213). For `gue` a UDP and a GUE header
//! stand between the outer and the inner one (draft-ietf-intarea-gue section 3, variant 0, no optional fields); the UDP
//! checksum is 0 over both families (RFC 6935; `docs/decisions/0008-gue-has-no-udp-checksum.md`).

use crate::hash;
use crate::layout::{Backend, EgressWord, Family, ForwardWord, Mode, NextHopCopy, Note};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::tables::Tables;
use crate::trace::Mark;
use crate::wire::{ETHERNET_LEN, Ethernet, Gue, Ipv4, Ipv6, Ports, TaggedStart, Udp, VLAN_TAG_LEN, halves};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

const OUTER_TTL: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;
/// IP protocol number of UDP.
const UDP: u8 = 17;

/// What forwarding needs to know of the packet it sends on.
#[derive(Clone, Copy, Debug)]
pub struct Inner {
    /// Family of the packet.
    pub family: Family,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Length of the IP packet in bytes.
    pub length: u32,
    /// The flow's bucket hash, for entropy in the outer header.
    pub hash: u64,
}

/// Where a frame leaves: an interface index, or one of two numbers that are none.
///
/// Not an option of one: the compiler moves a register that it never wrote, where there is none, and the verifier refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress(pub u32);

impl Egress {
    /// By the interface that the frame came in by.
    pub const BACK: Self = Self(0);
    /// Not by weir.
    pub const NONE: Self = Self(u32::MAX);
}

/// A way that a packet can go.
pub struct Route<'a> {
    backend: &'a Backend,
    egress: EgressWord,
    copy: &'a NextHopCopy,
    mode: Mode,
    forward: ForwardWord,
    inner: Inner,
}

/// Finds the way of a packet to `backend` under these rules of its service. The frame is not touched.
///
/// # Errors
/// The reason for which it cannot be sent.
#[inline(always)]
pub fn route<'a, T: Tables>(
    tables: &'a T,
    backend: &'a Backend,
    forward: ForwardWord,
    inner: Inner,
) -> Result<Route<'a>, Reason> {
    let egress = EgressWord(backend.egress.get());
    let copy = next_hop(tables, egress)?;
    let mode = forward.mode().ok_or(Reason::Inconsistent)?;
    let overhead = overhead(mode, egress.family());
    if inner.length as u64 + overhead as u64 > copy.mtu as u64 {
        // No packet fits the host's own next hop: that asks here, where no other packet comes by.
        if copy.port == 0 {
            return Err(Reason::Local);
        }
        if let Some(scratch) = tables.scratch() {
            scratch.note.set(Note::too_big((copy.mtu as u32).saturating_sub(overhead) as u16).0);
        }
        return Err(Reason::TooBig);
    }
    Ok(Route { backend, egress, copy, mode, forward, inner })
}

/// The largest IP packet that can go to `backend`, in bytes.
///
/// # Errors
/// [`Reason::NoNextHop`], or [`Reason::Local`] where it is the host itself.
pub fn room<T: Tables>(tables: &T, backend: &Backend, mode: Mode) -> Result<u32, Reason> {
    let egress = EgressWord(backend.egress.get());
    let copy = next_hop(tables, egress)?;
    if copy.port == 0 {
        return Err(Reason::Local);
    }
    Ok((copy.mtu as u32).saturating_sub(overhead(mode, egress.family())))
}

/// Bytes that the outer headers take.
#[inline(always)]
#[must_use]
pub const fn overhead(mode: Mode, family: Family) -> u32 {
    let ip = match family {
        Family::V4 => size_of::<Ipv4>() as u32,
        Family::V6 => size_of::<Ipv6>() as u32,
    };
    match mode {
        // What is translated gets longer or shorter by its own header.
        Mode::DsrL2 | Mode::Nat => 0,
        Mode::Ipip => ip,
        Mode::Gue => ip + size_of::<UdpGue>() as u32,
    }
}

impl Route<'_> {
    /// Index of the interface by which the frame leaves.
    #[inline(always)]
    #[must_use]
    pub fn port(&self) -> u32 {
        self.copy.port
    }

    /// Rewrites a frame whose IP packet starts behind 14 bytes.
    ///
    /// # Errors
    /// [`Reason::NoHeadroom`] where the frame cannot grow.
    #[inline(always)]
    pub fn rewrite<P: Packet>(&self, packet: &mut P) -> Result<(), Reason> {
        match (self.mode, self.egress.family()) {
            (Mode::DsrL2, _) => {
                *packet.header_mut(0).ok_or(Reason::Inconsistent)? =
                    ethernet(self.copy, ethertype_of(self.inner.family));
            }
            (Mode::Nat, _) => return Err(Reason::Inconsistent),
            // Each with its own numbers, which are constants there.
            (Mode::Ipip, Family::V4) => self.encapsulate_v4(packet, &self.by_ip())?,
            (Mode::Ipip, Family::V6) => self.encapsulate_v6(packet, &self.by_ip())?,
            (Mode::Gue, Family::V4) => self.encapsulate_v4(packet, &self.by_gue())?,
            (Mode::Gue, Family::V6) => self.encapsulate_v6(packet, &self.by_gue())?,
        }
        tag(packet, self.copy)
    }
}

/// The next hop's copy in use.
///
/// # Errors
/// [`Reason::NoNextHop`] where there is none.
#[inline(always)]
pub(crate) fn next_hop<T: Tables>(tables: &T, egress: EgressWord) -> Result<&NextHopCopy, Reason> {
    let next_hop = tables.next_hop(egress.next_hop()).ok_or(Reason::NoNextHop)?;
    let copy = next_hop.current().ok_or(Reason::NoNextHop)?;
    tables.trace(Mark::NextHop, egress.next_hop(), copy.port as u64 | (copy.mtu as u64) << 32);
    Ok(copy)
}

/// Writes the Ethernet header of a frame to a next hop, whose IP packet starts behind 14 bytes, and its tags.
///
/// # Errors
/// [`Reason::NoHeadroom`] where the frame cannot grow.
#[inline(always)]
pub(crate) fn address<P: Packet>(packet: &mut P, copy: &NextHopCopy, ethertype: u16) -> Result<(), Reason> {
    *packet.header_mut(0).ok_or(Reason::Inconsistent)? = ethernet(copy, ethertype);
    tag(packet, copy)
}

/// Puts the next hop's VLAN tags between the Ethernet addresses and the ethertype, the innermost first.
#[inline(always)]
fn tag<P: Packet>(packet: &mut P, copy: &NextHopCopy) -> Result<(), Reason> {
    let mut left = copy.tag_count.min(copy.tags.len() as u16);
    while left > 0 {
        left -= 1;
        let tag = copy.tags[(left & 1) as usize];
        packet.grow_front(VLAN_TAG_LEN).map_err(|_| Reason::NoHeadroom)?;
        *packet.header_mut(0).ok_or(Reason::Inconsistent)? =
            TaggedStart { macs: macs(copy), tag: u32::from_ne_bytes(tag).to_ne_bytes() };
    }
    Ok(())
}

/// What stands between the outer and the inner IP header by GUE.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
struct UdpGue {
    udp: Udp,
    gue: Gue,
}

/// What stands before an IPv4 tunnel's packet or shim.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
struct OuterV4 {
    ethernet: Ethernet,
    ip: Ipv4,
}

/// What stands before an IPv6 tunnel's packet or shim.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
struct OuterV6 {
    ethernet: Ethernet,
    ip: Ipv6,
}

/// What the outer IP header carries.
struct Carried {
    protocol: u8,
    /// Bytes.
    length: u32,
    /// Bytes between the outer and the inner IP header.
    shim: usize,
}

/// Bits of the flow's hash for the end of the outer source.
#[inline(always)]
fn entropy(egress: EgressWord, hash: u64) -> u32 {
    let bits = egress.entropy_bits();
    if bits == 0 { 0 } else { hash::again(hash, 2) as u32 >> (32 - bits.min(32)) }
}

#[inline(always)]
fn protocol_of(family: Family) -> u8 {
    match family {
        Family::V4 => 4,
        Family::V6 => 41,
    }
}

#[inline(always)]
fn ethertype_of(family: Family) -> u16 {
    match family {
        Family::V4 => 0x0800,
        Family::V6 => 0x86dd,
    }
}

#[inline(always)]
fn ethernet(copy: &NextHopCopy, ethertype: u16) -> Ethernet {
    Ethernet { macs: macs(copy), ethertype: ethertype.to_be_bytes() }
}

/// The Ethernet addresses as words: a copy of byte arrays becomes a call of memmove, which BPF does not have.
#[inline(always)]
fn macs(copy: &NextHopCopy) -> [[u8; 4]; 3] {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = copy.macs;
    let words = [
        u32::from_ne_bytes([a, b, c, d]),
        u32::from_ne_bytes([e, f, g, h]),
        u32::from_ne_bytes([i, j, k, l]),
    ];
    words.map(u32::to_ne_bytes)
}

/// The first four bytes, as they lie: a number for bytes that are copied, since a copy of arrays becomes a call.
#[inline(always)]
fn first4(address: &[u8; 16]) -> u32 {
    let [a, b, c, d, ..] = *address;
    u32::from_ne_bytes([a, b, c, d])
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// Sum of the outer IPv4 header's constant words (RFC 1071): version and length, DF, TTL, addresses.
#[must_use]
pub fn constant_sum(source: [u8; 4], destination: [u8; 4]) -> u16 {
    let mut sum = 0x4500 + DONT_FRAGMENT as u32 + (OUTER_TTL as u32) * 256;
    for [a, b, c, d] in [source, destination] {
        sum += u16::from_be_bytes([a, b]) as u32 + u16::from_be_bytes([c, d]) as u32;
    }
    fold(sum)
}

impl Route<'_> {
    /// The packet right behind the outer header.
    #[inline(always)]
    fn by_ip(&self) -> Carried {
        Carried { protocol: protocol_of(self.inner.family), length: self.inner.length, shim: 0 }
    }

    /// The packet behind UDP and GUE.
    #[inline(always)]
    fn by_gue(&self) -> Carried {
        let shim = size_of::<UdpGue>();
        Carried { protocol: UDP, length: self.inner.length + shim as u32, shim }
    }

    /// Writes what stands between the outer IP header, which ends at `at`, and the inner one.
    #[inline(always)]
    fn write_shim<P: Packet>(&self, packet: &mut P, at: usize, carried: &Carried) -> Result<(), Reason> {
        if carried.shim == 0 {
            return Ok(());
        }
        // The port is the flow's entropy, of the dynamic ones: 49152–65535 (draft-ietf-intarea-gue section 5.11).
        let source = 0xc000 | (self.inner.hash >> 50) as u16;
        *packet.header_mut(at).ok_or(Reason::Inconsistent)? = UdpGue {
            udp: Udp {
                ports: Ports {
                    source: source.to_be_bytes(),
                    destination: self.forward.gue_port().to_be_bytes(),
                },
                length: (carried.length as u16).to_be_bytes(),
                checksum: [0; 2],
            },
            gue: Gue::data(protocol_of(self.inner.family)),
        };
        Ok(())
    }

    #[inline(always)]
    fn encapsulate_v4<P: Packet>(&self, packet: &mut P, carried: &Carried) -> Result<(), Reason> {
        const LEN: usize = size_of::<Ipv4>();
        let Self { backend, egress, copy, inner, .. } = self;
        let length = carried.length + LEN as u32;
        let mut source = first4(&backend.sources[egress.source()]);
        let mut sum = egress.sum() as u32 + inner.traffic_class as u32 + length + carried.protocol as u32;
        if egress.entropy_bits() != 0 {
            let entropy = entropy(*egress, inner.hash);
            source |= entropy.to_be();
            sum += (entropy >> 16) + (entropy & 0xffff);
        }
        let outer = Ipv4 {
            version_ihl: 0x45,
            traffic_class: inner.traffic_class,
            total_length: (length as u16).to_be_bytes(),
            id: [0; 2],
            flags_offset: DONT_FRAGMENT.to_be_bytes(),
            ttl: OUTER_TTL,
            protocol: carried.protocol,
            checksum: (!fold(sum)).to_be_bytes(),
            source: source.to_ne_bytes(),
            destination: first4(&backend.address).to_ne_bytes(),
        };
        packet.grow_front(LEN + carried.shim).map_err(|_| Reason::NoHeadroom)?;
        let front: &mut OuterV4 = packet.header_mut(0).ok_or(Reason::Inconsistent)?;
        front.ethernet = ethernet(copy, 0x0800);
        front.ip = outer;
        self.write_shim(packet, ETHERNET_LEN + LEN, carried)
    }

    #[inline(always)]
    fn encapsulate_v6<P: Packet>(&self, packet: &mut P, carried: &Carried) -> Result<(), Reason> {
        const LEN: usize = size_of::<Ipv6>();
        let Self { backend, egress, copy, inner, .. } = self;
        // The label is the flow's entropy (RFC 6438); 0 would mean none.
        let label = (inner.hash >> 44) as u32 | 1;
        let (high, low) = halves(&backend.sources[egress.source()]);
        let source = [high.to_be_bytes(), (low | entropy(*egress, inner.hash) as u64).to_be_bytes()];
        let (high, low) = halves(&backend.address);
        let outer = Ipv6 {
            version_class_label: (6 << 28 | (inner.traffic_class as u32) << 20 | label).to_be_bytes(),
            payload_length: (carried.length as u16).to_be_bytes(),
            next_header: carried.protocol,
            hop_limit: OUTER_TTL,
            source,
            destination: [high.to_be_bytes(), low.to_be_bytes()],
        };
        packet.grow_front(LEN + carried.shim).map_err(|_| Reason::NoHeadroom)?;
        let front: &mut OuterV6 = packet.header_mut(0).ok_or(Reason::Inconsistent)?;
        front.ethernet = ethernet(copy, 0x86dd);
        front.ip = outer;
        self.write_shim(packet, ETHERNET_LEN + LEN, carried)
    }
}
