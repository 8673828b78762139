//! Next hops.

use std::collections::{HashMap, HashSet};

use lb_common::layout::{EgressWord, NextHop};

use super::error::ApplyError;
use super::ids::Holder;
use super::plan::Planner;
use super::stage::Stage;
use super::state::BackendKey;
use super::write::Write;
use crate::desired::{Desired, HopKey, HopRecord};
use crate::maps::set::MapSet;

/// Writes what a next hop's record lacks of being `record`.
pub(super) fn change(maps: &MapSet, id: u16, record: HopRecord, writes: &mut Vec<Write>) {
    let hop = &maps.next_hops[usize::from(id)];
    let as_wanted = match hop.current() {
        Some(copy) => record.resolved && *copy == record.copy,
        None => !record.resolved,
    };
    if as_wanted {
        return;
    }
    let copy = (hop.select.get() as usize & 1) ^ 1;
    writes.push(Write::HopCopy { id, copy, value: record.copy });
    writes.push(Write::HopSelect { id, word: NextHop::selector(copy, record.resolved) });
}

impl Planner<'_> {
    pub(super) fn hops(&mut self, desired: &Desired) -> Result<(), ApplyError> {
        let kept = self.name_hops(desired);
        for (key, record) in &*desired.next_hops {
            self.state.leaving.hops.remove(key);
            let (id, holder) = self.state.hops.get_or_take(key)?;
            if let Holder::New = holder {
                self.stages.push(Stage::Hops, Write::HopCopy { id, copy: 0, value: record.copy });
                let word = NextHop::selector(0, record.resolved);
                self.stages.push(Stage::Hops, Write::HopSelect { id, word });
            } else if !kept.contains(key) {
                change(self.maps, id, *record, self.stages.at(Stage::Hops));
            }
        }
        Ok(())
    }

    /// Finds the keys of next hops of an earlier daemon: by the backends that use them, or else by being equal. Gives
    /// the keys that have no resolution yet: what the earlier daemon resolved goes on until there is one.
    fn name_hops(&mut self, desired: &Desired) -> HashSet<HopKey> {
        let mut kept = HashSet::new();
        if self.state.unnamed_hops.is_empty() {
            return kept;
        }
        let maps = self.maps;
        let equal =
            |id: u16, record: &HopRecord| maps.next_hops[usize::from(id)].current() == Some(&record.copy);
        let used = self.adopted_hops(desired);
        for (key, record) in &*desired.next_hops {
            let Some(&id) = used.get(key) else { continue };
            if !record.resolved || equal(id, record) {
                self.name_hop(*key, |unnamed| unnamed == id);
                if !record.resolved {
                    kept.insert(*key);
                }
            }
        }
        for (key, record) in desired.next_hops.iter().filter(|(_, record)| record.resolved) {
            self.name_hop(*key, |unnamed| equal(unnamed, record));
        }
        kept
    }

    fn name_hop(&mut self, key: HopKey, fits: impl Fn(u16) -> bool) {
        if self.state.hops.get(&key).is_some() {
            return;
        }
        if let Some(found) = self.state.unnamed_hops.iter().position(|unnamed| fits(*unnamed)) {
            let id = self.state.unnamed_hops.swap_remove(found);
            self.state.hops.assign(key, id);
        }
    }

    /// The next hops that the backends of each key use in the maps.
    fn adopted_hops(&self, desired: &Desired) -> HashMap<HopKey, u16> {
        let mut adopted = HashMap::new();
        for (pool, record) in &desired.pools {
            for (name, backend) in &record.backends {
                let key = BackendKey { pool: pool.clone(), name: name.clone(), address: backend.address };
                if let (Some(egress), Some(id)) = (backend.egress, self.state.backends.get(&key)) {
                    let word = EgressWord(self.maps.backends[usize::from(id)].egress.get());
                    adopted.insert(egress.next_hop, word.next_hop() as u16);
                }
            }
        }
        adopted
    }
}
