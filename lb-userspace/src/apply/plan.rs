//! Desired state and maps to a list of writes, on a copy of the bookkeeping.

use std::sync::Arc;

use lb_common::layout::{BackendState, HotWord};

use super::differences::PoolChanges;
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
    let changes = PoolChanges::between(before, desired);
    planner.pools(&changes)?;
    if before.is_none_or(|before| before.snats != desired.snats) {
        planner.snats(desired)?;
    }
    if before.is_none_or(|before| {
        before.services != desired.services || before.vips != desired.vips || before.snats != desired.snats
    }) {
        planner.services(before, desired)?;
        planner.leave_services(desired);
    }
    planner.leave_pools(before, desired, &changes);
    if before.is_none() || planner.concern_servers(&changes) {
        planner.servers(desired)?;
    }
    planner.state.applied = Some(desired.clone());
    Ok(Plan { writes: planner.stages.into_writes(), state: planner.state, summary: planner.summary })
}

impl Planner<'_> {
    /// Marks pools and backends that are no longer desired.
    fn leave_pools(&mut self, before: Option<&Desired>, desired: &Desired, changes: &PoolChanges<'_>) {
        let now = self.now_ns;
        let gone = match before {
            None => self.undesired_backends(desired),
            Some(_) => gone_backends(changes),
        };
        for key in gone {
            if self.state.leaving.backends.contains_key(&key) {
                continue;
            }
            let Some(id) = self.state.backends.get(&key) else { continue };
            self.drain(id);
            self.state.leaving.backends.insert(key, LeavingBackend { since_ns: now, absent_ns: None });
            self.summary.backends_removed += 1;
        }
        let State { pools, leaving, .. } = &mut self.state;
        let leave = |name: &Arc<str>| {
            leaving.pools.entry(name.clone()).or_insert(now);
        };
        match before {
            None => pools
                .iter()
                .map(|(name, _)| name)
                .filter(|name| !desired.pools.contains_key(*name))
                .for_each(leave),
            Some(_) => changes.gone.iter().map(|pool| &pool.name).for_each(leave),
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

    /// Backends that have an id and are not desired: what an earlier daemon left.
    fn undesired_backends(&self, desired: &Desired) -> Vec<BackendKey> {
        let address = |key: &BackendKey| {
            let pool = desired.pools.get(&key.pool)?;
            pool.backends.get(&key.name).map(|backend| backend.address)
        };
        let keys = self.state.backends.iter().map(|(key, _)| key);
        keys.filter(|key| address(key) != Some(key.address)).cloned().collect()
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

/// Backends that were desired and are not.
fn gone_backends(changes: &PoolChanges<'_>) -> Vec<BackendKey> {
    let made = changes.made.iter().filter_map(|(was, is)| Some(((*was)?, Some(*is))));
    let pools = made.chain(changes.gone.iter().map(|was| (*was, None)));
    let gone = pools.flat_map(|(was, is)| {
        let stays = move |name: &Arc<str>, address| {
            is.and_then(|is| is.backends.get(name)).is_some_and(|backend| backend.address == address)
        };
        let gone = was.backends.iter().filter(move |(name, backend)| !stays(name, backend.address));
        gone.map(|(name, backend)| BackendKey {
            pool: was.name.clone(),
            name: name.clone(),
            address: backend.address,
        })
    });
    gone.collect()
}
