//! Taking back what nothing uses any more.

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::layout::{EgressWord, HotWord, Span};
use lb_common::select::PREVIOUS_TICKS;
use lb_common::time::{self, TICK_NS};

use super::index::{self, Narrow};
use super::nat;
use super::servers;
use super::state::{BackendKey, LeavingBackend, Retired, SnatKey, State, Unused};
use super::vips::{ranges_region, vip_of_key};
use super::write::{Index, PoolField, ServiceField, VipField, Write};
use super::{REMOVE_AFTER, REUSE_GRACE};
use crate::desired::HopKey;
use crate::flows::{Purge, Sweep};
use crate::maps::set::MapSet;

const GRACE_NS: u64 = REUSE_GRACE.as_nanos() as u64;
const REMOVE_AFTER_NS: u64 = REMOVE_AFTER.as_nanos() as u64;
/// A tick more than packets honour the table before, since the change may have come at a tick's end.
const PREVIOUS_NS: u64 = (PREVIOUS_TICKS as u64 + 1) * TICK_NS;

fn over(since_ns: u64, now_ns: u64) -> bool {
    now_ns.saturating_sub(since_ns) >= GRACE_NS
}

pub(super) fn purge(state: &State, now_ns: u64) -> Purge {
    let backends = state
        .leaving
        .backends
        .iter()
        .filter(|(_, leaving)| leaving.absent_ns.is_some_and(|at| over(at, now_ns)));
    let vips = state.leaving.vips.iter().filter(|(_, since)| over(**since, now_ns));
    Purge {
        backends: backends.filter_map(|(key, _)| state.backends.get(key)).collect(),
        vips: vips.filter_map(|(address, _)| state.vips.get(address)).collect(),
    }
}

pub(super) fn tick(maps: &MapSet, state: &mut State, now_ns: u64, sweep: Option<&Sweep>) -> Vec<Write> {
    if state.applied.is_none() {
        // What an earlier daemon left may be in use until the first apply.
        return Vec::new();
    }
    let mut tick = Tick { maps, state, now_ns, writes: Vec::new() };
    tick.retired();
    tick.previous_tables();
    if let Some(sweep) = sweep {
        tick.vips(sweep);
    }
    tick.backends(sweep);
    tick.pools();
    tick.hops();
    tick.snats();
    tick.writes
}

struct Tick<'a> {
    maps: &'a MapSet,
    state: &'a mut State,
    now_ns: u64,
    writes: Vec<Write>,
}

impl Tick<'_> {
    fn retired(&mut self) {
        let now_ns = self.now_ns;
        let (free, kept): (Vec<Retired>, Vec<Retired>) = std::mem::take(&mut self.state.retired)
            .into_iter()
            .partition(|retired| over(retired.at_ns, now_ns));
        self.state.retired = kept;
        for retired in free {
            match retired.what {
                Unused::Lines(region) => self.state.lines.free(region),
                Unused::RangeLines(region) => self.state.range_lines.free(region),
                Unused::FilterLines(region) => Arc::make_mut(&mut self.state.filters).free(region),
                Unused::NatPorts(region) => self.state.nat_ports.free(region),
                Unused::Service(id) => {
                    for field in [
                        ServiceField::Forward,
                        ServiceField::Timeouts,
                        ServiceField::Quic,
                        ServiceField::SnatV4,
                        ServiceField::SnatV6,
                    ] {
                        self.writes.push(Write::Service { id, field, word: 0 });
                    }
                    // An id that lost its object while its daemon died may have its labels still.
                    if self.maps.service_info[usize::from(id)].name.len != 0 {
                        self.writes.push(Write::ServiceInfo { id, info: Box::default() });
                    }
                    self.state.services.free(id);
                }
                Unused::WayV6(..) => {}
            }
        }
    }

    /// Gives up tables that were replaced 10 minutes ago, and lists of an earlier daemon that were.
    fn previous_tables(&mut self) {
        let mut changed = Vec::new();
        for (name, pool) in self.state.tables.iter() {
            let previous = pool.previous.as_ref();
            let previous =
                previous.filter(|(_, since_ns)| self.now_ns.saturating_sub(*since_ns) >= PREVIOUS_NS);
            let list = Span(self.maps.pools[usize::from(pool.id)].usable.get());
            let adopted = pool.adopted_list.filter(|adopted| list.is_empty() || list.line() != adopted.line);
            if previous.is_some() || adopted.is_some() {
                changed.push((name.clone(), previous.map(|(table, _)| table.region), adopted));
            }
        }
        for (name, previous, adopted) in changed {
            let Some(mut pool) = self.state.tables.remove(&name) else { continue };
            if previous.is_some() {
                self.writes.push(Write::Pool { id: pool.id, field: PoolField::Previous, word: 0 });
                pool.previous = None;
            }
            if adopted.is_some() {
                pool.adopted_list = None;
            }
            self.state.tables.insert(name, pool);
            for region in previous.into_iter().chain(adopted) {
                self.state.retire(self.now_ns, Unused::Lines(region));
            }
        }
    }

    fn vips(&mut self, sweep: &Sweep) {
        let State { leaving, vips, .. } = &*self.state;
        let free: Vec<(IpAddr, u16)> = leaving
            .vips
            .iter()
            .filter(|(_, since)| sweep.started_ns >= **since + GRACE_NS)
            .filter_map(|(address, _)| vips.get(address).map(|id| (*address, id)))
            .filter(|(_, id)| sweep.vip(*id).named == 0)
            .collect();
        if free.is_empty() {
            return;
        }
        let ids: HashSet<u32> = free.iter().map(|(_, id)| u32::from(*id)).collect();
        self.clear_ports(&ids);
        for (address, id) in free {
            self.state.retire(self.now_ns, Unused::RangeLines(ranges_region(self.maps, id)));
            if let Some(line) = Arc::make_mut(&mut self.state.filters).forget(id) {
                self.state.retire(self.now_ns, Unused::FilterLines(line));
            }
            for field in VipField::ALL {
                self.writes.push(Write::Vip { id, field, word: 0 });
            }
            self.writes.push(Write::VipInfo { id, info: Box::default() });
            self.state.leaving.vips.remove(&address);
            self.state.vips.forget(&address);
            self.state.vips.free(id);
        }
    }

    /// Removes the ports of VIPs that no packet finds.
    fn clear_ports(&mut self, vips: &HashSet<u32>) {
        let lines = Narrow(Index::Ports, &self.maps.ports);
        let keep = |key| !vips.contains(&vip_of_key(key));
        // Nothing is added, so nothing can be full.
        let change = index::change(&lines, &std::collections::HashMap::new(), keep, super::Limit::PortIndex);
        self.writes.extend(change.into_iter().flat_map(|change| change.clear).map(|(write, _)| write));
    }

    fn backends(&mut self, sweep: Option<&Sweep>) {
        let leaving: Vec<(BackendKey, LeavingBackend)> =
            self.state.leaving.backends.iter().map(|(key, leaving)| (key.clone(), *leaving)).collect();
        for (key, leaving) in leaving {
            let Some(id) = self.state.backends.get(&key) else { continue };
            let swept = |since_ns: u64| sweep.filter(|sweep| sweep.started_ns >= since_ns + GRACE_NS);
            match leaving.absent_ns {
                None => {
                    let empty = swept(leaving.since_ns).is_some_and(|sweep| sweep.backend(id).live == 0);
                    if empty || self.now_ns.saturating_sub(leaving.since_ns) >= REMOVE_AFTER_NS {
                        let hot = HotWord(self.maps.backends[usize::from(id)].hot.get());
                        self.writes.push(Write::Hot { id, word: hot.0 & !0xff });
                        let absent = LeavingBackend { absent_ns: Some(self.now_ns), ..leaving };
                        self.state.leaving.backends.insert(key, absent);
                    }
                }
                Some(absent_ns) => {
                    let named = swept(absent_ns).is_none_or(|sweep| sweep.backend(id).named > 0);
                    if !named && !self.in_a_table(&key.pool, id) {
                        self.free_backend(&key, id);
                    }
                }
            }
        }
    }

    fn in_a_table(&self, pool: &Arc<str>, id: u16) -> bool {
        self.state.tables.get(pool).is_some_and(|pool| {
            let previous = pool.previous.iter().map(|(table, _)| table);
            previous.chain([&pool.current]).any(|table| table.ids.binary_search(&id).is_ok())
        })
    }

    fn free_backend(&mut self, key: &BackendKey, id: u16) {
        self.writes.push(Write::Egress { id, word: 0 });
        self.writes.push(Write::BackendInfo { id, info: Box::default() });
        self.writes.extend(servers::forget(self.maps, id));
        self.state.leaving.backends.remove(key);
        self.state.backends.forget(key);
        self.state.backends.free(id);
    }

    /// A pool's tables go at once; its id when no backend names it.
    fn pools(&mut self) {
        let ready = self.state.leaving.pools.iter().filter(|(_, since)| over(**since, self.now_ns));
        let ready: Vec<Arc<str>> = ready.map(|(name, _)| name.clone()).collect();
        if ready.is_empty() {
            return;
        }
        let named: HashSet<Arc<str>> = self.state.backends.iter().map(|(key, _)| key.pool.clone()).collect();
        for name in ready {
            let Some(id) = self.state.pools.get(&name) else { continue };
            if let Some(pool) = self.state.tables.remove(&name) {
                for field in [PoolField::Current, PoolField::Previous, PoolField::Usable] {
                    self.writes.push(Write::Pool { id, field, word: 0 });
                }
                let previous = pool.previous.iter().map(|(table, _)| table.region);
                let slots = Arc::make_mut(&mut self.state.slots).remove(&name);
                let lists = slots.iter().flat_map(|slots| slots.buffers).chain(pool.adopted_list);
                for region in previous.chain([pool.current.region]).chain(lists) {
                    self.state.retire(self.now_ns, Unused::Lines(region));
                }
            }
            if !named.contains(&name) {
                self.writes.push(Write::PoolInfo { id, info: Box::default() });
                self.state.leaving.pools.remove(&name);
                self.state.pools.forget(&name);
                self.state.pools.free(id);
            }
        }
    }

    /// Addresses that mode `nat` no longer sends from, once their last flow is over.
    fn snats(&mut self) {
        let State { applied, snats, leaving, .. } = &mut *self.state;
        let Some(applied) = applied else { return };
        let gone: Vec<(SnatKey, u16)> = snats
            .iter()
            .filter(|(key, _)| applied.snats.get(&key.address).is_none_or(|snat| snat.ports != key.ports))
            .map(|(key, id)| (*key, id))
            .collect();
        for (key, id) in gone {
            let since = *leaving.snats.entry(key).or_insert(self.now_ns);
            if !over(since, self.now_ns) || nat::in_use(self.maps, id, time::Tick::from_ns(self.now_ns)) {
                continue;
            }
            nat::forget_all(self.maps, id);
            self.writes.push(Write::SnatFree { id });
            let region = nat::region(self.maps, id);
            leaving.snats.remove(&key);
            snats.forget(&key);
            snats.free(id);
            self.state.retire(self.now_ns, Unused::NatPorts(region));
            return;
        }
    }

    /// Next hops that nothing desired stands for and no backend names.
    fn hops(&mut self) {
        let State { applied, hops, leaving, unnamed_hops, .. } = &mut *self.state;
        let Some(applied) = applied else { return };
        let maps = self.maps;
        let mut candidates: Vec<(Option<HopKey>, u16)> = hops
            .iter()
            .filter(|(key, _)| !applied.next_hops.contains_key(*key))
            .map(|(key, id)| (Some(*key), id))
            .collect();
        candidates.extend(unnamed_hops.iter().map(|id| (None, *id)));
        if candidates.is_empty() {
            return;
        }
        let named: HashSet<u32> =
            maps.backends.iter().map(|backend| EgressWord(backend.egress.get()).next_hop()).collect();
        for (key, id) in candidates {
            let since = match key {
                Some(key) => leaving.hops.entry(key).or_insert(self.now_ns),
                None => leaving.unnamed_hops.entry(id).or_insert(self.now_ns),
            };
            if named.contains(&u32::from(id)) {
                *since = self.now_ns;
            } else if over(*since, self.now_ns) {
                self.writes.push(Write::HopSelect { id, word: 0 });
                leaving.unnamed_hops.remove(&id);
                unnamed_hops.retain(|unnamed| *unnamed != id);
                if let Some(key) = key {
                    leaving.hops.remove(&key);
                    hops.forget(&key);
                }
                hops.free(id);
            }
        }
    }
}
