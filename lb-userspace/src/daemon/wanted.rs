//! From config, runtime changes, routes and detection to what maps and detection are to follow.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::journal;
use super::network::Network;
use super::rollouts::Rollouts;
use super::views::{self, Known, Views};
use crate::config::model::{Config, Pool};
use crate::desired::{Desired, Inputs};
use crate::events::state::State;
use crate::filter::Lists;
use crate::health::{BackendKey, Targets, Which};
use crate::state::overlay::Overlay;
use crate::view::status::Interface;

/// Everything that has a say besides detection.
pub(super) struct Wanted<'a> {
    pub(super) config: &'a Config,
    pub(super) overlay: &'a Overlay,
    pub(super) lists: &'a Lists,
    pub(super) network: &'a Network,
    pub(super) rollouts: &'a Rollouts,
    pub(super) now: Timestamp,
}

impl Wanted<'_> {
    fn pools<'s>(&'s self, which: &'s Which) -> Box<dyn Iterator<Item = &'s Pool> + 's> {
        match which {
            Which::All => Box::new(self.config.pools.values()),
            Which::Pools(names) => Box::new(names.iter().filter_map(|name| self.config.pools.get(name))),
        }
    }

    /// What the slots of these pools should say. `tiers` are those in force.
    pub(super) fn views(
        &self,
        which: &Which,
        known: &HashMap<BackendKey, Known>,
        tiers: &HashMap<String, u8>,
    ) -> Views {
        views::views(self.pools(which), self.overlay, known, tiers, &self.rollouts.splits(), self.now)
    }

    /// The desired state: whole, or `applied` with these pools anew.
    pub(super) fn desired(&self, which: &Which, views: &Views, applied: Option<&Arc<Desired>>) -> Desired {
        let inputs = Inputs {
            config: self.config,
            lists: self.lists,
            weight: &|pool, backend| views::wish(self.overlay, pool, backend, self.now).weight,
            limit: &|service| self.overlay.limited().of(service, self.now),
            views,
            egress: &|address, mac| self.network.egress(self.config, address, mac),
            client_mtu: self.network.client_mtu(self.config),
            next_hop: &|key| self.network.record(key),
        };
        match (which, applied) {
            (Which::Pools(names), Some(applied)) => {
                applied.with_pools(&inputs, names.iter().map(String::as_str))
            }
            _ => Desired::new(&inputs, &self.network.local(self.config)),
        }
    }

    /// The state of these pools as events tell it.
    pub(super) fn state(
        &self,
        which: &Which,
        known: &HashMap<BackendKey, Known>,
        tiers: &HashMap<String, u8>,
        interfaces: &[Interface],
    ) -> State {
        let state = journal::state(self.pools(which), self.overlay, known, tiers, interfaces, self.now);
        journal::with_rollouts(state, self.rollouts)
    }

    /// What detection is to check; `known` is for backends that are new to it.
    pub(super) fn targets(&self) -> Targets {
        let mut targets = Targets {
            pools: self.config.pools.clone(),
            guard: self.config.guard.clone(),
            witnesses: self.network.witnesses(self.config),
            splits: self.rollouts.splits(),
            ways: self.network.links(),
            tunnels: self.network.tunnels(self.config),
            answering: self.config.answering_pools(),
            ..Targets::default()
        };
        for (pool, target) in self.config.pools.values().zip(targets.pools.values_mut()) {
            for (backend, target) in pool.backends.values().zip(target.backends.values_mut()) {
                let wish = views::wish(self.overlay, pool, backend, self.now);
                target.weight = wish.weight;
                let key = BackendKey::new(pool.name.as_str(), backend.name.as_str());
                targets.admin.insert(key, wish.admin);
            }
        }
        targets
    }
}
