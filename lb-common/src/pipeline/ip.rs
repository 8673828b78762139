//! What differs between IPv4 and IPv6.

use super::parse::Walk;
use crate::flow::FlowKey;
use crate::layout::{Bucket, Family};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::select;
use crate::service;
use crate::tables::Tables;
use crate::wire::{Ipv4, Ipv6, Ipv6Fragment, Protocol};

/// IP protocol numbers that end the walk over extension headers.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
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
}

/// What follows the IP header and its extensions.
pub(super) enum Payload {
    Transport(Protocol, usize),
    Icmp,
    Other,
    /// Further extension headers, in a fragment that is not the first.
    Extensions,
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
    type Address: Copy;

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
    fn flow_hash(seed: u64, source: Self::Address, destination: Self::Address, ends: u64) -> u64;
}

pub(super) struct V4;

impl Ip<1> for V4 {
    const FAMILY: Family = Family::V4;
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
            None if network.next == ICMP => Payload::Icmp,
            None => Payload::Other,
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
    fn flow_hash(seed: u64, source: u32, destination: u32, ends: u64) -> u64 {
        select::flow_hash(seed, [(source as u64) << 32 | destination as u64], ends)
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
    fn flow_hash(seed: u64, source: Halves, destination: Halves, ends: u64) -> u64 {
        select::flow_hash(seed, [source.0, source.1, destination.0, destination.1], ends)
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
    for number in 0..=longest {
        if let Some(protocol) = Protocol::from_ip(next) {
            return Ok((Payload::Transport(protocol, offset), cut));
        }
        if !is_extension(next) && next != FRAGMENT {
            return Ok((if next == ICMPV6 { Payload::Icmp } else { Payload::Other }, cut));
        }
        if next == FRAGMENT && matches!(cut, Cut::Left) {
            return Err(Reason::FragmentUnknown);
        }
        if number == longest {
            break;
        }
        let extension: &[u8; 2] = packet.header(offset).ok_or(Reason::Malformed)?;
        let [following, units] = *extension;
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
