//! Flap damping: how long a backend that keeps failing is held down.
//!
//! The first downs cost nothing. From the third within [`WINDOW`] the backend is held down, each time twice as long,
//! until it has stayed up for the window or for its last hold-down, whichever is longer.

#![forbid(unsafe_code)]

use std::time::Duration;

use super::machine::Pace;
use super::time::Moment;

/// Downs within this time are one flapping.
pub const WINDOW: Duration = Duration::from_secs(60);
/// Downs within the window that cost nothing.
const FREE_DOWNS: usize = 2;

/// The downs of one backend that still count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlapHistory {
    recent: Vec<Moment>,
    last_hold: Duration,
    up_since: Option<Moment>,
}

impl FlapHistory {
    /// Counts a down; returns until when the backend is held.
    pub fn went_down(&mut self, now: Moment, pace: Pace) -> Option<Moment> {
        if self.up_since.take().is_some_and(|since| now.since(since) >= WINDOW.max(self.last_hold)) {
            *self = Self::default();
        }
        self.recent.retain(|down| now.since(*down) < WINDOW);
        self.recent.push(now);
        // Enough to know that there were more than the free ones.
        if self.recent.len() > FREE_DOWNS + 1 {
            self.recent.remove(0);
        }
        let flapping = self.recent.len() > FREE_DOWNS || !self.last_hold.is_zero();
        if !flapping || pace.hold_down.is_zero() {
            return None;
        }
        let doubled = self.last_hold.saturating_mul(2).max(pace.hold_down);
        self.last_hold = doubled.min(pace.hold_down_max.max(pace.hold_down));
        Some(now + self.last_hold)
    }

    /// Notes that the backend is back in service.
    pub fn came_up(&mut self, now: Moment) {
        self.up_since = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace {
        hold_down: Duration::from_secs(1),
        hold_down_max: Duration::from_secs(5),
        slow_start: Duration::ZERO,
    };

    fn at(seconds: u64) -> Moment {
        Moment(seconds * 1_000_000_000)
    }

    /// Plays downs at the given seconds, each followed by an up half a second later.
    fn holds(downs: &[u64], pace: Pace) -> Vec<Option<u64>> {
        let mut flaps = FlapHistory::default();
        let play = |down: &u64| {
            let held = flaps.went_down(at(*down), pace);
            let hold = held.map(|until| until.since(at(*down)));
            flaps.came_up(at(*down) + Duration::from_millis(500) + hold.unwrap_or_default());
            hold.map(|hold| hold.as_secs())
        };
        downs.iter().map(play).collect()
    }

    #[test]
    fn third_down_within_a_minute_is_held_and_each_further_one_twice_as_long_up_to_the_limit() {
        let wanted = [None, None, Some(1), Some(2), Some(4), Some(5), Some(5)];
        assert_eq!(holds(&[0, 10, 20, 30, 40, 50, 60], PACE), wanted);
    }

    #[test]
    fn downs_further_apart_than_the_window_are_never_held() {
        assert_eq!(holds(&[0, 61, 122, 183], PACE), [None; 4]);
    }

    #[test]
    fn a_quiet_minute_forgets_the_flapping() {
        assert_eq!(holds(&[0, 1, 2, 80, 81, 82], PACE), [None, None, Some(1), None, None, Some(1)]);
    }

    #[test]
    fn flapping_is_not_forgotten_during_a_hold_longer_than_the_window() {
        let pace =
            Pace { hold_down: Duration::from_secs(100), hold_down_max: Duration::from_secs(300), ..PACE };
        assert_eq!(holds(&[0, 1, 2, 110], pace), [None, None, Some(100), Some(200)]);
    }

    #[test]
    fn hold_down_of_zero_turns_damping_off() {
        assert_eq!(holds(&[0, 1, 2, 3], Pace { hold_down: Duration::ZERO, ..PACE }), [None; 4]);
    }
}
