//! The hot path: a backend's state in one store, then its pool's list of usable backends in another.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use lb_common::layout::{BackendState, HotWord, SLOTS_PER_LINE, Span, Text};

use super::pools::hot_word;
use super::state::{PoolSlots, State};
use super::write;
use crate::desired::{BackendView, PoolView};
use crate::maps::set::MapSet;

/// Replaces a backend's state by one store.
pub fn set_state(maps: &MapSet, id: u16, word: HotWord) {
    maps.backends[usize::from(id)].hot.set(word.0);
}

/// Writes the slots of the backends that had an id when it was made.
///
/// Stores of states take no lock. A writer from before an apply cannot touch an id that has a new holder since, and
/// ids stay with their holder for longer than a second after the apply that removed it.
#[derive(Clone)]
pub struct SlotWriter {
    maps: Arc<MapSet>,
    pools: Arc<HashMap<Arc<str>, Arc<PoolSlots>>>,
    labels: Arc<Mutex<()>>,
}

/// What a [`SlotWriter`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// The maps changed.
    Changed,
    /// They were like that.
    Unchanged,
    /// No such backend or pool.
    Unknown,
}

impl SlotWriter {
    pub(super) fn new(maps: Arc<MapSet>, labels: Arc<Mutex<()>>, state: &State) -> Self {
        let pools = state.tables.iter().map(|(name, pool)| (name.clone(), pool.slots.clone()));
        Self { maps, pools: Arc::new(pools.collect()), labels }
    }

    fn slot(&self, pool: &str, backend: &str) -> Option<(u16, u8)> {
        let slots = self.pools.get(pool)?;
        let position = slots.backends.binary_search_by(|(name, ..)| (**name).cmp(backend)).ok()?;
        slots.backends.get(position).map(|(_, id, generation)| (*id, *generation))
    }

    /// A pool's backends, in the order of their names.
    pub fn names(&self, pool: &str) -> impl Iterator<Item = &Arc<str>> {
        self.pools.get(pool).into_iter().flat_map(|slots| slots.backends.iter().map(|(name, ..)| name))
    }

    /// A backend's id.
    #[must_use]
    pub fn id(&self, pool: &str, backend: &str) -> Option<u16> {
        self.slot(pool, backend).map(|(id, _)| id)
    }

    /// A backend's state as the data plane has it; after a restart, as the earlier daemon left it.
    #[must_use]
    pub fn hot(&self, pool: &str, backend: &str) -> Option<HotWord> {
        let (id, _) = self.slot(pool, backend)?;
        Some(HotWord(self.maps.backends[usize::from(id)].hot.get()))
    }

    /// Stores a backend's state, then its labels.
    pub fn set_state(&self, pool: &str, backend: &str, view: &BackendView) -> Stored {
        match self.slot(pool, backend) {
            Some(slot) => self.store(slot, view),
            None => Stored::Unknown,
        }
    }

    fn store(&self, (id, generation): (u16, u8), view: &BackendView) -> Stored {
        let live = HotWord(self.maps.backends[usize::from(id)].hot.get());
        if live.generation() != generation || live.state() == BackendState::Absent {
            return Stored::Unknown;
        }
        let word = hot_word(view, generation);
        if word != live {
            set_state(&self.maps, id, word);
        }
        let why = Text::new(&view.why);
        let info = &self.maps.backend_info[usize::from(id)];
        let labelled = info.since_ms == view.since_ms && info.why == why;
        if !labelled {
            let _held = self.labels.lock().unwrap_or_else(PoisonError::into_inner);
            self.maps.backend_info.update(id.into(), |info| {
                info.since_ms = view.since_ms;
                info.why = why;
            });
        }
        if word == live && labelled { Stored::Unchanged } else { Stored::Changed }
    }

    /// Publishes which backends of a pool take new flows: positions in the order of the names, ascending.
    ///
    /// Writes the list where no packet looks, then one store; waits only for others that publish for the same pool.
    pub fn set_usable(&self, pool: &str, positions: &[u32]) -> Stored {
        let Some(slots) = self.pools.get(pool) else { return Stored::Unknown };
        let id = |&position: &u32| slots.backends.get(position as usize).map(|(_, id, _)| *id);
        let usable: Vec<u16> = positions.iter().filter_map(id).collect();
        let _held = slots.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        let word = &self.maps.pools[usize::from(slots.pool)].usable;
        let live = Span(word.get());
        if super::tables::ids(&self.maps, live) == usable {
            return Stored::Unchanged;
        }
        if usable.is_empty() {
            word.set(0);
            return Stored::Changed;
        }
        let [first, second] = slots.buffers;
        let buffer = if live.line() == first.line && !live.is_empty() { second } else { first };
        let fits = (buffer.lines * SLOTS_PER_LINE) as usize;
        let usable = usable.get(..fits).unwrap_or(&usable);
        write::table(&self.maps, buffer.line, usable);
        std::sync::atomic::fence(std::sync::atomic::Ordering::Release);
        word.set(Span::new(buffer.line, usable.len() as u32).0);
        Stored::Changed
    }

    /// Makes a whole pool as `view` says; gives the number of changes.
    pub fn publish(&self, pool: &str, view: &PoolView) -> usize {
        let Some(slots) = self.pools.get(pool) else { return 0 };
        let stored = slots.backends.iter().zip(&view.backends);
        let stored = stored.map(|(&(_, id, generation), view)| self.store((id, generation), view));
        let changed = stored.filter(|stored| *stored == Stored::Changed).count();
        changed + usize::from(self.set_usable(pool, &view.usable) == Stored::Changed)
    }
}
