//! The board's side of checks through tunnels: what tells a broken tunnel from a dead host.

use std::net::IpAddr;
use std::time::Duration;

use super::{Board, Role, Stream, StreamChanges, StreamId};
use crate::config::model::{Check, CheckKind, Inside, PortOf, ProbeSize, Through};
use crate::health::command::Targets;
use crate::health::event::{BackendKey, NoWay, Wrapped};
use crate::health::judge::{Failure, Judge, Nature};
use crate::health::machine::{Finding, Health};
use crate::health::time::Moment;

/// How the host of a backend is asked directly; at once when a check through its tunnel raises doubt. `through` without
/// an `inside` keeps it apart from every check of a pool.
const HINT_CHECK: Check = Check {
    kind: CheckKind::Ping,
    port: None,
    port_of: PortOf::Check,
    interval: Duration::from_secs(1),
    timeout: Duration::from_millis(100),
    rise: 1,
    fall: 2,
    through: Through::Tunnel,
    inside: None,
};

impl Board {
    /// Asks the hosts of backends that are checked through tunnels directly.
    pub(super) fn follow_hints(&mut self, targets: &Targets, changes: &mut StreamChanges) {
        let tunnelled =
            targets.pools.values().filter(|pool| pool.checks.iter().any(|check| check.inside.is_some()));
        let addresses: Vec<IpAddr> =
            tunnelled.flat_map(|pool| pool.backends.values()).map(|backend| backend.address).collect();
        let ask = |address| (address, self.subscribe((address, HINT_CHECK, None), Role::Hint, changes));
        self.hints = addresses.into_iter().map(ask).collect();
    }

    /// Asks a backend's host at once where a check through its tunnel raises doubt.
    pub(super) fn ask_hint(&mut self, id: StreamId) {
        let Some(stream) = self.stream(id) else { return };
        let asked = stream.check.inside.is_some() && stream.judge.finding() == Finding::Doubtful;
        if let Some(hint) = self.hints.get(&stream.address).filter(|_| asked) {
            self.urgent.push(*hint);
        }
    }

    /// A backend that a stream concerns.
    fn backend_of(&self, id: StreamId) -> Option<&BackendKey> {
        let &(pool, member) = self.stream(id)?.concerns.first()?;
        Some(&self.pools.get(pool)?.members.get(member)?.key)
    }

    /// The largest IP packet that fits the way to a stream's backend.
    pub(in crate::health) fn room(&self, id: StreamId, inside: Inside) -> Result<usize, NoWay> {
        self.applier.room(self.backend_of(id).ok_or(NoWay::Unresolved)?, inside)
    }

    /// The frame in which the program would send a packet to a stream's backend.
    pub(in crate::health) fn wrap(
        &self,
        id: StreamId,
        inside: Inside,
        packet: &[u8],
    ) -> Result<Wrapped, NoWay> {
        self.applier.wrap(self.backend_of(id).ok_or(NoWay::Unresolved)?, inside, packet)
    }

    /// What stands before the reason of a loss that a check through a tunnel found by silence: what it amounts to.
    pub(super) fn tunnel_remark(
        &self,
        pool: usize,
        member: usize,
        stream: &Stream,
        to: Health,
        now: Moment,
    ) -> String {
        let Some(inside) = stream.check.inside else { return String::new() };
        let loss = matches!(to, Health::Suspect | Health::Down);
        let explained = matches!(stream.judge.last_failure(), Some(Failure::Unreachable(_)));
        if !loss || explained || stream.judge.nature() == Nature::Answer {
            return String::new();
        }
        let mut streams = self.pools[pool].members[member].streams.iter().filter_map(|id| self.stream(*id));
        let small = Inside { size: ProbeSize::Small, ..inside };
        let small_passes = |other: &Stream| {
            other.check.inside == Some(small)
                && other.check.kind == stream.check.kind
                && other.judge.finding() == Finding::Good
        };
        if inside.size == ProbeSize::Full && streams.any(small_passes) {
            return "MTU black hole, small packets are answered: ".to_owned();
        }
        let hint = self.hints.get(&stream.address).and_then(|id| self.stream(*id));
        match hint.map(|hint| host_since(&hint.judge, stream.judge.first_signal(), now)) {
            Some(Host::Answers) => {
                "tunnel broken, VIP missing or rp_filter, its host answers pings: ".to_owned()
            }
            Some(Host::Silent(age)) => format!("its host answers no direct ping for {age:.1?} either: "),
            Some(Host::Unknown) | None => String::new(),
        }
    }
}

/// What a direct ping says of a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Host {
    Answers,
    /// Asked so long ago, and nothing came.
    Silent(Duration),
    Unknown,
}

/// What is known of a host since a time.
fn host_since(hint: &Judge, since: Option<Moment>, now: Moment) -> Host {
    let Some(since) = since else { return Host::Unknown };
    if hint.last_answered().is_some_and(|answered| answered >= since) {
        return Host::Answers;
    }
    match hint.silence(now) {
        Some((_, age)) => Host::Silent(age),
        None if matches!(hint.finding(), Finding::Bad(_)) => Host::Silent(now.since(since)),
        None => Host::Unknown,
    }
}
