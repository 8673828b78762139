//! IPv4 (RFC 791).

use core::mem::offset_of;

use super::{Ip, Network, Payload, Piece, Sent, TTL};
use crate::flow::FlowKey;
use crate::layout::{Bucket, Family, OverflowLine};
use crate::packet::Packet;
use crate::pipeline::parse::Walk;
use crate::reason::Reason;
use crate::select;
use crate::service;
use crate::tables::Tables;
use crate::wire::{Icmp, Ipv4, Message, Protocol, checksum};

/// Its ICMP, as an IP protocol number.
const ICMP: u8 = 1;
const DONT_FRAGMENT: u16 = 0x4000;

pub(in crate::pipeline) struct V4;

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
    type Header = Ipv4;

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
    fn fixed<P: Packet>(packet: &P, at: usize) -> Result<&Ipv4, Reason> {
        let header: &Ipv4 = packet.header(at).ok_or(Reason::Truncated)?;
        // One comparison for version and length; a broken header is told from one with options where those are read.
        if header.version_ihl == 0x45 { Ok(header) } else { Err(Reason::IpOptions) }
    }

    #[inline(always)]
    fn destination(header: &Ipv4) -> u32 {
        u32::from_be_bytes(header.destination)
    }

    #[inline(always)]
    fn network(header: &Ipv4, at: usize) -> Network<u32> {
        let length = u16::from_be_bytes(header.total_length) as u32;
        Network {
            source: u32::from_be_bytes(header.source),
            destination: Self::destination(header),
            traffic_class: header.traffic_class,
            sound: length >= size_of::<Ipv4>() as u32,
            length,
            fragment: header.is_fragment(),
            payload: at + size_of::<Ipv4>(),
            next: header.protocol,
            ttl: header.ttl,
        }
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
        _walk: Walk,
    ) -> Result<Payload, Reason> {
        let payload = network.payload;
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
    fn quoted<P: Packet>(packet: &P, network: &Network<u32>, at: usize) -> Option<(Protocol, usize)> {
        match Self::payload(packet, network, at, Walk::All) {
            Ok(Payload::Transport(protocol, offset)) if !Self::is_later_fragment(packet, at) => {
                Some((protocol, offset))
            }
            _ => None,
        }
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
    fn overflow_line<T: Tables>(tables: &T, line: u32) -> Option<&OverflowLine> {
        tables.overflow_v4(line)
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
