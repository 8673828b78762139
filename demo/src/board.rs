//! What the screen shows: written by the story and the sampler, read by whoever draws.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use weir_tests::{Download, monotonic};

/// The acts of the story, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Steady,
    Kill,
    Freeze,
    Drain,
    Restart,
    Whole,
}

impl Act {
    pub(crate) const ALL: [Self; 6] =
        [Self::Steady, Self::Kill, Self::Freeze, Self::Drain, Self::Restart, Self::Whole];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Drain => "drain",
            Self::Restart => "restart",
            Self::Whole => "whole",
        }
    }
}

/// How an event reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    /// What the story does.
    Act,
    Good,
    Bad,
    Plain,
}

/// A line of the log of events.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// Since the start.
    pub(crate) at: Duration,
    pub(crate) tone: Tone,
    pub(crate) text: String,
}

/// One backend.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// As `weir backends` says.
    pub(crate) state: String,
    pub(crate) tone: Tone,
    /// Requests answered in the last second.
    pub(crate) rate: usize,
    pub(crate) flows: u64,
    pub(crate) answered: usize,
}

/// The whole picture.
#[derive(Clone, Debug)]
pub(crate) struct Picture {
    pub(crate) begin: Duration,
    pub(crate) act: Act,
    pub(crate) banner: String,
    pub(crate) rows: Vec<Row>,
    pub(crate) events: VecDeque<Event>,
    /// Events that fell out of `events`.
    pub(crate) forgotten: usize,
    pub(crate) sent: usize,
    pub(crate) failed: usize,
    pub(crate) rate: usize,
    pub(crate) daemon: &'static str,
    pub(crate) downloads: Vec<Download>,
}

/// How many events are kept for the screen.
const EVENTS: usize = 60;

/// The picture, shared.
#[derive(Debug)]
pub(crate) struct Board(Mutex<Picture>);

impl Board {
    pub(crate) fn new(backends: &[&str]) -> Self {
        let row = |name: &&str| Row {
            name: (*name).to_owned(),
            state: "up".to_owned(),
            tone: Tone::Good,
            rate: 0,
            flows: 0,
            answered: 0,
        };
        Self(Mutex::new(Picture {
            begin: monotonic(),
            act: Act::Steady,
            banner: String::new(),
            rows: backends.iter().map(row).collect(),
            events: VecDeque::new(),
            forgotten: 0,
            sent: 0,
            failed: 0,
            rate: 0,
            daemon: "running",
            downloads: Vec::new(),
        }))
    }

    /// The picture, to be changed or drawn; held briefly.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Picture> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an event that happened now.
    pub(crate) fn tell(&self, tone: Tone, text: impl Into<String>) {
        let mut picture = self.lock();
        let at = monotonic().saturating_sub(picture.begin);
        picture.events.push_back(Event { at, tone, text: text.into() });
        if picture.events.len() > EVENTS {
            picture.events.pop_front();
            picture.forgotten += 1;
        }
    }

    /// Begins an act.
    pub(crate) fn begin(&self, act: Act, banner: &str) {
        let mut picture = self.lock();
        picture.act = act;
        banner.clone_into(&mut picture.banner);
        drop(picture);
        self.tell(Tone::Act, banner);
    }
}
