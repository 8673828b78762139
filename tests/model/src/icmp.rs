//! ICMP and ICMPv6 messages in frames, with right lengths and checksums.

use std::net::IpAddr;

use crate::packet::{PacketSpec, Transport, checksum, pseudo_sum};

/// A message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IcmpSpec {
    /// Source address.
    pub source: IpAddr,
    /// Destination address, of the same family.
    pub destination: IpAddr,
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// What follows the checksum.
    pub word: u32,
    /// What follows that: an echo's payload, an error's quote.
    pub body: Vec<u8>,
}

impl IcmpSpec {
    /// An echo request with a payload of this length.
    #[must_use]
    pub fn echo(source: IpAddr, destination: IpAddr, payload: usize) -> Self {
        let body = (0..payload).map(|index| (index * 7) as u8).collect();
        let kind = if destination.is_ipv4() { 8 } else { 128 };
        Self { source, destination, kind, code: 0, word: 0x1234_0001, body }
    }

    /// The error that a router on the way sends to the source of a packet where only so much fits: fragmentation
    /// needed, packet too big. It quotes `quoted` bytes of the packet.
    #[must_use]
    pub fn too_big(router: IpAddr, packet: &PacketSpec, fits: u16, quoted: usize) -> Self {
        let (kind, code) = if packet.source.is_ipv4() { (3, 4) } else { (2, 0) };
        Self::about(router, packet, (kind, code, fits.into()), quoted)
    }

    /// An error with this type, code and word about a packet, of which it quotes `quoted` bytes.
    #[must_use]
    pub fn about(
        router: IpAddr,
        packet: &PacketSpec,
        (kind, code, word): (u8, u8, u32),
        quoted: usize,
    ) -> Self {
        let mut body = packet.frame().split_off(14);
        body.truncate(quoted);
        Self { source: router, destination: packet.source, kind, code, word, body }
    }

    /// The frame; what it has of `like` is all but addresses and what it carries.
    #[must_use]
    pub fn frame_like(&self, like: &PacketSpec) -> Vec<u8> {
        let protocol = if self.destination.is_ipv4() { 1 } else { 58 };
        let mut message = vec![self.kind, self.code, 0, 0];
        message.extend(self.word.to_be_bytes());
        message.extend(&self.body);
        let packet = PacketSpec {
            source: self.source,
            destination: self.destination,
            transport: Transport::Other(protocol),
            payload: message.len(),
            ..like.clone()
        };
        let pseudo = if protocol == 1 {
            0
        } else {
            pseudo_sum(self.source, self.destination, protocol, message.len())
        };
        let sum = checksum(&message, pseudo);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut frame = packet.frame();
        let start = frame.len() - message.len();
        frame[start..].copy_from_slice(&message);
        frame
    }

    /// The frame, with neither options nor extension headers.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        self.frame_like(&PacketSpec::syn(self.source, self.destination, (0, 0)))
    }
}
