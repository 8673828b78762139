//! Writing the desired state into the maps, so that no packet ever finds half a change.
//!
//! A plan is made first, on a copy of the bookkeeping that shares all that stays; everything that can fail fails there. Executing it cannot. The
//! order of the writes (module `stage`): what nothing names yet comes first, then what names it, step by step up to
//! the indexes that packets start from; what nothing names any more is taken back by [`Applier::tick`], after a grace
//! time, and ids that flows name after a sweep found no such flow.
//!
//! The maps themselves are the observed state: a restarted daemon recovers ids, tables and regions from them.

#![forbid(unsafe_code)]

mod claims;
mod differences;
mod entries;
mod error;
mod hops;
mod ids;
mod index;
pub(crate) mod labels;
mod lines;
mod lists;
mod nat;
mod plan;
mod pools;
mod recover;
mod servers;
mod services;
mod slots;
mod stage;
mod state;
mod tables;
mod tick;
mod vips;
mod write;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use error::{ApplyError, Limit};
pub use slots::{SlotWriter, Stored, set_state};
pub use write::{Index, PoolField, ServiceField, VipField, Write};

use crate::desired::{Desired, HopKey, HopRecord};
use crate::flows::Purge;
use crate::maps::set::MapSet;
use state::State;

/// Longest time that a packet takes through the program, with a wide margin.
const PACKET_GRACE: Duration = Duration::from_millis(1);
/// Time after which ids and regions that nothing names are used again.
pub const REUSE_GRACE: Duration = Duration::from_secs(1);
/// Longest drain of a backend that was removed from the config.
pub const REMOVE_AFTER: Duration = Duration::from_secs(600);

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Writes; 0 when the maps were as desired.
    pub writes: usize,
    /// Maglev tables computed.
    pub tables_built: usize,
    /// Maglev tables published.
    pub tables_published: usize,
    /// Backends that got an id.
    pub backends_added: usize,
    /// Backends that left the config.
    pub backends_removed: usize,
}

/// The one writer of an instance's maps; slots and lists of usable backends are the [`SlotWriter`]'s.
pub struct Applier {
    maps: Arc<MapSet>,
    state: State,
    /// Held while a backend's labels change: apply and slot writer own different fields of them.
    labels: Arc<Mutex<()>>,
    /// When a record with two copies was last switched.
    switched: HashMap<Copies, Instant>,
}

/// A record with two copies.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Copies {
    Hop(u16),
    Source(u16),
}

impl Applier {
    /// Takes over the maps: empty ones, or those of an earlier daemon with all that they hold.
    #[must_use]
    pub fn adopt(maps: Arc<MapSet>, now_ns: u64) -> Self {
        let state = recover::recover(&maps, now_ns);
        Self { maps, state, labels: Arc::default(), switched: HashMap::new() }
    }

    /// Makes the maps say what is desired.
    ///
    /// Slots of backends that have their id already are left alone: hand [`Applier::slots`] to those who write them,
    /// and write each view once.
    ///
    /// # Errors
    /// When it does not fit; nothing was written then.
    pub fn apply(&mut self, desired: &Arc<Desired>, now_ns: u64) -> Result<Summary, ApplyError> {
        self.apply_stepwise(desired, now_ns, &mut |_| {})
    }

    /// Like [`Applier::apply`]; calls `after` after every single write.
    ///
    /// # Errors
    /// As for [`Applier::apply`].
    pub fn apply_stepwise(
        &mut self,
        desired: &Arc<Desired>,
        now_ns: u64,
        after: &mut dyn FnMut(&Write),
    ) -> Result<Summary, ApplyError> {
        let plan = plan::plan(&self.maps, &self.state, desired, now_ns)?;
        let summary = plan.summary();
        self.execute(&plan.writes, after);
        self.state = plan.state;
        self.state.settle();
        Ok(summary)
    }

    /// Changes one next hop; `false` when nothing desired names it. Does nothing when it is as wanted.
    pub fn set_next_hop(&mut self, key: &HopKey, record: HopRecord) -> bool {
        let Some(id) = self.state.hops.get(key) else { return false };
        let mut writes = Vec::new();
        hops::change(&self.maps, id, record, &mut writes);
        self.execute(&writes, &mut |_| {});
        if let Some(applied) = &mut self.state.applied
            && let Some(known) = Arc::make_mut(&mut Arc::make_mut(applied).next_hops).get_mut(key)
        {
            *known = record;
        }
        true
    }

    /// The desired state that the maps were last made to say; `None` until the first time.
    #[must_use]
    pub fn applied(&self) -> Option<&Arc<Desired>> {
        self.state.applied.as_ref()
    }

    /// A writer for the slots of the backends as they are now.
    #[must_use]
    pub fn slots(&self) -> SlotWriter {
        SlotWriter::new(self.maps.clone(), self.labels.clone(), &self.state)
    }

    /// Backend and VIP ids that nothing may name any more, and flows that do are to be forgotten: for
    /// [`crate::flows::sweep`].
    #[must_use]
    pub fn purge(&self, now_ns: u64) -> Purge {
        tick::purge(&self.state, now_ns)
    }

    /// Whether something waits for a sweep of the flow tables.
    #[must_use]
    pub fn wants_sweep(&self) -> bool {
        !self.state.leaving.backends.is_empty() || !self.state.leaving.vips.is_empty()
    }

    /// Takes back what has been unused for long enough. To be called about once a second; with a sweep that was made
    /// with [`Applier::purge`] where [`Applier::wants_sweep`].
    pub fn tick(&mut self, now_ns: u64, sweep: Option<&crate::flows::Sweep>) -> Summary {
        self.tick_stepwise(now_ns, sweep, &mut |_| {})
    }

    /// Like [`Applier::tick`]; calls `after` after every single write.
    pub fn tick_stepwise(
        &mut self,
        now_ns: u64,
        sweep: Option<&crate::flows::Sweep>,
        after: &mut dyn FnMut(&Write),
    ) -> Summary {
        let writes = tick::tick(&self.maps, &mut self.state, now_ns, sweep);
        self.execute(&writes, after);
        Summary { writes: count(&writes), ..Summary::default() }
    }

    /// Backends that left the config and still have flows: pool, name.
    pub fn leaving(&self) -> impl Iterator<Item = (&str, &str)> {
        self.state.leaving.backends.keys().map(|key| (&*key.pool, &*key.name))
    }

    fn execute(&mut self, writes: &[Write], after: &mut dyn FnMut(&Write)) {
        for write in writes {
            self.pace(write);
            // What a write publishes was stored before it, on every architecture.
            std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
            match write {
                Write::BackendInfo { .. } => {
                    let _held = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
                    write.execute(&self.maps);
                }
                _ => write.execute(&self.maps),
            }
            after(write);
        }
    }

    /// Waits before a copy is filled that packets may still be reading.
    fn pace(&mut self, write: &Write) {
        let (copies, fills) = match *write {
            Write::HopCopy { id, .. } => (Copies::Hop(id), true),
            Write::HopSelect { id, .. } => (Copies::Hop(id), false),
            Write::Source { id, .. } => (Copies::Source(id), true),
            Write::Egress { id, .. } => (Copies::Source(id), false),
            _ => return,
        };
        let now = Instant::now();
        if !fills {
            self.switched.insert(copies, now);
        } else if let Some(at) = self.switched.remove(&copies)
            && let Some(left) = PACKET_GRACE.checked_sub(now.duration_since(at))
        {
            std::thread::sleep(left);
        }
    }
}

fn count(writes: &[Write]) -> usize {
    writes.iter().filter(|write| !matches!(write, Write::Grace)).count()
}
