//! Reads backends' transitions out of weir's log.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use weir_tests::monotonic;

/// One transition, as the log tells it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Transition {
    /// The name, without its pool's.
    pub(crate) backend: String,
    pub(crate) to: String,
    /// Why, in weir's words.
    pub(crate) reason: String,
    /// When weir decided, by the monotonic clock.
    pub(crate) decided: Duration,
    /// When the backend's slot was stored.
    pub(crate) stored: Duration,
}

impl Transition {
    /// Whether new flows stay away from it.
    pub(crate) fn takes_out(&self) -> bool {
        matches!(self.to.as_str(), "suspect" | "down")
    }
}

/// All transitions in a log; other lines are left out.
pub(crate) fn transitions(log: &str) -> Vec<Transition> {
    let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let boot = wall.saturating_sub(monotonic());
    log.lines().filter_map(|line| transition(line, boot)).collect()
}

/// Reads one line; `boot` is the wall-clock time at which the monotonic clock was zero.
fn transition(line: &str, boot: Duration) -> Option<Transition> {
    let field = |name: &str| {
        let (_, rest) = line.split_once(&format!(" {name}="))?;
        Some(rest.split(' ').next().unwrap_or(rest).trim_matches('"'))
    };
    let decided: Timestamp = field("decided_at")?.parse().ok()?;
    let decided = Duration::try_from(decided.as_duration()).ok()?.checked_sub(boot)?;
    let applied = Duration::from_micros(field("applied_after_us")?.parse().ok()?);
    let (head, _) = line.split_once(" backend=")?;
    let (_, level) = head.split_once(' ')?;
    let (_, reason) = level.trim_start().split_once(' ')?;
    Some(Transition {
        backend: field("backend")?.rsplit('/').next()?.to_owned(),
        to: field("to")?.to_owned(),
        reason: reason.to_owned(),
        decided,
        stored: decided + applied,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transition_is_read_with_its_times() {
        let line = "2026-11-21T02:12:14.577038Z  WARN syn 10.0.1.12:80: refused backend=web/direct-2 from=\"up\" \
                    to=\"down\" decided_at=2026-11-21T02:12:14.5Z detected_after_us=310 applied_after_us=40 \
                    evidence=\"ProbeRecord\"";
        let at: Timestamp = "2026-11-21T02:12:14.5Z".parse().unwrap();
        let boot = Duration::try_from(at.as_duration()).unwrap() - Duration::from_secs(100);
        let expected = Transition {
            backend: "direct-2".into(),
            to: "down".into(),
            reason: "syn 10.0.1.12:80: refused".into(),
            decided: Duration::from_secs(100),
            stored: Duration::from_micros(100_000_040),
        };
        assert_eq!(transition(line, boot), Some(expected));
        assert_eq!(transition("2026-11-21T02:12:14.577038Z  INFO ready", boot), None);
    }
}
