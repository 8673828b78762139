//! Detection's state as operators see it.

#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use super::event::BackendKey;
use super::judge::{Failure, Judge};
use super::machine::{FailureKind, Finding, Health};
use super::passive::{Handshakes, Sight};
use super::pool_view::{Admin, Slot};
use super::time::Moment;
use crate::config::model::{Check, CheckKind, Inside, ProbeSize};

/// Health kept over a restart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Adopted {
    /// The health.
    pub health: Health,
    /// Kind of the failure, of a down backend.
    pub kind: Option<FailureKind>,
    /// How long it has been so.
    pub age: Duration,
    /// Why.
    pub why: String,
}

/// One backend.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendHealth {
    /// Which.
    pub key: BackendKey,
    /// The operator's wish.
    pub admin: Admin,
    /// The health.
    pub health: Health,
    /// Kind of the failure, of a down backend.
    pub failure_kind: Option<FailureKind>,
    /// Since when.
    pub since: SystemTime,
    /// Until when a recovery is not believed.
    pub held_until: Option<SystemTime>,
    /// Why.
    pub why: String,
    /// Its clients' handshakes, compared with the pool's.
    pub handshakes: HandshakeStatus,
    /// What the data plane was told.
    pub slot: Option<Slot>,
    /// Its checks, in the pool's order; empty where none is configured.
    pub checks: Vec<CheckStatus>,
}

impl BackendHealth {
    /// The latest result of all checks.
    #[must_use]
    pub fn last_probe(&self) -> Option<&LastProbe> {
        self.checks.iter().filter_map(|check| check.last_probe.as_ref()).max_by_key(|probe| probe.at)
    }

    /// Whether every check has a verdict.
    #[must_use]
    pub fn has_verdict(&self) -> bool {
        self.checks.iter().all(|check| check.finding != Finding::Pending)
    }
}

/// The handshakes of a backend over the last seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HandshakeStatus {
    /// Counts of the window.
    pub window: Handshakes,
    /// What is seen of them.
    pub sight: Sight,
    /// Whether it lost more of them than the others of its pool.
    pub outlier: bool,
    /// Share of new flows in per mille that the comparison leaves it.
    pub admit: u16,
}

/// One check of a backend.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckStatus {
    /// The check's type, as in the config.
    pub kind: &'static str,
    /// What it says.
    pub finding: Finding,
    /// Consecutive successes.
    pub successes: u32,
    /// Consecutive failures.
    pub failures: u32,
    /// The latest result.
    pub last_probe: Option<LastProbe>,
    /// Why its probes cannot be made at present.
    pub not_tried: Option<String>,
}

/// The result of a probe.
#[derive(Clone, Debug, PartialEq)]
pub struct LastProbe {
    /// The check's type, as in the config.
    pub kind: &'static str,
    /// When the result was known.
    pub at: SystemTime,
    /// From sending to the result.
    pub round_trip: Duration,
    /// What failed; `None` for a success.
    pub error: Option<String>,
}

/// A check's type, as in the config.
#[must_use]
pub fn kind_name(kind: &CheckKind) -> &'static str {
    kind.name()
}

/// The status of one check.
pub(super) fn check_status(check: &Check, judge: &Judge, now: Moment, wall: SystemTime) -> CheckStatus {
    let (successes, failures) = judge.counters();
    let kind = kind_name(&check.kind);
    let last_probe = judge.last_result().map(|(sent_at, at)| LastProbe {
        kind,
        at: at.to_wall(now, wall),
        round_trip: at.since(sent_at),
        error: judge.last_failure().map(ToString::to_string),
    });
    CheckStatus { kind, finding: judge.finding(), successes, failures, last_probe, not_tried: None }
}

/// A check and whom it asks: `syn 10.0.0.11:80`, `ping 10.0.0.11`.
pub(super) fn check_name(address: IpAddr, check: &Check) -> String {
    let kind = kind_name(&check.kind);
    if let Some(Inside { vip, mode, size, .. }) = check.inside {
        let target = match check.port.filter(|_| check.kind.has_port()) {
            Some(port) => SocketAddr::new(vip, port).to_string(),
            None => vip.to_string(),
        };
        let full = if size == ProbeSize::Full { " in packets of full size" } else { "" };
        return format!("{kind} {target} by {} through {address}{full}", mode.name());
    }
    match check.port {
        Some(port) if check.kind.has_port() => {
            format!("{kind} {}", SocketAddr::new(address, port))
        }
        _ => format!("{kind} {address}"),
    }
}

/// Why a backend's health changed, in words.
pub(super) fn reason(address: IpAddr, check: &Check, judge: &Judge, to: Health, now: Moment) -> String {
    let name = check_name(address, check);
    let (successes, failures) = judge.counters();
    let silence = |(unanswered, age): (usize, Duration)| {
        format!("{name}: no answer for {age:.1?}, {unanswered} unanswered")
    };
    match (to, judge.finding(), judge.last_failure()) {
        (Health::Up | Health::Trial | Health::Unknown, ..) => match check.kind {
            CheckKind::Tripwire => format!("{name}: connection open"),
            CheckKind::Bfd => format!("{name}: session up"),
            _ => format!("{name}: {successes} answered in a row"),
        },
        (_, Finding::Doubtful, Some(hint @ Failure::Ended(_))) => format!("{name}: {hint}"),
        (_, _, Some(Failure::Session(loss))) => format!("{name}: {loss}"),
        (_, Finding::Doubtful, _) if failures == 0 => judge.silence(now).map_or_else(String::new, silence),
        (_, _, Some(Failure::Silent)) if judge.counts_silence() => {
            judge.silence(now).map_or_else(String::new, silence)
        }
        (_, _, Some(failure)) => format!("{name}: {failure} ({failures} in a row)"),
        (_, _, None) => format!("{name}: no answer"),
    }
}
