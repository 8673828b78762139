//! The board's part in rollouts: divided pools, and how long the probes of canaries take.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::{Board, StreamId};
use crate::health::judge::Failure;
use crate::health::split::Split;
use crate::health::time::Moment;
use crate::health::timings::Timings;

/// The divisions in force.
#[derive(Debug, Default)]
pub(super) struct Splits {
    pub(super) of_pool: HashMap<Arc<str>, Split>,
    /// The pools whose canaries a stream probes.
    timed: HashMap<StreamId, Vec<Arc<str>>>,
    timings: HashMap<Arc<str>, Timings>,
}

impl Board {
    /// Replaces all divisions; the data plane is told with the next flush of each pool.
    pub(in crate::health) fn set_splits(&mut self, splits: &BTreeMap<String, Split>) {
        self.splits.of_pool =
            splits.iter().map(|(pool, split)| (Arc::from(pool.as_str()), split.clone())).collect();
        let kept = &self.splits.of_pool;
        self.splits.timings.retain(|pool, _| kept.contains_key(pool));
        for pool in 0..self.pools.len() {
            self.mark(pool);
        }
        self.time_canaries();
    }

    /// Divides a pool anew, or no longer; every slot that differs is stored when this returns. `None` if there is no
    /// such pool.
    pub(in crate::health) fn set_split(
        &mut self,
        pool: &str,
        split: Option<Split>,
        now: Moment,
    ) -> Option<()> {
        let position = *self.by_name.get(pool)?;
        let name: Arc<str> = Arc::from(pool);
        match split {
            Some(split) => {
                // Another set of canaries has no past.
                if self.splits.of_pool.get(pool).is_none_or(|before| before.canary != split.canary) {
                    self.splits.timings.remove(pool);
                }
                drop(self.splits.of_pool.insert(name, split));
            }
            None => {
                self.splits.of_pool.remove(pool);
                self.splits.timings.remove(pool);
            }
        }
        self.time_canaries();
        self.flush_pool(position, now);
        Some(())
    }

    /// How long the recent probes of a pool's canaries took.
    pub(in crate::health) fn timings(&self, pool: &str, now: Moment) -> Vec<Duration> {
        self.splits.timings.get(pool).map(|timings| timings.recent(now)).unwrap_or_default()
    }

    /// Notes which streams probe canaries.
    pub(super) fn time_canaries(&mut self) {
        let mut timed: HashMap<StreamId, Vec<Arc<str>>> = HashMap::new();
        for (name, split) in &self.splits.of_pool {
            let Some(pool) = self.by_name.get(name).and_then(|position| self.pools.get(*position)) else {
                continue;
            };
            for member in pool.members.iter().filter(|member| split.canary.contains(&*member.key.backend)) {
                for stream in &member.streams {
                    timed.entry(*stream).or_default().push(name.clone());
                }
            }
        }
        self.splits.timed = timed;
    }

    /// Notes how long a probe took that was judged just now.
    pub(super) fn time(&mut self, id: StreamId, now: Moment) {
        let lost = self.stream_mut(id).map_or(0, |stream| stream.judge.take_lost());
        if self.splits.timed.is_empty() {
            return;
        }
        let Some(pools) = self.splits.timed.get(&id) else { return };
        let Some(stream) = self.stream(id) else { return };
        let timeout = stream.check.timeout;
        let took = stream.judge.last_result().filter(|(_, at)| *at == now).and_then(|(sent_at, at)| {
            match stream.judge.last_failure() {
                None => Some(at.since(sent_at)),
                // Among the lost ones.
                Some(Failure::Silent) if stream.judge.counts_silence() => None,
                Some(_) => Some(timeout),
            }
        });
        for pool in pools.clone() {
            let timings = self.splits.timings.entry(pool).or_default();
            took.into_iter()
                .chain(std::iter::repeat_n(timeout, lost))
                .for_each(|took| timings.note(now, took));
        }
    }
}
