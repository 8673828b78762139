//! ICMP errors that come back to weir's own addresses: about packets that it tunnelled, and about its probes.
//!
//! An error counts for as much as the packet that it quotes: only a quote that holds what weir sent names its probe or
//! backend. Errors can be forged in any number, so they are read slowly: a few, then none for a millisecond.

#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{RecvFlags, recvfrom};
use socket2::{Protocol, SockFilter, Socket, Type};

use super::echo::Family;
use crate::health::hearsay::Cause;
use crate::health::time::Moment;

/// Bytes of an ICMP error before the packet that it quotes.
const HEADER: usize = 8;
/// Errors read in one go, and the pause after that.
const BURST: usize = 16;
const PAUSE: Duration = Duration::from_millis(1);
/// Level-triggered, and quiet until it is asked again.
const ONCE: EventFlags = EventFlags::IN.union(EventFlags::ONESHOT);

/// What an error quotes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Quote {
    /// A packet inside IP, or inside UDP.
    Tunnelled {
        /// Source of the outer header.
        source: IpAddr,
        /// Destination port of the UDP header.
        port: Option<u16>,
        /// Destination of the packet inside.
        vip: IpAddr,
    },
    /// The beginning of a TCP segment.
    Segment { port: u16, initial: u32 },
    /// An ICMP message.
    Icmp(Vec<u8>),
}

/// An ICMP error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IcmpError {
    /// Who sent it.
    pub(super) from: IpAddr,
    /// What it says.
    pub(super) cause: Cause,
    /// Whom the quoted packet was for.
    pub(super) about: IpAddr,
    /// The quoted packet.
    pub(super) quote: Quote,
}

/// One socket per family.
#[derive(Debug)]
pub(super) struct ErrorSockets {
    sockets: Vec<(Family, Socket)>,
    token: u64,
    /// When the sockets are looked at again.
    rests_until: Option<Moment>,
}

impl ErrorSockets {
    /// Opens the sockets, and has the loop woken by `token`. Without `CAP_NET_RAW` there are none: detection does
    /// without this evidence.
    pub(super) fn open(epoll: BorrowedFd<'_>, token: u64) -> io::Result<Self> {
        let mut sockets = Vec::new();
        for family in [Family::V4, Family::V6] {
            match open(family) {
                Ok(socket) => {
                    epoll::add(epoll, &socket, EventData::new_u64(token), ONCE)?;
                    sockets.push((family, socket));
                }
                // A host may run without IPv6.
                Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {}
                Err(error) => tracing::warn!("open raw socket for ICMP errors: {error}; grant CAP_NET_RAW"),
            }
        }
        Ok(Self { sockets, token, rests_until: None })
    }

    /// Reads the next few errors, then rests.
    pub(super) fn read(&mut self, now: Moment) -> Vec<IcmpError> {
        self.rests_until = Some(now + PAUSE);
        let of = |(family, socket): &(Family, Socket)| {
            let (family, socket) = (*family, socket.as_fd());
            let read: Vec<IcmpError> = (0..BURST).map_while(|_| receive(family, socket)).flatten().collect();
            read
        };
        self.sockets.iter().flat_map(of).collect()
    }

    /// When [`ErrorSockets::on_time`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        self.rests_until
    }

    /// Has the loop woken again, once the pause is over.
    pub(super) fn on_time(&mut self, epoll: BorrowedFd<'_>, now: Moment) {
        if self.rests_until.take_if(|until| *until <= now).is_none() {
            return;
        }
        for (_, socket) in &self.sockets {
            if let Err(error) = epoll::modify(epoll, socket, EventData::new_u64(self.token), ONCE) {
                tracing::error!("wait for ICMP errors: {error}");
            }
        }
    }
}

fn open(family: Family) -> io::Result<Socket> {
    let (protocol, [first, second]) = match family {
        Family::V4 => (Protocol::ICMPV4, [3, 3]),
        Family::V6 => (Protocol::ICMPV6, [1, 4]),
    };
    let socket = Socket::new(family.domain(), Type::RAW.nonblocking().cloexec(), Some(protocol))?;
    socket.attach_filter(&[
        family.load_header_length(),
        SockFilter::new(0x50, 0, 0, 0),        // ldb [x + 0]: type
        SockFilter::new(0x15, 1, 0, first),    // jeq #first, to all
        SockFilter::new(0x15, 0, 1, second),   // jeq #second, else none
        SockFilter::new(0x06, 0, 0, u32::MAX), // ret all
        SockFilter::new(0x06, 0, 0, 0),        // ret none
    ])?;
    Ok(socket)
}

/// Reads one message; `Some(None)` for one that says nothing of interest.
fn receive(family: Family, socket: BorrowedFd<'_>) -> Option<Option<IcmpError>> {
    let mut buffer = [0; 256];
    let (length, _, from) = recvfrom(socket, &mut buffer, RecvFlags::DONTWAIT).ok()?;
    let from = from.and_then(|from| SocketAddr::try_from(from).ok()).map(|from| from.ip());
    let packet = buffer.get(..length.min(buffer.len())).and_then(|packet| family.payload(packet));
    Some(packet.zip(from).and_then(|(packet, from)| parse(family, from, packet)))
}

/// Reads an error (RFC 792, RFC 4443) and the packet that it quotes.
fn parse(family: Family, from: IpAddr, packet: &[u8]) -> Option<IcmpError> {
    let cause = match (family, *packet.first()?, *packet.get(1)?) {
        (Family::V4, 3, 0 | 6 | 11) | (Family::V6, 1, 0) => Cause::Network,
        (Family::V4, 3, 1 | 7 | 12) | (Family::V6, 1, 3) => Cause::Host,
        (Family::V4, 3, 2) | (Family::V6, 4, 1) => Cause::Protocol,
        (Family::V4, 3, 3) | (Family::V6, 1, 4) => Cause::Port,
        (Family::V4, 3, 9 | 10 | 13) | (Family::V6, 1, 1 | 5 | 6) => Cause::Prohibited,
        _ => return None,
    };
    let quoted = Header::read(packet.get(HEADER..)?)?;
    let word = |at: usize| quoted.payload.get(at..at + 4)?.try_into().ok().map(u32::from_be_bytes);
    let half = |at: usize| quoted.payload.get(at..at + 2)?.try_into().ok().map(u16::from_be_bytes);
    let tunnelled = |port, inner: &[u8]| {
        let vip = Header::read(inner)?.destination;
        Some(Quote::Tunnelled { source: quoted.source, port, vip })
    };
    let quote = match quoted.protocol {
        4 | 41 => tunnelled(None, quoted.payload)?,
        // UDP's header, then four bytes of GUE without options.
        17 => tunnelled(Some(half(2)?), quoted.payload.get(12..)?)?,
        6 => Quote::Segment { port: half(2)?, initial: word(4)? },
        1 | 58 => Quote::Icmp(quoted.payload.to_vec()),
        _ => return None,
    };
    Some(IcmpError { from, cause, about: quoted.destination, quote })
}

/// An IP header and what follows it, as far as it was quoted.
struct Header<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &'a [u8],
}

impl<'a> Header<'a> {
    /// Reads a header of either version, whole and without extensions.
    fn read(packet: &'a [u8]) -> Option<Self> {
        let v4 = |at: usize| {
            Some(IpAddr::from(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?)))
        };
        let v6 = |at: usize| {
            Some(IpAddr::from(Ipv6Addr::from(<[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?)))
        };
        let first = *packet.first()?;
        match first >> 4 {
            4 => Some(Self {
                source: v4(12)?,
                destination: v4(16)?,
                protocol: *packet.get(9)?,
                payload: packet.get(usize::from(first & 0xf).max(5) * 4..)?,
            }),
            6 => Some(Self {
                source: v6(8)?,
                destination: v6(24)?,
                protocol: *packet.get(6)?,
                payload: packet.get(40..)?,
            }),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn v4(protocol: u8, source: [u8; 4], destination: [u8; 4]) -> Vec<u8> {
        let mut header = vec![0x45, 0, 0, 60, 0, 0, 0, 0, 64, protocol, 0, 0];
        header.extend(source);
        header.extend(destination);
        header
    }

    fn v6(next: u8, source: &str, destination: &str) -> Vec<u8> {
        let octets = |text: &str| text.parse::<Ipv6Addr>().expect("an address").octets();
        let mut header = vec![0x60, 0, 0, 0, 0, 20, next, 64];
        header.extend(octets(source));
        header.extend(octets(destination));
        header
    }

    #[test]
    fn an_error_about_a_tunnelled_packet_names_backend_source_and_vip() {
        let from = ip("192.0.2.1");
        let outer = v4(4, [10, 0, 0, 1], [10, 0, 0, 11]);
        let inner = v4(6, [203, 0, 113, 9], [198, 51, 100, 10]);
        let mut packet = [&[3, 2, 0, 0, 0, 0, 0, 0][..], &outer, &inner].concat();
        let quote = Quote::Tunnelled { source: ip("10.0.0.1"), port: None, vip: ip("198.51.100.10") };
        let wanted = IcmpError { from, cause: Cause::Protocol, about: ip("10.0.0.11"), quote };
        assert_eq!(parse(Family::V4, from, &packet), Some(wanted));
        // A quote that is cut short names nobody, and too big is no failure.
        assert_eq!(parse(Family::V4, from, &packet[..packet.len() - 1]), None);
        assert_eq!(parse(Family::V4, from, &packet[..36]), None);
        packet[1] = 4;
        assert_eq!(parse(Family::V4, from, &packet), None);
    }

    #[test]
    fn errors_of_the_other_family_and_about_gue_are_read_alike() {
        let from = ip("2001:db8::1");
        let udp = [0xc0, 0x01, 0x17, 0xc0, 0, 40, 0, 0, 0, 4, 0, 0];
        let inner = v4(6, [203, 0, 113, 9], [198, 51, 100, 10]);
        let outer = v6(17, "2001:db8::5", "2001:db8::11");
        let packet = [&[1, 4, 0, 0, 0, 0, 0, 0][..], &outer, &udp, &inner].concat();
        let quote =
            Quote::Tunnelled { source: ip("2001:db8::5"), port: Some(6080), vip: ip("198.51.100.10") };
        let wanted = IcmpError { from, cause: Cause::Port, about: ip("2001:db8::11"), quote };
        assert_eq!(parse(Family::V6, from, &packet), Some(wanted));
    }

    #[test]
    fn errors_about_probes_quote_what_was_sent() {
        let from = ip("192.0.2.1");
        let syn = [0x9c, 0x40, 0, 80, 0, 0, 0, 7];
        let packet = [&[3, 1, 0, 0, 0, 0, 0, 0][..], &v4(6, [10, 0, 0, 1], [10, 0, 0, 11]), &syn].concat();
        let quote = Quote::Segment { port: 80, initial: 7 };
        let wanted = IcmpError { from, cause: Cause::Host, about: ip("10.0.0.11"), quote };
        assert_eq!(parse(Family::V4, from, &packet), Some(wanted));
        let request = [8, 0, 0, 0, 1, 2, 3, 4];
        let packet =
            [&[3, 0, 0, 0, 0, 0, 0, 0][..], &v4(1, [10, 0, 0, 1], [10, 0, 0, 11]), &request].concat();
        let read = parse(Family::V4, from, &packet).expect("an error");
        assert_eq!((read.cause, read.quote), (Cause::Network, Quote::Icmp(request.to_vec())));
    }
}
