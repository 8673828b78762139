//! Points in time of detection: the kernel's monotonic clock, as a plain value.
//!
//! Decisions take a [`Moment`] as a parameter and never read a clock, so a test can play any order of events.

#![forbid(unsafe_code)]

use std::ops::Add;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// Reads the clock.
    #[must_use]
    pub fn now() -> Self {
        let time = clock_gettime(ClockId::Monotonic);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        Self(seconds * 1_000_000_000 + nanos)
    }

    /// Time since `earlier`, zero if that lies ahead.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// The next multiple of `grid`, so that timers of many streams fire together.
    #[must_use]
    pub fn round_up(self, grid: Duration) -> Self {
        Self(self.0.next_multiple_of(nanos(grid).max(1)))
    }

    /// The wall-clock time of this moment, given both clocks' readings.
    #[must_use]
    pub fn to_wall(self, now: Self, wall_now: SystemTime) -> SystemTime {
        match self <= now {
            true => wall_now.checked_sub(now.since(self)).unwrap_or(SystemTime::UNIX_EPOCH),
            false => wall_now + self.since(now),
        }
    }
}

impl Add<Duration> for Moment {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(nanos(span)))
    }
}

/// Whole nanoseconds, saturating (584 years).
fn nanos(span: Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_never_goes_back() {
        let grid = Duration::from_micros(500);
        assert_eq!(Moment(1).round_up(grid), Moment(500_000));
        assert_eq!(Moment(500_000).round_up(grid), Moment(500_000));
        assert_eq!(Moment(7).round_up(Duration::ZERO), Moment(7));
    }
}
