//! Addresses that mode `nat` sends from, and their ports.
//!
//! An address gets an id and a run of records when it is first named, and keeps both while a flow goes on from it, also
//! after the config has lost it: a flow outlives a reload.

use std::net::IpAddr;
use std::sync::Arc;

use lb_common::flow::{Class, Meta};
use lb_common::layout::{NatAddress, NatPort, NatRange, Unmatched};
use lb_common::nat;
use lb_common::time::Tick;

use super::error::ApplyError;
use super::ids::Holder;
use super::labels;
use super::lines::Region;
use super::plan::Planner;
use super::stage::Stage;
use super::state::{SnatKey, State};
use super::write::Write;
use crate::desired::{Desired, SnatRecord, VipRecord};
use crate::maps::set::MapSet;

/// The records of an address's ports.
pub(super) fn region(maps: &MapSet, id: u16) -> Region {
    let range = NatRange(maps.nat_addresses[usize::from(id)].range.get());
    if range.0 == 0 { Region::default() } else { Region { line: range.record(), lines: 2 * range.size() } }
}

/// Addresses with an id.
pub(super) fn ids(maps: &MapSet) -> Vec<(SnatKey, u16)> {
    let used = maps.nat_addresses.iter().enumerate().skip(1).filter(|(_, snat)| snat.range.get() != 0);
    used.filter_map(|(id, snat)| Some((key(snat)?, id as u16))).collect()
}

fn key(snat: &NatAddress) -> Option<SnatKey> {
    let range = NatRange(snat.range.get());
    Some(SnatKey { address: crate::flows::nat::address(snat)?, ports: (range.first(), range.last()) })
}

fn records(maps: &MapSet, id: u16) -> impl Iterator<Item = (u32, &NatPort)> {
    let region = region(maps, id);
    let records = maps.nat_ports.iter().skip(region.line as usize).take(region.lines as usize);
    (region.line..).zip(records)
}

/// Whether a flow that is not over has a port of the address.
pub(super) fn in_use(maps: &MapSet, id: u16, now: Tick) -> bool {
    records(maps, id).any(|(_, record)| {
        let meta = Meta(record.state.get() as u32);
        meta.class() != Class::Empty && meta.deadline().remaining(now).is_some()
    })
}

/// Takes the flows of an address that no packet finds out of the index.
pub(super) fn forget_all(maps: &MapSet, id: u16) {
    let memory = crate::flows::memory(maps);
    for (number, record) in records(maps, id) {
        if Meta(record.state.get() as u32).class() != Class::Empty {
            nat::forget(&memory, number, record);
            record.state.set(0);
        }
    }
}

/// The desired state with the addresses that the config has lost and flows still go on from, as the maps have them: an
/// earlier daemon's config may have lost them.
pub(super) fn with_those_in_use(maps: &MapSet, state: &State, desired: &Arc<Desired>) -> Arc<Desired> {
    let now = Tick::from_ns(crate::flows::now_ns());
    let named = |address| desired.snats.contains_key(address) || desired.vips.contains_key(address);
    let lost = state.snats.iter().filter(|(key, id)| !named(&key.address) && in_use(maps, *id, now));
    let lost: Vec<(IpAddr, SnatRecord, VipRecord)> =
        lost.filter_map(|(key, id)| in_force(maps, state, key, id)).collect();
    if lost.is_empty() {
        return desired.clone();
    }
    let mut extended = Desired::clone(desired);
    for (address, snat, vip) in lost {
        Arc::make_mut(&mut extended.snats).insert(address, snat);
        Arc::make_mut(&mut extended.vips).insert(address, vip);
    }
    Arc::new(extended)
}

/// An address's records as they are in force; `None` for one that packets no longer find.
fn in_force(maps: &MapSet, state: &State, key: &SnatKey, id: u16) -> Option<(IpAddr, SnatRecord, VipRecord)> {
    let SnatKey { address, ports } = *key;
    let vip = usize::from(state.vips.get(&address)?);
    let live = &maps.vips[vip];
    if live.snat.get() != u64::from(id) {
        return None;
    }
    let mtu = u16::try_from(maps.nat_addresses[usize::from(id)].client_mtu()).ok()?;
    let vip = VipRecord {
        name: maps.vip_info[vip].name.as_str().into(),
        unmatched: Unmatched::from_word(live.unmatched.get()),
        icmp_echo: false,
        lists: [const { None }; 3],
        snat: Some(ports),
    };
    Some((address, SnatRecord { ports, mtu }, vip))
}

impl Planner<'_> {
    /// Plans the addresses' records. Before services and VIPs: what names an address finds it complete.
    pub(super) fn snats(&mut self, desired: &Desired) -> Result<(), ApplyError> {
        for (address, record) in &*desired.snats {
            let key = SnatKey { address: *address, ports: record.ports };
            self.state.leaving.snats.remove(&key);
            let facts = NatAddress::facts(record.mtu, address.is_ipv6());
            let (id, holder) = self.state.snats.get_or_take(&key)?;
            if holder == Holder::Old {
                if self.maps.nat_addresses[usize::from(id)].facts.get() != facts {
                    self.stages.push(Stage::Snats, Write::SnatFacts { id, word: facts });
                }
                continue;
            }
            let (first, last) = record.ports;
            let size = u32::from(last.saturating_sub(first)) + 1;
            let region = self.state.nat_ports.take(2 * size)?;
            let range = NatRange::new(region.line, first, last).0;
            let address = labels::bytes(*address);
            self.stages.push(Stage::Snats, Write::Snat { id, address, range, facts });
        }
        Ok(())
    }

    /// The id of a desired address.
    pub(super) fn snat_id(&self, desired: &Desired, address: IpAddr) -> Option<u16> {
        let ports = desired.snats.get(&address)?.ports;
        self.state.snats.get(&SnatKey { address, ports })
    }

    /// What the record of a VIP with this id says of the address's ports.
    pub(super) fn snat_word(&self, address: IpAddr, record: &VipRecord) -> u64 {
        let key = record.snat.map(|ports| SnatKey { address, ports });
        key.and_then(|key| self.state.snats.get(&key)).map_or(0, u64::from)
    }
}
