//! `bfd`: the sockets of BFD sessions, and the clock that their state machines go by (RFC 5881).
//!
//! One socket per family receives for all sessions; each session sends from a source port of its own. Packets that
//! were not sent by a neighbour on the link (TTL below 255) do not leave the kernel.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU8, NonZeroU32};
use std::os::fd::BorrowedFd;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recvfrom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};

use super::echo::Family;
use crate::config::model::Check;
use crate::health::bfd::packet::Packet;
use crate::health::bfd::session::{Change, Loss, Session, Settings};
use crate::health::board::{Board, StreamId};
use crate::health::drill::Fate;
use crate::health::judge::Failure;
use crate::health::time::Moment;

/// Where control packets go (RFC 5881, section 4).
const PORT: u16 = 3784;
/// Where they come from: this port or a higher one.
const FIRST_SOURCE: u16 = 49152;
/// Ports to try before giving up.
const SOURCE_TRIES: u16 = 64;
/// DSCP CS6, network control.
const CLASS: u32 = 0xc0;
/// Offset of the network header for socket filters (linux/filter.h).
const NETWORK_HEADER: u32 = 0xfff0_0000;

/// A session and the socket it sends from.
#[derive(Debug)]
struct Talk {
    session: Session,
    peer: IpAddr,
    socket: Option<Socket>,
    discriminator: NonZeroU32,
    /// The entry of `Talks::due` that counts.
    scheduled: Option<Moment>,
}

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Talks {
    receivers: Vec<(Family, Socket)>,
    talks: HashMap<StreamId, Talk>,
    by_discriminator: HashMap<NonZeroU32, StreamId>,
    by_peer: HashMap<IpAddr, StreamId>,
    /// Deadlines; those that are not their session's `scheduled` are void.
    due: BinaryHeap<Reverse<(Moment, StreamId)>>,
    random: RandomState,
    draws: u64,
    trouble: Option<(StreamId, io::Error)>,
}

impl Talks {
    /// Opens what sessions with `address` need, and has the loop woken by `token` for their packets.
    pub(super) fn open_for(&mut self, address: IpAddr, epoll: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let family = Family::of(address);
        if self.receivers.iter().all(|(of, _)| *of != family) {
            let socket = receiver(family)?;
            epoll::add(epoll, &socket, EventData::new_u64(token), EventFlags::IN)?;
            self.receivers.push((family, socket));
        }
        Ok(())
    }

    /// Leaves the port to others where no session needs it.
    pub(super) fn close_unused(&mut self) {
        let talks = &self.talks;
        self.receivers.retain(|(family, _)| talks.values().any(|talk| Family::of(talk.peer) == *family));
    }

    /// Starts a session, whose first packet is due at `first`.
    pub(super) fn add(&mut self, id: StreamId, peer: IpAddr, check: &Check, first: Moment) {
        let discriminator = loop {
            let drawn = NonZeroU32::new(self.draw() as u32);
            match drawn.filter(|drawn| !self.by_discriminator.contains_key(drawn)) {
                Some(free) => break free,
                None => continue,
            }
        };
        let multiplier = u8::try_from(check.fall).ok().and_then(NonZeroU8::new).unwrap_or(NonZeroU8::MAX);
        let settings = Settings { interval: check.interval, multiplier };
        let session = Session::start(settings, discriminator, first);
        self.talks.insert(id, Talk { session, peer, socket: None, discriminator, scheduled: None });
        self.by_discriminator.insert(discriminator, id);
        self.by_peer.insert(peer, id);
        self.watch(id);
    }

    /// Ends a session, if there is such a one, and tells the neighbour.
    pub(super) fn remove(&mut self, id: StreamId) {
        let Some(talk) = self.talks.remove(&id) else { return };
        self.by_discriminator.remove(&talk.discriminator);
        if self.by_peer.get(&talk.peer) == Some(&id) {
            self.by_peer.remove(&talk.peer);
        }
        talk.take_leave();
    }

    /// When [`Talks::run_due`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// Why this host could not send, since the last time this was asked.
    pub(super) fn take_trouble(&mut self) -> Option<(StreamId, io::Error)> {
        self.trouble.take()
    }

    /// Takes all packets that have arrived.
    pub(super) fn take_packets(&mut self, board: &mut Board, now: Moment) {
        while let Some((from, packet)) = self.receivers.iter().find_map(|(_, socket)| receive(socket)) {
            let id = match packet.yours {
                Some(yours) => self.by_discriminator.get(&yours),
                None => self.by_peer.get(&from),
            };
            let Some(&id) = id else { continue };
            let Some(talk) = self.talks.get_mut(&id).filter(|talk| talk.peer == from) else { continue };
            if board.fate(id, now) == Fate::Lost {
                continue;
            }
            let change = talk.session.packet_received(&packet, now);
            tell(board, id, change, now);
            self.advance(id, board, now);
        }
    }

    /// Does everything that is due.
    pub(super) fn run_due(&mut self, board: &mut Board, now: Moment) {
        while let Some(&Reverse((at, id))) = self.due.peek()
            && at <= now
        {
            self.due.pop();
            let talk = self.talks.get_mut(&id);
            if talk.is_some_and(|talk| talk.scheduled.take_if(|scheduled| *scheduled == at).is_some()) {
                self.advance(id, board, now);
            }
        }
    }

    /// Lets a session do what is due, and notes when it wants to be asked again.
    fn advance(&mut self, id: StreamId, board: &mut Board, now: Moment) {
        let random = self.draw();
        let Some(talk) = self.talks.get_mut(&id) else { return };
        let change = talk.session.on_time(now);
        tell(board, id, change, now);
        while let Some(packet) = talk.session.transmit(now, random) {
            if let Err(error) = talk.send(&packet) {
                self.trouble = Some((id, error));
            }
        }
        self.watch(id);
    }

    /// Notes a session's next deadline.
    fn watch(&mut self, id: StreamId) {
        let Some(talk) = self.talks.get_mut(&id) else { return };
        let at = talk.session.next_deadline();
        if let Some(at) = at.filter(|at| talk.scheduled != Some(*at)) {
            self.due.push(Reverse((at, id)));
        }
        talk.scheduled = at;
    }

    /// A number that nobody can foresee.
    fn draw(&mut self) -> u64 {
        self.draws += 1;
        self.random.hash_one(self.draws)
    }
}

impl Drop for Talks {
    /// The neighbours need not worry about a weir that ends.
    fn drop(&mut self) {
        self.talks.values().for_each(Talk::take_leave);
    }
}

impl Talk {
    /// Sends a packet, over a socket that is opened when the first one leaves.
    fn send(&mut self, packet: &Packet) -> io::Result<()> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => sender(self.peer, self.discriminator.get() as u16)?,
        };
        let sent = socket.send(&packet.encode());
        self.socket = Some(socket);
        match sent {
            // What came back of an earlier packet: the neighbour's silence says as much.
            Err(error) if error.raw_os_error() == Some(Errno::CONNREFUSED.raw_os_error()) => Ok(()),
            sent => sent.map(|_| ()),
        }
    }

    /// Sends the last packet. Nothing can be done where that fails: the neighbour notices by itself.
    fn take_leave(&self) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(&self.session.farewell().encode());
        }
    }
}

/// Passes a change on.
fn tell(board: &mut Board, id: StreamId, change: Option<Change>, now: Moment) {
    match change {
        None => {}
        Some(Change::Up) => board.reported(id, None, now, now),
        Some(Change::Doubt(loss)) => board.doubted(id, since(&loss, now), Failure::Session(loss), now),
        Some(Change::Down(loss)) => {
            board.reported(id, Some(Failure::Session(loss.clone())), since(&loss, now), now)
        }
    }
}

/// When what was lost was there last.
fn since(loss: &Loss, now: Moment) -> Moment {
    match loss {
        Loss::Late(span) | Loss::Silent(span) | Loss::NeverUp(span) => now.before(*span),
        Loss::Neighbour(_) | Loss::AdminDown | Loss::OwnPause => now,
    }
}

/// The next packet that is well formed.
fn receive(socket: &Socket) -> Option<(IpAddr, Packet)> {
    let mut buffer = [0; 128];
    loop {
        let (length, _, from) = recvfrom(socket, &mut buffer, RecvFlags::DONTWAIT).ok()?;
        let from = from.and_then(|from| SocketAddr::try_from(from).ok());
        let packet = buffer.get(..length).map(Packet::decode);
        if let (Some(from), Some(Ok(packet))) = (from, packet) {
            return Some((from.ip(), packet));
        }
    }
}

/// Opens the socket that receives for a family.
fn receiver(family: Family) -> io::Result<Socket> {
    let (any, time_to_live): (IpAddr, u32) = match family {
        Family::V4 => (Ipv4Addr::UNSPECIFIED.into(), 8),
        Family::V6 => (Ipv6Addr::UNSPECIFIED.into(), 7),
    };
    let socket = open(family)?;
    socket.attach_filter(&[
        SockFilter::new(0x30, 0, 0, NETWORK_HEADER + time_to_live), // ldb [net + TTL]
        SockFilter::new(0x15, 0, 1, 255),                           // jeq #255
        SockFilter::new(0x06, 0, 0, u32::MAX),                      // ret all
        SockFilter::new(0x06, 0, 0, 0),                             // ret none
    ])?;
    socket.bind(&SocketAddr::new(any, PORT).into())?;
    Ok(socket)
}

/// Opens the socket that a session sends from; the port is one of those near `hint`.
fn sender(peer: IpAddr, hint: u16) -> io::Result<Socket> {
    let family = Family::of(peer);
    let socket = open(family)?;
    let any: IpAddr = match family {
        Family::V4 => {
            socket.set_ttl_v4(255)?;
            socket.set_tos_v4(CLASS)?;
            Ipv4Addr::UNSPECIFIED.into()
        }
        Family::V6 => {
            socket.set_unicast_hops_v6(255)?;
            socket.set_tclass_v6(CLASS)?;
            Ipv6Addr::UNSPECIFIED.into()
        }
    };
    let room = u16::MAX - FIRST_SOURCE + 1;
    let ports = (0..SOURCE_TRIES).map(|n| FIRST_SOURCE + hint.wrapping_add(n) % room);
    let mut bound = Err(io::Error::from(Errno::ADDRINUSE));
    for port in ports {
        bound = socket.bind(&SocketAddr::new(any, port).into());
        if bound.is_ok() {
            break;
        }
    }
    bound?;
    socket.connect(&SocketAddr::new(peer, PORT).into())?;
    Ok(socket)
}

fn open(family: Family) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(family.domain(), kind, Some(Protocol::UDP))?;
    if family.domain() == Domain::IPV6 {
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}
