//! Which services use which pool.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::model::Service;

/// The services by pool, and the VIPs that have some: looked up for every pool and VIP, so found in one pass.
pub(crate) struct Users<'a> {
    by_pool: BTreeMap<&'a str, Vec<&'a Service>>,
    vips: BTreeSet<&'a str>,
}

impl<'a> Users<'a> {
    pub(crate) fn of(services: &'a BTreeMap<String, Service>) -> Self {
        let mut by_pool: BTreeMap<&str, Vec<&Service>> = BTreeMap::new();
        for service in services.values() {
            by_pool.entry(&service.pool).or_default().push(service);
        }
        Self { by_pool, vips: services.values().map(|service| service.vip.as_str()).collect() }
    }

    /// The services of a pool, by name.
    pub(crate) fn of_pool(&self, pool: &str) -> &[&'a Service] {
        self.by_pool.get(pool).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether a VIP has services.
    pub(crate) fn has_vip(&self, vip: &str) -> bool {
        self.vips.contains(vip)
    }
}
