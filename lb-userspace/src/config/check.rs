//! `[[pool.health]]`: health checks and their defaults.

mod datagram;
mod exec;
mod http;

use std::time::Duration;

use super::keys;
use super::model::{Check, CheckKind, PortOf, Through};
use super::reader::Table;
use super::resolve::CheckPlaces;
use super::scalar::{DAY, show};

/// Probes of one check that may wait for an answer from one backend at a time.
const MOST_IN_FLIGHT: u128 = 1000;

/// Largest `rise` and `fall`.
const MOST_COUNTED: u32 = 1000;

/// A check as read: its port may still have to come from a service.
pub(crate) struct CheckDraft {
    /// What was read.
    pub(crate) check: Check,
    /// Where it is written.
    pub(crate) places: CheckPlaces,
}

/// The types of the configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Tcp,
    Syn,
    Http,
    Https,
    Ping,
    Tripwire,
    Bfd,
    Udp,
    Dns,
    Exec,
}

/// Largest `fall` of a `bfd` check, whose multiplier is a byte on the wire.
const MOST_MULTIPLIED: u32 = 255;

const KINDS: &[(&str, Option<Kind>)] = &[
    ("none", Some(Kind::None)),
    ("tcp", Some(Kind::Tcp)),
    ("syn", Some(Kind::Syn)),
    ("http", Some(Kind::Http)),
    ("https", Some(Kind::Https)),
    ("ping", Some(Kind::Ping)),
    ("udp", Some(Kind::Udp)),
    ("dns", Some(Kind::Dns)),
    ("exec", Some(Kind::Exec)),
    ("tripwire", Some(Kind::Tripwire)),
    ("bfd", Some(Kind::Bfd)),
];

impl CheckKind {
    /// The name used in config, tables and JSON.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Tcp => "tcp",
            Self::Syn => "syn",
            Self::Http(_) => "http",
            Self::Https(..) => "https",
            Self::Ping => "ping",
            Self::Tripwire => "tripwire",
            Self::Bfd => "bfd",
            Self::Udp(_) => "udp",
            Self::Dns(_) => "dns",
            Self::Exec(_) => "exec",
        }
    }

    /// Whether probes go to a port, or may: an `exec` check is told it.
    #[must_use]
    pub fn has_port(&self) -> bool {
        !matches!(self, Self::None | Self::Ping | Self::Bfd)
    }

    /// Whether only the server itself gives the answer, not its host's kernel.
    #[must_use]
    pub fn asks_server(&self) -> bool {
        matches!(self, Self::Http(_) | Self::Https(..) | Self::Udp(_) | Self::Dns(_))
    }

    /// The shortest interval: what a probe costs, and the grain of what runs it.
    fn shortest_interval(&self) -> Duration {
        match self {
            Self::None
            | Self::Tcp
            | Self::Syn
            | Self::Ping
            | Self::Udp(_)
            | Self::Dns(_)
            | Self::Tripwire
            | Self::Bfd => Duration::from_millis(1),
            Self::Http(_) | Self::Https(..) => Duration::from_millis(10),
            Self::Exec(_) => Duration::from_millis(100),
        }
    }
}

impl Check {
    /// A check of this kind with every setting at its default.
    #[must_use]
    pub fn with_defaults(kind: CheckKind) -> Self {
        let ms = Duration::from_millis;
        let (interval, timeout, fall) = match &kind {
            CheckKind::None | CheckKind::Tcp | CheckKind::Tripwire => (ms(1000), ms(500), 3),
            CheckKind::Http(_) | CheckKind::Https(..) => (ms(1000), ms(500), 3),
            CheckKind::Udp(_) | CheckKind::Dns(_) => (ms(1000), ms(500), 3),
            CheckKind::Exec(_) => (ms(5000), ms(3000), 3),
            CheckKind::Syn => (ms(100), ms(100), 2),
            CheckKind::Bfd => (ms(50), ms(150), 3),
            CheckKind::Ping => (ms(10), ms(30), 3),
        };
        // A tripwire's success is a connection that stayed open for a while, a BFD session's its handshake.
        let rise = if matches!(kind, CheckKind::Tripwire | CheckKind::Bfd) { 1 } else { 2 };
        Self {
            kind,
            port: None,
            port_of: PortOf::Check,
            interval,
            timeout,
            rise,
            fall,
            through: Through::Direct,
            inside: None,
        }
    }
}

/// What every type of check has.
struct Settings {
    interval: Option<Duration>,
    timeout: Option<Duration>,
    rise: Option<u32>,
    fall: Option<u32>,
    through: Option<Through>,
}

/// Reads one check.
pub(crate) fn read(table: &Table<'_>) -> CheckDraft {
    let node = table.required("type", "type = \"tcp\"");
    let kind = node.as_ref().and_then(|node| node.word(KINDS));
    if let Some(kind) = kind {
        refuse_foreign_keys(table, kind);
    }
    let kind = match kind {
        Some(Kind::Tcp) => CheckKind::Tcp,
        Some(Kind::Syn) => CheckKind::Syn,
        Some(Kind::Ping) => CheckKind::Ping,
        Some(Kind::Tripwire) => CheckKind::Tripwire,
        Some(Kind::Bfd) => CheckKind::Bfd,
        Some(Kind::Http) => CheckKind::Http(http::http(table)),
        Some(Kind::Https) => CheckKind::Https(http::http(table), http::tls(table)),
        Some(Kind::Udp) => CheckKind::Udp(datagram::udp(table)),
        Some(Kind::Dns) => CheckKind::Dns(datagram::dns(table)),
        Some(Kind::Exec) => CheckKind::Exec(exec::exec(table)),
        Some(Kind::None) | None => CheckKind::None,
    };
    let mut check = Check::with_defaults(kind);
    check.port = table.own("port").and_then(|node| node.integer(1..=u16::MAX));
    let Settings { interval, timeout, rise, fall, through } = settings(table);
    check.through = through.unwrap_or(check.through);
    if check.through == Through::Tunnel && !matches!(check.kind, CheckKind::Ping | CheckKind::Syn) {
        // Inherited from `[defaults]` it is for those that can.
        if let Some(node) = table.own("through") {
            node.fail("\"tunnel\" is for types ping and syn: weir builds their packets itself");
        }
        check.through = Through::Direct;
    }
    check.interval = interval.unwrap_or(check.interval);
    check.timeout = timeout.unwrap_or(check.timeout);
    check.rise = rise.unwrap_or(check.rise);
    check.fall = fall.unwrap_or(check.fall);
    if check.kind == CheckKind::Tripwire {
        // A connection that stays open is one success, and there is no second.
        check.rise = 1;
    }
    if check.kind == CheckKind::Bfd {
        (check.timeout, check.rise) = bfd(table, check.interval, &mut check.fall);
    }
    let in_flight = check.timeout.as_millis() / check.interval.as_millis().max(1);
    if in_flight > MOST_IN_FLIGHT {
        let (timeout, interval) = (show(check.timeout), show(check.interval));
        let message = format!(
            "timeout {timeout} with interval {interval} keeps {in_flight} probes waiting; \
             at most {MOST_IN_FLIGHT}: raise interval or lower timeout"
        );
        table.value("timeout").or_else(|| table.value("interval")).map_or_else(
            || table.error("timeout", message.clone()),
            |node| table.findings.error(&node.place, &table.subject, "timeout", message.clone()),
        );
    }
    compare_times(table, &check);
    let through = table.own("through").map(|node| node.place);
    let places = CheckPlaces { subject: table.subject.to_string(), place: table.place.clone(), through };
    CheckDraft { check, places }
}

/// Checks the values that `[defaults]` gives to checks.
pub(crate) fn validate_defaults(defaults: &Table<'_>) {
    defaults.value("type").map(|node| node.word(KINDS));
    settings(defaults);
    http::http(defaults);
    http::tls(defaults);
    for key in ["send", "expect"] {
        defaults.value(key).map(|node| datagram::payload(&node, key));
    }
    datagram::validate_defaults(defaults);
    defaults.value("command").map(|node| exec::command(&node));
}

/// Refuses times that do not fit the kind or each other.
fn compare_times(table: &Table<'_>, check: &Check) {
    let name = check.kind.name();
    let shortest = check.kind.shortest_interval();
    let at = |key: &'static str, message: String| match table.value(key) {
        Some(node) => table.findings.error(&node.place, &table.subject, key, message),
        None => table.error(key, message),
    };
    if check.interval < shortest {
        let (interval, shortest) = (show(check.interval), show(shortest));
        at("interval", format!("interval {interval} is too short for type {name:?}: at least {shortest}"));
    }
    match &check.kind {
        CheckKind::Exec(_) if check.timeout > check.interval => {
            let (timeout, interval) = (show(check.timeout), show(check.interval));
            let reason = "programs of one check do not run at the same time";
            at("timeout", format!("timeout {timeout} is longer than interval {interval}: {reason}"));
        }
        CheckKind::Http(http) | CheckKind::Https(http, _) => {
            http::compare_phases(table, http.phases, check.timeout);
        }
        _ => {}
    }
}

fn settings(table: &Table<'_>) -> Settings {
    let range = Duration::from_millis(1)..=DAY;
    let duration = |key| table.value(key).and_then(|node| node.duration(range.clone()));
    let count = |key| table.value(key).and_then(|node| node.integer(1..=MOST_COUNTED));
    Settings {
        interval: duration("interval"),
        timeout: duration("timeout"),
        rise: count("rise"),
        fall: count("fall"),
        through: table.value("through").and_then(|node| {
            node.word(&[("direct", Some(Through::Direct)), ("tunnel", Some(Through::Tunnel))])
        }),
    }
}

/// Keys that not every type has, and the types that have them.
const OWNED: &[(&[&str], &[Kind], &str)] = &[
    (keys::HTTP, &[Kind::Http, Kind::Https], "\"http\" or \"https\""),
    (keys::TLS, &[Kind::Https], "\"https\""),
    (keys::UDP, &[Kind::Udp], "\"udp\""),
    (keys::DNS, &[Kind::Dns], "\"dns\""),
    (keys::EXEC, &[Kind::Exec], "\"exec\""),
];

/// Keys that another type of check has say that something else was meant.
fn refuse_foreign_keys(table: &Table<'_>, kind: Kind) {
    let name = KINDS.iter().find(|(_, known)| *known == Some(kind)).map_or("", |(name, _)| name);
    for (keys, _, owner) in OWNED.iter().filter(|(_, kinds, _)| !kinds.contains(&kind)) {
        for node in keys.iter().filter_map(|key| table.own(key)) {
            node.fail(format_args!("is for type {owner}; this check's type is {name:?}"));
        }
    }
    let unused: &[&str] = match kind {
        Kind::Ping | Kind::None => &["port"],
        Kind::Tripwire => &["rise"],
        Kind::Bfd => &["port", "timeout", "rise"],
        _ => &[],
    };
    for node in unused.iter().filter_map(|key| table.own(key)) {
        node.fail(format_args!("is not used by type {name:?}: remove it"));
    }
}

/// What follows from the rest: the detection time, and that one handshake is a success.
fn bfd(table: &Table<'_>, interval: Duration, multiplier: &mut u32) -> (Duration, u32) {
    if *multiplier > MOST_MULTIPLIED {
        if let Some(node) = table.value("fall") {
            node.fail(format_args!(
                "must be an integer from 1 to {MOST_MULTIPLIED} for type \"bfd\", got {multiplier}"
            ));
        }
        *multiplier = MOST_MULTIPLIED;
    }
    (interval * *multiplier, 1)
}
