//! IPv6 (RFC 8200).

use core::mem::offset_of;

use super::{Ip, Network, Payload, Piece, Sent, TTL, pseudo_sum};
use crate::flow::FlowKey;
use crate::layout::{Bucket, Family, OverflowLine};
use crate::packet::Packet;
use crate::pipeline::parse::Walk;
use crate::reason::Reason;
use crate::select;
use crate::service;
use crate::tables::Tables;
use crate::wire::{Icmp, Ipv6, Ipv6Fragment, Message, Protocol, checksum};

/// IP protocol numbers that end the walk over extension headers.
const ICMPV6: u8 = 58;
const NO_NEXT_HEADER: u8 = 59;
/// Least MTU of an IPv6 link (RFC 8200 section 5).
const MIN_MTU_V6: u32 = 1280;
/// The IPv6 fragment header.
const FRAGMENT: u8 = 44;
/// Most IPv6 extension headers that are walked.
const MAX_EXTENSIONS: usize = 6;
/// Longest chain of IPv6 extension headers that is walked, in bytes.
const MAX_EXTENSION_BYTES: usize = 1024;

pub(in crate::pipeline) struct V6;

/// An address as two big-endian numbers.
type Halves = (u64, u64);

#[inline(always)]
fn numbers([high, low]: [[u8; 8]; 2]) -> Halves {
    (u64::from_be_bytes(high), u64::from_be_bytes(low))
}

impl Ip<3> for V6 {
    const FAMILY: Family = Family::V6;
    const HEADER: usize = size_of::<Ipv6>();
    const ETHERTYPE: u16 = 0x86dd;
    const ICMP: u8 = ICMPV6;
    const ECHO_REPLY: u8 = 129;
    const QUOTE: u32 = MIN_MTU_V6 - (size_of::<Ipv6>() + size_of::<Icmp>()) as u32;
    const PORT_UNREACHABLE: (u8, u8) = (1, 4);
    type Address = Halves;
    type Header = Ipv6;

    #[inline(always)]
    fn read<P: Packet>(packet: &P, at: usize) -> Option<Network<Halves>> {
        Some(Self::network(Self::fixed(packet, at).ok()?, at))
    }

    #[inline(always)]
    fn fixed<P: Packet>(packet: &P, at: usize) -> Result<&Ipv6, Reason> {
        let header: &Ipv6 = packet.header(at).ok_or(Reason::Truncated)?;
        if header.first_word() >> 28 == 6 { Ok(header) } else { Err(Reason::Truncated) }
    }

    #[inline(always)]
    fn destination(header: &Ipv6) -> Halves {
        numbers(header.destination)
    }

    #[inline(always)]
    fn network(header: &Ipv6, at: usize) -> Network<Halves> {
        Network {
            source: numbers(header.source),
            destination: Self::destination(header),
            traffic_class: (header.first_word() >> 20) as u8,
            sound: true,
            length: u16::from_be_bytes(header.payload_length) as u32 + size_of::<Ipv6>() as u32,
            fragment: false,
            payload: at + size_of::<Ipv6>(),
            next: header.next_header,
            ttl: header.hop_limit,
        }
    }

    #[inline(always)]
    fn vip<T: Tables>(tables: &T, address: Halves) -> Option<u32> {
        service::vip_v6(tables, address)
    }

    #[inline(always)]
    fn payload<P: Packet>(
        packet: &P,
        network: &Network<Halves>,
        at: usize,
        walk: Walk,
    ) -> Result<Payload, Reason> {
        let longest = match walk {
            Walk::None => 0,
            Walk::All => MAX_EXTENSIONS,
        };
        walk_extensions(packet, network, at, longest, Cut::Left).map(|(payload, _)| payload)
    }

    #[inline(always)]
    fn piece<P: Packet>(packet: &P, network: &Network<Halves>, at: usize) -> Result<Piece, Reason> {
        let (payload, cut) = walk_extensions(packet, network, at, MAX_EXTENSIONS, Cut::Sought)?;
        match cut {
            Cut::At(at, offset_flags, id) => Ok(Piece {
                id,
                protocol: 0,
                start: (offset_flags & !7) as u32,
                more: offset_flags & 1 != 0,
                at,
                payload,
            }),
            Cut::Left | Cut::Sought => Err(Reason::Inconsistent),
        }
    }

    #[inline(always)]
    fn quoted<P: Packet>(packet: &P, network: &Network<Halves>, at: usize) -> Option<(Protocol, usize)> {
        // What a backend's kernel cut into fragments is quoted as one: the first has the ports.
        match walk_extensions(packet, network, at, MAX_EXTENSIONS, Cut::Sought) {
            Ok((Payload::Transport(protocol, offset), Cut::Sought)) => Some((protocol, offset)),
            Ok((Payload::Transport(protocol, offset), Cut::At(_, offset_flags, _)))
                if offset_flags & !7 == 0 =>
            {
                Some((protocol, offset))
            }
            _ => None,
        }
    }

    #[inline(always)]
    fn halves(address: Halves) -> (u64, u64) {
        address
    }

    #[inline(always)]
    fn key(secret: u64, source: Halves, ports: (u16, u16), vip: u32, protocol: Protocol) -> FlowKey<3> {
        FlowKey::v6(secret, source, ports, vip, protocol)
    }

    #[inline(always)]
    fn bucket<T: Tables>(tables: &T, bucket: u32) -> Option<&Bucket<3>> {
        tables.flows_v6(bucket)
    }

    #[inline(always)]
    fn overflow_line<T: Tables>(tables: &T, line: u32) -> Option<&OverflowLine> {
        tables.overflow_v6(line)
    }

    #[inline(always)]
    fn flows_mask<T: Tables>(tables: &T) -> u32 {
        tables.flows_v6_mask()
    }

    #[inline(always)]
    fn flow_hash(seed: u64, source: Halves, destination: Halves, ends: u64, hashed: u64) -> u64 {
        let words = [source.0, source.1, destination.0 & hashed, destination.1 & hashed];
        select::flow_hash(seed, words, ends & hashed)
    }

    #[inline(always)]
    fn message(kind: u8) -> Message {
        Message::of_v6(kind)
    }

    #[inline(always)]
    fn is_later_fragment<P: Packet>(_packet: &P, _at: usize) -> bool {
        // A fragment header is none of the fixed header's.
        false
    }

    #[inline(always)]
    fn is_host((high, low): Halves) -> bool {
        high >> 56 != 0xff && !(high == 0 && low <= 1)
    }

    #[inline(always)]
    fn is_martian(address: Halves) -> bool {
        !Self::is_host(address)
    }

    #[inline(always)]
    fn may_be_martian((high, _): Halves) -> bool {
        // Bytes 0x00 and 0xff.
        (high >> 56).wrapping_add(1) & 0xfe == 0
    }

    #[inline(always)]
    fn sum((high, low): Halves) -> u64 {
        let both = |half: u64| checksum::words((half >> 32) as u32) + checksum::words(half as u32);
        both(high) + both(low)
    }

    #[inline(always)]
    fn icmp_sum(sent: &Sent<Halves>) -> u64 {
        pseudo_sum::<3, Self>(sent)
    }

    #[inline(always)]
    fn too_big(fits: u32, length: u32) -> Option<(u8, u8, u32)> {
        // No sender makes packets smaller than this (RFC 8201 section 4).
        if length <= MIN_MTU_V6 { None } else { Some((2, 0, fits.max(MIN_MTU_V6))) }
    }

    #[inline(always)]
    fn protocol_unreachable(pointer: u32) -> (u8, u8, u32) {
        // Parameter problem: a next header that nobody takes (RFC 4443 section 3.4).
        (4, 1, pointer)
    }

    #[inline(always)]
    fn write<P: Packet>(packet: &mut P, at: usize, sent: &Sent<Halves>) -> Result<(), Reason> {
        let bytes = |(high, low): Halves| [high.to_be_bytes(), low.to_be_bytes()];
        *packet.header_mut(at).ok_or(Reason::Inconsistent)? = Ipv6 {
            version_class_label: (6_u32 << 28).to_be_bytes(),
            payload_length: (sent.payload as u16).to_be_bytes(),
            next_header: sent.protocol,
            hop_limit: TTL,
            source: bytes(sent.source),
            destination: bytes(sent.destination),
        };
        Ok(())
    }

    #[inline(always)]
    fn turn_back<P: Packet>(packet: &mut P, at: usize) -> Result<(), Reason> {
        let header: &mut Ipv6 = packet.header_mut(at).ok_or(Reason::Inconsistent)?;
        let (source, destination) = (numbers(header.source), numbers(header.destination));
        header.hop_limit = TTL;
        header.source = [destination.0.to_be_bytes(), destination.1.to_be_bytes()];
        header.destination = [source.0.to_be_bytes(), source.1.to_be_bytes()];
        Ok(())
    }
}

/// A fragment header on the way.
enum Cut {
    /// Left to another stage.
    Left,
    /// Taken, once.
    Sought,
    /// Taken: offset in the frame of what follows it, fragment offset and flags, identification.
    At(usize, u16, u32),
}

/// Whether what follows is an extension header that is walked (RFC 8200 section 4, RFC 4302).
#[inline(always)]
fn is_extension(next: u8) -> bool {
    matches!(next, 0 | 43 | 51 | 60)
}

/// Walks over at most `longest` extension headers.
#[inline(always)]
fn walk_extensions<P: Packet>(
    packet: &P,
    network: &Network<Halves>,
    at: usize,
    longest: usize,
    mut cut: Cut,
) -> Result<(Payload, Cut), Reason> {
    let (mut next, mut offset) = (network.next, network.payload);
    let mut named_at = at + offset_of!(Ipv6, next_header);
    for number in 0..=longest {
        if let Some(protocol) = Protocol::from_ip(next) {
            return Ok((Payload::Transport(protocol, offset), cut));
        }
        if !is_extension(next) && next != FRAGMENT {
            let payload = match next {
                ICMPV6 => Payload::Icmp(offset),
                NO_NEXT_HEADER => Payload::Nothing,
                _ => Payload::Other(named_at),
            };
            return Ok((payload, cut));
        }
        if next == FRAGMENT && matches!(cut, Cut::Left) {
            return Err(Reason::FragmentUnknown);
        }
        if number == longest {
            break;
        }
        let extension: &[u8; 2] = packet.header(offset).ok_or(Reason::Malformed)?;
        let [following, units] = *extension;
        named_at = offset;
        if next == FRAGMENT {
            let header: &Ipv6Fragment = packet.header(offset).ok_or(Reason::Malformed)?;
            let (offset_flags, id) = (u16::from_be_bytes(header.offset_flags), u32::from_be_bytes(header.id));
            offset += size_of::<Ipv6Fragment>();
            if matches!(cut, Cut::At(..)) {
                return Err(Reason::Malformed);
            }
            cut = Cut::At(offset, offset_flags, id);
            if offset_flags & !7 != 0 && (is_extension(following) || following == FRAGMENT) {
                return Ok((Payload::Extensions, cut));
            }
        } else {
            // The authentication header's length is in 4-byte units, and less 2 (RFC 4302 section 2.2).
            offset += if next == 51 { (units as usize + 2) * 4 } else { (units as usize + 1) * 8 };
        }
        if offset > at + size_of::<Ipv6>() + MAX_EXTENSION_BYTES {
            return Err(Reason::ExtensionHeaders);
        }
        next = following;
    }
    Err(Reason::ExtensionHeaders)
}
