//! The bookkeeping from the maps alone.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::layout::{EgressWord, MaglevLine, SLOTS_PER_LINE, Span};
use lb_common::service;
use lb_common::wire::halves;

use super::error::Limit;
use super::ids::Ids;
use super::labels;
use super::lines::{Lines, Region};
use super::lists::Filters;
use super::nat;
use super::state::{BackendKey, Leaving, PoolSlots, PoolState, Retired, Slots, State, Table, Unused};
use super::vips::ranges_region;
use crate::maps::set::MapSet;

pub(super) fn recover(maps: &MapSet, now_ns: u64) -> State {
    let retire = |what| Retired { at_ns: now_ns, what };
    let pools = pool_ids(maps);
    let names: HashMap<u16, Arc<str>> = pools.iter().map(|(name, id)| (*id, name.clone())).collect();
    let (services, nameless) = service_ids(maps);
    let mut retired: Vec<Retired> = nameless.iter().map(|id| retire(Unused::Service(*id))).collect();
    let (vips, unreachable) = vip_ids(maps);
    let unnamed_hops = used_hops(maps);

    let mut lines = Lines::new(maps.maglev.len(), Limit::Maglev);
    let (mut tables, mut slots) = (Vec::new(), Slots::new());
    for (name, id) in &pools {
        let state = pool_state(maps, *id, now_ns);
        let previous = state.previous.iter().map(|(table, _)| table.region);
        for region in previous.chain([state.current.region]).chain(state.adopted_list) {
            lines.occupy(region);
        }
        tables.push((name.clone(), state));
        slots.insert(name.clone(), Arc::new(PoolSlots { pool: *id, ..PoolSlots::default() }));
    }
    let mut range_lines = Lines::new(maps.ranges.len(), Limit::RangeLines);
    for (_, id) in &vips {
        range_lines.occupy(ranges_region(maps, *id));
    }
    let snats = nat::ids(maps);
    let mut nat_ports = Lines::new(maps.nat_ports.len(), Limit::NatPorts);
    for (_, id) in &snats {
        nat_ports.occupy(nat::region(maps, *id));
    }
    // A way that an earlier daemon cleared just now may still be read.
    for (line, value) in maps.vips_v6.iter().enumerate() {
        for (way, id) in value.ids.iter().enumerate() {
            if id.get() == 0 && (value.high[way].get(), value.low[way].get()) != (0, 0) {
                retired.push(retire(Unused::WayV6(line as u32, way)));
            }
        }
    }
    State {
        vips: Ids::recover(maps.vips.len(), Limit::Vips, vips, []),
        services: Ids::recover(maps.services.len(), Limit::Services, services, nameless),
        pools: Ids::recover(maps.pools.len(), Limit::Pools, pools, []),
        backends: Ids::recover(maps.backends.len(), Limit::Backends, backend_ids(maps, &names), []),
        hops: Ids::recover(maps.next_hops.len(), Limit::NextHops, [], unnamed_hops.iter().copied()),
        snats: Ids::recover(maps.nat_addresses.len(), Limit::Snats, snats, []),
        unnamed_hops,
        lines,
        range_lines,
        filters: Arc::new(Filters::recover(maps)),
        nat_ports,
        tables: tables.into_iter().collect(),
        slots: Arc::new(slots),
        leaving: Leaving {
            vips: unreachable.into_iter().map(|address| (address, now_ns)).collect(),
            ..Leaving::default()
        },
        retired,
        applied: None,
    }
}

/// Numbers and values from 1 on.
fn numbered<T>(values: &[T]) -> impl Iterator<Item = (u16, &T)> {
    values.iter().enumerate().skip(1).map(|(id, value)| (id as u16, value))
}

fn pool_ids(maps: &MapSet) -> Vec<(Arc<str>, u16)> {
    let named = numbered(&maps.pool_info).filter(|(_, info)| info.name.len != 0);
    named.map(|(id, info)| (Arc::from(info.name.as_str()), id)).collect()
}

/// Named services, and those that lost their name but are not taken back yet.
fn service_ids(maps: &MapSet) -> (Vec<(Arc<str>, u16)>, Vec<u16>) {
    let (mut named, mut nameless) = (HashMap::new(), Vec::new());
    for (id, info) in numbered(&maps.service_info) {
        if info.name.len != 0 {
            // A service that was getting a new id when its daemon died: the other id goes.
            nameless.extend(named.insert(Arc::from(info.name.as_str()), id));
        } else if maps.services[usize::from(id)].forward.get() != 0 {
            nameless.push(id);
        }
    }
    (named.into_iter().collect(), nameless)
}

/// Addresses with an id, and those of them that no packet finds.
fn vip_ids(maps: &MapSet) -> (Vec<(IpAddr, u16)>, Vec<IpAddr>) {
    let (mut ids, mut unreachable) = (Vec::new(), Vec::new());
    for (id, info) in numbered(&maps.vip_info).filter(|(_, info)| info.name.len != 0) {
        let Some(address) = labels::address(info.address, info.family) else { continue };
        ids.push((address, id));
        if vip_id(maps, address) != Some(id.into()) {
            unreachable.push(address);
        }
    }
    (ids, unreachable)
}

/// What a packet to this address finds.
fn vip_id(maps: &MapSet, address: IpAddr) -> Option<u32> {
    let memory = crate::flows::memory(maps);
    match address {
        IpAddr::V4(address) => service::vip_v4(&memory, address.into()),
        IpAddr::V6(address) => service::vip_v6(&memory, halves(&address.octets())),
    }
}

fn backend_ids(maps: &MapSet, pools: &HashMap<u16, Arc<str>>) -> Vec<(BackendKey, u16)> {
    let key = |info: &lb_common::layout::BackendInfo| {
        let pool = pools.get(&info.pool)?.clone();
        let address = labels::address(info.address, info.family)?;
        Some(BackendKey { pool, name: Arc::from(info.name.as_str()), address })
    };
    let named = numbered(&maps.backend_info).filter(|(_, info)| info.name.len != 0);
    named.filter_map(|(id, info)| key(info).map(|key| (key, id))).collect()
}

/// Next hops that backends name or that have been written.
fn used_hops(maps: &MapSet) -> Vec<u16> {
    let named: HashSet<u32> =
        maps.backends.iter().map(|backend| EgressWord(backend.egress.get()).next_hop()).collect();
    let used = |(id, hop): &(u16, &lb_common::layout::NextHop)| {
        hop.select.get() != 0 || named.contains(&u32::from(*id))
    };
    numbered(&maps.next_hops).filter(used).map(|(id, _)| id).collect()
}

fn pool_state(maps: &MapSet, id: u16, now_ns: u64) -> PoolState {
    let live = &maps.pools[usize::from(id)];
    // One table is in both places where a daemon was killed between the two stores that publish another.
    let previous = Span(live.previous.get());
    let previous = if previous.0 == live.current.get() { Span(0) } else { previous };
    let previous = table(&maps.maglev, previous);
    let list = region(Span(live.usable.get()));
    PoolState {
        id,
        current: Arc::new(table(&maps.maglev, Span(live.current.get()))),
        previous: (previous.len > 0).then(|| (Arc::new(previous), now_ns)),
        adopted_list: (list.lines > 0).then_some(list),
    }
}

fn region(span: Span) -> Region {
    Region { line: span.line(), lines: span.len().div_ceil(SLOTS_PER_LINE) }
}

fn table(maglev: &[MaglevLine], span: Span) -> Table {
    let region = region(span);
    let lines = maglev.iter().skip(region.line as usize).take(region.lines as usize);
    let mut ids: Vec<u16> = lines.flat_map(|line| line.ids).take(span.len() as usize).collect();
    ids.sort_unstable();
    ids.dedup();
    Table { region, len: span.len(), inputs: None, ids }
}
