//! `[[pool.health]]`: health checks and their defaults.

use std::time::Duration;

use super::keys;
use super::model::{Check, CheckKind, HttpCheck, Through};
use super::reader::{Node, Table};
use super::scalar::{DAY, show};
use super::source::Place;

/// Probes of one check that may wait for an answer from one backend at a time.
const MOST_IN_FLIGHT: u128 = 1000;

/// Largest `rise` and `fall`.
const MOST_COUNTED: u32 = 1000;

/// A check as read: its port may still have to come from a service.
pub(crate) struct CheckDraft {
    /// What was read.
    pub(crate) check: Check,
    /// The table, or the pool of a check that was not given.
    pub(crate) place: Place,
    /// How messages name it.
    pub(crate) subject: String,
}

/// The types of the configuration.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    None,
    Tcp,
    Syn,
    Http,
    Ping,
    Tripwire,
    Bfd,
}

/// Largest `fall` of a `bfd` check, whose multiplier is a byte on the wire.
const MOST_MULTIPLIED: u32 = 255;

const KINDS: &[(&str, Option<Kind>)] = &[
    ("none", Some(Kind::None)),
    ("tcp", Some(Kind::Tcp)),
    ("syn", Some(Kind::Syn)),
    ("http", Some(Kind::Http)),
    ("ping", Some(Kind::Ping)),
    ("https", None),
    ("udp", None),
    ("dns", None),
    ("exec", None),
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
            Self::Ping => "ping",
            Self::Tripwire => "tripwire",
            Self::Bfd => "bfd",
        }
    }

    /// Whether probes go to a port.
    #[must_use]
    pub fn has_port(&self) -> bool {
        matches!(self, Self::Tcp | Self::Syn | Self::Http(_) | Self::Tripwire)
    }
}

impl Check {
    /// A check of this kind with every setting at its default.
    #[must_use]
    pub fn with_defaults(kind: CheckKind) -> Self {
        let ms = Duration::from_millis;
        let (interval, timeout, fall) = match &kind {
            CheckKind::None | CheckKind::Tcp | CheckKind::Http(_) | CheckKind::Tripwire => {
                (ms(1000), ms(500), 3)
            }
            CheckKind::Syn => (ms(100), ms(100), 2),
            CheckKind::Bfd => (ms(50), ms(150), 3),
            CheckKind::Ping => (ms(10), ms(30), 3),
        };
        // A tripwire's success is a connection that stayed open for a while, a BFD session's its handshake.
        let rise = if matches!(kind, CheckKind::Tripwire | CheckKind::Bfd) { 1 } else { 2 };
        Self { kind, port: None, interval, timeout, rise, fall, through: Through::Direct }
    }
}

/// What every type of check has.
struct Settings {
    interval: Option<Duration>,
    timeout: Option<Duration>,
    rise: Option<u32>,
    fall: Option<u32>,
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
        Some(Kind::Http) => CheckKind::Http(http(table)),
        Some(Kind::None) | None => CheckKind::None,
    };
    let mut check = Check::with_defaults(kind);
    check.port = table.own("port").and_then(|node| node.integer(1..=u16::MAX));
    let Settings { interval, timeout, rise, fall } = settings(table);
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
    CheckDraft { check, place: table.place.clone(), subject: table.subject.to_string() }
}

/// Checks the values that `[defaults]` gives to checks.
pub(crate) fn validate_defaults(defaults: &Table<'_>) {
    defaults.value("type").map(|node| node.word(KINDS));
    settings(defaults);
    http(defaults);
}

fn settings(table: &Table<'_>) -> Settings {
    let range = Duration::from_millis(1)..=DAY;
    let duration = |key| table.value(key).and_then(|node| node.duration(range.clone()));
    let count = |key| table.value(key).and_then(|node| node.integer(1..=MOST_COUNTED));
    if let Some(node) = table.value("through") {
        node.word(&[("direct", Some(Through::Direct)), ("tunnel", None)]);
    }
    Settings {
        interval: duration("interval"),
        timeout: duration("timeout"),
        rise: count("rise"),
        fall: count("fall"),
    }
}

/// Keys that another type of check has say that something else was meant.
fn refuse_foreign_keys(table: &Table<'_>, kind: Kind) {
    let name = KINDS.iter().find(|(_, known)| *known == Some(kind)).map_or("", |(name, _)| name);
    for key in keys::HTTP.iter().filter(|_| kind != Kind::Http) {
        if let Some(node) = table.own(key) {
            node.fail(format_args!("is for type \"http\"; this check's type is {name:?}"));
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

fn http(table: &Table<'_>) -> HttpCheck {
    let token = |key, what: &str| {
        let node = table.value(key)?;
        let text = node.string(what)?;
        // Spaces and control characters would end the request line or the header.
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            node.fail(format_args!("{text:?} must be printable ASCII without spaces"));
            return None;
        }
        Some((node, text.to_owned()))
    };
    let path = token("path", "a path such as \"/healthz\"").and_then(|(node, path)| {
        let rooted = path.starts_with('/');
        if !rooted {
            node.fail(format_args!("{path:?} must begin with /"));
        }
        rooted.then_some(path)
    });
    let expect_body = table.value("expect_body").and_then(|node| {
        let text = node.string("a text")?;
        if text.is_empty() {
            node.fail("must not be empty: leave it out to accept any body");
        }
        Some(text.to_owned())
    });
    let listed = table.value("expect_status").map(|list| list.items());
    let mut expect_status: Vec<_> = listed.into_iter().flatten().flat_map(|node| statuses(&node)).collect();
    expect_status.sort_unstable();
    expect_status.dedup();
    if expect_status.is_empty() {
        expect_status.push((200, 299));
    }
    HttpCheck {
        path: path.unwrap_or_else(|| "/".to_owned()),
        host: token("host", "a host name").map(|(_, host)| host),
        expect_status,
        expect_body,
    }
}

/// `200`, `"200-299"`, `"200,204"`.
fn statuses(node: &Node<'_>) -> Vec<(u16, u16)> {
    let text = match (node.as_integer(), node.as_string()) {
        (Some(number), _) => number.to_string(),
        (None, Some(text)) => text.to_owned(),
        (None, None) => String::new(),
    };
    let status = |text: &str| text.trim().parse().ok().filter(|code| (100..=599).contains(code));
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        status(first).zip(status(last)).filter(|(first, last)| first <= last)
    };
    let ranges: Option<Vec<_>> = text.split(',').map(range).collect();
    if ranges.is_none() {
        node.fail(format_args!(
            "{} must be status codes from 100 to 599, such as 200, \"200-299\" or \"200,204\"",
            node.written()
        ));
    }
    ranges.unwrap_or_default()
}
