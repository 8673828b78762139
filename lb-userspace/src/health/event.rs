//! What detection hands out: slots for the data plane, events for people.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::guard::Turn;
use super::judge::ProbeRecord;
use super::machine::{FailureKind, Health};
use super::pool_view::{PoolView, Slot};
use super::time::Moment;
use crate::config::model::Inside;

/// Names a backend of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// The pool.
    pub pool: Arc<str>,
    /// The backend's name in it.
    pub backend: Arc<str>,
}

impl BackendKey {
    /// From both names.
    pub fn new(pool: impl Into<Arc<str>>, backend: impl Into<Arc<str>>) -> Self {
        Self { pool: pool.into(), backend: backend.into() }
    }
}

impl fmt::Display for BackendKey {
    /// As on the command line: `web/web-1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.backend)
    }
}

/// Writes to the data plane. Called on the probe thread: it must not block.
pub trait Applier: Send {
    /// Stores a backend's slot. Called once per backend that joins, then for each difference.
    fn apply(&mut self, backend: &BackendKey, slot: Slot);

    /// Labels a backend with a transition, for lists; its slot is stored already.
    fn label(&mut self, event: &HealthEvent);

    /// The largest IP packet that fits the way to a backend, in bytes.
    fn room(&self, backend: &BackendKey, inside: Inside) -> Result<usize, NoWay>;

    /// Puts an IP packet into the frame in which the program would send it to a backend.
    fn wrap(&self, backend: &BackendKey, inside: Inside, packet: &[u8]) -> Result<Wrapped, NoWay>;

    /// Hears that the guard turned; nothing is written for it.
    fn guard_turned(&mut self, event: &GuardEvent);

    /// Takes a pool's list of usable backends, active tier or last resort, changed or after an update of the pools;
    /// its slots are stored already.
    fn pool_changed(&mut self, pool: &str, view: &PoolView);
}

/// A frame on its way to a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrapped {
    /// The whole frame.
    pub frame: Vec<u8>,
    /// Index of the interface that it leaves by.
    pub interface: u32,
}

/// Why no frame goes to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoWay {
    /// The backend is this host: the program hands it its packets as they came.
    Local,
    /// The data plane knows no next hop, or not the backend.
    Unresolved,
}

/// What a decision rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The deciding check and whom it asks, as `syn 10.0.0.11:80`; empty where none is configured.
    pub check: String,
    /// Sending time of the first probe that failed, or of the last that passed.
    pub signal_at: Moment,
    /// When the decision fell.
    pub decided_at: Moment,
    /// The deciding check's last results, oldest first.
    pub probes: Vec<ProbeRecord>,
    /// When its probes left that had no result yet, oldest first.
    pub unanswered: Vec<Moment>,
}

/// Results that the text shows: the last few tell the story.
const SHOWN: usize = 4;

impl fmt::Display for Evidence {
    /// `syn 10.0.0.11:80: -10.02ms ok after 0.02ms, -5.01ms refused after 0.03ms, -0.03ms unanswered`: when each
    /// probe left, counted from the decision, and what came of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let before = |sent_at: Moment| ms(self.decided_at.since(sent_at));
        write!(f, "{}", self.check)?;
        let mut separator = if self.check.is_empty() { "" } else { ": " };
        for probe in &self.probes[self.probes.len().saturating_sub(SHOWN)..] {
            write!(f, "{separator}-{:.2}ms ", before(probe.sent_at))?;
            match &probe.failure {
                None => f.write_str("ok")?,
                Some(failure) => write!(f, "{failure}")?,
            }
            write!(f, " after {:.2}ms", ms(probe.at.since(probe.sent_at)))?;
            separator = ", ";
        }
        // Silence has a record as soon as it is one, and its first probe may still be answered.
        let recorded = |sent_at: &Moment| self.probes.iter().any(|probe| probe.sent_at == *sent_at);
        let unanswered = || self.unanswered.iter().filter(|sent_at| !recorded(sent_at));
        for sent_at in unanswered().take(SHOWN) {
            write!(f, "{separator}-{:.2}ms unanswered", before(*sent_at))?;
            separator = ", ";
        }
        if let more @ 1.. = unanswered().count().saturating_sub(SHOWN) {
            write!(f, " and {more} more")?;
        }
        Ok(())
    }
}

/// A change of a backend's health that the data plane has been told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthEvent {
    /// When the decision fell.
    pub time: SystemTime,
    /// Whose.
    pub backend: BackendKey,
    /// Before.
    pub from: Health,
    /// After; equal to `from` when a failure only changed its kind.
    pub to: Health,
    /// Kind of the failure, of a down backend.
    pub kind: Option<FailureKind>,
    /// In words.
    pub reason: String,
    /// What the decision rests on.
    pub evidence: Evidence,
    /// From the first signal to the decision.
    pub detected_after: Duration,
    /// From the decision until the slot was stored.
    pub applied_after: Duration,
}

/// A turn of the guard: silence is believed no longer, or again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardEvent {
    /// When.
    pub time: SystemTime,
    /// What happened.
    pub kind: GuardEventKind,
    /// Addresses that were silent.
    pub silent: usize,
    /// Addresses that counted.
    pub counted: usize,
}

/// What the guard did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GuardEventKind {
    /// Stopped believing silence.
    Frozen {
        /// What is wrong with weir itself.
        cause: String,
        /// For at most this long.
        longest: Duration,
    },
    /// Believes silence again, counted from here on: the self-check passes, or backends answer.
    Thawed,
    /// Believes silence again, although the self-check fails: the longest time is over.
    Expired,
    /// Most backends are silent, and weir's own link was found to work: they are down.
    Believed,
}

impl GuardEventKind {
    /// The name used in events.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Frozen { .. } => "frozen",
            Self::Thawed => "thawed",
            Self::Expired => "expired",
            Self::Believed => "believed",
        }
    }
}

impl GuardEvent {
    /// From the guard's turn.
    pub(super) fn new(turn: &Turn, silent: usize, counted: usize, now: Moment) -> Self {
        let kind = match turn {
            Turn::Freeze { cause, until } => {
                GuardEventKind::Frozen { cause: cause.clone(), longest: until.since(now) }
            }
            Turn::Thaw => GuardEventKind::Thawed,
            Turn::Expire => GuardEventKind::Expired,
            Turn::Verify | Turn::Believe => GuardEventKind::Believed,
        };
        Self { time: SystemTime::now(), kind, silent, counted }
    }
}

impl fmt::Display for GuardEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { silent, counted, .. } = self;
        match &self.kind {
            GuardEventKind::Frozen { cause, longest } => write!(
                f,
                "detection frozen for at most {longest:.1?}: {silent} of {counted} backend addresses are silent, and \
                 {cause}; the last good state is kept"
            ),
            GuardEventKind::Thawed => f.write_str("detection thawed: silence counts again, from here on"),
            GuardEventKind::Expired => {
                f.write_str("detection thawed, the longest freeze is over: silence is believed")
            }
            GuardEventKind::Believed => {
                f.write_str("silence of most backends is believed: weir's own link works")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::judge::Failure;
    use super::*;

    #[test]
    fn evidence_reads_as_times_before_the_decision() {
        let at = |us: u64| Moment(us * 1000);
        let probe = |sent, took, failure| ProbeRecord { sent_at: at(sent), at: at(sent + took), failure };
        let evidence = Evidence {
            check: "syn 10.0.0.11:80".to_owned(),
            signal_at: at(15_000),
            decided_at: at(20_500),
            probes: vec![
                probe(0, 20, None),
                probe(1_000, 20, None),
                probe(5_000, 20, None),
                probe(10_000, 30, None),
                probe(15_000, 40, Some(Failure::Refused)),
            ],
            unanswered: (15..22).map(|ms| at(ms * 1000)).collect(),
        };
        assert_eq!(
            evidence.to_string(),
            "syn 10.0.0.11:80: -19.50ms ok after 0.02ms, -15.50ms ok after 0.02ms, -10.50ms ok after 0.03ms, \
             -5.50ms connection refused after 0.04ms, -4.50ms unanswered, -3.50ms unanswered, -2.50ms unanswered, \
             -1.50ms unanswered and 2 more"
        );
    }

    #[test]
    fn evidence_without_a_check_is_empty() {
        let nothing = (Moment(0), vec![], vec![]);
        let (at, probes, unanswered) = nothing;
        let evidence = Evidence { check: String::new(), signal_at: at, decided_at: at, probes, unanswered };
        assert_eq!(evidence.to_string(), "");
    }
}
