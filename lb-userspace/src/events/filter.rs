//! Which events are wanted: options of the CLI, query of the admin API.

#![forbid(unsafe_code)]

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::event::{Event, Kind};
use crate::failure::{Code, Failure};
use crate::view::filter::Pattern;

/// Most events of one answer where nobody says how many.
pub const DEFAULT_LIMIT: u64 = 1000;

/// Filters of `weir events`; empty ones let everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EventFilter {
    /// Not before this time.
    pub since: Option<Timestamp>,
    /// Not up to this number.
    pub after: Option<u64>,
    /// Name of a pool.
    pub pool: Option<String>,
    /// `web-1`, `web/web-1`, `web-*`.
    pub backend: Option<String>,
    /// Kinds, separated by commas.
    pub kind: Option<String>,
    /// Most events, the latest; 0 is all.
    pub limit: Option<u64>,
    /// How long to wait for the first event after `after`, in seconds.
    pub wait_s: Option<u64>,
}

impl EventFilter {
    /// The kinds asked for; empty is all that are listed.
    ///
    /// # Errors
    /// An unknown kind.
    pub fn kinds(&self) -> Result<Vec<Kind>, Failure> {
        let names = self.kind.iter().flat_map(|kinds| kinds.split(','));
        names.map(|name| name.parse().map_err(|message: String| Failure::new(Code::Usage, message))).collect()
    }

    /// The events that match, in their order, the latest of them within the limit.
    ///
    /// # Errors
    /// An unknown kind.
    pub fn apply(&self, events: impl IntoIterator<Item = Event>) -> Result<Vec<Event>, Failure> {
        let kinds = self.kinds()?;
        let pattern = self.backend.as_deref().map(Pattern::new);
        let matches = |event: &Event| {
            let listed = event.kind != Kind::Snapshot && (kinds.is_empty() || kinds.contains(&event.kind));
            let names = |pattern: &Pattern<'_>| match (&event.pool, &event.backend) {
                (Some(pool), Some(backend)) => pattern.matches(pool, backend),
                _ => false,
            };
            listed
                && self.since.is_none_or(|since| event.time >= since)
                && self.after.is_none_or(|after| event.seq > after)
                && self.pool.as_ref().is_none_or(|pool| event.pool.as_ref() == Some(pool))
                && pattern.as_ref().is_none_or(names)
        };
        let mut events: Vec<Event> = events.into_iter().filter(matches).collect();
        let limit = usize::try_from(self.limit.unwrap_or(DEFAULT_LIMIT)).unwrap_or(usize::MAX);
        if limit > 0 && events.len() > limit {
            events.drain(..events.len() - limit);
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Vec<Event> {
        let time = |second: i64| Timestamp::constant(1_795_000_000 + second, 0);
        let events = [
            Event::new(Kind::Snapshot, time(0)),
            Event::new(Kind::Health, time(1)).of_backend("web", "web-1"),
            Event::new(Kind::Admin, time(2)).of_backend("web", "web-2"),
            Event::new(Kind::Tier, time(3)).of_pool("api"),
            Event::new(Kind::Reload, time(4)),
        ];
        events.into_iter().zip(1..).map(|(event, seq)| Event { seq, ..event }).collect()
    }

    fn seqs(filter: EventFilter) -> Vec<u64> {
        filter.apply(events()).expect("applies").iter().map(|event| event.seq).collect()
    }

    #[test]
    fn filters_hold_together_and_the_latest_stay_within_the_limit() {
        let all = EventFilter::default;
        assert_eq!(seqs(all()), [2, 3, 4, 5], "snapshots are not listed");
        assert_eq!(seqs(EventFilter { since: Some(Timestamp::constant(1_795_000_003, 0)), ..all() }), [4, 5]);
        assert_eq!(seqs(EventFilter { after: Some(3), ..all() }), [4, 5]);
        assert_eq!(seqs(EventFilter { pool: Some("web".into()), ..all() }), [2, 3]);
        assert_eq!(seqs(EventFilter { backend: Some("web-*".into()), ..all() }), [2, 3]);
        assert_eq!(seqs(EventFilter { backend: Some("api/*".into()), ..all() }), [0; 0]);
        assert_eq!(seqs(EventFilter { kind: Some("health,tier".into()), ..all() }), [2, 4]);
        assert_eq!(
            seqs(EventFilter { kind: Some("health".into()), pool: Some("api".into()), ..all() }),
            [0; 0]
        );
        assert_eq!(seqs(EventFilter { limit: Some(2), ..all() }), [4, 5]);
        assert_eq!(seqs(EventFilter { limit: Some(0), ..all() }), [2, 3, 4, 5]);
    }

    #[test]
    fn an_unknown_kind_is_wrong_usage() {
        let filter = EventFilter { kind: Some("health,helth".into()), ..EventFilter::default() };
        assert_eq!(filter.apply(events()).expect_err("refused").code, Code::Usage);
    }
}
