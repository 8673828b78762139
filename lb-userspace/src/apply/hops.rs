//! Next hops.

use std::collections::HashMap;

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
        let adopted =
            if self.state.unnamed_hops.is_empty() { HashMap::new() } else { self.adopted_hops(desired) };
        for (key, record) in &desired.next_hops {
            self.state.leaving.hops.remove(key);
            if self.state.hops.get(key).is_none()
                && let Some(id) = self.unnamed_hop(record, adopted.get(key).copied())
            {
                self.state.hops.assign(*key, id);
                if !record.resolved {
                    // What the earlier daemon resolved goes on until resolution says otherwise.
                    continue;
                }
            }
            let (id, holder) = self.state.hops.get_or_take(key)?;
            if let Holder::New = holder {
                self.stages.push(Stage::Hops, Write::HopCopy { id, copy: 0, value: record.copy });
                let word = NextHop::selector(0, record.resolved);
                self.stages.push(Stage::Hops, Write::HopSelect { id, word });
            } else {
                change(self.maps, id, *record, self.stages.at(Stage::Hops));
            }
        }
        Ok(())
    }

    /// A next hop of an earlier daemon for `record`: one that is equal, else the one that its backends use.
    fn unnamed_hop(&mut self, record: &HopRecord, used: Option<u16>) -> Option<u16> {
        let maps = self.maps;
        let equal = |id: &u16| maps.next_hops[usize::from(*id)].current() == Some(&record.copy);
        let unnamed = &mut self.state.unnamed_hops;
        let found = match record.resolved {
            true => unnamed.iter().position(equal),
            false => unnamed.iter().position(|id| Some(*id) == used),
        }?;
        Some(unnamed.swap_remove(found))
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
