//! The state of an instance on one page.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::IpAddr;

use jiff::Timestamp;
use lb_common::reason::{Reason, Verdict};
use serde::{Deserialize, Serialize};

use super::backends::{Backends, age};
use super::services::Services;
use super::table::{Align, Cell, Table, Tone};
use super::{Api, Render, number};

/// The document of `weir status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// Version mark.
    pub api: Api,
    /// Everything that is wrong, one sentence each; empty when nothing is.
    pub problems: Vec<String>,
    /// What is good to know and not wrong, one sentence each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Runtime changes in force.
    #[serde(default)]
    pub changes: Vec<Change>,
    /// The daemon.
    pub daemon: Daemon,
    /// Interfaces of the config, or those that the program is attached to.
    pub interfaces: Vec<Interface>,
    /// Number of services.
    pub services_total: u64,
    /// Number of backends, those that left the config not counted.
    pub backends_total: u64,
    /// Backends whose checks all pass.
    pub backends_up: u64,
    /// Use of the flow tables.
    pub flows: FlowUse,
    /// Use of the ports that mode `nat` sends from, by address and protocol.
    #[serde(default)]
    pub snat: Vec<PortUse>,
    /// Whether detection believes that backends are silent; null without the daemon.
    #[serde(default)]
    pub guard: Option<Guard>,
    /// Packets by reason since the maps were made.
    pub counters: BTreeMap<String, u64>,
    /// The services, for the page; JSON readers ask `weir services`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<super::services::Service>,
    /// The backends, for the page; JSON readers ask `weir backends`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub backends: Vec<super::backends::Backend>,
}

/// The daemon as `status` shows it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Daemon {
    /// Whether it answers.
    pub running: bool,
    /// Its process id.
    pub pid: Option<u32>,
    /// Its version.
    pub version: Option<String>,
    /// When it started.
    pub started: Option<Timestamp>,
    /// The config file.
    pub config: Option<String>,
    /// When the config in force was read.
    pub config_loaded: Option<Timestamp>,
}

/// An interface as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// Kernel name.
    pub name: String,
    /// `native` or `generic`; empty while unknown.
    pub mode: String,
    /// Whether the program is attached to it.
    pub attached: bool,
}

/// Use of the flow tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowUse {
    /// Live IPv4 flows.
    pub v4: u64,
    /// Live IPv6 flows.
    pub v6: u64,
    /// IPv4 flows that fit.
    pub capacity_v4: u64,
    /// IPv6 flows that fit.
    pub capacity_v6: u64,
}

/// Use of the ports of an address that mode `nat` sends from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortUse {
    /// The address.
    pub address: IpAddr,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// Ports that flows have, those included that are kept for a while after their end.
    pub used: u64,
    /// Ports that there are.
    pub capacity: u64,
}

/// The guard against weir's own trouble.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guard {
    /// Set while silence is not believed because a self-check fails.
    pub frozen: Option<Frozen>,
    /// Backend addresses that are silent, of those that count.
    pub silent: u64,
    /// Backend addresses that were heard and have not been silent for long.
    pub counted: u64,
}

/// Detection does not believe silence.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frozen {
    /// Since when.
    pub since: Timestamp,
    /// When it ends at the latest.
    pub until: Timestamp,
    /// What is wrong with weir itself.
    pub cause: String,
}

/// A runtime change of a backend.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Change {
    /// Name of the pool.
    pub pool: String,
    /// Name of the backend.
    pub backend: String,
    /// `draining`, `maintenance` or `weight`.
    pub kind: String,
    /// Weight in force, of a `weight` change.
    pub weight: Option<u16>,
    /// Whether the flows that are left are reset.
    #[serde(default)]
    pub resets: bool,
    /// Who asked for it.
    pub by: String,
    /// When.
    pub since: Timestamp,
    /// Why; empty where nobody said.
    pub reason: String,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
    /// Whether the config has this backend.
    pub configured: bool,
}

/// Load of a flow table from which `status` warns, in percent.
const FULL_PERCENT: u64 = 90;
/// Use of an address's ports from which on it is a problem, in percent: a port is kept for a minute after its flow.
const SCARCE_PERCENT: u64 = 80;

impl Status {
    /// Fills the totals and appends the problems that the lists show; `problems` keeps what it has, first.
    #[must_use]
    pub fn with_lists(mut self, services: Services, backends: Backends) -> Self {
        self.services = services.services;
        self.backends = backends.backends;
        self.services_total = self.services.len() as u64;
        let configured = || self.backends.iter().filter(|backend| !backend.removed);
        self.backends_total = configured().count() as u64;
        self.backends_up =
            configured().filter(|backend| backend.health == super::backends::Health::Up).count() as u64;
        let found = self.found();
        self.problems.extend(found);
        self
    }

    fn found(&self) -> Vec<String> {
        let mut found = Vec::new();
        for interface in self.interfaces.iter().filter(|interface| !interface.attached) {
            found.push(format!("interface {}: the program is not attached", interface.name));
        }
        for service in self.services.iter().filter(|service| service.backends_usable == 0) {
            found.push(format!(
                "service {}: none of {} backends takes new flows",
                service.name, service.backends_total
            ));
        }
        for backend in &self.backends {
            let name = backend.full_name();
            if backend.health == super::backends::Health::Down {
                let why = if backend.why.is_empty() { String::new() } else { format!(": {}", backend.why) };
                found.push(format!("backend {name} is {}{why}", backend.state()));
            } else if !backend.reachable {
                found.push(format!("backend {name}: no route or neighbour towards {}", backend.address));
            }
        }
        let tables = [
            ("IPv4", self.flows.v4, self.flows.capacity_v4),
            ("IPv6", self.flows.v6, self.flows.capacity_v6),
        ];
        for (family, used, capacity) in tables {
            if capacity > 0 && used.saturating_mul(100) >= capacity.saturating_mul(FULL_PERCENT) {
                found.push(format!(
                    "{family} flow table: {} of {} flows; raise [limits] and restart",
                    number(used),
                    number(capacity)
                ));
            }
        }
        for ports in &self.snat {
            if ports.used.saturating_mul(100) >= ports.capacity.saturating_mul(SCARCE_PERCENT) {
                found.push(format!(
                    "snat {}: {} of {} {} ports are in use; give the services another address or more ports: without \
                     a free one new connections are reset",
                    ports.address,
                    number(ports.used),
                    number(ports.capacity),
                    ports.protocol
                ));
            }
        }
        if let Some(packets) = self.counters.get(Reason::Inconsistent.name()).filter(|packets| **packets > 0)
        {
            found.push(format!("{} packets met an inconsistent table: a defect of weir", number(*packets)));
        }
        found
    }

    fn daemon_line(&self, now: Timestamp) -> String {
        let daemon = &self.daemon;
        if !daemon.running {
            return "daemon      not running; this page is read from the pinned maps\n".to_owned();
        }
        let mut parts = vec!["running".to_owned()];
        parts.extend(daemon.version.as_ref().map(|version| format!("version {version}")));
        parts.extend(daemon.pid.map(|pid| format!("pid {pid}")));
        parts.extend(daemon.started.map(|started| format!("for {}", age(started, now))));
        if let Some(config) = &daemon.config {
            let read = daemon.config_loaded.map(|at| format!(" (read {} ago)", age(at, now)));
            parts.push(format!("config {config}{}", read.unwrap_or_default()));
        }
        format!("daemon      {}\n", parts.join(", "))
    }

    fn summary(&self, text: &mut String, now: Timestamp) {
        text.push_str(&self.daemon_line(now));
        let interfaces: Vec<String> = self
            .interfaces
            .iter()
            .map(|interface| match (interface.attached, interface.mode.is_empty()) {
                (false, _) => Tone::Bad.paint(&format!("{} (not attached)", interface.name)),
                (true, true) => interface.name.clone(),
                (true, false) => format!("{} ({})", interface.name, interface.mode),
            })
            .collect();
        let flows = &self.flows;
        // Writing to a string does not fail.
        let _ = writeln!(text, "interfaces  {}", interfaces.join(", "));
        let _ = writeln!(
            text,
            "flows       {} of {} IPv4, {} of {} IPv6",
            number(flows.v4),
            number(flows.capacity_v4),
            number(flows.v6),
            number(flows.capacity_v6)
        );
        for ports in &self.snat {
            let _ = writeln!(
                text,
                "snat        {}: {} of {} {} ports",
                ports.address,
                number(ports.used),
                number(ports.capacity),
                ports.protocol
            );
        }
        let _ = writeln!(
            text,
            "backends    {} up of {}; services: {}",
            number(self.backends_up),
            number(self.backends_total),
            number(self.services_total)
        );
    }

    fn counter_table(&self) -> String {
        let mut counters: Vec<(&str, u64)> = self
            .counters
            .iter()
            .filter(|(_, packets)| **packets > 0)
            .map(|(name, packets)| (name.as_str(), *packets))
            .collect();
        counters.sort_by_key(|(name, packets)| (std::cmp::Reverse(*packets), *name));
        let mut table =
            Table::new(&[("REASON", Align::Left), ("PACKETS", Align::Right), ("VERDICT", Align::Left)]);
        for (name, packets) in counters {
            let verdict =
                Reason::ALL.iter().find(|reason| reason.name() == name).map(|reason| reason.verdict());
            let verdict = match verdict {
                Some(Verdict::Forward) => Cell::from("forward"),
                Some(Verdict::Answer) => Cell::from("answer"),
                Some(Verdict::Pass) => Cell::from("pass"),
                Some(Verdict::Drop) => Cell::toned("drop", Tone::Notice),
                None => Cell::from(""),
            };
            table.row([name.into(), number(packets).into(), verdict]);
        }
        table.render()
    }
}

impl Change {
    fn line(&self, now: Timestamp) -> String {
        let what = match self.weight {
            Some(weight) => format!("weight {weight}"),
            None if self.resets => format!("{}, its flows are reset,", self.kind),
            None => self.kind.clone(),
        };
        let until = self.until.map(|until| format!(", {} left", age(now, until))).unwrap_or_default();
        let reason = if self.reason.is_empty() { String::new() } else { format!(": {}", self.reason) };
        let gone = if self.configured { "" } else { " (not in the config)" };
        format!(
            "{}/{}{gone}  {what} by {}, {} ago{until}{reason}",
            self.pool,
            self.backend,
            self.by,
            age(self.since, now)
        )
    }
}

impl Render for Status {
    fn render(&self, now: Timestamp) -> String {
        let mut text = String::new();
        if !self.problems.is_empty() {
            text.push_str(&Tone::Bad.paint("PROBLEMS"));
            text.push('\n');
            self.problems.iter().for_each(|problem| text.push_str(&format!("  {}\n", clean(problem))));
            text.push('\n');
        }
        if !self.changes.is_empty() {
            text.push_str(&Tone::Heading.paint("RUNTIME CHANGES"));
            text.push('\n');
            self.changes
                .iter()
                .for_each(|change| text.push_str(&format!("  {}\n", clean(&change.line(now)))));
            text.push('\n');
        }
        self.summary(&mut text, now);
        if !self.notes.is_empty() {
            text.push('\n');
            text.push_str(&Tone::Heading.paint("NOTES"));
            text.push('\n');
            self.notes.iter().for_each(|note| text.push_str(&format!("  {}\n", clean(note))));
        }
        if !self.services.is_empty() {
            text.push('\n');
            text.push_str(&Services { api: Api, services: self.services.clone() }.render(now));
        }
        if !self.backends.is_empty() {
            text.push('\n');
            text.push_str(&Backends { api: Api, backends: self.backends.clone() }.render(now));
        }
        if self.counters.values().any(|packets| *packets > 0) {
            text.push('\n');
            text.push_str(&self.counter_table());
        }
        text
    }
}

fn clean(text: &str) -> String {
    text.replace(char::is_control, "\u{fffd}")
}
