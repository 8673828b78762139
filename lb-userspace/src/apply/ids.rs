//! Which id stands for which object.

use std::collections::VecDeque;
use std::hash::Hash;

use super::entries::Entries;
use super::error::{ApplyError, Limit};

/// The ids of one kind of object, 1 up to the size of its map less one.
///
/// A new object gets an id that was never used, or else the one that has been free for longest.
#[derive(Clone, Debug)]
pub(super) struct Ids<K> {
    held: Entries<K, u16>,
    /// The lowest id that was never used.
    fresh: u32,
    freed: VecDeque<u16>,
    /// Ids end before this one.
    end: u32,
    limit: Limit,
}

impl<K: Eq + Hash + Clone> Ids<K> {
    /// No ids given out, of a map of `size` values.
    pub(super) fn new(size: usize, limit: Limit) -> Self {
        let end = size.min(usize::from(u16::MAX) + 1) as u32;
        Self { held: Entries::default(), fresh: 1, freed: VecDeque::new(), end, limit }
    }

    /// The ids that were found in use: by their keys, and by something that has none.
    pub(super) fn recover(
        size: usize,
        limit: Limit,
        held: impl IntoIterator<Item = (K, u16)>,
        others: impl IntoIterator<Item = u16>,
    ) -> Self {
        let mut ids = Self::new(size, limit);
        ids.held = held.into_iter().collect();
        let mut used = vec![false; ids.end as usize];
        for id in ids.held.iter().map(|(_, id)| *id).chain(others) {
            used[usize::from(id)] = true;
        }
        let last = used.iter().rposition(|used| *used).unwrap_or(0);
        ids.fresh = last as u32 + 1;
        ids.freed = (1..last as u16).filter(|id| !used[usize::from(*id)]).collect();
        ids
    }

    pub(super) fn get(&self, key: &K) -> Option<u16> {
        self.held.get(key).copied()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, u16)> {
        self.held.iter().map(|(key, id)| (key, *id))
    }

    /// The object's id, and whether it is a new one.
    pub(super) fn get_or_take(&mut self, key: &K) -> Result<(u16, Holder), ApplyError> {
        match self.get(key) {
            Some(id) => Ok((id, Holder::Old)),
            None => self.take(key.clone()).map(|id| (id, Holder::New)),
        }
    }

    /// A new id for the object; one that it had is no longer its own and not free either.
    pub(super) fn take(&mut self, key: K) -> Result<u16, ApplyError> {
        let id = if self.fresh < self.end {
            self.fresh += 1;
            (self.fresh - 1) as u16
        } else {
            self.freed.pop_front().ok_or(ApplyError::Full(self.limit))?
        };
        self.held.insert(key, id);
        Ok(id)
    }

    /// Gives the object an id that nobody else holds.
    pub(super) fn assign(&mut self, key: K, id: u16) {
        self.held.insert(key, id);
    }

    /// Takes the object's id away without freeing it.
    pub(super) fn forget(&mut self, key: &K) -> Option<u16> {
        self.held.remove(key)
    }

    /// Takes in what a plan changed, once it is in force.
    pub(super) fn settle(&mut self) {
        self.held.settle();
    }

    /// Makes an id free that nobody holds.
    pub(super) fn free(&mut self, id: u16) {
        self.freed.push_back(id);
    }
}

/// Whether an object had its id before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    Old,
    New,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_used_ids_come_first_then_those_free_for_longest() {
        let mut ids = Ids::new(4, Limit::Services);
        assert_eq!([ids.take("a").unwrap(), ids.take("b").unwrap()], [1, 2]);
        for key in ["b", "a"] {
            let id = ids.forget(&key).unwrap();
            ids.free(id);
        }
        assert_eq!([ids.take("c").unwrap(), ids.take("d").unwrap(), ids.take("e").unwrap()], [3, 2, 1]);
        assert!(matches!(ids.take("f"), Err(ApplyError::Full(Limit::Services))));
    }

    #[test]
    fn recovered_ids_leave_the_gaps_free() {
        let mut ids = Ids::recover(8, Limit::Services, [("a", 2), ("b", 5)], [3]);
        assert_eq!((ids.get(&"a"), ids.get(&"b")), (Some(2), Some(5)));
        let taken: Vec<u16> = (0..4).map(|_| ids.take("c").unwrap()).collect();
        assert_eq!(taken, [6, 7, 1, 4]);
    }
}
