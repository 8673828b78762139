//! From config, runtime state and routes to the desired state.
//!
//! A backend has slots in its pool's table when it is of the active tier, has a weight above 0 and is not in
//! maintenance. That is a function of config, admin state and tier alone: instances that agree on them have the same
//! table, whenever they came to know. Health never changes the table, and a draining backend stays in it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::layout::{self, AdminBits, CidConfigs, TimeoutsWord};
use lb_common::time::TICK_NS;

use super::{
    BackendRecord, BackendView, Desired, Egress, HopKey, HopRecord, PoolRecord, PoolView, ServiceRecord,
    SnatRecord, VipRecord,
};
use crate::config::model::{self, Config};
use crate::filter::Lists;

/// Everything that pools of the desired state are made from.
pub struct Inputs<'a> {
    /// The validated config.
    pub config: &'a Config,
    /// The lists of prefixes in force.
    pub lists: &'a Lists,
    /// The weight in force of a backend of a pool.
    pub weight: &'a dyn Fn(&model::Pool, &model::Backend) -> u16,
    /// The limit of new flows in force of a service.
    pub limit: &'a dyn Fn(&model::Service) -> Option<model::NewFlowLimit>,
    /// Detection's view by pool; a pool without one has every backend up.
    pub views: &'a BTreeMap<String, PoolView>,
    /// The way out to a backend, given its address and configured MAC; `None` without a route.
    pub egress: &'a dyn Fn(IpAddr, Option<model::Mac>) -> Option<Egress>,
    /// Largest IP packet towards clients, for mode `nat`.
    pub client_mtu: u16,
    /// The record of a next hop that `egress` named.
    pub next_hop: &'a dyn Fn(&HopKey) -> HopRecord,
}

impl Desired {
    /// The desired state; `local` are addresses of the host, for `unmatched = "auto"`.
    #[must_use]
    pub fn new(inputs: &Inputs<'_>, local: &BTreeSet<IpAddr>) -> Self {
        let config = inputs.config;
        let (vips, services) = (Arc::new(vips(inputs, local)), Arc::new(services(inputs)));
        let snats = Arc::new(snats(config, inputs.client_mtu));
        let mut desired = Self { vips, snats, services, ..Self::default() };
        desired.make_pools(inputs, config.pools.values());
        desired
    }

    /// This state with some pools as they are to be now: a change that concerns no other leaves those untouched.
    /// Names that are not in the config are passed over.
    #[must_use]
    pub fn with_pools<'n>(&self, inputs: &Inputs<'_>, names: impl IntoIterator<Item = &'n str>) -> Self {
        let mut desired = self.clone();
        let pools = names.into_iter().filter_map(|name| inputs.config.pools.get(name));
        desired.make_pools(inputs, pools);
        desired
    }

    /// Makes pools, and the next hops that they name.
    fn make_pools<'c>(&mut self, inputs: &Inputs<'_>, pools: impl Iterator<Item = &'c model::Pool>) {
        let sizes = inputs.config.table_sizes();
        for pool in pools {
            let record = pool_record(inputs, pool, sizes.of(pool));
            for egress in record.backends.values().filter_map(|backend| backend.egress) {
                if !self.next_hops.contains_key(&egress.next_hop) {
                    let hop = (inputs.next_hop)(&egress.next_hop);
                    Arc::make_mut(&mut self.next_hops).insert(egress.next_hop, hop);
                }
            }
            self.pools.insert(record.name.clone(), Arc::new(record));
        }
    }
}

fn vips(inputs: &Inputs<'_>, local: &BTreeSet<IpAddr>) -> BTreeMap<IpAddr, VipRecord> {
    let unmatched = |policy, address: IpAddr| match policy {
        model::Unmatched::Auto if local.contains(&address) => layout::Unmatched::Pass,
        model::Unmatched::Auto | model::Unmatched::Reject => layout::Unmatched::Reject,
        model::Unmatched::Pass => layout::Unmatched::Pass,
        model::Unmatched::Drop => layout::Unmatched::Drop,
    };
    let vip = |vip: &model::Vip, address: IpAddr| VipRecord {
        name: vip.name.as_str().into(),
        unmatched: unmatched(vip.unmatched, address),
        icmp_echo: vip.icmp_echo,
        lists: inputs.lists.of(&vip.name, address),
        snat: None,
    };
    // What comes to such an address and is of no flow is the host's where the address is, else a stray.
    let snat = |snat: &model::Snat| VipRecord {
        name: snat.address.to_string().into(),
        unmatched: unmatched(model::Unmatched::Auto, snat.address),
        icmp_echo: false,
        lists: [const { None }; 3],
        snat: Some(snat.ports),
    };
    let vips = inputs
        .config
        .vips
        .values()
        .flat_map(|of| of.addresses.iter().map(move |&address| (address, vip(of, address))));
    let snats = inputs.config.services.values().flat_map(|service| &service.snat);
    vips.chain(snats.map(|of| (of.address, snat(of)))).collect()
}

fn snats(config: &Config, mtu: u16) -> BTreeMap<IpAddr, SnatRecord> {
    let snats = config.services.values().flat_map(|service| &service.snat);
    snats.map(|snat| (snat.address, SnatRecord { ports: snat.ports, mtu })).collect()
}

fn services(inputs: &Inputs<'_>) -> BTreeMap<Arc<str>, Arc<ServiceRecord>> {
    let config = inputs.config;
    let record = |service: &model::Service| ServiceRecord {
        name: service.name.as_str().into(),
        vip: service.vip.as_str().into(),
        addresses: config.vips.get(&service.vip).map(|vip| vip.addresses.clone()).unwrap_or_default(),
        ports: service.ports.clone(),
        protocols: service.protocols.clone(),
        pool: service.pool.as_str().into(),
        mode: service.mode.layout(),
        gue_port: config.tunnel.gue_port,
        scheduler: service.scheduler,
        quic: service.quic.iter().fold(CidConfigs(0), |configs, config| {
            configs.with(config.config_id.into(), config.server_id_length)
        }),
        snat: service.snat.iter().map(|snat| snat.address).collect(),
        on_down: match service.on_down {
            model::OnDown::Auto => layout::OnDown::Auto,
            model::OnDown::Reselect => layout::OnDown::Reselect,
            model::OnDown::Keep => layout::OnDown::Keep,
            model::OnDown::Reset => layout::OnDown::Reset,
        },
        track: service.track,
        timeouts: timeouts(&service.timeouts),
        has_lists: inputs.lists.concern(&service.vip),
        limit: (inputs.limit)(service),
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

fn pool_record(inputs: &Inputs<'_>, pool: &model::Pool, table_size: u32) -> PoolRecord {
    let view = inputs.views.get(&pool.name);
    let tiers_weights: Vec<(u8, u16)> =
        pool.backends.values().map(|backend| (backend.tier, (inputs.weight)(pool, backend))).collect();
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
            port: backend.port,
            host: backend.host.as_deref().map(Arc::from),
            tier,
            weight,
            server_ids: backend.server_ids.clone(),
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
        table_size,
        active_tier: view.active_tier,
        backends: backends.collect(),
        usable: view.usable.clone(),
    }
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
}
