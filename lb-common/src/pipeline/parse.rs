//! From bytes to a packet for a VIP whose lengths the frame holds.

use super::filter::{self, Look};
use super::ip::{Ip, Network, Payload};
use crate::layout::Scratch;
use crate::packet::Packet;
use crate::reason::Reason;
use crate::service;
use crate::tables::Tables;
use crate::trace::Mark;
use crate::wire::{Ports, Protocol, SctpStart, Segment, TcpStart};

/// How far the transport header is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Walk {
    /// Right behind the fixed IP header; what has it elsewhere is left to another stage.
    None,
    /// Behind options and extension headers.
    All,
}

/// A packet for a VIP, as selection needs it.
pub(super) struct Parsed<A> {
    pub(super) source: A,
    pub(super) destination: A,
    pub(super) vip: u32,
    pub(super) protocol: Protocol,
    /// Source and destination port, host order.
    pub(super) ports: (u16, u16),
    pub(super) segment: Segment,
    pub(super) traffic_class: u8,
    /// Length of the IP packet in bytes.
    pub(super) length: u32,
    /// Offset in the frame of the transport header.
    pub(super) transport: usize,
}

impl<A> Parsed<A> {
    /// The same, of which the verifier knows no more than bounds; see [`Scratch::launder`].
    #[inline(always)]
    pub(super) fn laundered(self, scratch: &Scratch) -> Result<Self, Reason> {
        let known = self.transport as u64
            | (self.protocol as u64) << 16
            | (self.segment as u64) << 24
            | (self.traffic_class as u64) << 32
            | (self.length as u64) << 40;
        let word = scratch.launder(known);
        Ok(Self {
            transport: (word & 0xfff) as usize,
            protocol: Protocol::from_code((word >> 16) as u8).ok_or(Reason::Inconsistent)?,
            segment: Segment::from_code((word >> 24) as u8),
            traffic_class: (word >> 32) as u8,
            length: (word >> 40) as u32,
            ..self
        })
    }
}

#[inline(always)]
pub(super) fn parse<const W: usize, I: Ip<W>, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    at: usize,
    (walk, look): (Walk, Look),
) -> Result<Parsed<I::Address>, Reason> {
    let (network, vip) = match walk {
        Walk::None => {
            let header = I::fixed(packet, at)?;
            let vip = I::vip(tables, I::destination(header)).ok_or(Reason::NotVip)?;
            // Read only now: before the look-up the compiler would keep each field on the stack.
            (I::network(header, at), vip)
        }
        Walk::All => {
            let network = I::read(packet, at).ok_or(Reason::Truncated)?;
            let vip = I::vip(tables, network.destination).ok_or(Reason::NotVip)?;
            (network, vip)
        }
    };
    tables.trace(Mark::Vip, vip, 0);
    if !network.sound || at + network.length as usize > packet.length() {
        return Err(Reason::Malformed);
    }
    if network.ttl == 0 {
        return Err(Reason::TtlExpired);
    }
    if network.fragment {
        return Err(Reason::FragmentUnknown);
    }
    let payload = I::payload(packet, &network, at, walk)?;
    let (protocol, offset) = transport::<W, I, T>(tables, vip, network.source, &payload, look)?;
    let end = at + network.length as usize;
    read::<W, I, P, T>(packet, tables, &network, vip, (protocol, offset), Extent { end, whole_end: end })
}

/// Protocol and offset of the transport header, or why the packet leaves without.
#[inline(always)]
pub(super) fn transport<const W: usize, I: Ip<W>, T: Tables>(
    tables: &T,
    vip: u32,
    source: I::Address,
    payload: &Payload,
    look: Look,
) -> Result<(Protocol, usize), Reason> {
    match *payload {
        Payload::Transport(protocol, offset) => Ok((protocol, offset)),
        Payload::Icmp(_) => Err(Reason::Icmp),
        Payload::Other(_) | Payload::Nothing => {
            filter::check_unclaimed::<W, I, T>(tables, vip, source, look)?;
            Err(service::unmatched_protocol(tables, vip))
        }
        // Only of a later fragment.
        Payload::Extensions => Err(Reason::Inconsistent),
    }
}

/// Where a packet ends, as offsets in the frame.
#[derive(Clone, Copy)]
pub(super) struct Extent {
    /// What the frame holds of it.
    pub(super) end: usize,
    /// All of it; past `end` for a first fragment.
    pub(super) whole_end: usize,
}

/// Reads the transport header of a packet for a VIP.
#[inline(always)]
pub(super) fn read<const W: usize, I: Ip<W>, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    network: &Network<I::Address>,
    vip: u32,
    (protocol, offset): (Protocol, usize),
    extent: Extent,
) -> Result<Parsed<I::Address>, Reason> {
    // Both at once, and for all protocols: the compiler would read them byte by byte, and merge what each protocol read.
    let ports: &[u8; size_of::<Ports>()] = packet.header(offset).ok_or(Reason::Malformed)?;
    let ports = u32::from_be_bytes(*ports);
    let ports = ((ports >> 16) as u16, ports as u16);
    let segment = segment(packet, protocol, offset, extent)?;
    tables.trace(
        Mark::Transport,
        segment as u32 | (protocol as u32) << 8,
        ports.1 as u64 | (ports.0 as u64) << 16 | (network.length as u64) << 32,
    );
    Ok(Parsed {
        source: network.source,
        destination: network.destination,
        vip,
        protocol,
        ports,
        segment,
        traffic_class: network.traffic_class,
        length: network.length,
        transport: offset,
    })
}

/// Reads the transport header at `offset`.
#[inline(always)]
fn segment<P: Packet>(
    packet: &P,
    protocol: Protocol,
    offset: usize,
    extent: Extent,
) -> Result<Segment, Reason> {
    match protocol {
        Protocol::Tcp => {
            let tcp: &TcpStart = packet.header(offset).ok_or(Reason::Malformed)?;
            let length = ((tcp.data_offset >> 4) as usize) << 2;
            if length < size_of::<TcpStart>() || offset + length > extent.end {
                return Err(Reason::Malformed);
            }
            Ok(Segment::of_tcp(tcp.flags))
        }
        Protocol::Udp => {
            let udp: &[[u8; 2]; 4] = packet.header(offset).ok_or(Reason::Malformed)?;
            let [_, _, length, _] = *udp;
            let length = u16::from_be_bytes(length) as usize;
            let least = protocol.header_length();
            if offset + least > extent.end || length < least || offset + length > extent.whole_end {
                return Err(Reason::Malformed);
            }
            Ok(Segment::Datagram)
        }
        Protocol::Sctp => {
            let sctp: &SctpStart = packet.header(offset).ok_or(Reason::Malformed)?;
            if offset + protocol.header_length() > extent.end {
                return Err(Reason::Malformed);
            }
            Ok(Segment::of_sctp(sctp.chunk))
        }
    }
}
