//! What happened, as plain values: written by the story, judged and printed afterwards.

use std::time::Duration;

use weir_tests::Download;

use crate::{board::Act, journal::Transition};

/// What was done to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blow {
    Kill,
    Freeze,
}

/// An act and when it began, by the monotonic clock.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) act: Act,
    pub(crate) begin: Duration,
}

/// A backend that was struck, and what followed. Times are of the monotonic clock.
#[derive(Clone, Debug)]
pub(crate) struct Strike {
    pub(crate) blow: Blow,
    pub(crate) backend: String,
    /// Just before the blow.
    pub(crate) at: Duration,
    /// Its transitions from then on, until it was brought back.
    pub(crate) transitions: Vec<Transition>,
    /// The last SYN and the last packet sent to it, seen at its switch port.
    pub(crate) last_syn: Duration,
    pub(crate) last_packet: Duration,
    /// Until when its switch port was watched.
    pub(crate) watched: Duration,
    /// How long until weir used it again, once it was brought back.
    pub(crate) back_after: Option<Duration>,
}

impl Strike {
    /// When the slot was stored that keeps new flows away.
    pub(crate) fn closed(&self) -> Option<Duration> {
        self.transitions.iter().find(|transition| transition.takes_out()).map(|first| first.stored)
    }

    /// When the slot was stored that keeps every packet away.
    pub(crate) fn down(&self) -> Option<&Transition> {
        self.transitions.iter().find(|transition| transition.to == "down")
    }
}

/// The drain.
#[derive(Clone, Debug)]
pub(crate) struct Drained {
    pub(crate) backend: String,
    /// When the command had returned.
    pub(crate) at: Duration,
    /// Connections that its switch port saw opened after that.
    pub(crate) syns_after: u64,
    /// The downloads that ran meanwhile.
    pub(crate) downloads: Vec<Download>,
    /// How many of them ran on it when the drain began.
    pub(crate) kept: usize,
    /// Until when its switch port was watched.
    pub(crate) watched: Duration,
}

/// The restart of the daemon.
#[derive(Clone, Debug)]
pub(crate) struct Restarted {
    pub(crate) killed: Duration,
    pub(crate) started: Duration,
    pub(crate) ready: Duration,
    /// The ids of the attached programs, before and after.
    pub(crate) programs: [Vec<u64>; 2],
    /// Proven flows before.
    pub(crate) flows: usize,
    /// Those of them that are gone or name another backend.
    pub(crate) moved: Vec<String>,
    /// Counters that went back.
    pub(crate) fell: Vec<String>,
    /// The drained backend's admin state afterwards.
    pub(crate) admin: String,
    /// The downloads that ran meanwhile.
    pub(crate) downloads: Vec<Download>,
}

/// The packet counts of a quiet moment at the end.
#[derive(Clone, Debug)]
pub(crate) struct Sums {
    /// Every reason's counter.
    pub(crate) reasons: Vec<(String, u64)>,
    /// Packets that the drivers handed to the program.
    pub(crate) seen: u64,
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub(crate) spans: Vec<Span>,
    pub(crate) strikes: Vec<Strike>,
    pub(crate) drained: Option<Drained>,
    pub(crate) restarted: Option<Restarted>,
    pub(crate) sums: Option<Sums>,
    /// What was stored against backends that nothing was done to.
    pub(crate) alarms: Vec<Transition>,
}
