//! Free lines of a map that is cut into regions.

use std::collections::BTreeMap;

use super::error::{ApplyError, Limit};

/// A region: first line and number of lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) struct Region {
    pub(super) line: u32,
    pub(super) lines: u32,
}

/// The free regions of a map; neighbours are joined.
#[derive(Clone, Debug)]
pub(super) struct Lines {
    free: BTreeMap<u32, u32>,
    limit: Limit,
}

impl Lines {
    pub(super) fn new(lines: usize, limit: Limit) -> Self {
        Self { free: BTreeMap::from([(0, lines as u32)]), limit }
    }

    /// The first region that fits.
    pub(super) fn take(&mut self, lines: u32) -> Result<Region, ApplyError> {
        if lines == 0 {
            return Ok(Region::default());
        }
        let fits =
            self.free.iter().find(|(_, length)| **length >= lines).map(|(&line, &length)| (line, length));
        let (line, length) = fits.ok_or(ApplyError::Full(self.limit))?;
        self.free.remove(&line);
        if length > lines {
            self.free.insert(line + lines, length - lines);
        }
        Ok(Region { line, lines })
    }

    /// Marks a region as used that was found in use; what is used already stays so.
    pub(super) fn occupy(&mut self, region: Region) {
        let end = region.line + region.lines;
        let touched: Vec<(u32, u32)> = self
            .free
            .range(..end)
            .map(|(&line, &length)| (line, length))
            .filter(|(line, length)| line + length > region.line)
            .collect();
        for (line, length) in touched {
            self.free.remove(&line);
            if line < region.line {
                self.free.insert(line, region.line - line);
            }
            if line + length > end {
                self.free.insert(end, line + length - end);
            }
        }
    }

    pub(super) fn free(&mut self, region: Region) {
        let Region { mut line, mut lines } = region;
        if lines == 0 {
            return;
        }
        if let Some(after) = self.free.remove(&(line + lines)) {
            lines += after;
        }
        if let Some((&before, &length)) = self.free.range(..line).next_back()
            && before + length == line
        {
            line = before;
            lines += length;
        }
        self.free.insert(line, lines);
    }

    #[cfg(test)]
    pub(super) fn available(&self) -> u32 {
        self.free.values().sum()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn freed_neighbours_join_to_the_whole_map_again() {
        let mut lines = Lines::new(10, Limit::Maglev);
        let regions: Vec<Region> = [3, 2, 5].iter().map(|&count| lines.take(count).unwrap()).collect();
        assert_eq!(lines.take(1), Err(ApplyError::Full(Limit::Maglev)));
        for region in [regions[0], regions[2], regions[1]] {
            lines.free(region);
        }
        assert_eq!(lines.take(10), Ok(Region { line: 0, lines: 10 }));
    }

    proptest! {
        #[test]
        fn regions_never_overlap_and_none_is_lost(
            steps in prop::collection::vec((1u32..20, any::<prop::sample::Index>(), any::<bool>()), 1..100),
        ) {
            let mut lines = Lines::new(100, Limit::Maglev);
            let mut held: Vec<Region> = Vec::new();
            for (count, victim, give_back) in steps {
                if give_back && !held.is_empty() {
                    lines.free(held.swap_remove(victim.index(held.len())));
                } else if let Ok(region) = lines.take(count) {
                    let apart = |other: &Region| {
                        region.line >= other.line + other.lines || other.line >= region.line + region.lines
                    };
                    prop_assert!(held.iter().all(apart));
                    held.push(region);
                }
                let used: u32 = held.iter().map(|region| region.lines).sum();
                prop_assert_eq!(lines.available() + used, 100);
                let mut recovered = Lines::new(100, Limit::Maglev);
                held.iter().for_each(|&region| recovered.occupy(region));
                prop_assert_eq!(&recovered.free, &lines.free);
            }
        }
    }
}
