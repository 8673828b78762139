//! Maglev tables: computed on all cores, published by the pool's words.

use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use lb_common::layout::{SLOTS_PER_LINE, Span};
use lb_common::time::Tick;

use super::error::ApplyError;
use super::plan::Planner;
use super::stage::Stage;
use super::state::{Table, TableInputs, Unused};
use super::write::{PoolField, Write};
use crate::maglev::{self, Member};
use crate::maps::set::MapSet;

/// A table to be computed.
pub(super) struct Job {
    pub(super) pool: Arc<str>,
    pub(super) id: u16,
    pub(super) inputs: TableInputs,
}

impl Job {
    fn build(&self) -> Vec<u16> {
        let members = &self.inputs.members;
        let named: Vec<Member<'_>> =
            members.iter().map(|(name, weight, _)| Member { name, weight: *weight }).collect();
        let mut table = maglev::build(&named, self.inputs.size, self.inputs.seed);
        for slot in &mut table {
            *slot = members[usize::from(*slot)].2;
        }
        table
    }
}

fn build_all(jobs: &[Job]) -> Vec<Vec<u16>> {
    if let [] | [_] = jobs {
        return jobs.iter().map(Job::build).collect();
    }
    // Reads files.
    let threads = thread::available_parallelism().map_or(1, NonZero::get);
    let share = jobs.len().div_ceil(threads);
    thread::scope(|scope| {
        let build = |share: &[Job]| share.iter().map(Job::build).collect::<Vec<_>>();
        let workers: Vec<_> =
            jobs.chunks(share).map(|share| (share, scope.spawn(move || build(share)))).collect();
        // A worker can only panic where building on this thread would.
        workers
            .into_iter()
            .flat_map(|(share, worker)| worker.join().unwrap_or_else(|_| build(share)))
            .collect()
    })
}

/// The ids in a region, in order.
pub(super) fn ids(maps: &MapSet, span: Span) -> Vec<u16> {
    let lines = maps.maglev.iter().skip(span.line() as usize);
    lines.flat_map(|line| line.ids).take(span.len() as usize).collect()
}

impl Planner<'_> {
    /// Computes the tables and publishes those that differ from the ones in force.
    pub(super) fn tables(&mut self, jobs: Vec<Job>) -> Result<(), ApplyError> {
        let tables = build_all(&jobs);
        self.summary.tables_built += tables.len();
        for (job, slots) in jobs.into_iter().zip(tables) {
            self.table(job, slots)?;
        }
        Ok(())
    }

    fn table(&mut self, job: Job, slots: Vec<u16>) -> Result<(), ApplyError> {
        let Job { pool, id, inputs } = job;
        let len = slots.len() as u32;
        let mut named: Vec<u16> = inputs.members.iter().map(|(_, _, id)| *id).collect();
        named.sort_unstable();
        let Some(mut state) = self.state.tables.get(&pool).cloned() else { return Ok(()) };
        let old = state.current.clone();
        let live = Span(self.maps.pools[usize::from(id)].current.get());
        if old.inputs.is_none() && live.len() == len && ids(self.maps, live) == slots {
            let region = old.region;
            state.current = Arc::new(Table { region, len, inputs: Some(inputs), ids: named });
            self.state.tables.insert(pool, state);
            return Ok(());
        }
        let region = self.state.lines.take(len.div_ceil(SLOTS_PER_LINE))?;
        state.current = Arc::new(Table { region, len, inputs: Some(inputs), ids: named });
        let word = |field, word| Write::Pool { id, field, word };
        if old.len > 0 {
            let given_up = state.previous.replace((old.clone(), self.now_ns));
            let now = u64::from(Tick::from_ns(self.now_ns).bits());
            // In this order: the tick of the last change must not revive the table before the last.
            self.stages.push(Stage::Pools, word(PoolField::Previous, Span::new(old.region.line, old.len).0));
            self.stages.push(Stage::Pools, word(PoolField::Changed, now));
            if let Some((table, _)) = given_up {
                self.state.retire(self.now_ns, Unused::Lines(table.region));
            }
        }
        let current = if len == 0 { 0 } else { Span::new(region.line, len).0 };
        if len > 0 {
            self.stages.push(Stage::Tables, Write::Table { line: region.line, ids: slots });
        }
        self.stages.push(Stage::Pools, word(PoolField::Current, current));
        self.state.tables.insert(pool, state);
        self.summary.tables_published += 1;
        Ok(())
    }
}
