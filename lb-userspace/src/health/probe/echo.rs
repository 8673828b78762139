//! `ping`: ICMP echo over one raw socket per family.
//!
//! A request carries a keyed tag, so that only an answer to a probe of this instance counts, whoever else pings.

#![forbid(unsafe_code)]

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover};
use rustix::net::{RecvFlags, SendFlags, recvfrom, sendto};
use rustix::rand::{GetRandomFlags, getrandom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::checksum::checksum;
use crate::health::board::StreamId;
use crate::health::judge::Sequence;

/// Echo header and payload: stream, generation, number, tag.
const LENGTH: usize = 8 + 24;
/// Room for many answers while the thread is away.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Address family of a raw socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub(super) fn domain(self) -> Domain {
        match self {
            Self::V4 => Domain::IPV4,
            Self::V6 => Domain::IPV6,
        }
    }

    /// Loads the length of the IP header that a raw socket's filter sees into X: none for IPv6.
    pub(super) fn load_header_length(self) -> SockFilter {
        match self {
            Self::V4 => SockFilter::new(0xb1, 0, 0, 0), // ldx 4*([0]&0xf)
            Self::V6 => SockFilter::new(0x01, 0, 0, 0), // ldx #0
        }
    }

    /// Has packets leave unfragmented or not at all: small as they are, they need no identification then (RFC 6864), which
    /// the kernel draws at some cost.
    pub(super) fn never_fragment(self, socket: &Socket) -> io::Result<()> {
        match self {
            Self::V4 => Ok(set_ip_mtu_discover(socket, Ipv4PathMtuDiscovery::PROBE)?),
            // IPv6 has no identification in its header.
            Self::V6 => Ok(()),
        }
    }

    /// Length of an IP header without options.
    pub(super) fn header_length(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }

    /// The protocol number of its ICMP.
    pub(super) fn icmp(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 58,
        }
    }

    /// Source, protocol and payload of a whole IP packet without extension headers.
    pub(super) fn open(self, packet: &[u8]) -> Option<(IpAddr, u8, &[u8])> {
        match self {
            Self::V4 => {
                let source: [u8; 4] = packet.get(12..16)?.try_into().ok()?;
                Some((source.into(), *packet.get(9)?, self.payload(packet)?))
            }
            Self::V6 => {
                let source: [u8; 16] = packet.get(8..24)?.try_into().ok()?;
                Some((source.into(), *packet.get(6)?, packet.get(40..)?))
            }
        }
    }

    /// What follows the IP header, which IPv6 raw sockets do not hand out.
    pub(super) fn payload(self, packet: &[u8]) -> Option<&[u8]> {
        match self {
            Self::V4 => packet.get(usize::from(packet.first()? & 0xf) * 4..),
            Self::V6 => Some(packet),
        }
    }
}

/// What marks requests as this instance's, and their answers.
#[derive(Debug)]
pub(super) struct EchoMark {
    family: Family,
    id: u16,
    key: RandomState,
}

impl EchoMark {
    /// Draws an identifier and a key.
    pub(super) fn draw(family: Family) -> io::Result<Self> {
        let mut id = [0; 2];
        getrandom(&mut id, GetRandomFlags::empty())?;
        Ok(Self { family, id: u16::from_ne_bytes(id), key: RandomState::new() })
    }

    /// The identifier of its requests.
    pub(super) fn id(&self) -> u16 {
        self.id
    }

    /// A request that only `to` can answer; the checksum of an ICMPv6 one, which covers addresses, is left out.
    pub(super) fn request(&self, to: IpAddr, stream: StreamId, seq: Sequence) -> [u8; LENGTH] {
        let mut packet = [0; LENGTH];
        packet[0] = match self.family {
            Family::V4 => 8,
            Family::V6 => 128,
        };
        packet[4..6].copy_from_slice(&self.id.to_be_bytes());
        packet[6..8].copy_from_slice(&seq.to_be_bytes()[6..8]);
        packet[8..12].copy_from_slice(&stream.index.to_be_bytes());
        packet[12..16].copy_from_slice(&stream.generation.to_be_bytes());
        packet[16..24].copy_from_slice(&seq.to_be_bytes());
        packet[24..32].copy_from_slice(&self.tag(to, stream, seq).to_be_bytes());
        if self.family == Family::V4 {
            // The kernel fills in ICMPv6's, which covers addresses.
            let sum = checksum(&[&packet]);
            packet[2..4].copy_from_slice(&sum);
        }
        packet
    }

    /// Reads an echo message and checks that it is, or answers, a request of ours to `peer`.
    pub(super) fn parse(&self, peer: IpAddr, packet: &[u8]) -> Option<(StreamId, Sequence)> {
        let word = |at: usize| packet.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
        let long = |at: usize| packet.get(at..at + 8)?.try_into().ok().map(u64::from_be_bytes);
        let stream = StreamId { index: word(8)?, generation: word(12)? };
        let seq = long(16)?;
        (long(24)? == self.tag(peer, stream, seq)).then_some((stream, seq))
    }

    /// Proves that a reply belongs to a request of this instance.
    fn tag(&self, address: IpAddr, stream: StreamId, seq: Sequence) -> u64 {
        self.key.hash_one((address, stream, seq))
    }
}

/// The echo socket of one family.
#[derive(Debug)]
pub(super) struct EchoSocket {
    socket: Socket,
    mark: EchoMark,
}

impl EchoSocket {
    /// Opens the socket; needs `CAP_NET_RAW`.
    pub(super) fn open(family: Family) -> io::Result<Self> {
        let mark = EchoMark::draw(family)?;
        let (protocol, reply) = match family {
            Family::V4 => (Protocol::ICMPV4, 0),
            Family::V6 => (Protocol::ICMPV6, 129),
        };
        let socket = Socket::new(family.domain(), Type::RAW.nonblocking().cloexec(), Some(protocol))?;
        socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
        family.never_fragment(&socket)?;
        socket.attach_filter(&[
            family.load_header_length(),
            SockFilter::new(0x50, 0, 0, 0),                  // ldb [x + 0]: type
            SockFilter::new(0x15, 0, 3, reply),              // jeq #reply
            SockFilter::new(0x48, 0, 0, 4),                  // ldh [x + 4]: identifier
            SockFilter::new(0x15, 0, 1, u32::from(mark.id)), // jeq #id
            SockFilter::new(0x06, 0, 0, u32::MAX),           // ret all
            SockFilter::new(0x06, 0, 0, 0),                  // ret none
        ])?;
        Ok(Self { socket, mark })
    }

    /// Sends one request.
    pub(super) fn send(&self, to: IpAddr, stream: StreamId, seq: Sequence) -> io::Result<()> {
        sendto(
            &self.socket,
            &self.mark.request(to, stream, seq),
            SendFlags::empty(),
            &SocketAddr::new(to, 0),
        )?;
        Ok(())
    }

    /// The next answer, or `None` when the queue is empty.
    pub(super) fn receive(&self) -> Option<(StreamId, Sequence)> {
        let mut buffer = [0; 256];
        loop {
            let (length, _, from) = recvfrom(&self.socket, &mut buffer, RecvFlags::DONTWAIT).ok()?;
            let from = from.and_then(|from| SocketAddr::try_from(from).ok()).map(|from| from.ip());
            let Some(packet) = buffer.get(..length).and_then(|packet| self.mark.family.payload(packet))
            else {
                continue;
            };
            if let Some(answer) = from.and_then(|from| self.mark.parse(from, packet)) {
                return Some(answer);
            }
        }
    }

    /// The probe that a quoted request to `to` is.
    pub(super) fn probe_of(&self, to: IpAddr, request: &[u8]) -> Option<(StreamId, Sequence)> {
        self.mark.parse(to, request)
    }
}

impl AsFd for EchoSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
