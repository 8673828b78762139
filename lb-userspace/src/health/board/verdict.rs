//! What a backend's checks, and all else that speaks for or against it, come to; and what follows for its machine.

use super::{Board, Dirty, Pending, Role, Stream, StreamId};
use crate::health::event::Evidence;
use crate::health::guard::Belief;
use crate::health::judge::{Judge, Nature, ProbeRecord};
use crate::health::machine::{Cause, Change, FailureKind, Finding, Health};
use crate::health::snapshot;
use crate::health::time::Moment;

impl Board {
    /// Passes a stream's finding on to its backends if it differs from the last.
    pub(super) fn tell(&mut self, id: StreamId, now: Moment) {
        let Some(stream) = self.stream_mut(id) else { return };
        let told = (stream.judge.finding(), stream.judge.nature());
        if stream.told == told {
            return;
        }
        let before = std::mem::replace(&mut stream.told, told);
        let (address, role) = (stream.address, stream.role);
        // The guard first: it says how far this counts.
        match role {
            Role::Backend => self.tell_guard(address, before, told, now),
            Role::Witness if self.guard.is_busy() => return self.step_guard(now),
            Role::Witness | Role::Hint => return,
        }
        self.ask_hint(id);
        let Some(stream) = self.stream_mut(id) else { return };
        let concerns = std::mem::take(&mut stream.concerns);
        for &(pool, member) in &concerns {
            self.reconsider(pool, member, now);
        }
        if let Some(stream) = self.stream_mut(id) {
            stream.concerns = concerns;
        }
    }

    /// What a backend's checks say together, as far as silence counts; nothing where all that is left is silence that
    /// does not.
    pub(super) fn finding(&self, pool: usize, member: usize) -> Option<Finding> {
        let address = self.pools[pool].members[member].address;
        if self.ways.cut(address).is_some() {
            return Some(Finding::Bad(FailureKind::Hard));
        }
        let streams = self.pools[pool].members[member].streams.iter().filter_map(|id| self.stream(*id));
        let belief = self.guard.belief();
        let counts = |judge: &Judge| match (judge.nature(), belief, judge.finding()) {
            (Nature::Silence, Belief::Nothing, _) => None,
            (Nature::Silence, Belief::Suspicion, Finding::Bad(_)) => Some(Finding::Doubtful),
            (_, _, finding) => Some(finding),
        };
        let passive = self.pools[pool].members[member].passive.is_ejected();
        let passive = passive.then_some(Some(Finding::Bad(FailureKind::Soft)));
        let said = self.hearsay.doubt(address).is_some();
        let said = said.then(|| (belief != Belief::Nothing).then_some(Finding::Doubtful));
        let findings = streams.map(|stream| counts(&stream.judge));
        let findings: Vec<Option<Finding>> = findings.chain(passive).chain(said).collect();
        let combined = Finding::combine(findings.iter().copied().flatten());
        let withheld = findings.contains(&None);
        (!withheld || matches!(combined, Finding::Doubtful | Finding::Bad(_))).then_some(combined)
    }

    /// Whether a backend is suspect, and one of its checks has not had a result yet.
    fn is_suspect_unasked(&self, pool: usize, member: usize) -> bool {
        let member = &self.pools[pool].members[member];
        let mut streams = member.streams.iter().filter_map(|id| self.stream(*id));
        member.machine.health() == Health::Suspect
            && streams.any(|stream| stream.judge.last_result().is_none())
    }

    /// Combines a backend's checks and runs its machine. A loss is applied at once, a gain with the next flush.
    pub(super) fn reconsider(&mut self, pool: usize, member: usize, now: Moment) {
        let Some(finding) = self.finding(pool, member) else { return };
        // A check that has just begun clears nobody of doubt.
        if finding == Finding::Pending && self.is_suspect_unasked(pool, member) {
            return;
        }
        let Some(change) = self.pools[pool].members[member].machine.on_finding(finding, now) else { return };
        // A loss goes to the data plane before anything is said about it.
        let loss = matches!(change.to, Health::Suspect | Health::Down);
        let applied_at = loss.then(|| self.store(pool, Some(member), now)).flatten();
        self.note(pool, member, change, applied_at, now);
        self.schedule(pool, member, now);
        if loss {
            self.report(pool);
        }
    }

    /// Keeps a change until the data plane has been told and it can be reported.
    pub(super) fn note(
        &mut self,
        index: usize,
        member: usize,
        change: Change,
        applied_at: Option<Moment>,
        now: Moment,
    ) {
        let evidence = self.evidence(index, member, now);
        let reason = match change.cause {
            Cause::HoldDownOver => "hold-down over, checks pass".to_owned(),
            Cause::TrialPassed => "trial passed".to_owned(),
            Cause::Pardon => self.pardon_reason(),
            Cause::Handshakes => self.comparison_reason(index, member),
            Cause::Checks => self.reason(index, member, change.to, now),
        };
        let pool = &mut self.pools[index];
        pool.members[member].why.clone_from(&reason);
        pool.pending.push(Pending { member, change, reason, evidence, applied_at });
        if applied_at.is_none() {
            self.mark(index);
        }
    }

    /// Has the next flush tell the data plane about a pool.
    pub(super) fn mark(&mut self, pool: usize) {
        if self.pools[pool].dirty == Dirty::No {
            self.pools[pool].dirty = Dirty::Yes;
            self.dirty.push(pool);
        }
    }

    /// The reason in words, from the check that says the worst.
    pub(super) fn reason(&self, pool: usize, member: usize, to: Health, now: Moment) -> String {
        if let Some(objection) = self.objection(pool, member).filter(|_| to != Health::Up) {
            return objection.text;
        }
        let streams = self.pools[pool].members[member].streams.iter().filter_map(|id| self.stream(*id));
        let telling = streams.max_by_key(|stream| Finding::gravity(stream.judge.finding()));
        let failed = |stream: &Stream| matches!(stream.judge.finding(), Finding::Bad(_));
        let passive = self.pools[pool].members[member].passive.is_ejected();
        if to == Health::Down && passive && !telling.is_some_and(failed) {
            return self.comparison_reason(pool, member);
        }
        match telling {
            None => "no check configured".to_owned(),
            Some(stream) => {
                let reason = snapshot::reason(stream.address, &stream.check, &stream.judge, to, now);
                format!("{}{reason}", self.tunnel_remark(pool, member, stream, to, now))
            }
        }
    }

    /// Evidence for a decision, from the check that says the worst.
    pub(super) fn evidence(&self, pool: usize, member: usize, now: Moment) -> Evidence {
        if let Some(objection) = self.objection(pool, member) {
            return objection.evidence(now);
        }
        let streams = self.pools[pool].members[member].streams.iter().filter_map(|id| self.stream(*id));
        let Some(telling) = streams.max_by_key(|stream| Finding::gravity(stream.judge.finding())) else {
            return Evidence {
                check: String::new(),
                signal_at: now,
                decided_at: now,
                probes: vec![],
                unanswered: vec![],
            };
        };
        let judge = &telling.judge;
        let probes: Vec<ProbeRecord> = judge.history().collect();
        let last = probes.last().map(|probe| probe.sent_at);
        Evidence {
            check: snapshot::check_name(telling.address, &telling.check),
            signal_at: judge.first_signal().or(last).unwrap_or(now),
            decided_at: now,
            probes,
            unanswered: judge.unanswered().collect(),
        }
    }
}
