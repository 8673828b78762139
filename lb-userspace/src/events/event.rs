//! One event, as it is stored, sent and printed.

#![forbid(unsafe_code)]

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::api::Api;
use crate::health::machine::Health;
use crate::health::{BackendKey, GuardEvent, HealthEvent};

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Detection changed its mind about a backend.
    Health,
    /// An operator, or the end of a time, changed what is wanted of a backend.
    Admin,
    /// A backend's weight in force changed.
    Weight,
    /// A backend joined or left the config.
    Backend,
    /// Another tier of a pool takes the new flows.
    Tier,
    /// Detection stopped or went back to believing itself.
    Freeze,
    /// The program came to or left an interface.
    Interface,
    /// A config was applied or refused.
    Reload,
    /// A step of a rollout.
    Rollout,
    /// A step of a drill.
    Drill,
    /// Prefixes were denied at run time, or let in again.
    Deny,
    /// Limits of new flows were set or ended at run time.
    Limit,
    /// The daemon started or stopped.
    Daemon,
    /// The whole state, where a file of the ring begins; not listed.
    Snapshot,
    /// A kind of another version.
    #[serde(other)]
    Other,
}

impl Kind {
    /// The kinds that can be asked for.
    pub const LISTED: [Self; 13] = [
        Self::Health,
        Self::Admin,
        Self::Weight,
        Self::Backend,
        Self::Tier,
        Self::Freeze,
        Self::Interface,
        Self::Reload,
        Self::Rollout,
        Self::Drill,
        Self::Deny,
        Self::Limit,
        Self::Daemon,
    ];

    /// The name in tables, options and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Health => "health",
            Self::Admin => "admin",
            Self::Weight => "weight",
            Self::Backend => "backend",
            Self::Tier => "tier",
            Self::Freeze => "freeze",
            Self::Interface => "interface",
            Self::Reload => "reload",
            Self::Rollout => "rollout",
            Self::Drill => "drill",
            Self::Deny => "deny",
            Self::Limit => "limit",
            Self::Daemon => "daemon",
            Self::Snapshot => "snapshot",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Kind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::LISTED.into_iter().find(|kind| kind.name() == name).ok_or_else(|| {
            let known: Vec<&str> = Self::LISTED.into_iter().map(Self::name).collect();
            format!("`{name}` is no kind of event: expected {}", known.join(", "))
        })
    }
}

/// Something that happened. The fields are a contract; see `docs/cli.md`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Version mark.
    pub api: Api,
    /// Its number, over all daemons of a state directory; 0 until it is recorded.
    #[serde(default)]
    pub seq: u64,
    /// When it happened: for health, when the decision fell.
    pub time: Timestamp,
    /// What it is about.
    pub kind: Kind,
    /// Name of the pool.
    #[serde(default)]
    pub pool: Option<String>,
    /// Name of the backend in it.
    #[serde(default)]
    pub backend: Option<String>,
    /// Name of the interface.
    #[serde(default)]
    pub interface: Option<String>,
    /// Before.
    #[serde(default)]
    pub from: Option<String>,
    /// After.
    #[serde(default)]
    pub to: Option<String>,
    /// Why, in words.
    #[serde(default)]
    pub reason: String,
    /// Who asked for it; nobody for what weir decides itself.
    #[serde(default)]
    pub by: Option<String>,
    /// What it rests on; by kind.
    #[serde(default)]
    pub evidence: Map<String, Value>,
    /// From the first signal to the decision, in microseconds.
    #[serde(default)]
    pub detected_after_us: Option<u64>,
    /// From the decision until the data plane had it, in microseconds.
    #[serde(default)]
    pub applied_after_us: Option<u64>,
}

impl Event {
    /// An event of this kind, at this time, with nothing else to say.
    #[must_use]
    pub fn new(kind: Kind, time: Timestamp) -> Self {
        Self {
            api: Api,
            seq: 0,
            time,
            kind,
            pool: None,
            backend: None,
            interface: None,
            from: None,
            to: None,
            reason: String::new(),
            by: None,
            evidence: Map::new(),
            detected_after_us: None,
            applied_after_us: None,
        }
    }

    /// Of this pool.
    #[must_use]
    pub fn of_pool(mut self, pool: impl Into<String>) -> Self {
        self.pool = Some(pool.into());
        self
    }

    /// Of this backend.
    #[must_use]
    pub fn of_backend(self, pool: impl Into<String>, backend: impl Into<String>) -> Self {
        Self { backend: Some(backend.into()), ..self.of_pool(pool) }
    }

    /// Leads there.
    #[must_use]
    pub fn is(self, to: impl Into<String>) -> Self {
        Self { to: Some(to.into()), ..self }
    }

    /// Comes from there.
    #[must_use]
    pub fn was(self, from: impl Into<String>) -> Self {
        Self { from: Some(from.into()), ..self }
    }

    /// For this reason.
    #[must_use]
    pub fn because(self, reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), ..self }
    }

    /// Asked for by this user.
    #[must_use]
    pub fn asked_by(self, by: impl Into<String>) -> Self {
        Self { by: Some(by.into()), ..self }
    }

    /// With a piece of evidence.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.evidence.insert(name.to_owned(), value.into());
        self
    }

    /// Whom it is about: `web/web-1`, `web`, `eth0`, or nothing.
    #[must_use]
    pub fn subject(&self) -> String {
        match (&self.pool, &self.backend, &self.interface) {
            (Some(pool), Some(backend), _) => format!("{pool}/{backend}"),
            (Some(pool), None, _) => pool.clone(),
            (None, _, Some(interface)) => interface.clone(),
            (None, ..) => String::new(),
        }
    }

    /// The change in words: `up → down`.
    #[must_use]
    pub fn change(&self) -> String {
        match (&self.from, &self.to) {
            (Some(from), Some(to)) => format!("{from} → {to}"),
            (None, Some(to)) => to.clone(),
            (Some(from), None) => format!("{from} →"),
            (None, None) => String::new(),
        }
    }
}

impl From<&HealthEvent> for Event {
    fn from(event: &HealthEvent) -> Self {
        let BackendKey { pool, backend } = &event.backend;
        let decided_at = event.evidence.decided_at;
        let wall = |moment: crate::health::time::Moment| text(moment.to_wall(decided_at, event.time));
        let probe = |probe: &crate::health::judge::ProbeRecord| {
            json!({
                "sent_at": wall(probe.sent_at),
                "result_at": wall(probe.at),
                "passed": probe.failure.is_none(),
                "detail": probe.failure.as_ref().map(ToString::to_string),
            })
        };
        let unanswered = event.evidence.unanswered.iter().map(|sent_at| wall(*sent_at));
        let to = match (event.to, event.kind) {
            (Health::Down, Some(kind)) => Value::from(kind.name()),
            _ => Value::Null,
        };
        Self {
            detected_after_us: Some(micros(event.detected_after)),
            applied_after_us: Some(micros(event.applied_after)),
            ..Self::new(Kind::Health, Timestamp::try_from(event.time).unwrap_or_default())
                .of_backend(&**pool, &**backend)
                .was(event.from.name())
                .is(event.to.name())
                .because(event.reason.as_str())
                .with("failure_kind", to)
                .with("check", event.evidence.check.as_str())
                .with("signal_at", wall(event.evidence.signal_at))
                .with("decided_at", text(event.time))
                .with("applied_at", text(event.time + event.applied_after))
                .with("probes", event.evidence.probes.iter().map(probe).collect::<Vec<_>>())
                .with("unanswered", unanswered.collect::<Vec<_>>())
        }
    }
}

impl From<&GuardEvent> for Event {
    fn from(event: &GuardEvent) -> Self {
        Self::new(Kind::Freeze, Timestamp::try_from(event.time).unwrap_or_default())
            .is(event.kind.name())
            .because(event.to_string())
            .with("silent", event.silent)
            .with("counted", event.counted)
    }
}

/// Whole microseconds.
pub(crate) fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn text(time: SystemTime) -> String {
    Timestamp::try_from(time).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::judge::{Failure, ProbeRecord};
    use crate::health::machine::FailureKind;
    use crate::health::time::Moment;

    #[test]
    fn a_transition_carries_its_probes_and_the_times_of_signal_verdict_and_store() {
        let event = HealthEvent {
            time: SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_000_000),
            backend: BackendKey::new("web", "web-1"),
            from: Health::Suspect,
            to: Health::Down,
            kind: Some(FailureKind::Hard),
            reason: "syn 10.0.0.11:80: connection refused (2 in a row)".to_owned(),
            evidence: crate::health::Evidence {
                check: "syn 10.0.0.11:80".to_owned(),
                signal_at: Moment(1_000_000_000),
                decided_at: Moment(1_005_000_000),
                probes: vec![ProbeRecord {
                    sent_at: Moment(1_000_000_000),
                    at: Moment(1_000_200_000),
                    failure: Some(Failure::Refused),
                }],
                unanswered: vec![Moment(1_004_000_000)],
            },
            detected_after: Duration::from_millis(5),
            applied_after: Duration::from_micros(7),
        };
        let json = serde_json::to_value(Event::from(&event)).expect("serialises");
        let wanted = json!({
            "api": "weir/v1", "seq": 0, "time": "2026-11-18T11:06:40Z", "kind": "health", "pool": "web",
            "backend": "web-1", "interface": null, "from": "suspect", "to": "down",
            "reason": "syn 10.0.0.11:80: connection refused (2 in a row)", "by": null,
            "evidence": {
                "failure_kind": "hard", "check": "syn 10.0.0.11:80",
                "signal_at": "2026-11-18T11:06:39.995Z", "decided_at": "2026-11-18T11:06:40Z",
                "applied_at": "2026-11-18T11:06:40.000007Z",
                "probes": [{
                    "sent_at": "2026-11-18T11:06:39.995Z", "result_at": "2026-11-18T11:06:39.9952Z",
                    "passed": false, "detail": "connection refused"
                }],
                "unanswered": ["2026-11-18T11:06:39.999Z"]
            },
            "detected_after_us": 5000, "applied_after_us": 7
        });
        assert_eq!(json, wanted);
    }

    #[test]
    fn events_of_a_newer_version_are_read_with_what_is_known_of_them() {
        let line = r#"{"api":"weir/v1","seq":4,"time":"2026-11-18T11:06:40Z","kind":"eclipse","moon":"new"}"#;
        let event: Event = serde_json::from_str(line).expect("reads");
        assert_eq!((event.seq, event.kind, event.subject()), (4, Kind::Other, String::new()));
    }

    #[test]
    fn kinds_are_known_by_name() {
        for kind in Kind::LISTED {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).expect("serialises"), kind.name());
        }
        assert!("snapshot".parse::<Kind>().is_err());
        assert!("helth".parse::<Kind>().expect_err("refused").contains("expected health, admin"));
    }
}
