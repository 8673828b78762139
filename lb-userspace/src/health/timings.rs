//! How long probes took, for those who decide by it. Bounded, and kept only while somebody asks.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::Duration;

use super::time::Moment;

/// Results kept.
const MOST: usize = 4096;
/// Older ones do not count.
const AGE: Duration = Duration::from_secs(60);
/// Results that a percentile needs.
const FEWEST: usize = 20;

/// The times of recent probes; one that failed counts with its check's timeout.
#[derive(Clone, Debug, Default)]
pub(super) struct Timings {
    results: VecDeque<(Moment, Duration)>,
}

impl Timings {
    /// Notes a result.
    pub(super) fn note(&mut self, at: Moment, took: Duration) {
        if self.results.len() == MOST {
            self.results.pop_front();
        }
        self.results.push_back((at, took));
    }

    /// The results that count.
    pub(super) fn recent(&self, now: Moment) -> Vec<Duration> {
        self.results.iter().filter(|(at, _)| now.since(*at) <= AGE).map(|(_, took)| *took).collect()
    }
}

/// The time within which 99 of 100 probes were answered; `None` for too few.
#[must_use]
pub fn percentile_99(mut times: Vec<Duration>) -> Option<Duration> {
    if times.len() < FEWEST {
        return None;
    }
    let rank = (times.len() * 99).div_ceil(100) - 1;
    Some(*times.select_nth_unstable(rank).1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_need_enough_results_and_forget_old_ones() {
        let ms = Duration::from_millis;
        let mut timings = Timings::default();
        (1..=100).for_each(|n| timings.note(Moment(n * 1_000_000_000), ms(n)));
        let at = |second: u64| timings.recent(Moment(second * 1_000_000_000));
        assert_eq!(at(100).len(), 61);
        assert_eq!(percentile_99(at(100)), Some(ms(100)));
        assert_eq!(percentile_99((1..=200).map(ms).collect()), Some(ms(198)));
        assert_eq!(percentile_99(at(142)), None, "18 results");
        (0..10_000).for_each(|_| timings.note(Moment(0), ms(1)));
        assert_eq!(timings.results.len(), MOST);
    }
}
