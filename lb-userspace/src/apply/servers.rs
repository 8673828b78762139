//! Which backend a server id of a QUIC connection ID names.
//!
//! What the maps say is all the bookkeeping: the index is planned as a whole, from the backends that are desired and those
//! that have left the config and still have connections.

use std::collections::HashMap;

use lb_common::layout::{IndexLine, ServerId, ServerIds};

use super::differences::PoolChanges;
use super::error::{ApplyError, Limit};
use super::index::{self, Narrow};
use super::plan::Planner;
use super::stage::Stage;
use super::state::BackendKey;
use super::write::{Index, Write};
use crate::desired::Desired;
use crate::maps::set::MapSet;

/// A record's numbers.
fn observed(record: &ServerIds) -> [u64; 7] {
    let mut words = [record.pool.get(), 0, 0, 0, 0, 0, 0];
    for (word, from) in words.iter_mut().skip(1).zip(record.ids.iter().flatten()) {
        *word = from.get();
    }
    words
}

fn words(pool: u16, ids: &[ServerId]) -> [u64; 7] {
    let mut words = [0; 7];
    if !ids.is_empty() {
        words[0] = pool.into();
    }
    for (word, number) in words.iter_mut().skip(1).zip(ids.iter().flat_map(|id| [id.high, id.low])) {
        *word = number;
    }
    words
}

/// The keys of a record in the index.
fn keys([pool, ids @ ..]: [u64; 7]) -> Vec<u32> {
    let ids = ids.as_chunks::<2>().0.iter().map(|[high, low]| ServerId { high: *high, low: *low });
    ids.filter(|id| id.len() > 0).map(|id| id.key(pool as u32)).collect()
}

impl Planner<'_> {
    /// Whether one of these pools' backends is to have server ids, or has them in the maps: others change nothing.
    pub(super) fn concern_servers(&self, changes: &PoolChanges<'_>) -> bool {
        let has = |id: u16| observed(&self.maps.server_ids[usize::from(id)]) != [0; 7];
        changes.backends().any(|(key, backend)| {
            !backend.server_ids.is_empty() || self.state.backends.get(&key).is_some_and(has)
        })
    }

    /// Plans the server ids.
    pub(super) fn servers(&mut self, desired: &Desired) -> Result<(), ApplyError> {
        let lines = Narrow(Index::Servers, &self.maps.servers);
        let used = |line: &IndexLine| line.entries.iter().any(|entry| entry.get() != 0);
        let mut backends = desired.pools.values().flat_map(|pool| pool.backends.values());
        if backends.all(|backend| backend.server_ids.is_empty()) && !self.maps.servers.iter().any(used) {
            return Ok(());
        }
        let mut index: HashMap<u32, u32> = HashMap::new();
        for (pool, record) in &desired.pools {
            let Some(pool_id) = self.state.pools.get(pool) else { continue };
            for (name, backend) in &record.backends {
                let key = BackendKey { pool: pool.clone(), name: name.clone(), address: backend.address };
                let Some(id) = self.state.backends.get(&key) else { continue };
                let words = words(pool_id, &backend.server_ids);
                if observed(&self.maps.server_ids[usize::from(id)]) != words {
                    self.stages.push(Stage::Backends, Write::ServerIds { id, words });
                }
                for server in &backend.server_ids {
                    if index.insert(server.key(pool_id.into()), id.into()).is_some() {
                        return Err(ApplyError::ServerId { pool: pool.to_string(), id: server.to_string() });
                    }
                }
            }
        }
        // Of several that have left, the one that packets go to keeps them.
        let mut left: HashMap<u32, u32> = HashMap::new();
        for id in self.state.leaving.backends.keys().filter_map(|key| self.state.backends.get(key)) {
            for key in keys(observed(&self.maps.server_ids[usize::from(id)])) {
                if index::find(&lines, key) == Some(id.into()) || !left.contains_key(&key) {
                    left.insert(key, id.into());
                }
            }
        }
        for (key, id) in left {
            index.entry(key).or_insert(id);
        }
        let change = index::change(&lines, &index, |_| false, Limit::Servers)?;
        let stage = self.stages.at(Stage::Servers);
        stage.extend(change.set);
        stage.extend(change.clear.into_iter().map(|(write, _)| write));
        Ok(())
    }
}

/// The writes that take a backend's server ids away.
pub(super) fn forget(maps: &MapSet, id: u16) -> Vec<Write> {
    let record = observed(&maps.server_ids[usize::from(id)]);
    if record == [0; 7] {
        return Vec::new();
    }
    let mut writes = Vec::new();
    for (number, line) in maps.servers.iter().enumerate() {
        for (way, entry) in line.entries.iter().enumerate() {
            if entry.get() as u32 == u32::from(id) {
                writes.push(Write::Entry { index: Index::Servers, line: number as u32, way, word: 0 });
            }
        }
    }
    writes.push(Write::ServerIds { id, words: [0; 7] });
    writes
}
