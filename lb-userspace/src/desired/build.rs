//! From config, runtime state and routes to the desired state.
//!
//! A backend has slots in its pool's table when it is of the active tier, has a weight above 0 and is not in
//! maintenance. That is a function of config, admin state and tier alone: instances that agree on them have the same
//! table, whenever they came to know. Health never changes the table, and a draining backend stays in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::layout::{self, AdminBits, TimeoutsWord};
use lb_common::time::TICK_NS;

use super::{
    BackendRecord, BackendView, Desired, Egress, HopKey, HopRecord, PoolRecord, PoolView, ServiceRecord,
    VipRecord,
};
use crate::config::model::{self, Config};

/// Everything that the desired state is made from.
pub struct Inputs<'a> {
    /// The validated config.
    pub config: &'a Config,
    /// Runtime weights by pool and backend.
    pub weights: &'a BTreeMap<(String, String), u16>,
    /// Detection's view by pool; a pool without one has every backend up.
    pub views: &'a BTreeMap<String, PoolView>,
    /// The way out to a backend, given its address and configured MAC; `None` without a route.
    pub egress: &'a dyn Fn(IpAddr, Option<model::Mac>) -> Option<Egress>,
    /// The record of a next hop that `egress` named.
    pub next_hop: &'a dyn Fn(&HopKey) -> HopRecord,
    /// Addresses of the host, for `unmatched = "auto"`.
    pub local: &'a BTreeSet<IpAddr>,
}

/// The desired state.
#[must_use]
pub fn desired(inputs: &Inputs<'_>) -> Desired {
    let config = inputs.config;
    let mut asked: BTreeMap<&str, u32> = BTreeMap::new();
    for service in config.services.values() {
        if let Some(size) = service.table_size {
            let largest = asked.entry(&service.pool).or_default();
            *largest = size.max(*largest);
        }
    }
    let record = |pool: &model::Pool| pool_record(inputs, pool, asked.get(pool.name.as_str()).copied());
    let pools: BTreeMap<Arc<str>, Arc<PoolRecord>> =
        config.pools.values().map(record).map(|pool| (pool.name.clone(), Arc::new(pool))).collect();
    let next_hops = pools
        .values()
        .flat_map(|pool| pool.backends.values())
        .filter_map(|backend| backend.egress)
        .map(|egress| (egress.next_hop, (inputs.next_hop)(&egress.next_hop)))
        .collect();
    Desired { vips: vips(inputs), services: services(config), pools, next_hops }
}

fn vips(inputs: &Inputs<'_>) -> BTreeMap<IpAddr, VipRecord> {
    let record = |vip: &model::Vip, address: IpAddr| VipRecord {
        name: vip.name.as_str().into(),
        unmatched: match vip.unmatched {
            model::Unmatched::Auto if inputs.local.contains(&address) => layout::Unmatched::Pass,
            model::Unmatched::Auto | model::Unmatched::Reject => layout::Unmatched::Reject,
            model::Unmatched::Pass => layout::Unmatched::Pass,
            model::Unmatched::Drop => layout::Unmatched::Drop,
        },
        icmp_echo: vip.icmp_echo,
    };
    let vips = inputs.config.vips.values();
    vips.flat_map(|vip| vip.addresses.iter().map(move |&address| (address, record(vip, address)))).collect()
}

fn services(config: &Config) -> BTreeMap<Arc<str>, Arc<ServiceRecord>> {
    let record = |service: &model::Service| ServiceRecord {
        name: service.name.as_str().into(),
        vip: service.vip.as_str().into(),
        addresses: config.vips.get(&service.vip).map(|vip| vip.addresses.clone()).unwrap_or_default(),
        ports: service.ports.clone(),
        protocols: service.protocols.clone(),
        pool: service.pool.as_str().into(),
        mode: service.mode.layout(),
        gue_port: config.tunnel.gue_port,
        on_down: match service.on_down {
            model::OnDown::Auto => layout::OnDown::Auto,
            model::OnDown::Reselect => layout::OnDown::Reselect,
            model::OnDown::Keep => layout::OnDown::Keep,
            model::OnDown::Reset => layout::OnDown::Reset,
        },
        track: service.track,
        timeouts: timeouts(&service.timeouts),
    };
    config
        .services
        .values()
        .map(|service| (service.name.as_str().into(), Arc::new(record(service))))
        .collect()
}

fn timeouts(timeouts: &model::Timeouts) -> TimeoutsWord {
    TimeoutsWord::new(
        ticks(timeouts.tcp_embryonic),
        ticks(timeouts.tcp_established),
        ticks(timeouts.tcp_closing),
        ticks(timeouts.udp),
    )
}

/// A duration in ticks, rounded up, at most `u16::MAX` (78 hours).
#[must_use]
pub fn ticks(duration: Duration) -> u16 {
    u16::try_from(duration.as_nanos().div_ceil(u128::from(TICK_NS))).unwrap_or(u16::MAX)
}

/// One pool of the desired state, for a change that touches no other; `None` for a name not in the config.
///
/// Its next hops must be in [`Desired::next_hops`].
#[must_use]
pub fn pool(inputs: &Inputs<'_>, name: &str) -> Option<PoolRecord> {
    let of_pool = inputs.config.services.values().filter(|service| service.pool == name);
    let asked = of_pool.filter_map(|service| service.table_size).max();
    inputs.config.pools.get(name).map(|pool| pool_record(inputs, pool, asked))
}

/// `asked` is the largest table size that a service of the pool asks for.
fn pool_record(inputs: &Inputs<'_>, pool: &model::Pool, asked: Option<u32>) -> PoolRecord {
    let view = inputs.views.get(&pool.name);
    let tiers_weights: Vec<(u8, u16)> =
        pool.backends.values().map(|backend| (backend.tier, weight(inputs, pool, backend))).collect();
    let all_up;
    let view = match view {
        Some(view) => view,
        None => {
            all_up = PoolView::all_up(&tiers_weights);
            &all_up
        }
    };
    let active_tier = view.active_tier;
    let backends = pool.backends.values().zip(&tiers_weights).enumerate();
    let backends = backends.map(|(position, (backend, &(tier, weight)))| {
        let view = view.backends.get(position).cloned().unwrap_or_else(BackendView::up);
        let record = BackendRecord {
            address: backend.address,
            host: backend.host.as_deref().map(Arc::from),
            tier,
            weight,
            in_table: tier == active_tier && weight > 0 && view.admin != AdminBits::Maintenance,
            egress: (inputs.egress)(backend.address, backend.mac),
            view,
        };
        (Arc::from(backend.name.as_str()), record)
    });
    PoolRecord {
        name: pool.name.as_str().into(),
        seed: inputs.config.hash_seed,
        last_resort: match pool.last_resort {
            model::LastResort::Keep => layout::LastResort::Keep,
            model::LastResort::Reset => layout::LastResort::Reset,
            model::LastResort::Drop => layout::LastResort::Drop,
        },
        table_size: asked.unwrap_or_else(|| default_table_size(pool.backends.len())),
        active_tier: view.active_tier,
        backends: backends.collect(),
        usable: view.usable.clone(),
    }
}

fn weight(inputs: &Inputs<'_>, pool: &model::Pool, backend: &model::Backend) -> u16 {
    if inputs.weights.is_empty() {
        return backend.weight;
    }
    let key = (pool.name.clone(), backend.name.clone());
    inputs.weights.get(&key).copied().unwrap_or(backend.weight)
}

/// Default table sizes: the smallest that gives this many slots a backend.
const TABLE_SIZES: [u32; 4] = [1021, 4093, 16381, 65537];
const SLOTS_PER_BACKEND: usize = 100;

fn default_table_size(backends: usize) -> u32 {
    let [.., largest] = TABLE_SIZES;
    let enough = |size: &u32| *size as usize >= backends * SLOTS_PER_BACKEND;
    TABLE_SIZES.into_iter().find(enough).unwrap_or(largest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_become_ticks_rounded_up() {
        for (milliseconds, expected) in
            [(0, 0), (1, 1), (4_294, 1), (4_295, 2), (60_000, 14), (7_800_000, 1817)]
        {
            assert_eq!(ticks(Duration::from_millis(milliseconds)), expected, "{milliseconds} ms");
        }
        assert_eq!(ticks(Duration::from_secs(1_000_000)), u16::MAX);
    }

    #[test]
    fn default_tables_have_100_slots_a_backend() {
        for (backends, size) in [(1, 1021), (10, 1021), (11, 4093), (40, 4093), (41, 16381), (164, 65537)] {
            assert_eq!(default_table_size(backends), size, "{backends} backends");
        }
    }
}
