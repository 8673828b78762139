//! One backend of one pool, as the [`board`](super::board) keeps it: machine, admin state, and the slot last stored.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::board::StreamId;
use super::event::{Applier, BackendKey};
use super::judge::{Limits, Rule};
use super::machine::{FailureKind, Machine, Pace};
use super::passive::Passive;
use super::pool_view::{Admin, Member, Slot};
use super::snapshot::Adopted;
use super::time::Moment;
use crate::config::model::{Backend, Check, CheckKind, ProbeSize};

/// One backend of one pool.
pub(super) struct Watched {
    pub(super) key: BackendKey,
    pub(super) address: IpAddr,
    pub(super) machine: Machine,
    pub(super) admin: Admin,
    pub(super) weight: u16,
    pub(super) tier: u8,
    pub(super) streams: Vec<StreamId>,
    pub(super) why: String,
    pub(super) passive: Passive,
    pub(super) applied: Option<Slot>,
    /// The entry of `Board::deadlines` that counts.
    pub(super) scheduled: Option<Moment>,
}

impl Watched {
    /// A backend that joins; without adopted health it is unknown.
    pub(super) fn new(
        key: BackendKey,
        backend: &Backend,
        pace: Pace,
        adopted: &HashMap<BackendKey, Adopted>,
        now: Moment,
    ) -> Self {
        let (machine, why) = match adopted.get(&key) {
            Some(was) => {
                (Machine::adopted(pace, was.health, was.kind, now).of_age(was.age, now), was.why.clone())
            }
            None => (Machine::new(pace, now), "not checked yet".to_owned()),
        };
        Self {
            key,
            address: backend.address,
            machine,
            admin: Admin::Active,
            weight: backend.weight,
            tier: backend.tier,
            streams: Vec::new(),
            why,
            passive: Passive::default(),
            applied: None,
            scheduled: None,
        }
    }

    /// What the combination needs to know.
    pub(super) fn as_member(&self, now: Moment) -> Member {
        Member {
            admin: self.admin,
            health: self.machine.health(),
            kind: self.machine.failure_kind(),
            weight: self.weight,
            tier: self.tier,
            admit: self.machine.admit(now).min(self.passive.cap()),
        }
    }

    /// Stores the slot if it differs from the last.
    pub(super) fn apply(&mut self, slot: Slot, applier: &mut dyn Applier) {
        if self.applied != Some(slot) {
            applier.apply(&self.key, slot);
            self.applied = Some(slot);
        }
    }
}

/// Probes on the async runtime report their own timeouts, whatever holds this process up. One that does not report
/// for this long is lost.
const LOST_AFTER: Duration = Duration::from_secs(60);

/// How a check's results are judged.
pub(super) fn limits(check: &Check) -> Limits {
    let rule = match check.kind {
        CheckKind::Ping | CheckKind::Syn | CheckKind::Udp(_) | CheckKind::Dns(_) => Rule::OldestUnanswered,
        CheckKind::Tcp | CheckKind::None => Rule::Consecutive { expire_after: check.timeout },
        CheckKind::Tripwire | CheckKind::Bfd => Rule::Reported,
        CheckKind::Http(_) | CheckKind::Https(..) | CheckKind::Exec(_) => {
            Rule::Consecutive { expire_after: check.timeout * 2 + LOST_AFTER }
        }
    };
    // Known flows may get along with packets that fit.
    let large = check.inside.is_some_and(|inside| inside.size == ProbeSize::Full);
    let silence = if large { FailureKind::Soft } else { FailureKind::Hard };
    Limits { timeout: check.timeout, rise: check.rise, fall: check.fall, rule, silence }
}
