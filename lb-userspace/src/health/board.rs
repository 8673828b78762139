//! All checks, backends and pools together: results of probes in, slots and events out.
//!
//! Knows which streams of probes exist (one per distinct address and check, shared by all backends that have both),
//! which backends each concerns, and what the data plane was last told. Sends no probe and opens no socket.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::command::{Targets, Which, Wish};
use super::event::{Applier, BackendKey, Evidence, HealthEvent};
use super::guard::{Guard, GuardRules};
use super::hearsay::Hearsay;
use super::judge::{Failure, Sequence};
use super::machine::{Change, Pace};
use super::passive::{PassiveRules, Sight, Verdict};
use super::pool_view::{PoolRules, PoolView};
use super::self_check::OwnState;
use super::snapshot::{self, BackendHealth, CheckStatus, HandshakeStatus};
use super::time::Moment;
use super::watched::Watched;
use crate::config::model::CheckKind;

mod comparison;
mod doubt;
mod drill;
mod objection;
mod output;
mod split;
mod streams;
mod tunnel;
mod verdict;

pub use objection::Tunnelled;
pub use streams::StreamId;
pub(super) use streams::{Stream, StreamChanges};

use streams::{Role, Sameness};

/// One pool.
struct WatchedPool {
    name: Arc<str>,
    rules: PoolRules,
    passive: PassiveRules,
    members: Vec<Watched>,
    view: PoolView,
    pending: Vec<Pending>,
    dirty: Dirty,
}

/// Whether the data plane has to be told something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dirty {
    No,
    Yes,
}

/// A change that the data plane has not been told yet.
struct Pending {
    member: usize,
    change: Change,
    reason: String,
    evidence: Evidence,
    /// When its slot was stored, if it has been.
    applied_at: Option<Moment>,
}

/// Detection's whole state.
pub(super) struct Board {
    streams: Vec<Option<Stream>>,
    free: Vec<u32>,
    by_check: HashMap<Sameness, StreamId>,
    pools: Vec<WatchedPool>,
    by_name: HashMap<Arc<str>, usize>,
    deadlines: BinaryHeap<Reverse<(Moment, usize, usize)>>,
    /// Pools that the data plane has to be told about.
    dirty: Vec<usize>,
    generation: u32,
    guard: Guard,
    own: OwnState,
    ways: objection::Ways,
    hearsay: Hearsay,
    witnesses: Vec<(IpAddr, StreamId)>,
    /// Direct pings of backends that are checked through tunnels.
    hints: HashMap<IpAddr, StreamId>,
    /// When the guard looks again, if nothing happens before.
    guard_at: Option<Moment>,
    /// Streams whose next probe cannot wait, and when that was said last.
    urgent: Vec<StreamId>,
    urged_at: Option<Moment>,
    splits: split::Splits,
    drills: drill::Drills,
    applier: Box<dyn Applier>,
    events: tokio::sync::mpsc::UnboundedSender<HealthEvent>,
}

impl Board {
    /// An empty board.
    pub(super) fn new(
        applier: Box<dyn Applier>,
        events: tokio::sync::mpsc::UnboundedSender<HealthEvent>,
    ) -> Self {
        Self {
            streams: Vec::new(),
            free: Vec::new(),
            by_check: HashMap::new(),
            pools: Vec::new(),
            by_name: HashMap::new(),
            deadlines: BinaryHeap::new(),
            dirty: Vec::new(),
            generation: 0,
            guard: Guard::new(GuardRules::default()),
            own: OwnState::default(),
            ways: objection::Ways::default(),
            hearsay: Hearsay::default(),
            witnesses: Vec::new(),
            hints: HashMap::new(),
            guard_at: None,
            urgent: Vec::new(),
            urged_at: None,
            splits: split::Splits::default(),
            drills: drill::Drills::default(),
            applier,
            events,
        }
    }

    /// Replaces the set of pools. Backends keep their health and streams their counters where name, address and
    /// check stay; new backends start from `adopted`, else unknown. The data plane is told every slot that differs.
    pub(super) fn update(&mut self, targets: &Targets, now: Moment) -> StreamChanges {
        let Targets { pools, admin, adopted, .. } = targets;
        self.flush(now);
        let mut old: HashMap<BackendKey, Watched> = HashMap::new();
        let mut old_pools: HashMap<Arc<str>, (PoolView, Sight)> = HashMap::new();
        for pool in self.pools.drain(..) {
            old_pools.insert(pool.name, (pool.view, pool.passive.sight));
            old.extend(pool.members.into_iter().map(|member| (member.key.clone(), member)));
        }
        for stream in self.streams.iter_mut().flatten() {
            stream.concerns.clear();
        }
        self.by_name.clear();
        self.deadlines.clear();

        let mut changes = StreamChanges::default();
        for (position, pool) in pools.values().enumerate() {
            let name: Arc<str> = Arc::from(pool.name.as_str());
            let pace = Pace {
                hold_down: pool.hold_down,
                hold_down_max: pool.hold_down_max,
                slow_start: pool.slow_start,
            };
            let mut members = Vec::with_capacity(pool.backends.len());
            for (index, (backend_name, backend)) in pool.backends.iter().enumerate() {
                let key = BackendKey::new(name.clone(), backend_name.as_str());
                let mut member = match old.remove(&key) {
                    Some(kept) if kept.address == backend.address => kept,
                    _ => Watched::new(key, backend, pace, adopted, now),
                };
                member.machine.set_pace(pace);
                member.scheduled = None;
                member.admin = admin.get(&member.key).copied().unwrap_or(member.admin);
                (member.weight, member.tier) = (backend.weight, backend.tier);
                let checks = pool.checks.iter().filter(|check| check.kind != CheckKind::None);
                member.streams = checks
                    .map(|check| {
                        let told =
                            matches!(check.kind, CheckKind::Exec(_)).then(|| member.key.backend.clone());
                        let same = (backend.address, check.of(backend), told);
                        let id = self.subscribe(same, Role::Backend, &mut changes);
                        if let Some(stream) = self.stream_mut(id) {
                            stream.concerns.push((position, index));
                        }
                        id
                    })
                    .collect();
                members.push(member);
            }
            let rules = PoolRules {
                tier_takeover_below: pool.tier_takeover_below,
                max_ejected: pool.max_ejected,
                last_resort: pool.last_resort,
            };
            let sight = if targets.answering.contains(&*name) { Sight::Both } else { Sight::Clients };
            let passive = PassiveRules { sample: pool.passive_sample, excess: pool.passive_excess, sight };
            let (view, before) = old_pools.remove(&name).unwrap_or_default();
            if before != sight {
                members.iter_mut().for_each(|member| member.passive.forget());
            }
            self.by_name.insert(name.clone(), position);
            self.pools.push(WatchedPool {
                name,
                rules,
                passive,
                members,
                view,
                pending: vec![],
                dirty: Dirty::Yes,
            });
            self.dirty.push(position);
        }
        self.follow_witnesses(targets, &mut changes);
        self.follow_hints(targets, &mut changes);
        self.drop_unconcerned(&mut changes);
        self.follow_hosts(targets);
        self.follow_ways(targets);
        self.set_splits(&targets.splits);
        for pool in 0..self.pools.len() {
            for member in 0..self.pools[pool].members.len() {
                self.reconsider(pool, member, now);
                self.schedule(pool, member, now);
            }
        }
        self.flush(now);
        // Positions in a list may mean other backends than before.
        for pool in &self.pools {
            self.applier.pool_changed(&pool.name, &pool.view);
        }
        changes
    }

    /// Sets what the operator wants of a backend; `None` if there is no such backend.
    pub(super) fn set_wish(&mut self, key: &BackendKey, wish: Wish, now: Moment) -> Option<()> {
        let (pool, member) = self.find(key)?;
        let member = &mut self.pools[pool].members[member];
        (member.admin, member.weight) = (wish.admin, wish.weight);
        self.flush_pool(pool, now);
        Some(())
    }

    /// Notes a probe that was handed to the kernel between `began` and `at`.
    pub(super) fn sent(&mut self, id: StreamId, seq: Sequence, began: Moment, at: Moment) {
        if let Some(stream) = self.stream_mut(id) {
            stream.judge.sent(seq, began, at);
        }
    }

    /// Takes an answer that arrived between `arrived_after` and `now`.
    pub(super) fn answered(&mut self, id: StreamId, seq: Sequence, arrived_after: Moment, now: Moment) {
        if self.diverted(id, seq, now) == drill::Diverted::No {
            self.hand_on(id, seq, arrived_after, now);
        }
    }

    /// Takes an answer as it reaches the judge.
    fn hand_on(&mut self, id: StreamId, seq: Sequence, arrived_after: Moment, now: Moment) {
        if let Some(stream) = self.stream_mut(id) {
            stream.judge.answered(seq, arrived_after, now);
            stream.not_tried = None;
            let witness = stream.role == Role::Witness;
            self.time(id, now);
            self.tell(id, now);
            self.refute(id, now);
            if witness && self.guard.is_busy() {
                self.step_guard(now);
            }
        }
    }

    /// Takes a reported failure.
    pub(super) fn failed(&mut self, id: StreamId, seq: Sequence, failure: Failure, now: Moment) {
        if self.unseen(id, &failure, now) == drill::Diverted::Yes {
            return;
        }
        if let Some(stream) = self.stream_mut(id) {
            stream.judge.failed(seq, failure, now);
            stream.not_tried = None;
            self.time(id, now);
            self.tell(id, now);
        }
    }

    /// Forgets a probe that gave no verdict.
    pub(super) fn withdrawn(&mut self, id: StreamId, seq: Sequence) {
        if let Some(stream) = self.stream_mut(id) {
            stream.judge.withdrawn(seq);
        }
    }

    /// Notes that a probe could not be made.
    pub(super) fn not_tried(&mut self, id: StreamId, why: String, now: Moment) {
        if let Some(stream) = self.stream_mut(id) {
            stream.not_tried = Some((now, why));
        }
    }

    /// Takes a hint that raises doubt.
    pub(super) fn doubted(&mut self, id: StreamId, since: Moment, hint: Failure, now: Moment) {
        if let Some(stream) = self.stream_mut(id) {
            stream.judge.doubted(since, hint, now);
            self.tell(id, now);
        }
    }

    /// Takes a whole verdict of a prober: nothing, or why it failed.
    pub(super) fn reported(&mut self, id: StreamId, failure: Option<Failure>, since: Moment, now: Moment) {
        if let Some(stream) = self.stream_mut(id) {
            stream.judge.reported(failure, since, now);
            self.tell(id, now);
        }
    }

    /// Judges silence as of a time read before the sockets were drained.
    pub(super) fn judge(&mut self, id: StreamId, now: Moment) {
        if let Some(stream) = self.stream_mut(id) {
            stream.judge.judge(now);
            self.time(id, now);
            self.tell(id, now);
        }
    }

    /// Lets hold-downs, trials and ramps move on.
    pub(super) fn on_time(&mut self, now: Moment) {
        while let Some(&Reverse((at, pool, member))) = self.deadlines.peek()
            && at <= now
        {
            self.deadlines.pop();
            let watched = &mut self.pools[pool].members[member];
            if watched.scheduled.take_if(|scheduled| *scheduled == at).is_none() {
                continue;
            }
            if let Some(change) = watched.machine.on_time(now) {
                self.note(pool, member, change, None, now);
            }
            self.mark(pool);
            self.schedule(pool, member, now);
        }
        if self.guard_at.is_some_and(|at| at <= now) {
            self.step_guard(now);
        }
        self.on_drill_time(now);
        self.expire_hearsay(now);
    }

    /// When [`Board::on_time`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        let member = self.deadlines.peek().map(|Reverse((at, ..))| *at);
        let others = [self.guard_at, self.drills.next_deadline(), self.hearsay.next_deadline()];
        member.into_iter().chain(others.into_iter().flatten()).min()
    }

    /// The backends of some pools, for views.
    pub(super) fn snapshot(&self, which: &Which, now: Moment) -> Vec<BackendHealth> {
        let wall = SystemTime::now();
        let pools: Vec<&WatchedPool> = match which {
            Which::All => self.pools.iter().collect(),
            Which::Pools(names) => {
                let positions = names.iter().filter_map(|name| self.by_name.get(name.as_str()));
                positions.filter_map(|position| self.pools.get(*position)).collect()
            }
        };
        let members =
            pools.into_iter().flat_map(|pool| pool.members.iter().map(move |member| (pool, member)));
        let view = |(pool, member): (&WatchedPool, &Watched)| BackendHealth {
            key: member.key.clone(),
            admin: member.admin,
            health: member.machine.health(),
            failure_kind: member.machine.failure_kind(),
            since: member.machine.since().to_wall(now, wall),
            held_until: member.machine.held_until().map(|until| until.to_wall(now, wall)),
            why: member.why.clone(),
            handshakes: HandshakeStatus {
                window: member.passive.recent(),
                sight: pool.passive.sight,
                outlier: matches!(member.passive.verdict(), Verdict::Outlier { .. }),
                admit: member.passive.cap(),
            },
            slot: member.applied,
            checks: member
                .streams
                .iter()
                .filter_map(|id| self.stream(*id))
                .map(|stream| CheckStatus {
                    not_tried: stream.not_tried(now),
                    ..snapshot::check_status(&stream.check, &stream.judge, now, wall)
                })
                .collect(),
        };
        members.map(view).collect()
    }

    /// Sets the backend's next deadline.
    fn schedule(&mut self, pool: usize, member: usize, now: Moment) {
        let watched = &mut self.pools[pool].members[member];
        let at = watched.machine.next_deadline(now);
        if let Some(at) = at.filter(|at| watched.scheduled != Some(*at)) {
            self.deadlines.push(Reverse((at, pool, member)));
        }
        watched.scheduled = at;
    }

    fn find(&self, key: &BackendKey) -> Option<(usize, usize)> {
        let pool = *self.by_name.get(&key.pool)?;
        let members = &self.pools[pool].members;
        let member = members.binary_search_by(|member| member.key.backend.cmp(&key.backend)).ok()?;
        Some((pool, member))
    }
}

#[cfg(test)]
#[path = "board_tests.rs"]
mod tests;
