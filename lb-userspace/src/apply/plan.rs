//! Desired state and maps to a list of writes, on a copy of the bookkeeping.

use std::sync::Arc;

use lb_common::layout::{BackendState, HotWord};

use super::error::ApplyError;
use super::nat;
use super::stage::{Stage, Stages};
use super::state::{BackendKey, LeavingBackend, State, Unused};
use super::write::Write;
use super::{Summary, count};
use crate::desired::Desired;
use crate::maps::set::MapSet;

/// Writes, and the bookkeeping once they are done.
pub(super) struct Plan {
    pub(super) writes: Vec<Write>,
    pub(super) state: State,
    summary: Summary,
}

impl Plan {
    pub(super) fn summary(&self) -> Summary {
        Summary { writes: count(&self.writes), ..self.summary }
    }
}

pub(super) struct Planner<'a> {
    pub(super) maps: &'a MapSet,
    pub(super) state: State,
    pub(super) stages: Stages,
    pub(super) summary: Summary,
    pub(super) now_ns: u64,
}

pub(super) fn plan(
    maps: &MapSet,
    state: &State,
    desired: &Arc<Desired>,
    now_ns: u64,
) -> Result<Plan, ApplyError> {
    let mut planner = Planner {
        maps,
        state: state.clone(),
        stages: Stages::default(),
        summary: Summary::default(),
        now_ns,
    };
    let desired = &nat::with_those_in_use(maps, state, desired);
    let before = state.applied.clone();
    let before = before.as_deref();
    if before.is_none() {
        // What an earlier daemon left unused, this apply may be the one that stops using.
        planner.state.retired.iter_mut().for_each(|retired| retired.at_ns = now_ns);
    }
    if before.is_none_or(|before| before.next_hops != desired.next_hops) {
        planner.hops(desired)?;
    }
    planner.pools(before, desired)?;
    if before.is_none_or(|before| before.snats != desired.snats) {
        planner.snats(desired)?;
    }
    if before.is_none_or(|before| {
        before.services != desired.services || before.vips != desired.vips || before.snats != desired.snats
    }) {
        planner.services(before, desired)?;
        planner.leave_services(desired);
    }
    planner.leave_pools(before, desired);
    planner.servers(desired)?;
    planner.state.applied = Some(desired.clone());
    Ok(Plan { writes: planner.stages.into_writes(), state: planner.state, summary: planner.summary })
}

impl Planner<'_> {
    /// Marks pools and backends that are no longer desired.
    fn leave_pools(&mut self, before: Option<&Desired>, desired: &Desired) {
        let now = self.now_ns;
        for key in self.gone_backends(before, desired) {
            if self.state.leaving.backends.contains_key(&key) {
                continue;
            }
            let Some(id) = self.state.backends.get(&key) else { continue };
            self.drain(id);
            self.state.leaving.backends.insert(key, LeavingBackend { since_ns: now, absent_ns: None });
            self.summary.backends_removed += 1;
        }
        if before.is_some_and(|before| before.pools.keys().eq(desired.pools.keys())) {
            return;
        }
        let State { pools, leaving, .. } = &mut self.state;
        for (name, _) in pools.iter().filter(|(name, _)| !desired.pools.contains_key(*name)) {
            leaving.pools.entry(name.clone()).or_insert(now);
        }
    }

    /// Marks VIPs and services that are no longer desired.
    fn leave_services(&mut self, desired: &Desired) {
        let now = self.now_ns;
        let State { vips, services, leaving, .. } = &mut self.state;
        for (address, _) in vips.iter().filter(|(address, _)| !desired.vips.contains_key(*address)) {
            leaving.vips.entry(*address).or_insert(now);
        }
        let gone: Vec<Arc<str>> = services
            .iter()
            .filter(|(name, _)| !desired.services.contains_key(*name))
            .map(|(name, _)| name.clone())
            .collect();
        for name in gone {
            if let Some(id) = self.state.services.forget(&name) {
                self.stages.push(Stage::Leaving, Write::ServiceInfo { id, info: Box::default() });
                self.state.retire(now, Unused::Service(id));
            }
        }
    }

    /// Backends that have an id and are not desired. Only pools that changed are looked at.
    fn gone_backends(&self, before: Option<&Desired>, desired: &Desired) -> Vec<BackendKey> {
        let desired_address = |pool: &Arc<str>, name: &Arc<str>| {
            desired.pools.get(pool).and_then(|pool| pool.backends.get(name)).map(|backend| backend.address)
        };
        let Some(before) = before else {
            let gone = |key: &&BackendKey| desired_address(&key.pool, &key.name) != Some(key.address);
            return self.state.backends.iter().map(|(key, _)| key).filter(gone).cloned().collect();
        };
        let mut gone = Vec::new();
        for (pool, record) in &before.pools {
            if desired.pools.get(pool).is_some_and(|after| Arc::ptr_eq(after, record)) {
                continue;
            }
            for (name, backend) in &record.backends {
                if desired_address(pool, name) != Some(backend.address) {
                    let (pool, name) = (pool.clone(), name.clone());
                    gone.push(BackendKey { pool, name, address: backend.address });
                }
            }
        }
        gone
    }

    /// Keeps new flows away from a backend that left the config, and marks it.
    fn drain(&mut self, id: u16) {
        let hot = HotWord(self.maps.backends[usize::from(id)].hot.get());
        if let BackendState::Active | BackendState::Suspect = hot.state() {
            let word = hot.0 & !0xff | BackendState::Draining as u64;
            self.stages.push(Stage::Leaving, Write::Hot { id, word });
        }
        let live = self.maps.backend_info[usize::from(id)];
        if live.removed == 0 {
            let info = Box::new(lb_common::layout::BackendInfo { removed: 1, ..live });
            self.stages.push(Stage::Leaving, Write::BackendInfo { id, info });
        }
    }
}
