//! Options of `weir events`.

use std::time::Duration;

use clap::Args;
use jiff::Timestamp;

use crate::events::{EventFilter, Kind};
use crate::view::parse_duration;

/// Filters of `weir events`.
#[derive(Args, Debug)]
pub struct EventArgs {
    /// Not before this time (2026-11-18T12:00:00Z), or not longer ago than this (90s, 2h, 1d).
    #[arg(long, value_name = "TIME", value_parser = parse_since)]
    since: Option<Since>,
    /// Go on with what happens: the last ten events, then every new one.
    #[arg(short, long, conflicts_with = "at")]
    pub follow: bool,
    /// Show the state at this time instead, as events tell it.
    #[arg(
        long,
        value_name = "TIME",
        value_parser = parse_time,
        conflicts_with_all = ["since", "pool", "backend", "kind", "limit"]
    )]
    pub at: Option<Timestamp>,
    /// Only events of this pool.
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Only events of these backends: web-1, web/web-1, 'web-*'.
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Only these kinds: health, admin, weight, backend, tier, freeze, interface, reload, rollout, drill, deny, limit, daemon.
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    kind: Vec<Kind>,
    /// Most events, the latest; 0 shows all [default: 1000; with --follow 10 to begin with]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// The beginning of a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Since {
    /// At.
    Time(Timestamp),
    /// Before the present.
    Ago(Duration),
}

impl EventArgs {
    /// The filter, ages counted from `now`.
    #[must_use]
    pub fn filter(&self, now: Timestamp) -> EventFilter {
        let since = self.since.map(|since| match since {
            Since::Time(time) => time,
            Since::Ago(span) => now.checked_sub(span).unwrap_or(Timestamp::MIN),
        });
        let kinds: Vec<&str> = self.kind.iter().map(|kind| kind.name()).collect();
        EventFilter {
            since,
            after: None,
            pool: self.pool.clone(),
            backend: self.backend.clone(),
            kind: (!kinds.is_empty()).then(|| kinds.join(",")),
            limit: self.limit,
            wait_s: None,
        }
    }
}

fn parse_time(text: &str) -> Result<Timestamp, String> {
    text.parse().map_err(|_| format!("`{text}` is not a time: write it as 2026-11-18T12:00:00Z"))
}

fn parse_since(text: &str) -> Result<Since, String> {
    let wrong = |_| format!("`{text}` is neither a time (2026-11-18T12:00:00Z) nor a duration (90s, 2h, 1d)");
    match parse_time(text) {
        Ok(time) => Ok(Since::Time(time)),
        Err(_) => parse_duration(text).map(Since::Ago).map_err(wrong),
    }
}
