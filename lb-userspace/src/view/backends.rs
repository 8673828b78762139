//! Backends as lists show them.

use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::table::{Align, Cell, Table, Tone};
use super::{Api, Render, bytes, duration, number};

/// The document of `weir backends`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Backends {
    /// Version mark.
    pub api: Api,
    /// By pool, then by name.
    pub backends: Vec<Backend>,
}

/// A backend of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Name in its pool.
    pub name: String,
    /// Name of its pool.
    pub pool: String,
    /// Names of the services that use the pool.
    pub services: Vec<String>,
    /// Where packets and probes go.
    pub address: IpAddr,
    /// Label for `--host`.
    pub host: Option<String>,
    /// What the operator wants of it.
    pub admin: Admin,
    /// What the checks found.
    pub health: Health,
    /// Kind of the failure that took it down.
    pub failure_kind: Option<FailureKind>,
    /// Weight in force.
    pub weight: u16,
    /// Lower tiers serve first.
    #[serde(default)]
    pub tier: u8,
    /// Share of new flows that it accepts, 0..=1000.
    pub admit_permille: u16,
    /// Whether it left the config and drains until no flow names it.
    #[serde(default)]
    pub removed: bool,
    /// Whether a next hop towards it is known.
    #[serde(default = "yes")]
    pub reachable: bool,
    /// Live flow entries.
    pub flows: u64,
    /// Packets sent to it since the maps were made.
    pub packets: u64,
    /// Bytes of the frames, as they arrived.
    pub bytes: u64,
    /// Time of the last transition.
    pub since: Option<Timestamp>,
    /// Why it is in this state; empty where there is nothing to say.
    pub why: String,
    /// Its clients' handshakes over the last seconds; null without the daemon.
    #[serde(default)]
    pub handshakes: Option<Handshakes>,
    /// Newest probe; null without the daemon.
    pub last_probe: Option<LastProbe>,
}

fn yes() -> bool {
    true
}

/// Admin state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Admin {
    /// Serves.
    Active,
    /// Keeps known flows, takes no new ones.
    Draining,
    /// Out of service for work on it.
    Maintenance,
    /// A value of a newer version.
    #[serde(other)]
    Other,
}

/// Health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// No verdict yet.
    Unknown,
    /// All checks pass.
    Up,
    /// Under suspicion: no new flows until confirmed or cleared.
    Suspect,
    /// Failed.
    Down,
    /// Back from down, on a share of new flows.
    Trial,
    /// A value of a newer version.
    #[serde(other)]
    Other,
}

/// What kind of failure took a backend down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureKind {
    /// Refused, unreachable, silent.
    Hard,
    /// Wrong answer, slow.
    Soft,
    /// A value of a newer version.
    #[serde(other)]
    Other,
}

/// The opening of a backend's TCP flows over the last seconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handshakes {
    /// Length of the window.
    pub window_s: u64,
    /// Flows that began with a SYN.
    pub opened: u64,
    /// SYNs of those again, before anything else.
    pub repeated: u64,
    /// Flows whose client acknowledged the backend's answer.
    pub completed: u64,
    /// What the backend made of the SYNs; null where its answers do not pass weir.
    #[serde(default)]
    pub answers: Option<Answers>,
    /// Share of the SYNs that led to a handshake, 0..=1, where answers pass weir: that the backend answered. Null without a
    /// SYN.
    pub ratio: Option<f64>,
    /// Whether it lost more than the others of its pool.
    pub outlier: bool,
    /// Share of new flows that the comparison leaves it, 0..=1000.
    pub admit_permille: u16,
}

/// What a backend made of SYNs, in mode `nat`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answers {
    /// Flows whose SYN it answered by SYN-ACK.
    pub answered: u64,
    /// Flows whose SYN it answered by RST.
    pub refused: u64,
    /// SYNs that it did neither to, or not yet.
    pub unanswered: u64,
    /// Flows that it had answered and ended by RST before anybody closed them.
    pub reset: u64,
}

/// The newest probe of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastProbe {
    /// Kind of check, as in the config.
    pub check: String,
    /// When it ended.
    pub at: Timestamp,
    /// Whether it passed.
    pub passed: bool,
    /// Time to the answer; null without one.
    pub latency_us: Option<u64>,
    /// What came back, or what did not.
    pub detail: String,
}

impl Admin {
    /// The name in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
            Self::Other => "other",
        }
    }
}

impl Health {
    /// The name in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Trial => "trial",
            Self::Other => "other",
        }
    }
}

impl Backend {
    /// `pool/name`, unique in an instance.
    #[must_use]
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.pool, self.name)
    }

    /// Whether new flows may be sent to it.
    #[must_use]
    pub fn takes_new_flows(&self) -> bool {
        self.admin == Admin::Active
            && matches!(self.health, Health::Up | Health::Trial | Health::Unknown)
            && self.weight > 0
            && !self.removed
    }

    /// Admin state and health in few words, most important first: `draining, up`, `down (hard)`.
    #[must_use]
    pub fn state(&self) -> String {
        let mut words = Vec::new();
        if self.removed {
            words.push("removed".to_owned());
        }
        if self.admin != Admin::Active {
            words.push(self.admin.name().to_owned());
        }
        words.push(match (self.health, self.failure_kind) {
            (Health::Down, Some(FailureKind::Hard)) => "down (hard)".to_owned(),
            (Health::Down, Some(FailureKind::Soft)) => "down (soft)".to_owned(),
            (health, _) => health.name().to_owned(),
        });
        if !self.reachable {
            words.push("no next hop".to_owned());
        }
        words.join(", ")
    }

    fn tone(&self) -> Tone {
        match (self.health, self.admin) {
            (Health::Down, _) => Tone::Bad,
            _ if !self.reachable => Tone::Bad,
            (Health::Up, Admin::Active) if !self.removed => Tone::Good,
            _ => Tone::Notice,
        }
    }

    /// The weight, with the share of new flows where it is not all of them.
    fn weight_text(&self) -> String {
        match self.admit_permille {
            1000 => self.weight.to_string(),
            permille => format!("{} at {}.{}%", self.weight, permille / 10, permille % 10),
        }
    }
}

impl Render for Backends {
    fn render(&self, now: Timestamp) -> String {
        let mut table = Table::new(&[
            ("BACKEND", Align::Left),
            ("ADDRESS", Align::Left),
            ("STATE", Align::Left),
            ("FOR", Align::Right),
            ("WEIGHT", Align::Right),
            ("FLOWS", Align::Right),
            ("PACKETS", Align::Right),
            ("BYTES", Align::Right),
            ("WHY", Align::Left),
        ]);
        for backend in &self.backends {
            table.row([
                backend.full_name().into(),
                backend.address.to_string().into(),
                Cell::toned(backend.state(), backend.tone()),
                backend.since.map(|since| age(since, now)).unwrap_or_default().into(),
                backend.weight_text().into(),
                number(backend.flows).into(),
                number(backend.packets).into(),
                bytes(backend.bytes).into(),
                backend.why.as_str().into(),
            ]);
        }
        table.render()
    }
}

/// Time from `since` to `now`; zero for a time to come.
pub(super) fn age(since: Timestamp, now: Timestamp) -> String {
    duration(now.duration_since(since).try_into().unwrap_or_default())
}
