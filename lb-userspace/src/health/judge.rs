//! Judges one stream of probes: from probes sent, answered and failed to one [`Finding`].
//!
//! Two rules. Probes whose answers are one packet (`ping`, `syn`, `udp`, `dns`) are judged by the *oldest unanswered* one: down
//! when it is older than the timeout and `fall` are unanswered, where any answer clears all earlier probes. Probes
//! with a verdict of their own (`tcp`, `http`, `https`, `exec`) count *consecutive failures*. Under both a probe that
//! stays unanswered for longer than usual raises doubt before the timeout. A third kind (`tripwire`, `bfd`) reports
//! silence itself, and its other failures are proof: only the silent ones are counted.
//!
//! The caller drains its sockets before it asks for a judgement, and passes the time at which it began to drain:
//! then a stall of its own never looks like silence of the backend.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::Duration;

pub use super::failed::{Failure, Nature, Phase};
use super::history::History;
pub use super::history::ProbeRecord;
use super::machine::{FailureKind, Finding};
use super::time::Moment;

/// Unanswered probes kept; older ones only make the present silence older.
const OUTSTANDING_MAX: usize = 256;

/// Number of a probe in its stream.
pub type Sequence = u64;

/// How a stream is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// By the oldest unanswered probe; any answer clears the earlier probes.
    OldestUnanswered,
    /// By consecutive results; an unanswered probe fails after this time.
    Consecutive {
        /// The timeout, or more where the prober itself reports the timeout.
        expire_after: Duration,
    },
    /// As the prober says, which reports silence itself: failures that are not silent settle at once.
    Reported,
}

/// Limits of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest wait for an answer.
    pub timeout: Duration,
    /// Consecutive successes until good.
    pub rise: u32,
    /// Failures until bad.
    pub fall: u32,
    /// How failures are counted.
    pub rule: Rule,
    /// What silence means for known flows.
    pub silence: FailureKind,
}

/// A probe without a result.
#[derive(Clone, Copy, Debug)]
struct Sent {
    seq: Sequence,
    began: Moment,
    at: Moment,
    overtaken: Overtaken,
    /// It has been unanswered for the timeout, and is counted so.
    lost: bool,
}

/// Whether a later probe has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Overtaken {
    No,
    Yes,
}

/// The judgement of one stream.
#[derive(Clone, Debug)]
pub struct Judge {
    limits: Limits,
    outstanding: VecDeque<Sent>,
    /// See [`Judge::take_lost`].
    lost: usize,
    settled: Finding,
    doubt: Option<Moment>,
    successes: u32,
    failures: u32,
    round_trip: RoundTrip,
    history: History,
    last_answered: Option<Moment>,
    judged_at: Moment,
}

impl Judge {
    /// A stream without results.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            outstanding: VecDeque::new(),
            lost: 0,
            settled: Finding::Pending,
            doubt: None,
            successes: 0,
            failures: 0,
            round_trip: RoundTrip::default(),
            history: History::default(),
            last_answered: None,
            judged_at: Moment::default(),
        }
    }

    /// What the stream says at present.
    #[must_use]
    pub fn finding(&self) -> Finding {
        match (self.settled, self.doubt) {
            (Finding::Good | Finding::Pending, Some(_)) => Finding::Doubtful,
            (settled, _) => settled,
        }
    }

    /// What a doubtful or bad finding rests on: the last result, or silence where a doubt has none.
    #[must_use]
    pub fn nature(&self) -> Nature {
        match (self.finding(), self.last_failure()) {
            (Finding::Good | Finding::Pending, _) => Nature::Answer,
            (Finding::Doubtful | Finding::Bad(_), Some(failure)) => failure.nature(),
            (Finding::Doubtful, None) => Nature::Silence,
            (Finding::Bad(_), None) => Nature::Answer,
        }
    }

    /// Sending time of the newest probe that was answered.
    #[must_use]
    pub fn last_answered(&self) -> Option<Moment> {
        self.last_answered
    }

    /// Forgets silence: it counts from the next probe on. A verdict that rests on it is open again.
    pub fn forget_silence(&mut self) {
        if self.nature() == Nature::Silence {
            (self.doubt, self.failures) = (None, 0);
            if matches!(self.settled, Finding::Bad(_)) {
                (self.settled, self.successes) = (Finding::Pending, 0);
            }
        }
        // A probe that reports its own silence still does.
        if self.limits.rule != Rule::Reported {
            self.outstanding.clear();
        }
    }

    /// Sending time of the first probe of the present series of failures.
    #[must_use]
    pub fn first_signal(&self) -> Option<Moment> {
        self.doubt
    }

    /// Consecutive successes and failures.
    #[must_use]
    pub fn counters(&self) -> (u32, u32) {
        (self.successes, self.failures)
    }

    /// The last results, oldest first.
    pub fn history(&self) -> impl Iterator<Item = ProbeRecord> {
        self.history.iter()
    }

    /// When the last probe with a result left, and when its result was known.
    #[must_use]
    pub fn last_result(&self) -> Option<(Moment, Moment)> {
        self.history.last()
    }

    /// Why the last probe with a result failed, if it did.
    #[must_use]
    pub fn last_failure(&self) -> Option<&Failure> {
        self.history.last_failure()
    }

    /// Whether any of the last results is a failure.
    #[must_use]
    pub fn has_failures(&self) -> bool {
        self.history.has_failures()
    }

    /// Whether a probe still waits for its result.
    #[must_use]
    pub fn is_outstanding(&self, seq: Sequence) -> bool {
        self.outstanding.iter().any(|sent| sent.seq == seq)
    }

    /// When the probes left that have no result, oldest first.
    pub fn unanswered(&self) -> impl Iterator<Item = Moment> {
        self.outstanding.iter().map(|sent| sent.at)
    }

    /// Number of unanswered probes, and the age of the oldest.
    #[must_use]
    pub fn silence(&self, now: Moment) -> Option<(usize, Duration)> {
        self.outstanding.front().map(|oldest| (self.outstanding.len(), now.since(oldest.at)))
    }

    /// Whether silence is judged over several probes, not one by one.
    #[must_use]
    pub fn counts_silence(&self) -> bool {
        self.limits.rule == Rule::OldestUnanswered
    }

    /// Notes a probe that was handed to the kernel between `began` and `at`.
    ///
    /// Silence counts from `at`: being held up in between makes the probe no older. Round trips count from `began`,
    /// because on one host the answer can be there before the call returns.
    pub fn sent(&mut self, seq: Sequence, began: Moment, at: Moment) {
        if self.outstanding.len() >= OUTSTANDING_MAX {
            // The oldest stays: its age is the length of the silence.
            self.outstanding.remove(1);
        }
        self.outstanding.push_back(Sent { seq, began, at, overtaken: Overtaken::No, lost: false });
    }

    /// Takes an answer that arrived between `arrived_after` and `now`.
    pub fn answered(&mut self, seq: Sequence, arrived_after: Moment, now: Moment) {
        let Some(sent) = self.take(seq) else { return };
        if arrived_after.since(sent.at) > self.limits.timeout {
            self.lost += usize::from(self.counts_silence() && !sent.lost);
            return self.fail(sent, Failure::Silent, now);
        }
        self.history.add(sent.began, now, None);
        self.last_answered = self.last_answered.max(Some(sent.at));
        self.round_trip.sample(now.since(sent.began));
        self.successes = self.successes.saturating_add(1);
        self.failures = 0;
        self.doubt = None;
        if self.settled != Finding::Good && self.successes >= self.limits.rise {
            self.settled = Finding::Good;
        }
    }

    /// Takes a failure that the network reported.
    pub fn failed(&mut self, seq: Sequence, failure: Failure, now: Moment) {
        if let Some(sent) = self.take(seq) {
            self.fail(sent, failure, now);
        }
    }

    /// The probes whose answer did not come in time, of those that end without a result of their own; each is told once.
    pub fn take_lost(&mut self) -> usize {
        std::mem::take(&mut self.lost)
    }

    /// Forgets a probe that gave no verdict.
    pub fn withdrawn(&mut self, seq: Sequence) {
        self.outstanding.retain(|sent| sent.seq != seq);
    }

    /// Takes a hint that is no probe's result: it raises doubt, and counts as nothing.
    pub fn doubted(&mut self, since: Moment, hint: Failure, now: Moment) {
        self.history.add(since, now, Some(hint));
        self.doubt.get_or_insert(since);
    }

    /// Takes a whole verdict: nothing is counted towards it.
    pub fn reported(&mut self, failure: Option<Failure>, since: Moment, now: Moment) {
        let kind = failure.as_ref().map(Failure::kind);
        if failure.is_none() {
            self.last_answered = self.last_answered.max(Some(since));
        }
        self.history.add(since, now, failure);
        (self.successes, self.failures, self.doubt, self.settled) = match kind {
            None => (self.successes.saturating_add(1), 0, None, Finding::Good),
            Some(kind) => {
                let doubt = self.doubt.or(Some(since));
                (0, self.failures.saturating_add(1), doubt, Finding::Bad(kind))
            }
        };
    }

    /// Judges silence, as of `now`: a time read before the sockets were drained.
    pub fn judge(&mut self, now: Moment) {
        self.judged_at = now;
        match self.limits.rule {
            Rule::Consecutive { expire_after } => self.judge_each(expire_after, now),
            Rule::OldestUnanswered => self.judge_oldest(now),
            Rule::Reported => {}
        }
    }

    /// When [`Judge::judge`] should be asked next, if no result comes before.
    #[must_use]
    pub fn next_judgement(&self) -> Option<Moment> {
        let oldest = self.outstanding.front()?;
        let doubtful = self.first_waiting().filter(|_| self.doubt.is_none()).map(|sent| {
            let nth = self.outstanding.get(self.doubt_count() - 1).map(|sent| sent.at + self.grace());
            nth.map(|nth| nth.max(sent.at + self.doubt_after()))
        });
        let settled = match (self.limits.rule, self.settled) {
            (Rule::Consecutive { expire_after }, _) => Some(oldest.at + expire_after),
            (Rule::Reported, _) => return None,
            (Rule::OldestUnanswered, settled) => {
                let expires = oldest.at + self.limits.timeout;
                let nth = self.outstanding.get(self.fall_count() - 1);
                let nth = nth.filter(|_| !matches!(settled, Finding::Bad(_)));
                let falls = nth.map(|nth| (nth.at + self.grace()).max(expires));
                // Each oldest probe's time once, also where nothing follows from it: who judges makes sure then what has arrived.
                Some(expires).filter(|at| *at > self.judged_at).into_iter().chain(falls).min()
            }
        };
        doubtful.flatten().into_iter().chain(settled).min()
    }

    /// Age at which a probe should have been answered, going by the round trips seen.
    #[must_use]
    pub fn grace(&self) -> Duration {
        let timeout = self.limits.timeout;
        self.round_trip.usual().unwrap_or(timeout / 2).clamp(timeout / 8, timeout)
    }

    /// Age of the oldest unanswered probe that raises doubt: well beyond the usual, never beyond the timeout.
    fn doubt_after(&self) -> Duration {
        let timeout = self.limits.timeout;
        self.round_trip.usual().map_or(timeout, |usual| (usual * 2).clamp(timeout / 2, timeout))
    }

    /// Unanswered probes until down.
    fn fall_count(&self) -> usize {
        usize::try_from(self.limits.fall.max(1)).unwrap_or(usize::MAX).min(OUTSTANDING_MAX)
    }

    /// Unanswered probes until doubt.
    fn doubt_count(&self) -> usize {
        match self.limits.rule {
            Rule::OldestUnanswered => self.fall_count().saturating_sub(1).max(1),
            Rule::Consecutive { .. } | Rule::Reported => 1,
        }
    }

    /// The oldest probe without an answer to it or to a later one.
    fn first_waiting(&self) -> Option<&Sent> {
        self.outstanding.iter().find(|sent| sent.overtaken == Overtaken::No)
    }

    /// Probes that are unanswered for longer than usual.
    fn overdue(&self, now: Moment) -> usize {
        let grace = self.grace();
        self.outstanding.iter().filter(|sent| now.since(sent.at) >= grace).count()
    }

    /// Removes a probe; under the oldest-unanswered rule with all earlier ones.
    fn take(&mut self, seq: Sequence) -> Option<Sent> {
        let position = self.outstanding.iter().position(|sent| sent.seq == seq)?;
        match self.limits.rule {
            Rule::OldestUnanswered => {
                let earlier = self.outstanding.iter().take(position).filter(|sent| !sent.lost);
                self.lost = self.lost.saturating_add(earlier.count());
                self.outstanding.drain(..=position).next_back()
            }
            Rule::Consecutive { .. } | Rule::Reported => {
                for earlier in self.outstanding.iter_mut().take(position) {
                    earlier.overtaken = Overtaken::Yes;
                }
                self.outstanding.remove(position)
            }
        }
    }

    /// Fails every probe that is too old, raises doubt for one that is on its way there.
    fn judge_each(&mut self, expire_after: Duration, now: Moment) {
        while let Some(oldest) = self.outstanding.front().copied() {
            if now.since(oldest.at) < expire_after {
                break;
            }
            self.outstanding.pop_front();
            self.fail(oldest, Failure::Silent, now);
        }
        self.judge_doubt(now);
    }

    /// Applies the oldest-unanswered rule.
    fn judge_oldest(&mut self, now: Moment) {
        let Some(oldest) = self.outstanding.front().copied() else { return };
        for sent in self.outstanding.iter_mut().take_while(|sent| now.since(sent.at) >= self.limits.timeout) {
            self.lost += usize::from(!std::mem::replace(&mut sent.lost, true));
        }
        let overdue = self.overdue(now);
        if now.since(oldest.at) >= self.limits.timeout {
            self.successes = 0;
            let bad = Finding::Bad(self.limits.silence);
            if overdue >= self.fall_count() && self.settled != bad {
                self.failures = u32::try_from(overdue).unwrap_or(u32::MAX);
                self.doubt.get_or_insert(oldest.at);
                self.history.add(oldest.at, now, Some(Failure::Silent));
                self.settled = bad;
            }
        }
        self.judge_doubt(now);
    }

    /// Raises doubt where enough probes are overdue.
    fn judge_doubt(&mut self, now: Moment) {
        if let Some(waiting) = self.first_waiting().map(|sent| sent.at)
            && self.doubt.is_none()
            && now.since(waiting) >= self.doubt_after()
            && self.overdue(now) >= self.doubt_count()
        {
            self.doubt = Some(waiting);
        }
    }

    /// Counts a failure.
    fn fail(&mut self, sent: Sent, failure: Failure, now: Moment) {
        let kind = if failure == Failure::Silent { self.limits.silence } else { failure.kind() };
        let proof = self.limits.rule == Rule::Reported && failure != Failure::Silent;
        self.history.add(sent.at, now, Some(failure));
        if sent.overtaken == Overtaken::Yes {
            return;
        }
        self.successes = 0;
        self.failures = self.failures.saturating_add(1);
        self.doubt.get_or_insert(sent.at);
        if proof || self.failures >= self.limits.fall || matches!(self.settled, Finding::Bad(_)) {
            self.settled = Finding::Bad(kind);
        }
    }
}

/// Smoothed round trip and its variation (RFC 6298, section 2).
#[derive(Clone, Copy, Debug, Default)]
struct RoundTrip {
    smoothed: Option<Duration>,
    variation: Duration,
}

impl RoundTrip {
    /// Takes a measurement.
    fn sample(&mut self, measured: Duration) {
        match self.smoothed {
            None => (self.smoothed, self.variation) = (Some(measured), measured / 2),
            Some(smoothed) => {
                self.variation = self.variation * 3 / 4 + smoothed.abs_diff(measured) / 4;
                self.smoothed = Some(smoothed * 7 / 8 + measured / 8);
            }
        }
    }

    /// The time within which an answer usually comes.
    fn usual(&self) -> Option<Duration> {
        self.smoothed.map(|smoothed| smoothed + self.variation * 4)
    }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
