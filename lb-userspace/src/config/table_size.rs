//! Slots of a pool's Maglev table.

use std::collections::BTreeMap;

use super::model::{Config, Pool};

/// Sizes that pools get by themselves: primes.
const SIZES: [u32; 4] = [1021, 4093, 16381, 65537];

/// Slots per backend that the default gives: a backend's share is then within about 1 % of its weight.
const SLOTS_PER_BACKEND: u32 = 100;

/// Sizes of the tables of all pools.
pub struct TableSizes<'a> {
    /// What services ask for, by pool.
    asked: BTreeMap<&'a str, u32>,
}

impl Config {
    /// Sizes of the tables of all pools.
    #[must_use]
    pub fn table_sizes(&self) -> TableSizes<'_> {
        let services = self.services.values();
        let asked = services.filter_map(|service| Some((service.pool.as_str(), service.table_size?)));
        TableSizes { asked: asked.collect() }
    }
}

impl TableSizes<'_> {
    /// Slots of a pool's Maglev table: what the services of the pool ask for, else the smallest default size that
    /// gives 100 slots per backend (the largest where none does).
    #[must_use]
    pub fn of(&self, pool: &Pool) -> u32 {
        self.asked.get(pool.name.as_str()).copied().unwrap_or_else(|| default_size(pool.backends.len()))
    }
}

fn default_size(backends: usize) -> u32 {
    let backends = u32::try_from(backends).unwrap_or(u32::MAX);
    let needed = backends.saturating_mul(SLOTS_PER_BACKEND);
    SIZES.into_iter().find(|size| *size >= needed).unwrap_or(SIZES[SIZES.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::default_size;

    #[test]
    fn the_default_size_gives_a_hundred_slots_per_backend_up_to_the_largest() {
        for (backends, size) in [(0, 1021), (10, 1021), (11, 4093), (163, 16381), (164, 65537), (9000, 65537)]
        {
            assert_eq!(default_size(backends), size, "{backends} backends");
        }
    }
}
