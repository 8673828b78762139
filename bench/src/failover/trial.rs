//! What one trial gave, and what weir's log says about it.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use weir_tests::monotonic;

/// One trial.
#[derive(Clone, Debug)]
pub(super) struct Trial {
    /// From just before the failure to the last new connection.
    pub(super) last_connection: Duration,
    /// From just before the failure until the server's listening socket was closed, where that is its end and the kernel told.
    pub(super) socket_closed: Option<Duration>,
    /// When weir decided, as far as its log says.
    pub(super) decision: Option<Decision>,
    /// The longest time without a new connection from the sender, from the failure to a little after the last one.
    pub(super) sender_gap: Duration,
    /// New connections a second to each backend, just before the failure.
    pub(super) per_second: f64,
    /// Downs that nothing had failed for.
    pub(super) false_downs: usize,
}

/// All trials of a row.
#[derive(Clone, Debug, Default)]
pub(super) struct Takes {
    pub(super) kept: Vec<Trial>,
    /// Trials that the sender was held up in.
    pub(super) repeated: usize,
}

/// The first transition of the failed backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// From the decision to the store that takes the backend out.
    pub(super) stored_after: Duration,
    /// From the decision to the last new connection, zero if that came before.
    pub(super) last_connection_after: Duration,
}

impl Decision {
    /// From the lines of the log since the failure; `left_at` is the time of the last new connection.
    pub(super) fn read(log: &str, backend: &str, left_at: Duration) -> Option<Self> {
        Self::parse(log, backend, left_at, epoch()?)
    }

    /// The same, where `epoch` is the Unix time at which the monotonic clock was zero.
    fn parse(log: &str, backend: &str, left_at: Duration, epoch: Duration) -> Option<Self> {
        let of_backend = format!("/{backend} ");
        let loss = |line: &&str| line.contains("to=\"suspect\"") || line.contains("to=\"down\"");
        let line = log.lines().filter(|line| line.contains(&of_backend)).find(loss)?;
        let (decided_at, stored_after) = times(line)?;
        let last_connection_after = (left_at + epoch).saturating_sub(decided_at);
        Some(Self { stored_after, last_connection_after })
    }

    /// From the decision until no packet followed the old one.
    pub(super) fn effect(&self) -> Duration {
        self.stored_after.max(self.last_connection_after)
    }
}

/// When the store was made that a line of weir's log tells of, by [`monotonic`].
pub(super) fn stored_at(line: &str) -> Option<Duration> {
    let (decided_at, stored_after) = times(line)?;
    (decided_at + stored_after).checked_sub(epoch()?)
}

/// The Unix time of a decision that a line tells of, and how long after it its store was made.
fn times(line: &str) -> Option<(Duration, Duration)> {
    let field = |name: &str| line.split_once(&format!(" {name}="))?.1.split(' ').next();
    let decided_at: Timestamp = field("decided_at")?.parse().ok()?;
    let decided_at = Duration::try_from(decided_at.as_duration()).ok()?;
    Some((decided_at, Duration::from_micros(field("applied_after_us")?.parse().ok()?)))
}

/// The Unix time at which the monotonic clock was zero.
fn epoch() -> Option<Duration> {
    let (wall, now) = (SystemTime::now(), monotonic());
    Some(wall.duration_since(SystemTime::UNIX_EPOCH).ok()? - now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_loss_of_the_backend_is_the_decision() {
        let log = "… backend=web/direct-2 from=\"up\" to=\"suspect\" decided_at=2026-11-21T05:01:15.5Z applied_after_us=1\n\
                   … backend=web/direct-1 from=\"down\" to=\"up\" decided_at=2026-11-21T05:01:16Z applied_after_us=2\n\
                   … backend=web/direct-1 from=\"up\" to=\"suspect\" decided_at=2026-11-21T05:01:17.000001Z applied_after_us=7 evidence=\"\"\n\
                   … backend=web/direct-1 from=\"suspect\" to=\"down\" decided_at=2026-11-21T05:01:18Z applied_after_us=9\n";
        let unix: Timestamp = "2026-11-21T05:01:10Z".parse().unwrap();
        let epoch = Duration::try_from(unix.as_duration()).unwrap();
        let at = |us: u64| Decision::parse(log, "direct-1", Duration::from_micros(us), epoch).unwrap();
        assert_eq!(at(7_000_021).last_connection_after, Duration::from_micros(20));
        assert_eq!(at(7_000_021).effect(), Duration::from_micros(20));
        assert_eq!(
            (at(6_000_000).last_connection_after, at(6_000_000).effect()),
            (Duration::ZERO, Duration::from_micros(7))
        );
        assert_eq!(Decision::parse(log, "direct-3", Duration::ZERO, epoch), None);
    }
}
