//! What differs between IPv4 and IPv6.

use super::parse::Walk;
use crate::flow::FlowKey;
use crate::layout::{Bucket, Family};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::select;
use crate::service;
use crate::tables::Tables;
use crate::wire::{Ipv4, Ipv6, Protocol};

/// IP protocol numbers that end the walk over extension headers.
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

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
        let (mut next, mut offset) = (network.next, network.payload);
        let longest = match walk {
            Walk::None => 0,
            Walk::All => MAX_EXTENSIONS,
        };
        for number in 0..=longest {
            if let Some(protocol) = Protocol::from_ip(next) {
                return Ok(Payload::Transport(protocol, offset));
            }
            let unit = match next {
                // Hop-by-hop options, routing, destination options (RFC 8200 section 4).
                0 | 43 | 60 => 8,
                // Authentication header: length in 4-byte units (RFC 4302).
                51 => 4,
                44 => return Err(Reason::Fragment),
                ICMPV6 => return Ok(Payload::Icmp),
                _ => return Ok(Payload::Other),
            };
            if number == longest {
                break;
            }
            let extension: &[u8; 2] = packet.header(offset).ok_or(Reason::Malformed)?;
            let [following, units] = *extension;
            offset += if unit == 8 { (units as usize + 1) * 8 } else { (units as usize + 2) * 4 };
            if offset > at + size_of::<Ipv6>() + MAX_EXTENSION_BYTES {
                return Err(Reason::ExtensionHeaders);
            }
            next = following;
        }
        Err(Reason::ExtensionHeaders)
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
