//! Pools and their backends.

use std::sync::Arc;

use lb_common::forward::constant_sum;
use lb_common::layout::{BackendState, EgressWord, Family, HotWord, Load, SLOTS_PER_LINE, Span};

use super::differences::PoolChanges;
use super::error::ApplyError;
use super::ids::Holder;
use super::labels;
use super::plan::Planner;
use super::stage::Stage;
use super::state::{BackendKey, PoolSlots, PoolState, TableInputs, Unused};
use super::tables::Job;
use super::write::{PoolField, Write};
use crate::desired::{BackendRecord, BackendView, PoolRecord};

impl Planner<'_> {
    pub(super) fn pools(&mut self, changes: &PoolChanges<'_>) -> Result<(), ApplyError> {
        let mut jobs = Vec::new();
        for (_, record) in &changes.made {
            jobs.extend(self.pool(record)?);
        }
        self.tables(jobs)
    }

    /// Plans a pool except for its table, which is computed together with the others'.
    fn pool(&mut self, record: &PoolRecord) -> Result<Option<Job>, ApplyError> {
        let (id, _) = self.state.pools.get_or_take(&record.name)?;
        self.state.leaving.pools.remove(&record.name);
        let mut members = Vec::with_capacity(record.backends.len());
        for (name, backend) in &record.backends {
            members.push(self.backend(record, id, name, backend)?);
        }
        let live = &self.maps.pools[usize::from(id)];
        let words = [
            (PoolField::Seed, live.seed.get(), record.seed),
            (PoolField::LastResort, live.last_resort.get(), record.last_resort as u64),
        ];
        for (field, observed, word) in words {
            if observed != word {
                self.stages.push(Stage::Pools, Write::Pool { id, field, word });
            }
        }
        let info = labels::pool(record);
        if self.maps.pool_info[usize::from(id)] != info {
            self.stages.push(Stage::Pools, Write::PoolInfo { id, info: Box::new(info) });
        }
        self.lists(record, id, &members)?;

        let mut in_table = Vec::new();
        for ((name, backend), &(member, _)) in record.backends.iter().zip(&members) {
            if backend.in_table {
                in_table.push((name.clone(), backend.weight, member));
            }
        }
        let inputs = TableInputs { seed: record.seed, size: record.table_size, members: in_table };
        let current = self.state.tables.get(&record.name).map(|pool| &pool.current);
        let same = current.is_some_and(|table| table.inputs.as_ref() == Some(&inputs));
        Ok((!same).then(|| Job { pool: record.name.clone(), id, inputs }))
    }

    /// Places for lists of usable backends, and the first list, where the members changed.
    fn lists(&mut self, record: &PoolRecord, id: u16, members: &[(u16, u8)]) -> Result<(), ApplyError> {
        let names = record.backends.keys().cloned().zip(members);
        let backends: Vec<(Arc<str>, u16, u8)> =
            names.map(|(name, &(id, generation))| (name, id, generation)).collect();
        let known = self.state.slots.get(&record.name).cloned();
        if known.as_ref().is_some_and(|known| known.backends == backends) {
            return Ok(());
        }
        let lines = (members.len() as u32).div_ceil(SLOTS_PER_LINE).max(1);
        let buffers = [self.state.lines.take(lines)?, self.state.lines.take(lines)?];
        let mut pool = self.state.tables.get(&record.name).cloned().unwrap_or_else(|| PoolState::new(id));
        let unknown = known.as_ref().is_none_or(|known| known.backends.is_empty());
        if !(unknown && self.is_list_of(id, members)) {
            let usable: Vec<u16> = record
                .usable
                .iter()
                .filter_map(|&position| members.get(position as usize))
                .map(|&(member, _)| member)
                .collect();
            let observed = self.maps.pools[usize::from(id)].usable.get();
            let word = if usable.is_empty() { 0 } else { Span::new(buffers[0].line, usable.len() as u32).0 };
            if word != observed {
                self.stages.push(Stage::Tables, Write::Table { line: buffers[0].line, ids: usable });
                self.stages.push(Stage::Pools, Write::Pool { id, field: PoolField::Usable, word });
            }
            if let Some(list) = pool.adopted_list.take() {
                self.state.retire(self.now_ns, Unused::Lines(list));
            }
        }
        self.state.tables.insert(record.name.clone(), pool);
        for buffer in known.iter().flat_map(|known| known.buffers) {
            self.state.retire(self.now_ns, Unused::Lines(buffer));
        }
        let slots = PoolSlots { pool: id, backends, buffers, ..PoolSlots::default() };
        Arc::make_mut(&mut self.state.slots).insert(record.name.clone(), Arc::new(slots));
        Ok(())
    }

    /// Whether the list in force names some of these members and nobody else.
    fn is_list_of(&self, id: u16, members: &[(u16, u8)]) -> bool {
        let span = Span(self.maps.pools[usize::from(id)].usable.get());
        let ids = super::tables::ids(self.maps, span);
        !span.is_empty() && ids.iter().all(|id| members.iter().any(|(member, _)| member == id))
    }

    /// Plans a backend; gives its id and generation.
    fn backend(
        &mut self,
        pool: &PoolRecord,
        pool_id: u16,
        name: &Arc<str>,
        record: &BackendRecord,
    ) -> Result<(u16, u8), ApplyError> {
        let key = BackendKey { pool: pool.name.clone(), name: name.clone(), address: record.address };
        let (id, holder) = self.state.backends.get_or_take(&key)?;
        let returns = self.state.leaving.backends.remove(&key).is_some();
        let live = &self.maps.backends[usize::from(id)];
        let hot = HotWord(live.hot.get());
        let info = &self.maps.backend_info[usize::from(id)];
        let fresh = holder == Holder::New;
        let labels = labels::backend(name, record, pool_id, (!fresh && !returns).then_some(info));
        if *info != labels {
            self.stages.push(Stage::Backends, Write::BackendInfo { id, info: Box::new(labels) });
        }
        self.egress(id, record);
        let load = &self.maps.loads[usize::from(id)];
        let cost = Load::cost_of(record.weight);
        if load.cost.get() != cost {
            self.stages.push(Stage::Backends, Write::Cost { id, cost });
        }
        // A slot that was cleared for good has lost its flows: it starts over like a new one.
        let starts = fresh || hot.state() == BackendState::Absent;
        if starts && load.live() != 0 {
            // Without the flows of an earlier holder of the id.
            let flows = load.seen.get().wrapping_neg();
            self.stages.push(Stage::Backends, Write::Unseen { id, flows });
        }
        let generation = if starts { hot.generation().wrapping_add(1) } else { hot.generation() };
        if starts || returns || info.removed != 0 {
            let word = hot_word(&record.view, generation).0;
            self.stages.push(Stage::Backends, Write::Hot { id, word });
        }
        self.summary.backends_added += usize::from(fresh);
        Ok((id, generation))
    }

    fn egress(&mut self, id: u16, record: &BackendRecord) {
        let live = &self.maps.backends[usize::from(id)];
        let address = labels::bytes(record.address);
        let family = labels::family(record.address);
        if live.address != address {
            self.stages.push(Stage::Backends, Write::Backend { id, address });
        }
        let observed = EgressWord(live.egress.get());
        let (next_hop, source, entropy_bits) = match record.egress {
            Some(egress) => {
                let hop = self.state.hops.get(&egress.next_hop).unwrap_or(0);
                (hop, labels::bytes(egress.source), egress.entropy_bits)
            }
            // Without a route the source stays as it is.
            None => (0, live.sources[observed.source()], observed.entropy_bits() as u8),
        };
        let mut which = observed.source();
        if live.sources[which] != source {
            which ^= 1;
            self.stages.push(Stage::Backends, Write::Source { id, which, source });
        }
        let sum = match family {
            Family::V4 => constant_sum(first4(source), first4(address)),
            Family::V6 => 0,
        };
        let word = EgressWord::new(next_hop, sum, which, family, entropy_bits);
        let word = word.with_port(record.port.unwrap_or(0)).0;
        if word != observed.0 {
            self.stages.push(Stage::Backends, Write::Egress { id, word });
        }
    }
}

fn first4(bytes: [u8; 16]) -> [u8; 4] {
    let [a, b, c, d, ..] = bytes;
    [a, b, c, d]
}

/// The slot that a view asks for.
pub(super) fn hot_word(view: &BackendView, generation: u8) -> HotWord {
    HotWord::new(view.state, generation, view.admit, view.admin, view.health, view.failure)
}
