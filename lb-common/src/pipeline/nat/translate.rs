//! Rewriting a packet's ends, between families where they differ (RFC 7915, without fragments).

use super::move_front;
use crate::decap::mss;
use crate::packet::Packet;
use crate::pipeline::answer::sum_of;
use crate::pipeline::ip::{Ip, Sent, V4, V6};
use crate::reason::Reason;
use crate::wire::{ETHERNET_LEN, Ipv4, Ipv6, Ports, Protocol, checksum, halves};

/// Most 32-bit words of a datagram whose checksum is made: what a jumbo frame holds.
const MAX_DATAGRAM_WORDS: usize = 9600 / 4;

/// A packet's ends.
pub(super) struct Ends<A> {
    pub(super) source: A,
    pub(super) destination: A,
    /// Source and destination port, host order.
    pub(super) ports: (u16, u16),
}

/// A packet that is translated, as it came.
pub(super) struct Moving<A> {
    pub(super) source: A,
    pub(super) destination: A,
    /// Source and destination port, host order.
    pub(super) ports: (u16, u16),
    pub(super) protocol: Protocol,
    /// Offset of the transport header in the frame.
    pub(super) offset: usize,
    /// Length of the IP packet in bytes.
    pub(super) length: u32,
}

/// What of an IP header outlives it.
pub(in crate::pipeline) struct Kept {
    traffic_class: u8,
    hop_limit: u8,
    /// IPv6: flow label; 0 from IPv4.
    label: u32,
    /// IPv4: identification; 0 from IPv6.
    id: u16,
    /// IPv4: flags and offset; DF from IPv6.
    flags_offset: u16,
}

/// A family as one side of a translation.
pub(in crate::pipeline) trait Side<const W: usize>: Ip<W> {
    /// The address from its halves.
    fn of_halves(halves: (u64, u64)) -> Self::Address;
    /// The address from its bytes in a map.
    fn of_bytes(bytes: &[u8; 16]) -> Self::Address;
    /// Whether a datagram's checksum may be left out.
    const CHECKSUM_OPTIONAL: bool;
    /// Reads what is kept of the header at `at`.
    fn kept<P: Packet>(packet: &P, at: usize) -> Option<Kept>;
    /// Writes a header at `at`.
    fn put<P: Packet>(
        packet: &mut P,
        at: usize,
        sent: &Sent<Self::Address>,
        kept: &Kept,
    ) -> Result<(), Reason>;
}

impl Side<1> for V4 {
    const CHECKSUM_OPTIONAL: bool = true;

    #[inline(always)]
    fn of_halves((_, low): (u64, u64)) -> u32 {
        low as u32
    }

    #[inline(always)]
    fn of_bytes(bytes: &[u8; 16]) -> u32 {
        (halves(bytes).0 >> 32) as u32
    }

    #[inline(always)]
    fn kept<P: Packet>(packet: &P, at: usize) -> Option<Kept> {
        let header: &Ipv4 = packet.header(at)?;
        Some(Kept {
            traffic_class: header.traffic_class,
            hop_limit: header.ttl,
            label: 0,
            id: u16::from_be_bytes(header.id),
            flags_offset: header.flags_offset(),
        })
    }

    #[inline(always)]
    fn put<P: Packet>(packet: &mut P, at: usize, sent: &Sent<u32>, kept: &Kept) -> Result<(), Reason> {
        let length = sent.payload + Self::HEADER as u32;
        let sum = u16::from_be_bytes([0x45, kept.traffic_class]) as u64
            + length as u64
            + kept.id as u64
            + kept.flags_offset as u64
            + u16::from_be_bytes([kept.hop_limit, sent.protocol]) as u64
            + checksum::words(sent.source)
            + checksum::words(sent.destination);
        *packet.header_mut(at).ok_or(Reason::Inconsistent)? = Ipv4 {
            version_ihl: 0x45,
            traffic_class: kept.traffic_class,
            total_length: (length as u16).to_be_bytes(),
            id: kept.id.to_be_bytes(),
            flags_offset: kept.flags_offset.to_be_bytes(),
            ttl: kept.hop_limit,
            protocol: sent.protocol,
            checksum: (!checksum::fold(sum)).to_be_bytes(),
            source: sent.source.to_be_bytes(),
            destination: sent.destination.to_be_bytes(),
        };
        Ok(())
    }
}

impl Side<3> for V6 {
    const CHECKSUM_OPTIONAL: bool = false;

    #[inline(always)]
    fn of_halves(halves: (u64, u64)) -> (u64, u64) {
        halves
    }

    #[inline(always)]
    fn of_bytes(bytes: &[u8; 16]) -> (u64, u64) {
        halves(bytes)
    }

    #[inline(always)]
    fn kept<P: Packet>(packet: &P, at: usize) -> Option<Kept> {
        const DONT_FRAGMENT: u16 = 0x4000;
        let header: &Ipv6 = packet.header(at)?;
        let word = header.first_word();
        Some(Kept {
            traffic_class: (word >> 20) as u8,
            hop_limit: header.hop_limit,
            label: word & 0xf_ffff,
            id: 0,
            flags_offset: DONT_FRAGMENT,
        })
    }

    #[inline(always)]
    fn put<P: Packet>(packet: &mut P, at: usize, sent: &Sent<(u64, u64)>, kept: &Kept) -> Result<(), Reason> {
        let bytes = |(high, low): (u64, u64)| [high.to_be_bytes(), low.to_be_bytes()];
        let word = 6 << 28 | (kept.traffic_class as u32) << 20 | kept.label;
        *packet.header_mut(at).ok_or(Reason::Inconsistent)? = Ipv6 {
            version_class_label: word.to_be_bytes(),
            payload_length: (sent.payload as u16).to_be_bytes(),
            next_header: sent.protocol,
            hop_limit: kept.hop_limit,
            source: bytes(sent.source),
            destination: bytes(sent.destination),
        };
        Ok(())
    }
}

/// IP protocol number and offset of the checksum in the transport header.
#[inline(always)]
pub(super) fn transport(protocol: Protocol) -> Result<(u8, usize), Reason> {
    match protocol {
        Protocol::Tcp => Ok((6, 16)),
        Protocol::Udp => Ok((17, 6)),
        Protocol::Sctp => Err(Reason::Untranslatable),
    }
}

/// Sum of what a transport checksum covers of a packet's ends.
#[inline(always)]
pub(super) fn sum<const W: usize, I: Ip<W>>(ends: &Ends<I::Address>) -> u64 {
    I::sum(ends.source) + I::sum(ends.destination) + ends.ports.0 as u64 + ends.ports.1 as u64
}

/// Makes a packet whose IP header is at `at` one with these ends, its new IP header behind 14 bytes. What is before that is
/// to be written.
#[cfg_attr(target_arch = "bpf", inline(always))]
#[cfg_attr(not(target_arch = "bpf"), inline(never))]
pub(super) fn translate<const W: usize, I: Side<W>, const V: usize, O: Side<V>, P: Packet>(
    packet: &mut P,
    at: usize,
    parsed: &Moving<I::Address>,
    new: &Ends<O::Address>,
) -> Result<(), Reason> {
    let kept = I::kept(packet, at).ok_or(Reason::Inconsistent)?;
    let (protocol, checksum_at) = transport(parsed.protocol)?;
    let offset = parsed.offset;
    let payload = (at + parsed.length as usize - offset) as u32;
    let sent = Sent { source: new.source, destination: new.destination, protocol, payload };
    let old = Ends { source: parsed.source, destination: parsed.destination, ports: parsed.ports };
    let (before, after) = (checksum::fold(sum::<W, I>(&old)), checksum::fold(sum::<V, O>(new)));
    let field: &mut [u8; 2] = packet.header_mut(offset + checksum_at).ok_or(Reason::Malformed)?;
    let absent = parsed.protocol == Protocol::Udp && u16::from_ne_bytes(*field) == 0;
    if !absent {
        let updated = checksum::update(*field, before, after);
        // 0 would mean that there is none (RFC 768); for TCP both forms of zero are as good.
        *field = checksum::never_zero(updated);
    }
    *packet.header_mut(offset).ok_or(Reason::Malformed)? =
        Ports { source: new.ports.0.to_be_bytes(), destination: new.ports.1.to_be_bytes() };
    if absent && I::CHECKSUM_OPTIONAL && !O::CHECKSUM_OPTIONAL {
        datagram::<V, O, P>(packet, offset, checksum_at, &sent)?;
    }
    move_front(packet, offset, ETHERNET_LEN + O::HEADER)?;
    O::put(packet, ETHERNET_LEN, &sent, &kept)
}

/// Makes the checksum of a datagram that came without one.
#[inline(always)]
fn datagram<const V: usize, O: Side<V>, P: Packet>(
    packet: &mut P,
    offset: usize,
    checksum_at: usize,
    sent: &Sent<O::Address>,
) -> Result<(), Reason> {
    if sent.payload as usize > MAX_DATAGRAM_WORDS * 4 {
        return Err(Reason::Untranslatable);
    }
    let sum = crate::pipeline::ip::pseudo_sum::<V, O>(sent)
        + sum_of::<MAX_DATAGRAM_WORDS, P>(packet, offset, sent.payload as usize)?;
    let made = (!checksum::fold(sum)).to_be_bytes();
    *packet.header_mut(offset + checksum_at).ok_or(Reason::Malformed)? = checksum::never_zero(made);
    Ok(())
}

/// Lowers the MSS that the TCP header at `tcp_at` announces to `limit`, where it is larger.
#[inline(always)]
pub(super) fn clamp<P: Packet>(packet: &mut P, tcp_at: usize, limit: u16) -> Result<(), Reason> {
    let data_offset: &u8 = packet.header(tcp_at + 12).ok_or(Reason::Malformed)?;
    let length = ((*data_offset >> 4) as usize) << 2;
    let Ok(replacement) = mss::option(packet, tcp_at, length, limit) else { return Ok(()) };
    *packet.header_mut(replacement.value_at).ok_or(Reason::Inconsistent)? = replacement.value;
    let field: &mut [u8; 2] = packet.header_mut(replacement.checksum_at).ok_or(Reason::Inconsistent)?;
    let (old, new) = (u16::from_be_bytes(replacement.old), u16::from_be_bytes(replacement.new));
    *field = checksum::update(*field, old, new);
    Ok(())
}
