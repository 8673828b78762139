//! What differs between IPv4 and IPv6.

mod v4;
mod v6;

pub(super) use v4::V4;
pub(super) use v6::V6;

use super::parse::Walk;
use crate::flow::FlowKey;
use crate::layout::{Bucket, Family, OverflowLine};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::tables::Tables;
use crate::wire::{self, Message, Protocol};

/// TTL or hop limit of what weir sends itself.
const TTL: u8 = 64;

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
    /// The fixed header.
    type Header: wire::Header;

    /// Reads the header at `at`; `None` where the frame does not hold one of this version.
    fn read<P: Packet>(packet: &P, at: usize) -> Option<Network<Self::Address>>;
    /// The fixed header at `at`, of a packet without options.
    ///
    /// # Errors
    /// [`Reason::Truncated`] where the frame does not hold one; [`Reason::IpOptions`] where another stage has to look.
    fn fixed<P: Packet>(packet: &P, at: usize) -> Result<&Self::Header, Reason>;
    fn destination(header: &Self::Header) -> Self::Address;
    /// Reads a [`Ip::fixed`] header at `at`.
    fn network(header: &Self::Header, at: usize) -> Network<Self::Address>;
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
    /// Finds the transport header of a packet that an ICMP error quotes; `None` where the quote holds none.
    fn quoted<P: Packet>(
        packet: &P,
        network: &Network<Self::Address>,
        at: usize,
    ) -> Option<(Protocol, usize)>;
    /// The address as two numbers.
    fn halves(address: Self::Address) -> (u64, u64);
    fn key(secret: u64, source: Self::Address, ports: (u16, u16), vip: u32, protocol: Protocol)
    -> FlowKey<W>;
    fn bucket<T: Tables>(tables: &T, hash: u32) -> Option<&Bucket<W>>;
    fn overflow_line<T: Tables>(tables: &T, line: u32) -> Option<&OverflowLine>;
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
