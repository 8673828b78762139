//! Measured times, summed up.
#![forbid(unsafe_code)]

use std::{fmt, time::Duration};

/// Measured times in ascending order.
#[derive(Clone, Debug, Default)]
pub struct Distribution {
    sorted: Vec<Duration>,
}

impl FromIterator<Duration> for Distribution {
    fn from_iter<I: IntoIterator<Item = Duration>>(times: I) -> Self {
        let mut sorted: Vec<Duration> = times.into_iter().collect();
        sorted.sort_unstable();
        Self { sorted }
    }
}

impl Distribution {
    /// The number of measurements.
    pub fn len(&self) -> usize {
        self.sorted.len()
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.sorted.is_empty()
    }

    /// The smallest time that a share of the measurements (in percent) do not exceed; zero without any.
    pub fn percentile(&self, percent: usize) -> Duration {
        let rank = (self.sorted.len() * percent).div_ceil(100).max(1);
        self.sorted.get(rank - 1).or(self.sorted.last()).copied().unwrap_or_default()
    }

    /// The largest time; zero without any.
    pub fn worst(&self) -> Duration {
        self.sorted.last().copied().unwrap_or_default()
    }
}

impl fmt::Display for Distribution {
    /// `n=50 p50=2.31ms p90=4.52ms p99=5.10ms worst=5.10ms`
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let [p50, p90, p99] = [50, 90, 99].map(|percent| ms(self.percentile(percent)));
        let (len, worst) = (self.len(), ms(self.worst()));
        write!(formatter, "n={len} p50={p50:.3}ms p90={p90:.3}ms p99={p99:.3}ms worst={worst:.3}ms")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_measured_values() {
        let hundred: Distribution = (1..=100).rev().map(Duration::from_millis).collect();
        assert_eq!([1, 50, 99, 100].map(|p| hundred.percentile(p).as_millis()), [1, 50, 99, 100]);
        let three: Distribution = [3, 1, 2].map(Duration::from_millis).into_iter().collect();
        assert_eq!(three.to_string(), "n=3 p50=2.000ms p90=3.000ms p99=3.000ms worst=3.000ms");
        assert_eq!(Distribution::default().worst(), Duration::ZERO);
    }
}
