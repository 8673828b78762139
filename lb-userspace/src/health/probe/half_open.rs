//! `syn`: a half-open connect over one raw socket per family.
//!
//! Sends a SYN from a port that is bound but neither listens nor connects, so the kernel answers the SYN-ACK with a
//! reset and the server's `accept` never sees the connection. The initial sequence number must come back, and nobody who does
//! not see the SYN can foresee it ([`super::numbers`]), so nobody else can answer.

#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::net::{RecvFlags, SendFlags, recvfrom, sendto};
use socket2::{Protocol, SockFilter, Socket, Type};

use super::checksum::{checksum, pseudo_header};
use super::echo::Family;

/// TCP header with a maximum segment size option.
const LENGTH: usize = 24;
const FIN_SYN_RST_ACK: u8 = 0b1_0111;
const SYN: u8 = 0b0_0010;
const RST: u8 = 0b0_0100;
const SYN_ACK: u8 = 0b1_0010;
const RST_ACK: u8 = 0b1_0100;
const TCP: u8 = 6;
const RECEIVE_BUFFER: usize = 1 << 20;

/// What came back for a SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// SYN and ACK.
    Open,
    /// RST.
    Refused,
}

/// An answer to the SYN with initial sequence number `initial`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) from: SocketAddr,
    pub(super) initial: u32,
    pub(super) verdict: Verdict,
}

/// The raw TCP socket of one family, and the port it sends from.
#[derive(Debug)]
pub(super) struct HalfOpenSocket {
    raw: Socket,
    family: Family,
    /// Keeps the port away from other users.
    _reserved: Socket,
    port: u16,
}

impl HalfOpenSocket {
    /// Opens the socket and reserves a port; needs `CAP_NET_RAW`.
    pub(super) fn open(family: Family) -> io::Result<Self> {
        let any = match family {
            Family::V4 => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            Family::V6 => IpAddr::from(Ipv6Addr::UNSPECIFIED),
        };
        let reserved = Socket::new(family.domain(), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
        if family == Family::V6 {
            reserved.set_only_v6(true)?;
        }
        reserved.bind(&SocketAddr::new(any, 0).into())?;
        let port = reserved.local_addr()?.as_socket().map_or(0, |local| local.port());
        let raw = Socket::new(family.domain(), Type::RAW.nonblocking().cloexec(), Some(Protocol::TCP))?;
        raw.set_recv_buffer_size(RECEIVE_BUFFER)?;
        family.never_fragment(&raw)?;
        raw.attach_filter(&[
            family.load_header_length(),
            SockFilter::new(0x48, 0, 0, 2), // ldh [x + 2]: destination port
            SockFilter::new(0x15, 0, 1, u32::from(port)), // jeq #port
            SockFilter::new(0x06, 0, 0, u32::MAX), // ret all
            SockFilter::new(0x06, 0, 0, 0), // ret none
        ])?;
        Ok(Self { raw, family, _reserved: reserved, port })
    }

    /// Sends a SYN. `source` must be what the kernel's route to `to` prefers.
    pub(super) fn send(&self, source: IpAddr, to: SocketAddr, initial: u32) -> io::Result<()> {
        let segment = syn(source, self.port, to, initial);
        // The kernel takes a port in the address of a raw IPv6 socket for a protocol number.
        sendto(&self.raw, &segment, SendFlags::empty(), &SocketAddr::new(to.ip(), 0))?;
        Ok(())
    }

    /// The next answer, or `None` when the queue is empty.
    pub(super) fn receive(&self) -> Option<Answer> {
        let mut buffer = [0; 256];
        loop {
            let (length, _, from) = recvfrom(&self.raw, &mut buffer, RecvFlags::DONTWAIT).ok()?;
            let from = from.and_then(|from| SocketAddr::try_from(from).ok()).map(|from| from.ip());
            let Some(segment) = buffer.get(..length).and_then(|packet| self.family.payload(packet)) else {
                continue;
            };
            if let Some(answer) = from.and_then(|from| parse(from, self.port, segment)) {
                return Some(answer);
            }
        }
    }
}

impl AsFd for HalfOpenSocket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.raw.as_fd()
    }
}

/// The source address that the kernel's route to `to` prefers.
pub(super) fn preferred_source(to: IpAddr) -> io::Result<IpAddr> {
    let any = match to {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::from(Ipv6Addr::UNSPECIFIED),
    };
    // Connecting a datagram socket sends nothing.
    let socket = UdpSocket::bind((any, 0))?;
    socket.connect((to, 9))?;
    Ok(socket.local_addr()?.ip())
}

/// Builds a SYN segment.
pub(super) fn syn(source: IpAddr, port: u16, to: SocketAddr, initial: u32) -> [u8; LENGTH] {
    let mut segment = [0; LENGTH];
    segment[0..2].copy_from_slice(&port.to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[4..8].copy_from_slice(&initial.to_be_bytes());
    segment[12] = 6 << 4;
    segment[13] = SYN;
    segment[14..16].copy_from_slice(&64_240u16.to_be_bytes());
    segment[20..24].copy_from_slice(&[2, 4, 0x02, 0x18]); // 536, the least that every path carries
    let sum = checksum(&[&pseudo_header(source, to.ip(), TCP, 24), &segment]);
    segment[16..18].copy_from_slice(&sum);
    segment
}

/// Builds the reset that ends what a SYN with this initial sequence number half opened; the checksum is left out.
pub(super) fn reset(port: u16, to: u16, initial: u32) -> [u8; 20] {
    let mut segment = [0; 20];
    segment[0..2].copy_from_slice(&port.to_be_bytes());
    segment[2..4].copy_from_slice(&to.to_be_bytes());
    segment[4..8].copy_from_slice(&initial.wrapping_add(1).to_be_bytes());
    segment[12] = 5 << 4;
    segment[13] = RST;
    segment
}

/// Reads an answer to a SYN that was sent from `port`.
pub(super) fn parse(from: IpAddr, port: u16, segment: &[u8]) -> Option<Answer> {
    let half = |at: usize| segment.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
    let word = |at: usize| segment.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    if half(2)? != port {
        return None;
    }
    let verdict = match segment.get(13)? & FIN_SYN_RST_ACK {
        SYN_ACK => Verdict::Open,
        RST_ACK => Verdict::Refused,
        _ => return None,
    };
    Some(Answer { from: SocketAddr::new(from, half(0)?), initial: word(8)?.wrapping_sub(1), verdict })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syn_segment_has_a_valid_checksum_for_both_families() {
        for (source, to) in [("192.0.2.1", "198.51.100.9:443"), ("2001:db8::1", "[2001:db8::2]:443")] {
            let source: IpAddr = source.parse().expect("an address");
            let to: SocketAddr = to.parse().expect("an address and port");
            let segment = syn(source, 40_000, to, 7);
            let header = pseudo_header(source, to.ip(), TCP, 24);
            assert_eq!(checksum(&[&header, &segment]), [0, 0]);
        }
    }

    #[test]
    fn only_answers_with_our_number_plus_one_and_the_right_flags_count() {
        let from: IpAddr = "192.0.2.1".parse().expect("an address");
        let mut segment = [0; 20];
        segment[0..2].copy_from_slice(&80u16.to_be_bytes());
        segment[2..4].copy_from_slice(&40_000u16.to_be_bytes());
        segment[8..12].copy_from_slice(&8u32.to_be_bytes());
        for (flags, verdict) in
            [(SYN_ACK, Some(Verdict::Open)), (RST_ACK, Some(Verdict::Refused)), (SYN, None), (0b1_0000, None)]
        {
            segment[13] = flags;
            let answer = parse(from, 40_000, &segment);
            let wanted = verdict.map(|verdict| Answer { from: (from, 80).into(), initial: 7, verdict });
            assert_eq!(answer, wanted, "flags {flags:#b}");
        }
        assert_eq!(parse(from, 40_001, &segment), None);
        assert_eq!(parse(from, 40_000, &segment[..13]), None);
    }
}
