//! What differs between IPv4 and IPv6.

use core::mem::offset_of;

use super::parse::Walk;
use crate::flow::FlowKey;
use crate::layout::{Bucket, Family};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::select;
use crate::service;
use crate::tables::Tables;
use crate::wire::{Icmp, Ipv4, Ipv6, Ipv6Fragment, Message, Protocol, checksum};

/// IP protocol numbers that end the walk over extension headers.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const NO_NEXT_HEADER: u8 = 59;

/// TTL or hop limit of what weir sends itself.
const TTL: u8 = 64;
const DONT_FRAGMENT: u16 = 0x4000;
/// Least MTU of an IPv6 link (RFC 8200 section 5).
const MIN_MTU_V6: u32 = 1280;
/// The IPv6 fragment header.
const FRAGMENT: u8 = 44;

/// Most IPv6 extension headers that are walked.
const MAX_EXTENSIONS: usize = 6;
/// Longest chain of IPv6 extension headers that is walked, in bytes.
const MAX_EXTENSION_BYTES: usize = 1024;

/// An IP header that was read, not yet believed.
pub(super) struct Network<A> {
    pub(super) source: A,
    pub(super) destination: A,
    pub(super) traffic_class: u8,
    /// Whether the header's own lengths are possible.
    pub(super) sound: bool,
    /// Length of the IP packet in bytes, as claimed.
    pub(super) length: u32,
    pub(super) fragment: bool,
    /// Offset in the frame of what follows the header: of IPv6's fixed one, of IPv4's with its options.
    pub(super) payload: usize,
    pub(super) next: u8,
    /// TTL or hop limit.
    pub(super) ttl: u8,
}

/// What follows the IP header and its extensions.
pub(super) enum Payload {
    Transport(Protocol, usize),
    /// The family's ICMP, at this offset in the frame.
    Icmp(usize),
    /// Another protocol, named by the byte at this offset in the frame.
    Other(usize),
    /// Nothing, as the header says (RFC 8200 section 4.7).
    Nothing,
    /// Further extension headers, in a fragment that is not the first.
    Extensions,
}

/// An IP packet that weir sends itself.
pub(super) struct Sent<A> {
    pub(super) source: A,
    pub(super) destination: A,
    pub(super) protocol: u8,
    /// Bytes after the IP header.
    pub(super) payload: u32,
}

/// A packet's part in a fragment.
pub(super) struct Piece {
    pub(super) id: u32,
    /// The protocol as it identifies the packet, 0 where it does not.
    pub(super) protocol: u8,
    /// Offset of the part in the packet's payload, in bytes.
    pub(super) start: u32,
    /// Whether others follow.
    pub(super) more: bool,
    /// Offset of the part in the frame.
    pub(super) at: usize,
    pub(super) payload: Payload,
}

/// An IP version, with `W` words in a flow key.
pub(super) trait Ip<const W: usize> {
    const FAMILY: Family;
    /// Bytes of the fixed header.
    const HEADER: usize;
    const ETHERTYPE: u16;
    /// IP protocol number of the family's ICMP.
    const ICMP: u8;
    const ECHO_REPLY: u8;
    /// Most bytes of a packet that an ICMP error quotes (RFC 1812 section 4.3.2.3, RFC 4443 section 2.4).
    const QUOTE: u32;
    /// Type and code of port unreachable.
    const PORT_UNREACHABLE: (u8, u8);
    type Address: Copy + PartialEq;

    /// Reads the header at `at`; `None` where the frame does not hold one of this version.
    fn read<P: Packet>(packet: &P, at: usize) -> Option<Network<Self::Address>>;
    fn vip<T: Tables>(tables: &T, address: Self::Address) -> Option<u32>;
    /// Finds the transport header of a packet for a VIP whose IP header is at `at`.
    fn payload<P: Packet>(
        packet: &P,
        network: &Network<Self::Address>,
        at: usize,
        walk: Walk,
    ) -> Result<Payload, Reason>;
    /// Reads what a fragment says of itself, and finds the transport header of the first one.
    fn piece<P: Packet>(packet: &P, network: &Network<Self::Address>, at: usize) -> Result<Piece, Reason>;
    /// The address as two numbers.
    fn halves(address: Self::Address) -> (u64, u64);
    fn key(secret: u64, source: Self::Address, ports: (u16, u16), vip: u32, protocol: Protocol)
    -> FlowKey<W>;
    fn bucket<T: Tables>(tables: &T, hash: u32) -> Option<&Bucket<W>>;
    fn flows_mask<T: Tables>(tables: &T) -> u32;
    /// The selection hash of what `hashed` keeps of a flow besides its source.
    fn flow_hash(seed: u64, source: Self::Address, destination: Self::Address, ends: u64, hashed: u64)
    -> u64;
    /// What an ICMP message of this type is.
    fn message(kind: u8) -> Message;
    /// Whether the header at `at` is that of a fragment other than the first.
    fn is_later_fragment<P: Packet>(packet: &P, at: usize) -> bool;
    /// Whether the address can be that of one host, elsewhere.
    fn is_host(address: Self::Address) -> bool;
    /// Whether the address is none that a packet can come from: loopback, unspecified, a group.
    fn is_martian(address: Self::Address) -> bool;
    /// Whether [`Ip::is_martian`] may hold, by the address's first byte alone.
    fn may_be_martian(address: Self::Address) -> bool;
    /// Sum of the address's 16-bit words.
    fn sum(address: Self::Address) -> u64;
    /// Sum of what the checksum of an ICMP message covers besides the message.
    fn icmp_sum(sent: &Sent<Self::Address>) -> u64;
    /// Type, code and further word of the error for a packet of this length where only so much fits; `None` where
    /// its sender could do nothing about it.
    fn too_big(fits: u32, length: u32) -> Option<(u8, u8, u32)>;
    /// The same for a protocol that nobody takes, which the byte at `pointer` in the packet names.
    fn protocol_unreachable(pointer: u32) -> (u8, u8, u32);
    /// Writes the header of a packet of weir's own at `at`.
    fn write<P: Packet>(packet: &mut P, at: usize, sent: &Sent<Self::Address>) -> Result<(), Reason>;
    /// Exchanges source and destination of the header at `at`, which may travel as far as any.
    fn turn_back<P: Packet>(packet: &mut P, at: usize) -> Result<(), Reason>;
}

/// Sum of the words that a checksum covers besides what follows the IP header: those of the pseudo-header
/// (RFC 9293 section 3.1, RFC 8200 section 8.1).
#[inline(always)]
pub(super) fn pseudo_sum<const W: usize, I: Ip<W>>(sent: &Sent<I::Address>) -> u64 {
    I::sum(sent.source) + I::sum(sent.destination) + sent.protocol as u64 + sent.payload as u64
}

pub(super) struct V4;

impl Ip<1> for V4 {
    const FAMILY: Family = Family::V4;
    const HEADER: usize = size_of::<Ipv4>();
    const ETHERTYPE: u16 = 0x0800;
    const ICMP: u8 = ICMP;
    const ECHO_REPLY: u8 = 0;
    const QUOTE: u32 = 576 - (size_of::<Ipv4>() + size_of::<Icmp>()) as u32;
    const PORT_UNREACHABLE: (u8, u8) = (3, 3);
    /// Big-endian number.
    type Address = u32;

    #[inline(always)]
    fn read<P: Packet>(packet: &P, at: usize) -> Option<Network<u32>> {
        let header: &Ipv4 = packet.header(at)?;
        if header.version_ihl >> 4 != 4 {
            return None;
        }
        let header_length = header.header_length();
        let length = u16::from_be_bytes(header.total_length) as u32;
        Some(Network {
            source: u32::from_be_bytes(header.source),
            destination: u32::from_be_bytes(header.destination),
            traffic_class: header.traffic_class,
            sound: header_length >= size_of::<Ipv4>() && length >= header_length as u32,
            length,
            fragment: header.is_fragment(),
            payload: at + header_length,
            next: header.protocol,
            ttl: header.ttl,
        })
    }

    #[inline(always)]
    fn vip<T: Tables>(tables: &T, address: u32) -> Option<u32> {
        service::vip_v4(tables, address)
    }

    #[inline(always)]
    fn payload<P: Packet>(
        _packet: &P,
        network: &Network<u32>,
        at: usize,
        walk: Walk,
    ) -> Result<Payload, Reason> {
        let payload = match walk {
            Walk::None if network.payload != at + size_of::<Ipv4>() => return Err(Reason::IpOptions),
            Walk::None => at + size_of::<Ipv4>(),
            Walk::All => network.payload,
        };
        Ok(match Protocol::from_ip(network.next) {
            Some(protocol) => Payload::Transport(protocol, payload),
            None if network.next == ICMP => Payload::Icmp(payload),
            None => Payload::Other(at + offset_of!(Ipv4, protocol)),
        })
    }

    #[inline(always)]
    fn piece<P: Packet>(packet: &P, network: &Network<u32>, at: usize) -> Result<Piece, Reason> {
        let header: &Ipv4 = packet.header(at).ok_or(Reason::Malformed)?;
        let flags_offset = header.flags_offset();
        Ok(Piece {
            id: u16::from_be_bytes(header.id) as u32,
            protocol: network.next,
            start: ((flags_offset & Ipv4::OFFSET) as u32) << 3,
            more: flags_offset & Ipv4::MORE_FRAGMENTS != 0,
            at: network.payload,
            payload: Self::payload(packet, network, at, Walk::All)?,
        })
    }

    #[inline(always)]
    fn halves(address: u32) -> (u64, u64) {
        (0, address as u64)
    }

    #[inline(always)]
    fn key(secret: u64, source: u32, ports: (u16, u16), vip: u32, protocol: Protocol) -> FlowKey<1> {
        FlowKey::v4(secret, source, ports, vip, protocol)
    }

    #[inline(always)]
    fn bucket<T: Tables>(tables: &T, bucket: u32) -> Option<&Bucket<1>> {
        tables.flows_v4(bucket)
    }

    #[inline(always)]
    fn flows_mask<T: Tables>(tables: &T) -> u32 {
        tables.flows_v4_mask()
    }

    #[inline(always)]
    fn flow_hash(seed: u64, source: u32, destination: u32, ends: u64, hashed: u64) -> u64 {
        let word = (source as u64) << 32 | destination as u64 & hashed;
        select::flow_hash(seed, [word], ends & hashed)
    }

    #[inline(always)]
    fn message(kind: u8) -> Message {
        Message::of_v4(kind)
    }

    #[inline(always)]
    fn is_later_fragment<P: Packet>(packet: &P, at: usize) -> bool {
        packet.header::<Ipv4>(at).is_none_or(|header| u16::from_be_bytes(header.flags_offset) & 0x1fff != 0)
    }

    #[inline(always)]
    fn is_host(address: u32) -> bool {
        let first = address >> 24;
        first != 0 && first != 127 && first < 224
    }

    #[inline(always)]
    fn is_martian(address: u32) -> bool {
        let first = address >> 24;
        first == 0 || first == 127 || first >> 4 == 14 || address == u32::MAX
    }

    #[inline(always)]
    fn may_be_martian(address: u32) -> bool {
        !Self::is_host(address)
    }

    #[inline(always)]
    fn sum(address: u32) -> u64 {
        checksum::words(address)
    }

    #[inline(always)]
    fn icmp_sum(_sent: &Sent<u32>) -> u64 {
        0
    }

    #[inline(always)]
    fn too_big(fits: u32, _length: u32) -> Option<(u8, u8, u32)> {
        // Fragmentation needed, with the MTU of the next hop (RFC 1191 section 4).
        Some((3, 4, fits))
    }

    #[inline(always)]
    fn protocol_unreachable(_pointer: u32) -> (u8, u8, u32) {
        (3, 2, 0)
    }

    #[inline(always)]
    fn write<P: Packet>(packet: &mut P, at: usize, sent: &Sent<u32>) -> Result<(), Reason> {
        let length = sent.payload + Self::HEADER as u32;
        let sum = 0x4500
            + length as u64
            + DONT_FRAGMENT as u64
            + (TTL as u64) * 256
            + sent.protocol as u64
            + checksum::words(sent.source)
            + checksum::words(sent.destination);
        *packet.header_mut(at).ok_or(Reason::Inconsistent)? = Ipv4 {
            version_ihl: 0x45,
            traffic_class: 0,
            total_length: (length as u16).to_be_bytes(),
            id: [0; 2],
            flags_offset: DONT_FRAGMENT.to_be_bytes(),
            ttl: TTL,
            protocol: sent.protocol,
            checksum: (!checksum::fold(sum)).to_be_bytes(),
            source: sent.source.to_be_bytes(),
            destination: sent.destination.to_be_bytes(),
        };
        Ok(())
    }

    #[inline(always)]
    fn turn_back<P: Packet>(packet: &mut P, at: usize) -> Result<(), Reason> {
        let header: &mut Ipv4 = packet.header_mut(at).ok_or(Reason::Inconsistent)?;
        let (source, destination) = (header.source, header.destination);
        let old = u16::from_be_bytes([header.ttl, header.protocol]);
        let new = u16::from_be_bytes([TTL, header.protocol]);
        header.checksum = checksum::update(header.checksum, old, new);
        header.ttl = TTL;
        header.source = destination;
        header.destination = source;
        Ok(())
    }
}

pub(super) struct V6;

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

    #[inline(always)]
    fn read<P: Packet>(packet: &P, at: usize) -> Option<Network<Halves>> {
        let header: &Ipv6 = packet.header(at)?;
        let word = header.first_word();
        if word >> 28 != 6 {
            return None;
        }
        Some(Network {
            source: numbers(header.source),
            destination: numbers(header.destination),
            traffic_class: (word >> 20) as u8,
            sound: true,
            length: u16::from_be_bytes(header.payload_length) as u32 + size_of::<Ipv6>() as u32,
            fragment: false,
            payload: at + size_of::<Ipv6>(),
            next: header.next_header,
            ttl: header.hop_limit,
        })
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
