//! The prober's side of checks through tunnels.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;

use super::{Prober, RAW};
use crate::config::model::{CheckKind, Inside, ProbeSize};
use crate::health::board::StreamId;
use crate::health::command::{HealthError, Targets};
use crate::health::event::NoWay;
use crate::health::judge::{Failure, Sequence};
use crate::health::probe::connect::{self, Outcome};
use crate::health::probe::echo::Family;
use crate::health::probe::half_open::{Verdict, preferred_source};
use crate::health::probe::through::{self, Carried, Reply};
use crate::health::time::Moment;

impl Prober {
    /// Opens what checks through tunnels need, and the pings that go with them.
    pub(super) fn open_tunnels(&mut self, targets: &Targets) -> Result<(), HealthError> {
        for pool in targets.pools.values() {
            for (check, inside) in pool.checks.iter().filter_map(|check| Some((check, check.inside?))) {
                let opened = self.tunnels.open_for(Family::of(inside.vip), self.epoll.as_fd(), RAW);
                opened.map_err(|source| HealthError::open(&check.kind, source))?;
                for backend in pool.backends.values() {
                    let direct =
                        self.raw.open_for(&CheckKind::Ping, backend.address, self.epoll.as_fd(), RAW);
                    direct.map_err(|source| HealthError::open(&CheckKind::Ping, source))?;
                }
            }
        }
        Ok(())
    }

    /// Takes what came back from VIPs, and ends what a SYN half opened there.
    pub(super) fn take_replies(&mut self, now: Moment) {
        while let Some(reply) = self.tunnels.next() {
            match reply {
                Reply::Echo(stream, seq) => self.board.answered(stream, seq, self.drained_at, now),
                Reply::Segment(answer) => {
                    let stream = self.take_half_open(answer, now);
                    if let Some(stream) = stream.filter(|_| answer.verdict == Verdict::Open) {
                        self.send_reset(stream, answer.initial);
                    }
                }
            }
        }
    }

    /// Sends a probe the way of real traffic.
    pub(super) fn emit_inside(&mut self, id: StreamId, seq: Sequence, inside: Inside) -> Outcome {
        let Some(stream) = self.board.stream(id) else { return Outcome::Waiting };
        let vip = SocketAddr::new(inside.vip, stream.check.port.unwrap_or(0));
        let (request, port) =
            (self.tunnels.request(inside.vip, id, seq), self.tunnels.port(Family::of(inside.vip)));
        let (Some(request), Some(port)) = (request, port) else {
            return Outcome::NotTried(io::ErrorKind::NotConnected.into());
        };
        if stream.check.kind == CheckKind::Ping {
            return self.send_inside(id, inside, vip, &Carried::Echo(&request));
        }
        let initial = self.numbers.of(id, seq);
        self.send_inside(id, inside, vip, &Carried::Syn { port, initial })
    }

    /// Ends the connection that a probe's SYN half opened: the kernel knows nothing of it.
    fn send_reset(&mut self, id: StreamId, initial: u32) {
        let Some((inside, vip)) = self.board.stream(id).and_then(|stream| {
            let inside = stream.check.inside?;
            Some((inside, SocketAddr::new(inside.vip, stream.check.port?)))
        }) else {
            return;
        };
        let inside = Inside { size: ProbeSize::Small, ..inside };
        if let Some(port) = self.tunnels.port(Family::of(inside.vip)) {
            // Lost, it costs the server a place in its queue for a while.
            let _ = self.send_inside(id, inside, vip, &Carried::Reset { port, initial });
        }
    }

    /// Sends a packet to the VIP in the frame that it has on the way to the backend.
    fn send_inside(
        &mut self,
        id: StreamId,
        inside: Inside,
        vip: SocketAddr,
        carried: &Carried<'_>,
    ) -> Outcome {
        let (Some(stream), Some(lane)) = (self.board.stream(id), self.lanes.get_mut(id)) else {
            return Outcome::Waiting;
        };
        let room = match self.board.room(id, inside) {
            Ok(room) => room,
            Err(NoWay::Local) => return self.send_own(vip, carried),
            // Like a packet that is lost: the way may be found in time.
            Err(NoWay::Unresolved) => return Outcome::Waiting,
        };
        let unanswered = stream.judge.silence(Moment::now()).map_or(0, |(count, _)| count);
        let source = match lane.source(reply_route(stream.address, vip.ip()), unanswered, Moment::now()) {
            Ok(source) => source,
            Err(error) => return Outcome::NotTried(no_source(vip.ip(), &error)),
        };
        let length = match inside.size {
            ProbeSize::Small => 0,
            ProbeSize::Full => room,
        };
        let packet = through::packet(source, vip, carried, length);
        match self.board.wrap(id, inside, &packet).map(|wrapped| self.tunnels.send(&wrapped)) {
            Ok(Ok(())) | Err(_) => Outcome::Waiting,
            Ok(Err(error)) => connect::outcome(error),
        }
    }

    /// Sends a packet to a VIP of this host, which is its own backend.
    fn send_own(&self, vip: SocketAddr, carried: &Carried<'_>) -> Outcome {
        // The route to an own address prefers that address.
        if preferred_source(vip.ip()).ok() != Some(vip.ip()) {
            let missing = format!("{} is no address of this host", vip.ip());
            return Outcome::Failed(Failure::Unreachable(missing));
        }
        let packet = through::packet(vip.ip(), vip, carried, 0);
        match self.tunnels.send_own(vip.ip(), &packet) {
            Ok(()) => Outcome::Waiting,
            Err(error) => connect::outcome(error),
        }
    }
}

/// Where the route tells the source to which a backend's replies find their way: to the backend itself, or, where that
/// is of the other family, to anywhere.
fn reply_route(backend: IpAddr, vip: IpAddr) -> IpAddr {
    match (backend.is_ipv4() == vip.is_ipv4(), vip) {
        (true, _) => backend,
        (false, IpAddr::V4(_)) => IpAddr::from([192, 0, 2, 0]),
        (false, IpAddr::V6(_)) => IpAddr::from([0x2001, 0xdb8, 0xffff, 0xffff, 0, 0, 0, 0]),
    }
}

/// Says that replies from a VIP have no way back.
fn no_source(vip: IpAddr, error: &io::Error) -> io::Error {
    let family = if vip.is_ipv4() { "IPv4" } else { "IPv6" };
    io::Error::other(format!("no {family} address that {vip} could answer: {error}; add a route"))
}
