//! What is measured: failures, who has to notice them, and by what check.

use std::time::Duration;

use weir_tests::Program;

/// How a backend fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// SIGKILL of the web server, of this program; the host lives on.
    Killed(Program),
    /// No frame reaches the host and none leaves it; no link goes down.
    Frozen,
    /// SIGSTOP of the web server: its kernel accepts, nobody answers.
    Hung,
    /// Tunnelled packets are lost on their way; the host lives on.
    Severed,
    /// The far end of weir's link to the backend is set down.
    LinkDown,
    /// Of a hundred SYNs for a VIP 30 are lost at the backend's switch port.
    Lossy,
}

impl Fault {
    /// For people.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Killed(Program::Nginx) => "process killed (nginx)",
            Self::Killed(Program::Lighttpd) => "process killed (lighttpd)",
            Self::Frozen => "host frozen or cut off behind a switch",
            Self::Hung => "server hung (accepts, never answers)",
            Self::Severed => "tunnel broken, host alive",
            Self::LinkDown => "local link down",
            Self::Lossy => "one backend drops 30 % of handshakes",
        }
    }
}

/// Milliseconds that the issue asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Goal {
    /// At most this in the middle.
    pub(super) p50_ms: f64,
    /// At most this at the end: the worst, or of 300 and more trials the 99th percentile.
    pub(super) tail_ms: f64,
}

/// A row of weir's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Weir {
    pub(super) id: &'static str,
    /// The check in words.
    pub(super) signal: &'static str,
    /// The check as configured.
    pub(super) check: &'static str,
    pub(super) goal: Option<Goal>,
    /// The id of a row for the time from decision to effect, if this match gives one.
    pub(super) decision: Option<&'static str>,
}

/// A row of HAProxy's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Haproxy {
    pub(super) id: &'static str,
    pub(super) signal: &'static str,
    /// `inter`, and the check's time-out.
    pub(super) interval_ms: u32,
    /// Further lines of its section.
    pub(super) lines: &'static str,
    /// Further words of `default-server`.
    pub(super) words: &'static str,
}

/// Rows that are measured together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Match {
    pub(super) fault: Fault,
    pub(super) weir: Weir,
    pub(super) haproxy: Option<Haproxy>,
    /// The longest interval in it: failures are spread evenly over it.
    pub(super) interval: Duration,
}

impl Match {
    /// The ids of its rows.
    pub(super) fn ids(&self) -> impl Iterator<Item = &'static str> {
        [Some(self.weir.id), self.weir.decision, self.haproxy.map(|row| row.id)].into_iter().flatten()
    }

    /// How its packets reach the backends.
    pub(super) fn mode(&self) -> &'static str {
        match self.fault {
            Fault::Severed | Fault::LinkDown => "ipip",
            Fault::Killed(_) | Fault::Frozen | Fault::Hung | Fault::Lossy => "dsr-l2",
        }
    }

    /// For error messages.
    pub(super) fn title(&self) -> String {
        format!("{}, {}", self.fault.text(), self.weir.signal)
    }
}

const fn ms(value: u64) -> Duration {
    Duration::from_millis(value)
}

const fn goal(p50_ms: f64, tail_ms: f64) -> Option<Goal> {
    Some(Goal { p50_ms, tail_ms })
}

const fn weir(id: &'static str, signal: &'static str, check: &'static str, goal: Option<Goal>) -> Weir {
    Weir { id, signal, check, goal, decision: None }
}

const fn haproxy(id: &'static str, signal: &'static str, interval_ms: u32) -> Haproxy {
    Haproxy { id, signal, interval_ms, lines: "", words: "" }
}

const fn killed(weir: Weir, haproxy: Option<Haproxy>, interval_ms: u64) -> Match {
    Match { fault: Fault::Killed(Program::Nginx), weir, haproxy, interval: ms(interval_ms) }
}

/// The same with a server that dies faster.
const fn light(weir: Weir, haproxy: Option<Haproxy>, interval_ms: u64) -> Match {
    Match { fault: Fault::Killed(Program::Lighttpd), ..killed(weir, haproxy, interval_ms) }
}

/// A row of connects, whole or half, at an interval of milliseconds; the first refusal is a failure.
macro_rules! connects {
    ($id:literal, $kind:literal, $ms:literal, $goal:expr) => {
        weir(
            concat!($id, "-", $kind, "-", $ms, "ms"),
            concat!($kind, " every ", $ms, " ms, fall 1"),
            concat!("type = \"", $kind, "\"\ninterval = \"", $ms, "ms\"\ntimeout = \"10ms\"\nfall = 1"),
            $goal,
        )
    };
}

const TRIPWIRE: &str = "type = \"tripwire\"\ninterval = \"10ms\"";
const OBSERVE: Haproxy = Haproxy {
    words: "observe layer4 error-limit 1 on-error mark-down",
    ..haproxy("killed-haproxy-observe", "tcp every 5 ms, and `observe layer4` on its connections", 5)
};

const fn frozen(weir: Weir, haproxy: Option<Haproxy>, interval_ms: u64) -> Match {
    Match { fault: Fault::Frozen, ..killed(weir, haproxy, interval_ms) }
}

/// Everything, in the order of the table.
pub(super) const MATCHES: &[Match] = &[
    killed(weir("killed-tripwire", "tripwire", TRIPWIRE, goal(0.5, 3.0)), Some(OBSERVE), 5),
    killed(Weir { decision: Some("decision"), ..connects!("killed", "syn", 1, goal(0.7, 3.0)) }, None, 1),
    killed(connects!("killed", "syn", 2, goal(1.5, 4.0)), None, 2),
    killed(connects!("killed", "syn", 5, goal(3.0, 7.0)), None, 5),
    killed(
        connects!("killed", "tcp", 1, goal(0.7, 3.0)),
        Some(haproxy("killed-haproxy-1ms", "tcp every 1 ms, fall 1", 1)),
        1,
    ),
    killed(
        connects!("killed", "tcp", 2, goal(1.5, 4.0)),
        Some(haproxy("killed-haproxy-2ms", "tcp every 2 ms, fall 1", 2)),
        2,
    ),
    killed(
        connects!("killed", "tcp", 5, goal(3.0, 7.0)),
        Some(haproxy("killed-haproxy-5ms", "tcp every 5 ms, fall 1", 5)),
        5,
    ),
    light(weir("light-tripwire", "tripwire", TRIPWIRE, goal(0.5, 3.0)), None, 5),
    light(connects!("light", "syn", 1, goal(0.7, 3.0)), None, 1),
    light(connects!("light", "syn", 2, goal(1.5, 4.0)), None, 2),
    light(connects!("light", "syn", 5, goal(3.0, 7.0)), None, 5),
    light(
        connects!("light", "tcp", 1, goal(0.7, 3.0)),
        Some(haproxy("light-haproxy-1ms", "tcp every 1 ms, fall 1", 1)),
        1,
    ),
    light(
        connects!("light", "tcp", 2, goal(1.5, 4.0)),
        Some(haproxy("light-haproxy-2ms", "tcp every 2 ms, fall 1", 2)),
        2,
    ),
    light(
        connects!("light", "tcp", 5, goal(3.0, 7.0)),
        Some(haproxy("light-haproxy-5ms", "tcp every 5 ms, fall 1", 5)),
        5,
    ),
    frozen(
        weir(
            "frozen-tcp-2ms",
            "tcp every 2 ms, timeout 2 ms, fall 1",
            "type = \"tcp\"\ninterval = \"2ms\"\ntimeout = \"2ms\"\nfall = 1",
            goal(2.4, 5.0),
        ),
        Some(haproxy("frozen-haproxy-2ms", "tcp every 2 ms, timeout 2 ms, fall 1", 2)),
        2,
    ),
    frozen(
        weir(
            "frozen-tcp-5ms",
            "tcp every 5 ms, timeout 5 ms, fall 1",
            "type = \"tcp\"\ninterval = \"5ms\"\ntimeout = \"5ms\"\nfall = 1",
            goal(7.0, 11.0),
        ),
        Some(haproxy("frozen-haproxy-5ms", "tcp every 5 ms, timeout 5 ms, fall 1", 5)),
        5,
    ),
    frozen(
        weir(
            "frozen-ping-1ms",
            "ping every 1 ms, timeout 3 ms, fall 3",
            "type = \"ping\"\ninterval = \"1ms\"\ntimeout = \"3ms\"\nfall = 3",
            goal(3.7, 6.0),
        ),
        None,
        1,
    ),
    Match {
        fault: Fault::Hung,
        weir: weir(
            "hung-http-50ms",
            "http every 50 ms, timeout 50 ms, fall 1",
            "type = \"http\"\npath = \"/healthz\"\ninterval = \"50ms\"\ntimeout = \"50ms\"\nfall = 1",
            goal(75.0, 105.0),
        ),
        haproxy: Some(Haproxy {
            lines: "    option httpchk GET /healthz\n",
            ..haproxy("hung-haproxy-50ms", "http every 50 ms, timeout 50 ms, fall 1", 50)
        }),
        interval: ms(50),
    },
    Match {
        fault: Fault::Severed,
        weir: weir(
            "severed-ping-5ms",
            "ping through the tunnel every 5 ms, timeout 10 ms, fall 2",
            "type = \"ping\"\ninterval = \"5ms\"\ntimeout = \"10ms\"\nfall = 2\nthrough = \"tunnel\"",
            goal(12.0, 25.0),
        ),
        haproxy: None,
        interval: ms(5),
    },
    Match {
        fault: Fault::LinkDown,
        weir: weir(
            "link-carrier",
            "carrier",
            "type = \"ping\"\ninterval = \"1s\"\ntimeout = \"30s\"\nfall = 3",
            goal(1.0, 5.0),
        ),
        haproxy: None,
        interval: ms(10),
    },
    Match {
        fault: Fault::Lossy,
        weir: weir(
            "lossy-passive",
            "passive: handshakes compared every second",
            "type = \"tcp\"\ninterval = \"100ms\"\ntimeout = \"1s\"",
            goal(5000.0, 5000.0),
        ),
        haproxy: None,
        interval: ms(1000),
    },
];
