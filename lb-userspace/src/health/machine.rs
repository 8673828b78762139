//! The health of one backend of one pool: a pure state machine.
//!
//! Receives what the backend's checks found together ([`Finding`]) and the time; returns what changed. Knows no
//! socket, no clock, no other backend, and nothing of admin state: that is combined in
//! [`pool_view`](super::pool_view).

#![forbid(unsafe_code)]

use std::time::Duration;

use super::flap::FlapHistory;
use super::time::Moment;

/// Share of new flows, in per mille, that a backend on trial takes.
pub const TRIAL_ADMIT: u16 = 100;
/// Everything: the admit share of a backend in full service.
pub const FULL_ADMIT: u16 = 1000;
/// Steps in which a slow start ramps.
const RAMP_STEPS: u32 = 20;

/// What detection says about a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Health {
    /// No verdict yet.
    Unknown,
    /// All checks pass.
    Up,
    /// A check has reason to doubt: new flows go elsewhere, undone by the next success.
    Suspect,
    /// A check failed for certain.
    Down,
    /// Back after a hold-down: a small share of new flows.
    Trial,
}

impl Health {
    /// The name used in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Trial => "trial",
        }
    }
}

/// What a failure says about the flows a backend has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureKind {
    /// Refused, unreachable, silent: known flows are lost there too.
    Hard,
    /// Wrong status or body: known flows stay.
    Soft,
}

impl FailureKind {
    /// The name used in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
        }
    }
}

/// What one check, or all checks of a backend together, say at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Finding {
    /// Too few results.
    Pending,
    /// Passed.
    Good,
    /// Failing, not confirmed.
    Doubtful,
    /// Failed, confirmed.
    Bad(FailureKind),
}

impl Finding {
    /// What several checks say together: the worst of them, and good only if all are.
    #[must_use]
    pub fn combine(findings: impl IntoIterator<Item = Self>) -> Self {
        findings.into_iter().max_by_key(|finding| finding.gravity()).unwrap_or(Self::Good)
    }

    /// Order of precedence in [`Finding::combine`].
    pub(super) fn gravity(self) -> u8 {
        match self {
            Self::Good => 0,
            Self::Pending => 1,
            Self::Doubtful => 2,
            Self::Bad(FailureKind::Soft) => 3,
            Self::Bad(FailureKind::Hard) => 4,
        }
    }
}

/// Times that a pool sets for its backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// First hold-down, also the length of a trial; zero turns both off.
    pub hold_down: Duration,
    /// Longest hold-down.
    pub hold_down_max: Duration,
    /// Length of the ramp after a recovery; zero is none.
    pub slow_start: Duration,
}

/// A change of health, or of the kind of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: Health,
    /// After; equal to `from` when a failure only changed its kind.
    pub to: Health,
    /// Kind of the failure, of a down backend.
    pub kind: Option<FailureKind>,
    /// What moved the machine.
    pub cause: Cause,
}

/// What moved the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The checks said something new.
    Checks,
    /// The checks pass and a hold-down ended.
    HoldDownOver,
    /// A trial passed.
    TrialPassed,
    /// The silence that it rested on counts for nothing: weir's own link fails.
    Pardon,
    /// Its handshakes were compared with the pool's: its share of new flows changed, its health did not.
    Handshakes,
}

/// What is kept in each state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Unknown,
    Up,
    Suspect { trial_until: Option<Moment> },
    Down { kind: FailureKind, held_until: Option<Moment> },
    Trial { until: Moment },
}

/// The state machine of one backend.
#[derive(Clone, Debug)]
pub struct Machine {
    state: State,
    finding: Finding,
    flaps: FlapHistory,
    pace: Pace,
    ramp_from: Option<Moment>,
    since: Moment,
    /// What was before the last doubt or failure.
    before: Option<Before>,
}

/// A machine in service, before it was doubted or failed.
#[derive(Clone, Debug)]
struct Before {
    left_at: Moment,
    state: State,
    flaps: FlapHistory,
    ramp_from: Option<Moment>,
}

impl Machine {
    /// A backend that nothing is known of.
    #[must_use]
    pub fn new(pace: Pace, now: Moment) -> Self {
        let (state, flaps) = (State::Unknown, FlapHistory::default());
        Self { state, finding: Finding::Pending, flaps, pace, ramp_from: None, since: now, before: None }
    }

    /// A backend whose health was kept over a restart. A trial starts again.
    #[must_use]
    pub fn adopted(pace: Pace, health: Health, kind: Option<FailureKind>, now: Moment) -> Self {
        let state = match health {
            Health::Unknown => State::Unknown,
            Health::Up => State::Up,
            Health::Suspect => State::Suspect { trial_until: None },
            Health::Down => State::Down { kind: kind.unwrap_or(FailureKind::Hard), held_until: None },
            Health::Trial => State::Trial { until: now + pace.hold_down },
        };
        Self { state, ..Self::new(pace, now) }
    }

    /// The same, in its present state for this long already.
    #[must_use]
    pub fn of_age(self, age: Duration, now: Moment) -> Self {
        Self { since: now.before(age), ..self }
    }

    /// Takes over changed times; a hold-down or trial under way keeps its end.
    pub fn set_pace(&mut self, pace: Pace) {
        self.pace = pace;
    }

    /// The health at present.
    #[must_use]
    pub fn health(&self) -> Health {
        match self.state {
            State::Unknown => Health::Unknown,
            State::Up => Health::Up,
            State::Suspect { .. } => Health::Suspect,
            State::Down { .. } => Health::Down,
            State::Trial { .. } => Health::Trial,
        }
    }

    /// Kind of the failure of a down backend.
    #[must_use]
    pub fn failure_kind(&self) -> Option<FailureKind> {
        match self.state {
            State::Down { kind, .. } => Some(kind),
            _ => None,
        }
    }

    /// When the present health began.
    #[must_use]
    pub fn since(&self) -> Moment {
        self.since
    }

    /// Until when a recovery is not believed.
    #[must_use]
    pub fn held_until(&self) -> Option<Moment> {
        match self.state {
            State::Down { held_until, .. } => held_until,
            _ => None,
        }
    }

    /// Takes what the checks say together.
    pub fn on_finding(&mut self, finding: Finding, now: Moment) -> Option<Change> {
        self.finding = finding;
        if matches!(self.state, State::Up | State::Trial { .. }) {
            let (flaps, ramp_from) = (self.flaps.clone(), self.ramp_from);
            self.before = Some(Before { left_at: now, state: self.state, flaps, ramp_from });
        }
        let next = match (self.state, finding) {
            (State::Unknown, Finding::Good) => State::Up,
            (State::Unknown, Finding::Pending | Finding::Doubtful) => State::Unknown,
            (State::Up, Finding::Good | Finding::Pending) => State::Up,
            (State::Up, Finding::Doubtful) => State::Suspect { trial_until: None },
            (State::Suspect { trial_until }, Finding::Good | Finding::Pending) => match trial_until {
                Some(until) => State::Trial { until },
                None => State::Up,
            },
            (State::Trial { until }, Finding::Doubtful) => State::Suspect { trial_until: Some(until) },
            (State::Down { held_until, .. }, Finding::Good) => self.recover(held_until, now),
            (State::Down { held_until, .. }, Finding::Bad(kind)) => State::Down { kind, held_until },
            (State::Unknown, Finding::Bad(kind)) => State::Down { kind, held_until: None },
            (State::Up | State::Suspect { .. } | State::Trial { .. }, Finding::Bad(kind)) => {
                State::Down { kind, held_until: self.flaps.went_down(now, self.pace) }
            }
            (state @ State::Suspect { .. }, Finding::Doubtful)
            | (state @ State::Trial { .. }, Finding::Good | Finding::Pending)
            | (state @ State::Down { .. }, Finding::Pending | Finding::Doubtful) => state,
        };
        self.enter(next, Cause::Checks, now)
    }

    /// Takes back a doubt or failure that began at `from` or later, and what it counted as flapping.
    pub fn pardon(&mut self, from: Moment, now: Moment) -> Option<Change> {
        if matches!(self.state, State::Unknown | State::Up | State::Trial { .. }) {
            return None;
        }
        let before = self.before.take_if(|before| before.left_at >= from)?;
        self.finding = Finding::Pending;
        self.flaps = before.flaps;
        let change = self.enter(before.state, Cause::Pardon, now);
        self.ramp_from = before.ramp_from;
        change
    }

    /// Lets time pass: a hold-down or a trial may end.
    pub fn on_time(&mut self, now: Moment) -> Option<Change> {
        match self.state {
            State::Down { held_until: Some(until), .. } if now >= until && self.finding == Finding::Good => {
                self.enter(State::Trial { until: now + self.pace.hold_down }, Cause::HoldDownOver, now)
            }
            State::Trial { until } if now >= until => self.enter(State::Up, Cause::TrialPassed, now),
            _ => None,
        }
    }

    /// The next time at which [`Machine::on_time`] or [`Machine::admit`] can answer differently.
    #[must_use]
    pub fn next_deadline(&self, now: Moment) -> Option<Moment> {
        match self.state {
            State::Down { held_until, .. } => held_until.filter(|until| *until > now),
            State::Trial { until } => Some(until),
            State::Up => self.next_ramp_step(now),
            State::Unknown | State::Suspect { .. } => None,
        }
    }

    /// Share of new flows in per mille that this backend's own past allows.
    #[must_use]
    pub fn admit(&self, now: Moment) -> u16 {
        match (self.state, self.ramp_from) {
            (State::Trial { .. }, _) => TRIAL_ADMIT,
            (State::Up, Some(from)) if now.since(from) < self.pace.slow_start => {
                let step = self.pace.slow_start / RAMP_STEPS;
                let steps = now.since(from).as_nanos() / step.as_nanos().max(1);
                let share = u128::from(FULL_ADMIT) * steps / u128::from(RAMP_STEPS);
                u16::try_from(share).unwrap_or(FULL_ADMIT).clamp(TRIAL_ADMIT, FULL_ADMIT)
            }
            _ => FULL_ADMIT,
        }
    }

    /// The end of the ramp's present step.
    fn next_ramp_step(&self, now: Moment) -> Option<Moment> {
        let from = self.ramp_from?;
        let passed = now.since(from);
        let step = self.pace.slow_start / RAMP_STEPS;
        if passed >= self.pace.slow_start || step.is_zero() {
            return None;
        }
        let steps = u32::try_from(passed.as_nanos() / step.as_nanos()).unwrap_or(RAMP_STEPS);
        Some(from + step * (steps + 1))
    }

    /// Where a down backend goes whose checks pass.
    fn recover(&self, held_until: Option<Moment>, now: Moment) -> State {
        match (held_until, self.state) {
            (None, _) => State::Up,
            (Some(until), _) if now >= until => State::Trial { until: now + self.pace.hold_down },
            (Some(_), held) => held,
        }
    }

    /// Moves to `next` and tells what changed.
    fn enter(&mut self, next: State, cause: Cause, now: Moment) -> Option<Change> {
        let (from, kind_before) = (self.health(), self.failure_kind());
        self.state = next;
        let (to, kind) = (self.health(), self.failure_kind());
        if (from, kind_before) == (to, kind) {
            return None;
        }
        self.since = now;
        match (from, to) {
            (Health::Down | Health::Trial, Health::Up) if cause != Cause::Pardon => {
                self.ramp_from = Some(now).filter(|_| !self.pace.slow_start.is_zero());
                self.flaps.came_up(now);
            }
            (_, Health::Down) => self.ramp_from = None,
            _ => {}
        }
        Some(Change { from, to, kind, cause })
    }
}

#[cfg(test)]
#[path = "machine_tests.rs"]
mod tests;
