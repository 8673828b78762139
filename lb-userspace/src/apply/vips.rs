//! VIPs, their port ranges, and the indexes that packets start from.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use lb_common::layout::{self, RANGES_PER_LINE, Span, VipPorts};
use lb_common::service::MAX_RANGE_LINES;
use lb_common::wire::halves;

use super::claims::{Claims, Range, VipClaims};
use super::error::{ApplyError, Limit};
use super::ids::Holder;
use super::index::{self, Change, Narrow, Wide};
use super::labels;
use super::lines::Region;
use super::plan::Planner;
use super::stage::Stage;
use super::state::Unused;
use super::write::{Index, VipField, Write};
use crate::desired::{Desired, VipRecord};
use crate::maps::set::MapSet;

/// Most ranges of a VIP.
const MAX_RANGES: usize = MAX_RANGE_LINES as usize * RANGES_PER_LINE;

/// The VIP id in a key of the port index.
pub(super) fn vip_of_key(key: u32) -> u32 {
    key >> 18
}

/// The region that holds a VIP's ranges.
pub(super) fn ranges_region(maps: &MapSet, id: u16) -> Region {
    let span = Span(maps.vips[usize::from(id)].ranges.get());
    Region { line: span.line(), lines: span.len() }
}

impl Planner<'_> {
    pub(super) fn services(&mut self, before: Option<&Desired>, desired: &Desired) -> Result<(), ApplyError> {
        // VIPs that no packet finds yet: their records may be written in any order.
        let mut new = HashSet::new();
        for address in desired.vips.keys() {
            let (id, holder) = self.state.vips.get_or_take(address)?;
            let returns = self.state.leaving.vips.remove(address).is_some();
            if holder == Holder::New || returns {
                new.insert(id);
            }
        }
        let ids = self.service_records(before, desired, &new)?;
        let mut claims = Claims::default();
        for (name, record) in &*desired.services {
            for address in &record.addresses {
                let dangling = || ApplyError::Dangling { service: name.to_string() };
                let vip = self.state.vips.get(address).ok_or_else(dangling)?;
                claims.add(vip, ids[name], record);
            }
        }
        let none = VipClaims::default();
        for (address, record) in &*desired.vips {
            let Some(id) = self.state.vips.get(address) else { continue };
            let info = labels::vip(record, *address);
            if self.maps.vip_info[usize::from(id)] != info {
                self.stages.push(Stage::NewVips, Write::VipInfo { id, info: Box::new(info) });
            }
            let claims = claims.vips.get(&id).unwrap_or(&none);
            match new.contains(&id) {
                true => self.new_vip(id, *address, record, claims)?,
                false => self.known_vip(id, *address, record, claims)?,
            }
        }
        self.source_lists(desired, &new)?;
        self.port_index(desired, &claims, &new)?;
        self.vip_indexes(desired)
    }

    fn new_vip(
        &mut self,
        id: u16,
        address: IpAddr,
        record: &VipRecord,
        claims: &VipClaims,
    ) -> Result<(), ApplyError> {
        let retired = ranges_region(self.maps, id);
        self.state.retire(self.now_ns, Unused::RangeLines(retired));
        self.write_ranges(Stage::NewVips, id, record, &claims.ranges)?;
        let words = [
            (VipField::Any, claims.any().0),
            (VipField::Unmatched, unmatched(record)),
            (VipField::Flags, flags(record)),
            (VipField::Snat, self.snat_word(address, record)),
        ];
        for (field, word) in words {
            self.stages.push(Stage::NewVips, Write::Vip { id, field, word });
        }
        Ok(())
    }

    fn known_vip(
        &mut self,
        id: u16,
        address: IpAddr,
        record: &VipRecord,
        claims: &VipClaims,
    ) -> Result<(), ApplyError> {
        let live = &self.maps.vips[usize::from(id)];
        let old_any = VipPorts(live.any.get());
        let old_unmatched = live.unmatched.get();
        let word = |field, word| Write::Vip { id, field, word };
        let any_or = claims.any_or(old_any);
        if any_or != old_any {
            self.stages.push(Stage::AnyUnion, word(VipField::Any, any_or.0));
        }
        if claims.any() != any_or {
            self.stages.push(Stage::AnyFinal, word(VipField::Any, claims.any().0));
        }
        if live.snat.get() != self.snat_word(address, record) {
            self.stages.push(Stage::Policy, word(VipField::Snat, self.snat_word(address, record)));
        }
        if old_unmatched != unmatched(record) {
            self.stages.push(Stage::Policy, word(VipField::Unmatched, unmatched(record)));
        }
        if live.flags.get() != flags(record) {
            self.stages.push(Stage::Policy, word(VipField::Flags, flags(record)));
        }
        let old = self.observed_ranges(id);
        if sorted(&old) == sorted(&claims.ranges) {
            return Ok(());
        }
        let retired = ranges_region(self.maps, id);
        self.state.retire(self.now_ns, Unused::RangeLines(retired));
        // Ports that lose their range fall through to words that change too: keep the old range until they have.
        let falls_through = claims.any() != old_any || old_unmatched != unmatched(record);
        let union = if falls_through { claims.ranges_or(&old) } else { claims.ranges.clone() };
        let first = self.write_ranges(Stage::RangesUnion, id, record, &union)?;
        if union.len() > claims.ranges.len() {
            self.state.retire(self.now_ns, Unused::RangeLines(first));
            self.write_ranges(Stage::RangesFinal, id, record, &claims.ranges)?;
        }
        Ok(())
    }

    fn observed_ranges(&self, id: u16) -> Vec<Range> {
        let region = ranges_region(self.maps, id);
        let lines = self.maps.ranges.iter().skip(region.line as usize).take(region.lines as usize);
        lines.flat_map(|line| &line.ranges).filter_map(|range| Range::from_word(range.get())).collect()
    }

    fn write_ranges(
        &mut self,
        stage: Stage,
        id: u16,
        record: &VipRecord,
        ranges: &[Range],
    ) -> Result<Region, ApplyError> {
        if ranges.len() > MAX_RANGES {
            let vip = record.name.to_string();
            return Err(ApplyError::Ranges { vip, count: ranges.len(), most: MAX_RANGES });
        }
        let region = self.state.range_lines.take(ranges.len().div_ceil(RANGES_PER_LINE) as u32)?;
        let word = if region.lines == 0 { 0 } else { Span::new(region.line, region.lines).0 };
        if region.lines > 0 {
            let words = sorted(ranges).into_iter().map(Range::word).collect();
            self.stages.push(stage, Write::Ranges { line: region.line, words });
        }
        self.stages.push(stage, Write::Vip { id, field: VipField::Ranges, word });
        Ok(region)
    }

    fn port_index(
        &mut self,
        desired: &Desired,
        claims: &Claims,
        new: &HashSet<u16>,
    ) -> Result<(), ApplyError> {
        // The ports of a VIP that leaves stay until no packet can have found it.
        let vips = self.state.vips.iter();
        let leaving: HashSet<u32> = vips
            .filter(|(address, _)| !desired.vips.contains_key(*address))
            .map(|(_, id)| u32::from(id))
            .collect();
        let lines = Narrow(Index::Ports, &self.maps.ports);
        let keep = |key| leaving.contains(&vip_of_key(key));
        let change = index::change(&lines, &claims.exact, keep, Limit::PortIndex)?;
        self.stages.at(Stage::Exact).extend(change.set);
        for (write, key) in change.clear {
            let returns = key.is_some_and(|key| new.contains(&(vip_of_key(key) as u16)));
            self.stages.push(if returns { Stage::NewVips } else { Stage::ExactClear }, write);
        }
        Ok(())
    }

    fn vip_indexes(&mut self, desired: &Desired) -> Result<(), ApplyError> {
        let (mut v4, mut v6) = (HashMap::new(), HashMap::new());
        for address in desired.vips.keys() {
            let id = self.state.vips.get(address).map_or(0, u32::from);
            match address {
                IpAddr::V4(address) => drop(v4.insert(u32::from(*address), id)),
                IpAddr::V6(address) => drop(v6.insert(halves(&address.octets()), id)),
            }
        }
        let lines = Narrow(Index::VipsV4, &self.maps.vips_v4);
        let change = index::change(&lines, &v4, |_| false, Limit::VipIndexV4)?;
        self.index_writes(change);
        let busy = self.state.retired.iter().filter_map(|retired| match retired.what {
            Unused::WayV6(line, way) => Some((line, way)),
            _ => None,
        });
        let lines = Wide { lines: &self.maps.vips_v6, busy: busy.collect() };
        let change = index::change(&lines, &v6, |_| false, Limit::VipIndexV6)?;
        for &(line, way) in &change.cleared {
            self.state.retire(self.now_ns, Unused::WayV6(line, way));
        }
        self.index_writes(change);
        Ok(())
    }

    fn index_writes<K>(&mut self, change: Change<K>) {
        self.stages.at(Stage::VipIndex).extend(change.set);
        self.stages.at(Stage::VipIndexClear).extend(change.clear.into_iter().map(|(write, _)| write));
    }
}

fn sorted(ranges: &[Range]) -> Vec<Range> {
    let mut ranges = ranges.to_vec();
    ranges.sort_unstable();
    ranges
}

/// The policy, and whether some ports may be flows' own.
fn unmatched(record: &VipRecord) -> u64 {
    record.unmatched as u64 | if record.snat.is_some() { layout::Unmatched::SNAT } else { 0 }
}

fn flags(record: &VipRecord) -> u64 {
    u64::from(record.icmp_echo)
}
