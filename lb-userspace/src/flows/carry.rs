//! Taking the flows along into maps of other sizes.

use std::collections::HashMap;

use lb_common::flow::{self, Meta, Overflow};
use lb_common::layout::HotWord;
use lb_common::time::Tick;

use super::entry::{Entry, entries};
use super::{FlowTable, V4, V6};
use crate::maps::set::MapSet;

/// Ids of the same VIPs, services and backends in two sets of maps.
#[derive(Clone, Debug, Default)]
pub struct Translation {
    vips: HashMap<u16, u16>,
    services: HashMap<u16, u16>,
    /// Id and generation.
    backends: HashMap<u16, (u16, u8)>,
}

impl Translation {
    /// By the labels of both: addresses of VIPs; pools, names and addresses of backends.
    #[must_use]
    pub fn between(from: &MapSet, to: &MapSet) -> Self {
        let vips = |maps: &MapSet| -> Vec<_> {
            let infos = maps.vip_info.iter().enumerate().filter(|(_, info)| info.name.len != 0);
            infos.map(|(id, info)| ((info.address, info.family), id as u16)).collect()
        };
        let services = |maps: &MapSet| -> Vec<_> {
            let infos = maps.service_info.iter().enumerate().filter(|(_, info)| info.name.len != 0);
            infos.map(|(id, info)| (info.name.as_str().to_owned(), id as u16)).collect()
        };
        let new_services: HashMap<_, _> = services(to).into_iter().collect();
        let services = services(from)
            .into_iter()
            .filter_map(|(name, id)| Some((id, *new_services.get(&name)?)))
            .collect();
        let backends = |maps: &MapSet| -> Vec<_> {
            let infos = maps.backend_info.iter().enumerate().filter(|(_, info)| info.name.len != 0);
            let key = |(id, info): (usize, &lb_common::layout::BackendInfo)| {
                let pool = maps.pool_info.get(usize::from(info.pool))?.name;
                let key =
                    (pool.as_str().to_owned(), info.name.as_str().to_owned(), info.address, info.family);
                let generation = HotWord(maps.backends.get(id)?.hot.get()).generation();
                Some((key, (id as u16, generation)))
            };
            infos.filter_map(key).collect()
        };
        let (new_vips, new_backends): (HashMap<_, _>, HashMap<_, _>) =
            (vips(to).into_iter().collect(), backends(to).into_iter().collect());
        let vips = vips(from).into_iter().filter_map(|(key, id)| Some((id, *new_vips.get(&key)?)));
        let backends =
            backends(from).into_iter().filter_map(|(key, (id, _))| Some((id, *new_backends.get(&key)?)));
        Self { vips: vips.collect(), services, backends: backends.collect() }
    }

    /// Pairs of service ids.
    pub fn services(&self) -> impl Iterator<Item = (u16, u16)> {
        self.services.iter().map(|(from, to)| (*from, *to))
    }

    /// Pairs of backend ids.
    pub fn backends(&self) -> impl Iterator<Item = (u16, u16)> {
        self.backends.iter().map(|(from, (to, _))| (*from, *to))
    }
}

/// What became of the flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Taken along.
    pub carried: u64,
    /// Of a VIP or backend that the new maps lack, or of an earlier holder of a backend id.
    pub foreign: u64,
    /// Found no place.
    pub full: u64,
}

impl Carried {
    fn plus(self, other: Self) -> Self {
        Self {
            carried: self.carried + other.carried,
            foreign: self.foreign + other.foreign,
            full: self.full + other.full,
        }
    }
}

/// Copies all flows; class and deadline are kept. Live ones find their places before expired ones.
#[must_use]
pub fn carry(from: &MapSet, to: &MapSet, ids: &Translation, now: Tick) -> Carried {
    table::<1, V4>(from, to, ids, now).plus(table::<3, V6>(from, to, ids, now))
}

fn table<const W: usize, F: FlowTable<W>>(
    from: &MapSet,
    to: &MapSet,
    ids: &Translation,
    now: Tick,
) -> Carried {
    let mut carried = Carried::default();
    for live in [true, false] {
        for entry in entries::<W, F>(from) {
            if entry.meta.deadline().remaining(now).is_some() != live {
                continue;
            }
            let count = match translated(from, entry, ids) {
                None => &mut carried.foreign,
                Some(entry) if put::<W, F>(to, &entry, now) => &mut carried.carried,
                Some(_) => &mut carried.full,
            };
            *count += 1;
        }
    }
    carried
}

/// The entry with the new maps' ids.
fn translated(from: &MapSet, entry: Entry, ids: &Translation) -> Option<Entry> {
    let holder = HotWord(from.backends.get(usize::from(entry.backend))?.hot.get()).generation();
    if holder != entry.meta.generation() {
        return None;
    }
    let (backend, generation) = *ids.backends.get(&entry.backend)?;
    let vip = u32::from(*ids.vips.get(&(entry.vip as u16))?);
    let meta = Meta::new(entry.meta.deadline(), entry.meta.class(), generation);
    Some(Entry { vip, backend, meta, ..entry })
}

/// Places an entry; one that the data plane has made meanwhile is left as it is.
fn put<const W: usize, F: FlowTable<W>>(to: &MapSet, entry: &Entry, now: Tick) -> bool {
    let buckets = F::buckets(to);
    let key = F::key(to.meta[0].geometry.secret, entry);
    let (number, second) = key.buckets((buckets.len() as u32).saturating_sub(1));
    let line = F::overflow(to).get(flow::overflow_line(number) as usize);
    let (Some(line), Some(first), Some(second)) =
        (line, buckets.get(number as usize), buckets.get(second as usize))
    else {
        return false;
    };
    if flow::find(first, &key).is_some() || flow::find(second, &key).is_some() {
        return true;
    }
    let (one, two) = (flow::offer(first, key.own_way(), now), flow::offer(second, key.own_way(), now));
    let offer = if one.yields_to(&two) {
        Overflow::of(line, number).set(now);
        two
    } else {
        one
    };
    let Some(way) = offer.way() else { return false };
    flow::write(way, &key, entry.backend.into(), entry.meta);
    true
}
