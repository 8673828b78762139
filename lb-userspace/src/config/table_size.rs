//! Slots of a pool's Maglev table.

use super::model::Config;

/// Sizes that pools get by themselves: primes.
const SIZES: [u32; 4] = [1021, 4093, 16381, 65537];

/// Slots per backend that the default gives: a backend's share is then within about 1 % of its weight.
const SLOTS_PER_BACKEND: u32 = 100;

impl Config {
    /// Slots of a pool's Maglev table: what a service of the pool asks for, else the smallest default
    /// size that gives 100 slots per backend (the largest where none does).
    #[must_use]
    pub fn table_size(&self, pool: &str) -> u32 {
        let users = self.services.values().filter(|service| service.pool == pool);
        let asked = users.filter_map(|service| service.table_size).next();
        asked.unwrap_or_else(|| default_size(self.pools.get(pool).map_or(0, |pool| pool.backends.len())))
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
