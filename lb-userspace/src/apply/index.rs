//! Adding to and removing from indexes of cache-line buckets, without moving an entry.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use lb_common::hash;
use lb_common::layout::{INDEX_WAYS, IndexLine, V6_WAYS, VipLineV6};

use super::error::{ApplyError, Limit};
use super::write::{Index, Write};

/// An index as lines of ways; a key belongs to one line, or to its neighbour when that has no free way.
pub(super) trait Lines {
    type Key: Copy + Eq + Hash;
    const WAYS: usize;

    fn count(&self) -> u32;
    fn home_hash(key: Self::Key) -> u32;
    fn entry(&self, line: u32, way: usize) -> Option<(Self::Key, u32)>;
    /// Whether an empty way may be written.
    fn reusable(&self, line: u32, way: usize) -> bool;
    fn overflows(&self, line: u32) -> bool;
    /// The writes that make a way the entry of `key`; it is empty, or has the same key.
    fn set(&self, at: (u32, usize), key: Self::Key, value: u32) -> Vec<Write>;
    fn clear(&self, at: (u32, usize)) -> Write;
    fn flag(&self, line: u32, word: u32) -> Write;

    fn home(&self, key: Self::Key) -> u32 {
        Self::home_hash(key) & (self.count() - 1)
    }
}

/// A plan for an index.
pub(super) struct Change<K> {
    /// Adds and replaces entries.
    pub(super) set: Vec<Write>,
    /// Removes entries, of these keys, then overflow flags.
    pub(super) clear: Vec<(Write, Option<K>)>,
    /// The ways that become empty.
    pub(super) cleared: Vec<(u32, usize)>,
}

/// Plans an index. Entries for which `keep` says so stay although they are not desired.
pub(super) fn change<L: Lines>(
    lines: &L,
    desired: &HashMap<L::Key, u32>,
    keep: impl Fn(L::Key) -> bool,
    limit: Limit,
) -> Result<Change<L::Key>, ApplyError> {
    let mut change = Change { set: Vec::new(), clear: Vec::new(), cleared: Vec::new() };
    let mut placed = HashSet::with_capacity(desired.len());
    // Lines with an entry in the neighbour.
    let mut overflowing = HashSet::new();
    for line in 0..lines.count() {
        for way in 0..L::WAYS {
            let Some((key, value)) = lines.entry(line, way) else { continue };
            match desired.get(&key) {
                Some(&wanted) => {
                    placed.insert(key);
                    if wanted != value {
                        change.set.extend(lines.set((line, way), key, wanted));
                    }
                }
                None if keep(key) => {}
                None => {
                    change.clear.push((lines.clear((line, way)), Some(key)));
                    change.cleared.push((line, way));
                    continue;
                }
            }
            if lines.home(key) != line {
                overflowing.insert(lines.home(key));
            }
        }
    }
    let mut taken = HashSet::new();
    for (&key, &value) in desired.iter().filter(|(key, _)| !placed.contains(*key)) {
        let home = lines.home(key);
        let free = |line: u32| {
            let free = |way: &usize| {
                lines.entry(line, *way).is_none()
                    && lines.reusable(line, *way)
                    && !taken.contains(&(line, *way))
            };
            (0..L::WAYS).find(free).map(|way| (line, way))
        };
        let at = free(home).or_else(|| free(home ^ 1)).ok_or(ApplyError::Full(limit))?;
        taken.insert(at);
        if at.0 != home && overflowing.insert(home) && !lines.overflows(home) {
            change.set.push(lines.flag(home, 1));
        }
        change.set.extend(lines.set(at, key, value));
    }
    for line in (0..lines.count()).filter(|line| lines.overflows(*line) && !overflowing.contains(line)) {
        change.clear.push((lines.flag(line, 0), None));
    }
    Ok(change)
}

/// What the index says of a key.
pub(super) fn find<L: Lines>(lines: &L, key: L::Key) -> Option<u32> {
    let home = lines.home(key);
    let ways = [home, home ^ 1].into_iter().flat_map(|line| (0..L::WAYS).map(move |way| (line, way)));
    let mut entries = ways.filter_map(|(line, way)| lines.entry(line, way));
    entries.find(|(of, _)| *of == key).map(|(_, value)| value)
}

/// An index with 32-bit keys.
pub(super) struct Narrow<'a>(pub(super) Index, pub(super) &'a [IndexLine]);

impl Lines for Narrow<'_> {
    type Key = u32;
    const WAYS: usize = INDEX_WAYS;

    fn count(&self) -> u32 {
        self.1.len() as u32
    }

    fn home_hash(key: u32) -> u32 {
        hash::index(key)
    }

    fn entry(&self, line: u32, way: usize) -> Option<(u32, u32)> {
        let entry = self.1[line as usize].entries[way].get();
        (entry as u32 != 0).then_some(((entry >> 32) as u32, entry as u32))
    }

    fn reusable(&self, _line: u32, _way: usize) -> bool {
        true
    }

    fn overflows(&self, line: u32) -> bool {
        self.1[line as usize].overflow.get() != 0
    }

    fn set(&self, (line, way): (u32, usize), key: u32, value: u32) -> Vec<Write> {
        vec![Write::Entry { index: self.0, line, way, word: IndexLine::entry(key, value) }]
    }

    fn clear(&self, (line, way): (u32, usize)) -> Write {
        Write::Entry { index: self.0, line, way, word: 0 }
    }

    fn flag(&self, line: u32, word: u32) -> Write {
        Write::Overflow { index: self.0, line, word: word.into() }
    }
}

/// The IPv6 VIP index, and its ways that packets may still be reading.
pub(super) struct Wide<'a> {
    pub(super) lines: &'a [VipLineV6],
    pub(super) busy: HashSet<(u32, usize)>,
}

impl Lines for Wide<'_> {
    /// Both halves of the address.
    type Key = (u64, u64);
    const WAYS: usize = V6_WAYS;

    fn count(&self) -> u32 {
        self.lines.len() as u32
    }

    fn home_hash((high, low): (u64, u64)) -> u32 {
        hash::index_v6(high, low)
    }

    fn entry(&self, line: u32, way: usize) -> Option<((u64, u64), u32)> {
        let line = &self.lines[line as usize];
        let id = line.ids[way].get();
        (id != 0).then(|| ((line.high[way].get(), line.low[way].get()), id))
    }

    fn reusable(&self, line: u32, way: usize) -> bool {
        !self.busy.contains(&(line, way))
    }

    fn overflows(&self, line: u32) -> bool {
        self.lines[line as usize].overflow.get() != 0
    }

    fn set(&self, (line, way): (u32, usize), (high, low): (u64, u64), value: u32) -> Vec<Write> {
        vec![Write::AddressV6 { line, way, high, low }, Write::IdV6 { line, way, id: value as u16 }]
    }

    fn clear(&self, (line, way): (u32, usize)) -> Write {
        Write::IdV6 { line, way, id: 0 }
    }

    fn flag(&self, line: u32, word: u32) -> Write {
        Write::OverflowV6 { line, word }
    }
}
