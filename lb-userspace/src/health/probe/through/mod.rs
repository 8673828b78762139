//! Probes that take the way of real traffic: to the VIP, inside the backend's encapsulation.
//!
//! The frame is made by the packet logic itself over the live maps, and leaves by a packet socket, past the host's
//! routes: a kernel socket to a VIP that is an address of the host would never leave it. Replies come straight from the
//! VIP to the probe's source. They are taken where the kernel hands frames to packet sockets, behind the packet program
//! and before the check of source addresses, which would drop a reply from an address of the host. The kernel itself
//! answers none of them: SYNs leave from the port of a listener whose filter drops everything.

#![forbid(unsafe_code)]

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::net::{RecvFlags, recvfrom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::echo::{EchoMark, Family};
use super::half_open::{self, Answer};
use super::link;
use crate::health::board::StreamId;
use crate::health::event::Wrapped;
use crate::health::judge::Sequence;

mod packet;

pub(super) use packet::{Carried, packet};

/// Room for the answers of many backends while the thread is away.
const RECEIVE_BUFFER: usize = 1 << 20;
/// Longest part of an answer that is read: headers and an echo's mark.
const READ: usize = 256;

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// The answer to an echo request.
    Echo(StreamId, Sequence),
    /// The answer to a SYN. A connection half opened by it has to be taken back.
    Segment(Answer),
}

/// The sockets of probes through tunnels, opened when the first check needs one.
#[derive(Debug, Default)]
pub(super) struct TunnelSockets {
    out: Option<Socket>,
    ends: Vec<End>,
}

/// Where the probes of one family come from, and their answers go.
#[derive(Debug)]
struct End {
    family: Family,
    /// Takes answers.
    tap: Socket,
    /// Sends whole IP packets to this host's own addresses.
    own: Socket,
    /// Keeps the kernel from answering what comes to the port.
    _quiet: Socket,
    port: u16,
    mark: EchoMark,
}

impl TunnelSockets {
    /// Opens what probes to VIPs of a family need, and has the loop woken by `token` for their answers. Needs
    /// `CAP_NET_RAW`.
    pub(super) fn open_for(&mut self, family: Family, epoll: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        if self.out.is_none() {
            // Protocol 0: sends only.
            self.out = Some(Socket::new(Domain::PACKET, Type::RAW.nonblocking().cloexec(), None)?);
        }
        if self.end(family).is_none() {
            let end = End::open(family)?;
            epoll::add(epoll, end.tap.as_fd(), EventData::new_u64(token), EventFlags::IN)?;
            self.ends.push(end);
        }
        Ok(())
    }

    fn end(&self, family: Family) -> Option<&End> {
        self.ends.iter().find(|end| end.family == family)
    }

    /// The port that SYNs of a family come from.
    pub(super) fn port(&self, family: Family) -> Option<u16> {
        self.end(family).map(|end| end.port)
    }

    /// An echo request that only a VIP can answer.
    pub(super) fn request(&self, vip: IpAddr, stream: StreamId, seq: Sequence) -> Option<Vec<u8>> {
        self.end(Family::of(vip)).map(|end| end.mark.request(vip, stream, seq).to_vec())
    }

    /// Sends a frame on its way.
    pub(super) fn send(&self, wrapped: &Wrapped) -> io::Result<()> {
        let out = self.out.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        out.send_to(&wrapped.frame, &link::of_interface(wrapped.interface)?).map(drop)
    }

    /// Sends an IP packet to an address of this host.
    pub(super) fn send_own(&self, to: IpAddr, packet: &[u8]) -> io::Result<()> {
        let end = self.end(Family::of(to)).ok_or(io::ErrorKind::NotConnected)?;
        end.own.send_to(packet, &SocketAddr::new(to, 0).into()).map(drop)
    }

    /// The next answer, or `None` when the queues are empty.
    pub(super) fn next(&self) -> Option<Reply> {
        self.ends.iter().find_map(|end| {
            let mut buffer = [0; READ];
            // A packet that is none of ours is passed over.
            loop {
                let (length, _, _) = recvfrom(&end.tap, &mut buffer, RecvFlags::DONTWAIT).ok()?;
                if let Some(reply) = end.read(buffer.get(..length.min(READ))?) {
                    return Some(reply);
                }
            }
        })
    }
}

impl End {
    fn open(family: Family) -> io::Result<Self> {
        let (any, ethertype) = match family {
            Family::V4 => (IpAddr::from(Ipv4Addr::UNSPECIFIED), 0x0800_u16),
            Family::V6 => (IpAddr::from(Ipv6Addr::UNSPECIFIED), 0x86dd_u16),
        };
        let quiet = Socket::new(family.domain(), Type::STREAM.cloexec(), Some(Protocol::TCP))?;
        if family == Family::V6 {
            quiet.set_only_v6(true)?;
        }
        quiet.attach_filter(&[SockFilter::new(0x06, 0, 0, 0)])?; // ret none
        quiet.bind(&SocketAddr::new(any, 0).into())?;
        quiet.listen(1)?;
        let port = quiet.local_addr()?.as_socket().map_or(0, |local| local.port());
        let mark = EchoMark::draw(family)?;
        let raw = Protocol::from(libc::IPPROTO_RAW);
        let own = Socket::new(family.domain(), Type::RAW.nonblocking().cloexec(), Some(raw))?;
        let packets = Protocol::from(i32::from(ethertype.to_be()));
        let tap = Socket::new(Domain::PACKET, Type::DGRAM.nonblocking().cloexec(), Some(packets))?;
        tap.set_recv_buffer_size(RECEIVE_BUFFER)?;
        tap.attach_filter(&filter(family, port, mark.id()))?;
        Ok(Self { family, tap, own, _quiet: quiet, port, mark })
    }

    /// Reads an IP packet as an answer to a probe.
    fn read(&self, packet: &[u8]) -> Option<Reply> {
        let (from, protocol, payload) = self.family.open(packet)?;
        if protocol == self.family.icmp() {
            return self.mark.parse(from, payload).map(|(stream, seq)| Reply::Echo(stream, seq));
        }
        half_open::parse(from, self.port, payload).map(Reply::Segment)
    }
}

/// Accepts answers only: TCP to `port`, echo replies with `id`.
fn filter(family: Family, port: u16, id: u16) -> Vec<SockFilter> {
    let (header, protocol_at, reply) = match family {
        Family::V4 => (SockFilter::new(0xb1, 0, 0, 0), 9, 0), // ldx 4*([0]&0xf)
        Family::V6 => (SockFilter::new(0x01, 0, 0, 40), 6, 129), // ldx #40
    };
    vec![
        header,
        SockFilter::new(0x30, 0, 0, protocol_at), // ldb [protocol]
        SockFilter::new(0x15, 5, 0, u32::from(packet::TCP)), // jeq #tcp
        SockFilter::new(0x15, 0, 7, u32::from(family.icmp())), // jeq #icmp
        SockFilter::new(0x50, 0, 0, 0),           // ldb [x + 0]: type
        SockFilter::new(0x15, 0, 5, reply),       // jeq #reply
        SockFilter::new(0x48, 0, 0, 4),           // ldh [x + 4]: identifier
        SockFilter::new(0x15, 2, 3, u32::from(id)), // jeq #id
        SockFilter::new(0x48, 0, 0, 2),           // ldh [x + 2]: destination port
        SockFilter::new(0x15, 0, 1, u32::from(port)), // jeq #port
        SockFilter::new(0x06, 0, 0, u32::MAX),    // ret all
        SockFilter::new(0x06, 0, 0, 0),           // ret none
    ]
}
