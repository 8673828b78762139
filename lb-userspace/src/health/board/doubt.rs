//! The board's side of the guard: whose silence counts, what is held back, what is taken back.

use std::collections::HashSet;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use super::{Board, Role, StreamChanges, StreamId};
use crate::config::model::CheckKind;
use crate::health::command::Targets;
use crate::health::event::GuardEvent;
use crate::health::guard::{GuardRules, Turn, VERIFY_EVERY};
use crate::health::guard_status::GuardStatus;
use crate::health::judge::{Judge, Nature};
use crate::health::machine::{Finding, Health};
use crate::health::self_check::WITNESS_CHECK;
use crate::health::time::Moment;

/// How long a witness's silence may take to be certain.
const WITNESS_SPAN: Duration = Duration::from_millis(500);

impl Board {
    /// Asks the witnesses that are named, except backends.
    pub(super) fn follow_witnesses(&mut self, targets: &Targets, changes: &mut StreamChanges) {
        let backends: HashSet<IpAddr> = addresses(targets).collect();
        let wanted = targets.witnesses.iter().filter(|address| !backends.contains(address));
        self.witnesses = wanted
            .map(|at| (*at, self.subscribe((*at, WITNESS_CHECK, None), Role::Witness, changes)))
            .collect();
    }

    /// Has the guard count the addresses that are checked.
    pub(super) fn follow_hosts(&mut self, targets: &Targets) {
        let checks = targets.pools.values().flat_map(|pool| &pool.checks);
        let checks = checks.filter(|check| check.kind != CheckKind::None);
        // A verdict of silence takes up to the timeout and `fall` intervals, and probes start anywhere in one.
        let pace = checks.map(|check| check.timeout + check.interval * (check.fall + 1)).max();
        self.guard.set_rules(GuardRules {
            panic_threshold: targets.guard.panic_threshold,
            freeze_max: targets.guard.freeze_max,
            spread: pace.unwrap_or_default() + WITNESS_SPAN,
        });
        for member in self.pools.iter().flat_map(|pool| &pool.members) {
            let alive = matches!(member.machine.health(), Health::Up | Health::Suspect | Health::Trial);
            if !member.streams.is_empty() {
                self.guard.add(member.address, alive);
            }
        }
        let checked: HashSet<IpAddr> = addresses(targets).collect();
        self.guard.retain(|address| checked.contains(&address));
    }

    /// Tells the guard what a stream of an address says, and lets it turn.
    pub(super) fn tell_guard(
        &mut self,
        address: IpAddr,
        before: (Finding, Nature),
        told: (Finding, Nature),
        now: Moment,
    ) {
        match (before.1, told.1) {
            (Nature::Answer, Nature::Silence) => self.guard.fell_silent(address, now),
            (Nature::Silence, Nature::Answer) => self.guard.broke_silence(address),
            _ => {}
        }
        if told.0 == Finding::Good {
            self.guard.heard(address);
        }
        if self.guard.is_busy() {
            self.step_guard(now);
        }
    }

    /// Notes which interfaces towards backends have no carrier.
    pub(in crate::health) fn set_lost_carriers(&mut self, interfaces: Vec<String>, now: Moment) {
        self.own.lost_carriers = interfaces;
        if self.guard.is_busy() {
            self.step_guard(now);
        }
    }

    /// Notes how late the probe thread woke.
    pub(in crate::health) fn woke_late(&mut self, by: Duration, now: Moment) {
        self.own.woke_late(by, now);
    }

    /// Streams whose next probe cannot wait.
    pub(in crate::health) fn take_urgent(&mut self) -> Vec<StreamId> {
        std::mem::take(&mut self.urgent)
    }

    /// What the guard is at, for views.
    pub(in crate::health) fn guard_status(&self, now: Moment) -> GuardStatus {
        let (silent, counted) = self.guard.tally();
        GuardStatus::new(self.guard.frozen(), silent, counted, now, SystemTime::now())
    }

    /// Why somebody is pardoned, in words.
    pub(super) fn pardon_reason(&self) -> String {
        let cause = self.guard.frozen().map(|frozen| frozen.cause).unwrap_or_default();
        format!("frozen, last good state kept: {cause}")
    }

    /// Lets the guard decide, and does what follows.
    pub(super) fn step_guard(&mut self, now: Moment) {
        let Self { guard, own, witnesses, streams, .. } = self;
        let judges = witnesses.iter().filter_map(|(address, id)| {
            let stream = streams.get(usize::try_from(id.index).ok()?)?.as_ref()?;
            Some((*address, &stream.judge))
        });
        let turn = guard.step(now, |since| own.verdict(judges, since, now));
        self.guard_at = self.guard.next_deadline(now);
        let rested = self.urged_at.is_none_or(|at| now.since(at) >= VERIFY_EVERY);
        if self.guard.waits_for_witness() && rested {
            self.urged_at = Some(now);
            self.urgent.extend(self.witnesses.iter().map(|(_, id)| *id));
        }
        let Some(turn) = turn else { return };
        match &turn {
            Turn::Verify => return,
            Turn::Freeze { .. } => self.pardon(now),
            Turn::Thaw => self.forget_silence(now),
            Turn::Believe | Turn::Expire => self.reconsider_all(now),
        }
        let (silent, counted) = self.guard.tally();
        self.applier.guard_turned(&GuardEvent::new(&turn, silent, counted, now));
    }

    /// Takes back what silence did lately.
    fn pardon(&mut self, now: Moment) {
        let from = now.before(self.guard.spread());
        for (pool, member) in self.all_members() {
            let streams = self.pools[pool].members[member].streams.iter().filter_map(|id| self.stream(*id));
            let (mut silence, mut hard) = (false, false);
            for judge in streams.map(|stream| &stream.judge) {
                silence |= judge.nature() == Nature::Silence;
                hard |= judge.nature() == Nature::Answer && failing(judge);
            }
            let address = self.pools[pool].members[member].address;
            hard |= self.ways.cut(address).is_some();
            silence |= self.hearsay.doubt(address).is_some();
            if !silence || hard {
                continue;
            }
            if let Some(change) = self.pools[pool].members[member].machine.pardon(from, now) {
                self.note(pool, member, change, None, now);
                self.schedule(pool, member, now);
            }
        }
    }

    /// Lets silence count from now on only.
    fn forget_silence(&mut self, now: Moment) {
        for index in 0..self.streams.len() {
            let Some(stream) = self.streams.get_mut(index).and_then(Option::as_mut) else { continue };
            if stream.role != Role::Backend || stream.judge.nature() != Nature::Silence {
                continue;
            }
            stream.judge.forget_silence();
            let id =
                StreamId { index: u32::try_from(index).unwrap_or(u32::MAX), generation: stream.generation };
            self.tell(id, now);
        }
    }

    fn reconsider_all(&mut self, now: Moment) {
        for (pool, member) in self.all_members() {
            self.reconsider(pool, member, now);
        }
    }

    /// Positions of all pools' members.
    pub(super) fn all_members(&self) -> Vec<(usize, usize)> {
        let pools = self.pools.iter().enumerate();
        pools.flat_map(|(pool, of)| (0..of.members.len()).map(move |member| (pool, member))).collect()
    }
}

fn failing(judge: &Judge) -> bool {
    matches!(judge.finding(), Finding::Doubtful | Finding::Bad(_))
}

/// Where backends are.
fn addresses(targets: &Targets) -> impl Iterator<Item = IpAddr> {
    targets.pools.values().flat_map(|pool| pool.backends.values()).map(|backend| backend.address)
}
