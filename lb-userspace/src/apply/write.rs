//! One write to a map, and doing it.

use std::sync::Arc;

use lb_common::cell::SharedU64;
use lb_common::filter::BuiltList;
use lb_common::layout::{
    BackendInfo, Lists, NextHopCopy, PoolInfo, RANGES_PER_LINE, SLOTS_PER_LINE, ServiceInfo, VipInfo,
};
use lb_common::nat;

use crate::maps::set::MapSet;

/// A write. Those to shared words are one store each; the others go where no packet looks.
#[derive(Clone, PartialEq)]
#[expect(missing_docs, reason = "fields are ids, positions and the values to store")]
pub enum Write {
    /// Lets every packet in flight finish.
    Grace,
    /// Fills a copy of a next hop that is not selected.
    HopCopy { id: u16, copy: usize, value: NextHopCopy },
    /// Selects a copy.
    HopSelect { id: u16, word: u64 },
    /// Fills a free backend id.
    Backend { id: u16, address: [u8; 16] },
    /// Fills an outer source that is not selected.
    Source { id: u16, which: usize, source: [u8; 16] },
    /// An [`lb_common::layout::EgressWord`].
    Egress { id: u16, word: u64 },
    /// An [`lb_common::layout::HotWord`].
    Hot { id: u16, word: u64 },
    /// A backend's labels, without those that the slot writer keeps.
    BackendInfo { id: u16, info: Box<BackendInfo> },
    /// What a flow weighs on a backend.
    Cost { id: u16, cost: u64 },
    /// What a backend's load is to add to what the data plane counted.
    Unseen { id: u16, flows: u32 },
    /// A backend's [`lb_common::layout::ServerIds`]: pool, then the numbers of its ids.
    ServerIds { id: u16, words: [u64; 7] },
    /// Fills a region that no pool names.
    Table { line: u32, ids: Vec<u16> },
    /// A word of a pool.
    Pool { id: u16, field: PoolField, word: u64 },
    /// A pool's labels.
    PoolInfo { id: u16, info: Box<PoolInfo> },
    /// Fills a free `snat` address, and makes all of its ports free.
    Snat { id: u16, address: [u8; 16], range: u64, facts: u64 },
    /// What changes of a `snat` address.
    SnatFacts { id: u16, word: u64 },
    /// Takes a `snat` address out of use.
    SnatFree { id: u16 },
    /// A word of a service.
    Service { id: u16, field: ServiceField, word: u64 },
    /// A service's limit of new flows: its words but the one that the data plane writes.
    Limit { id: u16, words: [u64; 5] },
    /// A service's labels.
    ServiceInfo { id: u16, info: Box<ServiceInfo> },
    /// Fills range lines that no VIP names.
    Ranges { line: u32, words: Vec<u64> },
    /// Fills lines that nothing names with a list.
    List { line: u32, list: Arc<BuiltList> },
    /// Fills a line that nothing names with a VIP's lists.
    Lists { line: u32, lists: Lists },
    /// A word of a VIP.
    Vip { id: u16, field: VipField, word: u64 },
    /// A VIP's labels.
    VipInfo { id: u16, info: Box<VipInfo> },
    /// An entry of an index.
    Entry { index: Index, line: u32, way: usize, word: u64 },
    /// An index line's overflow flag.
    Overflow { index: Index, line: u32, word: u64 },
    /// Fills a free way of the IPv6 VIP index.
    AddressV6 { line: u32, way: usize, high: u64, low: u64 },
    /// Puts a way of the IPv6 VIP index into use, or out of it with 0.
    IdV6 { line: u32, way: usize, id: u16 },
    /// An overflow flag of the IPv6 VIP index.
    OverflowV6 { line: u32, word: u32 },
}

/// Words of [`lb_common::layout::Pool`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the fields'")]
pub enum PoolField {
    Seed,
    LastResort,
    Usable,
    Previous,
    Changed,
    Current,
}

/// Words of [`lb_common::layout::Service`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the fields'")]
pub enum ServiceField {
    Timeouts,
    Quic,
    Forward,
    SnatV4,
    SnatV6,
}

/// Words of [`lb_common::layout::Vip`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the fields'")]
pub enum VipField {
    Any,
    Ranges,
    Unmatched,
    Flags,
    Lists,
    Snat,
}

impl VipField {
    pub(super) const ALL: [Self; 6] =
        [Self::Any, Self::Ranges, Self::Unmatched, Self::Flags, Self::Lists, Self::Snat];
}

/// The indexes with 32-bit keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are the maps'")]
pub enum Index {
    VipsV4,
    Ports,
    Servers,
}

impl Write {
    /// Does the write.
    pub(super) fn execute(&self, maps: &MapSet) {
        match *self {
            Self::Grace => std::thread::sleep(super::PACKET_GRACE),
            Self::HopCopy { id, copy, value } => {
                maps.next_hops.update(id.into(), |hop| hop.copies[copy] = value);
            }
            Self::HopSelect { id, word } => maps.next_hops[usize::from(id)].select.set(word),
            Self::Backend { id, address } => {
                maps.backends.update(id.into(), |backend| backend.address = address);
            }
            Self::Source { id, which, source } => {
                maps.backends.update(id.into(), |backend| backend.sources[which] = source);
            }
            Self::Egress { id, word } => maps.backends[usize::from(id)].egress.set(word),
            Self::Hot { id, word } => maps.backends[usize::from(id)].hot.set(word),
            Self::BackendInfo { id, ref info } => {
                maps.backend_info.update(id.into(), |value| *value = **info);
            }
            Self::Cost { id, cost } => maps.loads[usize::from(id)].cost.set(cost),
            Self::Unseen { id, flows } => maps.loads[usize::from(id)].unseen.set(flows),
            Self::ServerIds { id, words } => {
                let record = &maps.server_ids[usize::from(id)];
                let [pool, ids @ ..] = words;
                record.pool.set(pool);
                record.ids.iter().flatten().zip(ids).for_each(|(to, word)| to.set(word));
            }
            Self::Table { line, ref ids } => table(maps, line, ids),
            Self::Pool { id, field, word } => pool(maps, id, field).set(word),
            Self::PoolInfo { id, ref info } => maps.pool_info.update(id.into(), |value| *value = **info),
            Self::Snat { id, address, range, facts } => {
                maps.nat_addresses.update(id.into(), |snat| snat.address = address);
                let snat = &maps.nat_addresses[usize::from(id)];
                snat.facts.set(facts);
                snat.range.set(range);
                nat::prepare(snat, &maps.nat_ports);
            }
            Self::SnatFacts { id, word } => maps.nat_addresses[usize::from(id)].facts.set(word),
            Self::SnatFree { id } => maps.nat_addresses[usize::from(id)].range.set(0),
            Self::Service { id, field, word } => {
                let service = &maps.services[usize::from(id)];
                match field {
                    ServiceField::Timeouts => service.timeouts.set(word),
                    ServiceField::Quic => service.quic.set(word),
                    ServiceField::Forward => service.forward.set(word),
                    ServiceField::SnatV4 => service.snat_v4.set(word),
                    ServiceField::SnatV6 => service.snat_v6.set(word),
                }
            }
            Self::Limit { id, words } => {
                let limit = &maps.limits[usize::from(id)];
                let fields = [
                    &limit.prefixes,
                    &limit.source_period,
                    &limit.total_period,
                    &limit.source_interval,
                    &limit.total_interval,
                ];
                let [source, source_period, total, total_period, prefixes] = words;
                for (field, word) in
                    fields.into_iter().zip([prefixes, source_period, total_period, source, total])
                {
                    field.set(word);
                }
            }
            Self::ServiceInfo { id, ref info } => {
                maps.service_info.update(id.into(), |value| *value = **info);
            }
            Self::Ranges { line, ref words } => ranges(maps, line, words),
            Self::List { line, ref list } => {
                for (number, value) in list.lines().iter().enumerate() {
                    maps.filters.update(line as usize + number, |line| *line = *value);
                }
            }
            Self::Lists { line, lists } => maps.filters.update(line as usize, |value| *value = lists),
            Self::Vip { id, field, word } => vip(maps, id, field).set(word),
            Self::VipInfo { id, ref info } => maps.vip_info.update(id.into(), |value| *value = **info),
            Self::Entry { index, line, way, word } => index.lines(maps)[line as usize].entries[way].set(word),
            Self::Overflow { index, line, word } => index.lines(maps)[line as usize].overflow.set(word),
            Self::AddressV6 { line, way, high, low } => {
                maps.vips_v6[line as usize].high[way].set(high);
                maps.vips_v6[line as usize].low[way].set(low);
            }
            Self::IdV6 { line, way, id } => maps.vips_v6[line as usize].ids[way].set(id.into()),
            Self::OverflowV6 { line, word } => maps.vips_v6[line as usize].overflow.set(word),
        }
    }
}

impl Index {
    pub(super) fn lines(self, maps: &MapSet) -> &[lb_common::layout::IndexLine] {
        match self {
            Self::VipsV4 => &maps.vips_v4,
            Self::Ports => &maps.ports,
            Self::Servers => &maps.servers,
        }
    }
}

/// Fills lines from `line` on with `ids`; what remains of the last line is 0.
pub(super) fn table(maps: &MapSet, line: u32, ids: &[u16]) {
    for (number, chunk) in ids.chunks(SLOTS_PER_LINE as usize).enumerate() {
        maps.maglev.update(line as usize + number, |line| {
            line.ids = std::array::from_fn(|position| chunk.get(position).copied().unwrap_or(0));
        });
    }
}

fn ranges(maps: &MapSet, line: u32, words: &[u64]) {
    for (number, chunk) in words.chunks(RANGES_PER_LINE).enumerate() {
        for (position, range) in maps.ranges[line as usize + number].ranges.iter().enumerate() {
            range.set(chunk.get(position).copied().unwrap_or(0));
        }
    }
}

fn pool(maps: &MapSet, id: u16, field: PoolField) -> &SharedU64 {
    let pool = &maps.pools[usize::from(id)];
    match field {
        PoolField::Seed => &pool.seed,
        PoolField::LastResort => &pool.last_resort,
        PoolField::Usable => &pool.usable,
        PoolField::Previous => &pool.previous,
        PoolField::Changed => &pool.changed,
        PoolField::Current => &pool.current,
    }
}

fn vip(maps: &MapSet, id: u16, field: VipField) -> &SharedU64 {
    let vip = &maps.vips[usize::from(id)];
    match field {
        VipField::Any => &vip.any,
        VipField::Ranges => &vip.ranges,
        VipField::Unmatched => &vip.unmatched,
        VipField::Flags => &vip.flags,
        VipField::Lists => &vip.lists,
        VipField::Snat => &vip.snat,
    }
}
