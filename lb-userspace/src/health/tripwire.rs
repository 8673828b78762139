//! The tripwire of one backend: an idle TCP connection whose end is a hint, and the connects that look into it.
//!
//! Receives what became of connections, and the time; says when to connect and what to report. Knows no socket.
//!
//! The end of a connection proves nothing: servers close idle connections, and one worker of several may have
//! ended. So it raises doubt, and a new connection tells: refused or reset is proof of a dead server, and one that
//! stays open for [`PROOF`] and is then joined by a second is proof of a live one. A dying server may still accept
//! into a backlog that is reset milliseconds later, hence the wait. And a connection may be open on this side alone:
//! where the packet that ends the handshake meets a socket that is being closed, the server's host throws it away and
//! says nothing until the keepalive asks, a second later. Hence the second connect, which finds nobody listening any
//! more; it is reset as soon as it is open. A server that closes new connections but resets none leaves the doubt standing,
//! and is failing only when that goes on for long.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::judge::{Failure, Sequence};
use super::time::Moment;

/// A connection that is open for this long has a server behind it, if that still takes others.
pub(super) const PROOF: Duration = Duration::from_millis(20);
/// The pause after the second connection in a row that ended young; it doubles up to the interval.
const FIRST_PAUSE: Duration = Duration::from_millis(1);

/// Times of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pace {
    /// Between attempts at a server that refuses.
    pub(super) interval: Duration,
    /// Longest wait for a connection.
    pub(super) timeout: Duration,
    /// How long connections may end young until that counts as a failure.
    pub(super) patience: Duration,
}

/// How an open connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// The server closed it.
    Closed,
    /// The server's host reset it.
    Reset,
    /// The host no longer answers the keepalive.
    Silent,
}

impl End {
    /// For people.
    fn text(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reset => "reset",
            Self::Silent => "no answer to the keepalive",
        }
    }
}

/// What the judge is to be told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// An attempt found a live server; it was connected at this time.
    Alive { seq: Sequence, connected_at: Moment },
    /// An attempt failed.
    Failed { seq: Sequence, failure: Failure },
    /// An attempt gave no verdict.
    Withdrawn { seq: Sequence },
    /// A proven connection ended.
    Doubt { failure: Failure },
}

/// What to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Open a connection, after closing any other.
    Connect(Sequence),
    /// Open a second connection beside the first.
    Confirm,
    /// Tell the judge.
    Report(Report),
}

/// What there is of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// None; the next is due then.
    Waiting { until: Moment },
    /// Under way.
    Connecting { seq: Sequence, since: Moment },
    /// Open, and not yet for long enough.
    Proving { seq: Sequence, since: Moment },
    /// Open for long enough; a second one is under way since `asked`.
    Confirming { seq: Sequence, since: Moment, asked: Moment },
    /// Open.
    Held,
}

/// The state machine of one tripwire.
#[derive(Clone, Debug)]
pub(super) struct Tripwire {
    pace: Pace,
    state: State,
    seq: Sequence,
    /// Connections in a row that ended young, and when the first of them began.
    young: Option<(u32, Moment)>,
}

impl Tripwire {
    /// One that connects at `first`.
    pub(super) fn new(pace: Pace, first: Moment) -> Self {
        Self { pace, state: State::Waiting { until: first }, seq: 0, young: None }
    }

    /// When [`Tripwire::on_time`] has something to do; none while a proven connection is open.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        match self.state {
            State::Waiting { until } => Some(until),
            State::Connecting { since, .. } => Some(since + self.pace.timeout),
            State::Proving { since, .. } => Some(since + PROOF),
            State::Confirming { asked, .. } => Some(asked + self.pace.timeout),
            State::Held => None,
        }
    }

    /// Lets time pass. What has happened to the connection must have been told before.
    pub(super) fn on_time(&mut self, now: Moment) -> Option<Step> {
        if self.next_deadline().is_none_or(|at| now < at) {
            return None;
        }
        match self.state {
            State::Waiting { .. } => {
                self.seq += 1;
                self.state = State::Connecting { seq: self.seq, since: now };
                Some(Step::Connect(self.seq))
            }
            State::Connecting { seq, .. } | State::Confirming { seq, .. } => {
                // The wait for an answer was the pause.
                self.state = State::Waiting { until: now };
                Some(Step::Report(Report::Failed { seq, failure: Failure::Silent }))
            }
            State::Proving { seq, since } => {
                self.state = State::Confirming { seq, since, asked: now };
                Some(Step::Confirm)
            }
            State::Held => None,
        }
    }

    /// Whether a first connection is under way.
    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.state, State::Connecting { .. })
    }

    /// The connection under way is open.
    pub(super) fn on_connected(&mut self, now: Moment) {
        if let State::Connecting { seq, .. } = self.state {
            self.state = State::Proving { seq, since: now };
        }
    }

    /// The second connection is open.
    pub(super) fn on_confirmed(&mut self) -> Option<Report> {
        let State::Confirming { seq, since, .. } = self.state else { return None };
        (self.state, self.young) = (State::Held, None);
        Some(Report::Alive { seq, connected_at: since })
    }

    /// The network refused the connection under way, the first or the second.
    pub(super) fn on_refused(&mut self, failure: Failure, now: Moment) -> Option<Report> {
        let (State::Connecting { seq, .. } | State::Confirming { seq, .. }) = self.state else { return None };
        Some(self.fail(seq, failure, now))
    }

    /// This host could not connect, which says nothing about the server.
    pub(super) fn on_not_tried(&mut self, now: Moment) -> Option<Report> {
        let (State::Connecting { seq, .. } | State::Confirming { seq, .. }) = self.state else { return None };
        self.state = State::Waiting { until: now + self.pace.interval };
        Some(Report::Withdrawn { seq })
    }

    /// The open connection ended.
    pub(super) fn on_end(&mut self, end: End, now: Moment) -> Option<Report> {
        match (self.state, end) {
            (State::Held, _) => {
                self.state = State::Waiting { until: now };
                Some(Report::Doubt { failure: Failure::Ended(end.text()) })
            }
            (State::Proving { seq, since } | State::Confirming { seq, since, .. }, end) => Some(match end {
                End::Reset => self.fail(seq, Failure::Reset, now),
                End::Silent => self.fail(seq, Failure::Silent, now),
                End::Closed => self.ended_young(seq, since, now),
            }),
            (State::Waiting { .. } | State::Connecting { .. }, _) => None,
        }
    }

    /// An attempt has failed: the next waits for its turn.
    fn fail(&mut self, seq: Sequence, failure: Failure, now: Moment) -> Report {
        self.young = None;
        self.state = State::Waiting { until: now + self.pace.interval };
        Report::Failed { seq, failure }
    }

    /// A young connection was closed: another is tried at once, then after longer and longer pauses.
    fn ended_young(&mut self, seq: Sequence, since: Moment, now: Moment) -> Report {
        let (count, first) = self.young.map_or((1, since), |(count, first)| (count + 1, first));
        let doublings = count.saturating_sub(2).min(20);
        let pause = if count == 1 { Duration::ZERO } else { FIRST_PAUSE * (1 << doublings) };
        self.young = Some((count, first));
        self.state = State::Waiting { until: now + pause.min(self.pace.interval) };
        match now.since(first) < self.pace.patience {
            true => Report::Withdrawn { seq },
            false => Report::Failed { seq, failure: Failure::NotHeld },
        }
    }
}

#[cfg(test)]
#[path = "tripwire_tests.rs"]
mod tests;
