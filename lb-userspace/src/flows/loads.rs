//! Live flows by backend, for pools whose services choose by them: counted again and again, a part of the tables at a
//! time.

use std::collections::BTreeMap;
use std::ops::Range;

use lb_common::flow::{Binding, Class, Meta};
use lb_common::layout::{BackendState, Bucket, ForwardWord, HotWord, LoadsWord, Scheduler};
use lb_common::time::Tick;

use crate::maps::set::MapSet;

/// Parts that the flow tables are read in.
pub const PARTS: usize = 32;

/// A count under way.
pub struct LoadCount {
    /// Place in `members` by backend id, 0 for those that are not counted.
    places: Vec<u16>,
    /// Number 0 stands for all others.
    members: Vec<Member>,
}

#[derive(Clone, Default)]
struct Member {
    id: u16,
    pool: u16,
    generation: u8,
    live: u32,
    /// What the data plane had counted when the first part was read.
    first: u32,
    /// What it counted since, summed over the parts.
    since: i64,
}

impl LoadCount {
    /// Begins a count of the backends that matter; `None` where no service chooses by live flows.
    #[must_use]
    pub fn begin(maps: &MapSet) -> Option<Self> {
        let words = maps.services.iter().map(|service| ForwardWord(service.forward.get()));
        let asking =
            words.filter(|word| word.mode().is_some() && word.scheduler() == Scheduler::LeastConnections);
        let mut pools = vec![false; maps.pools.len()];
        for word in asking {
            if let Some(pool) = pools.get_mut(word.pool() as usize) {
                *pool = true;
            }
        }
        if !pools.contains(&true) {
            return None;
        }
        let mut count = Self { places: vec![0; maps.backends.len()], members: vec![Member::default()] };
        for (id, (backend, info)) in maps.backends.iter().zip(maps.backend_info.iter()).enumerate() {
            let hot = HotWord(backend.hot.get());
            let asked = pools.get(usize::from(info.pool)).copied().unwrap_or(false);
            if !asked || hot.state() == BackendState::Absent {
                continue;
            }
            if let Some(place) = count.places.get_mut(id) {
                *place = count.members.len() as u16;
                let (id, generation) = (id as u16, hot.generation());
                count.members.push(Member { id, pool: info.pool, generation, ..Member::default() });
            }
        }
        Some(count)
    }

    /// Reads one of [`PARTS`] parts; they are read in order.
    pub fn part(&mut self, maps: &MapSet, part: usize, now: Tick) {
        for member in self.members.iter_mut().skip(1) {
            let seen = maps.loads[usize::from(member.id)].seen.get();
            if part == 0 {
                member.first = seen;
            }
            member.since += i64::from(seen.wrapping_sub(member.first) as i32);
        }
        self.buckets(slice(&maps.flows_v4, part), now);
        self.buckets(slice(&maps.flows_v6, part), now);
    }

    fn buckets<const W: usize>(&mut self, buckets: &[Bucket<W>], now: Tick) {
        for way in buckets.iter().flat_map(|bucket| &bucket.ways) {
            let binding = Binding(way.binding.get());
            if binding.0 == 0 {
                continue;
            }
            let place = self.places.get(binding.backend() as usize).copied().unwrap_or(0);
            let Some(member) = self.members.get_mut(usize::from(place)) else { continue };
            let meta = Meta(way.meta.get());
            let live = meta.code().is_in(Class::GOING_ON) && meta.deadline().remaining(now).is_some();
            member.live += u32::from(live && meta.generation() == member.generation);
        }
    }

    /// Tells the data plane what was found.
    ///
    /// A flow that began or ended while the tables were read is in the count or not, by where its entry is. What the
    /// data plane had counted at the mean time of the reading goes with it: the error is that of this chance alone.
    pub fn publish(self, maps: &MapSet, now: Tick) {
        let mut pools: BTreeMap<u16, (u64, u64)> = BTreeMap::new();
        for member in self.members.iter().skip(1) {
            let load = &maps.loads[usize::from(member.id)];
            let counted = member.first.wrapping_add((member.since / PARTS as i64) as u32);
            load.unseen.set(member.live.wrapping_sub(counted));
            let pool = pools.entry(member.pool).or_default();
            if HotWord(maps.backends[usize::from(member.id)].hot.get()).state() == BackendState::Active {
                pool.0 += u64::from(load.live());
                pool.1 += u64::from(maps.backend_info[usize::from(member.id)].weight);
            }
        }
        for (pool, (live, weight)) in pools {
            if let Some(pool) = maps.pools.get(usize::from(pool)) {
                pool.loads.set(LoadsWord::new(now, live, weight).0);
            }
        }
    }
}

/// Which of so many values a part has.
pub(super) fn part_of(len: usize, part: usize) -> Range<usize> {
    len * part / PARTS..len * (part + 1) / PARTS
}

/// A part of values.
pub(super) fn slice<T>(values: &[T], part: usize) -> &[T] {
    values.get(part_of(values.len(), part)).unwrap_or(&[])
}
