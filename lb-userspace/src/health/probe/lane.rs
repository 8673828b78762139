//! Timing and bookkeeping of one stream's sending.

#![forbid(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::half_open::preferred_source;
use crate::health::judge::Sequence;
use crate::health::time::Moment;

/// First probes spread over their interval, at most over this.
const START_SPREAD: Duration = Duration::from_secs(1);
/// Intervals from here on vary by a twentieth, so that streams do not stay in step.
const VARY_FROM: Duration = Duration::from_millis(100);
/// Timers fire together on a grid of this share of their span, at most [`GRID_MAX`].
const GRID_SHARE: u32 = 16;
const GRID_MAX: Duration = Duration::from_millis(1);
/// How long a route's preferred source is believed while probes are answered.
const SOURCE_AGE: Duration = Duration::from_secs(5);
/// The same while they are not.
const SOURCE_AGE_IN_DOUBT: Duration = Duration::from_millis(100);
/// SYNs whose answers are recognised.
const INITIALS: usize = 64;

/// What sending keeps about a stream.
#[derive(Debug)]
pub(super) struct Lane {
    seq: Sequence,
    next_send: Moment,
    /// The judgement that is armed; an earlier entry of the timers is void.
    pub(super) judge_at: Option<Moment>,
    initials: Vec<(Sequence, u32)>,
    source: Option<(IpAddr, Moment)>,
}

impl Lane {
    /// A stream that starts at a moment drawn from `random` (uniform in `0..=u64::MAX`).
    pub(super) fn new(interval: Duration, now: Moment, random: u64) -> Self {
        let next_send = now + share(interval.min(START_SPREAD), random);
        Self { seq: 0, next_send, judge_at: None, initials: Vec::new(), source: None }
    }

    /// When the next probe is to be sent.
    pub(super) fn send_at(&self, interval: Duration) -> Moment {
        self.next_send.round_up(grid(interval))
    }

    /// Numbers a probe that leaves now, and sets the time of the next.
    pub(super) fn take_turn(&mut self, interval: Duration, now: Moment, random: u64) -> Sequence {
        self.seq += 1;
        let vary = if interval >= VARY_FROM { interval / 20 } else { Duration::ZERO };
        let step = interval - vary + share(vary * 2, random);
        self.next_send = self.next_send + step;
        // Probes that were missed are not made up for.
        if self.next_send <= now {
            self.next_send = now + step;
        }
        self.seq
    }

    /// Numbers a probe that leaves out of turn.
    pub(super) fn take_extra(&mut self) -> Sequence {
        self.seq += 1;
        self.seq
    }

    /// Notes the initial sequence number of a probe's SYN.
    pub(super) fn note_initial(&mut self, seq: Sequence, initial: u32) {
        if self.initials.len() == INITIALS {
            self.initials.remove(0);
        }
        self.initials.push((seq, initial));
    }

    /// The initial sequence number of a probe's SYN.
    pub(super) fn initial_of(&self, seq: Sequence) -> Option<u32> {
        self.initials.iter().find(|(of, _)| *of == seq).map(|(_, initial)| *initial)
    }

    /// The probe whose SYN had this initial sequence number.
    pub(super) fn probe_of(&self, initial: u32) -> Option<Sequence> {
        self.initials.iter().rev().find(|(_, of)| *of == initial).map(|(seq, _)| *seq)
    }

    /// The source that the route prefers, looked up anew now and then.
    pub(super) fn source(&mut self, to: IpAddr, unanswered: usize, now: Moment) -> io::Result<IpAddr> {
        let age = if unanswered > 1 { SOURCE_AGE_IN_DOUBT } else { SOURCE_AGE };
        match self.source {
            Some((source, at)) if now.since(at) < age => Ok(source),
            _ => {
                let source = preferred_source(to)?;
                self.source = Some((source, now));
                Ok(source)
            }
        }
    }
}

/// The grid that timers of such a span are rounded up to.
pub(super) fn grid(span: Duration) -> Duration {
    (span / GRID_SHARE).min(GRID_MAX)
}

/// `random / 2^64` of a span.
fn share(span: Duration, random: u64) -> Duration {
    let nanos = (span.as_nanos() * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn first_probes_spread_over_the_interval_and_at_most_a_second() {
        let start = |interval, random| Lane::new(interval, Moment(0), random).next_send;
        assert_eq!(start(SECOND / 10, 0), Moment(0));
        assert_eq!(start(SECOND / 10, 1 << 63), Moment(50_000_000));
        assert!(start(SECOND * 60, u64::MAX) < Moment(0) + SECOND);
    }

    #[test]
    fn short_intervals_keep_their_pace_and_missed_probes_are_not_made_up_for() {
        let interval = Duration::from_millis(1);
        let mut lane = Lane::new(interval, Moment(0), 0);
        assert_eq!(lane.take_turn(interval, Moment(30_000), u64::MAX), 1);
        assert_eq!(lane.next_send, Moment(1_000_000));
        assert_eq!(lane.take_turn(interval, Moment(50_000_000), 0), 2);
        assert_eq!(lane.next_send, Moment(51_000_000));
    }

    #[test]
    fn long_intervals_vary_by_a_twentieth() {
        let step = |random| {
            let mut lane = Lane::new(SECOND, Moment(0), 0);
            lane.take_turn(SECOND, Moment(0), random);
            lane.next_send
        };
        assert_eq!(step(0), Moment(950_000_000));
        assert_eq!(step(1 << 63), Moment(1_000_000_000));
        assert!(step(u64::MAX) <= Moment(1_050_000_000));
    }
}
