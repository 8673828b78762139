//! The hot path: a backend's state in one store, then its pool's list of usable backends in another.

use std::sync::{Arc, Mutex, PoisonError};

use lb_common::forward::{self, Inner};
use lb_common::hash;
use lb_common::layout::{
    Backend, BackendState, Family, ForwardWord, HotWord, OnDown, SLOTS_PER_LINE, Span, Text,
};
use lb_common::memory::Frame;
use lb_common::reason::Reason;
use lb_common::wire::ETHERNET_LEN;

use super::pools::hot_word;
use super::state::{Slots, State};
use super::write;
use crate::config::model::Inside;
use crate::desired::{BackendView, PoolView};
use crate::flows;
use crate::health::{BackendKey, NoWay, Wrapped};
use crate::maps::set::MapSet;

/// Room for every header that the packet logic puts before a packet.
const HEADROOM: usize = 256;

/// Replaces a backend's state by one store.
pub fn set_state(maps: &MapSet, id: u16, word: HotWord) {
    maps.backends[usize::from(id)].hot.set(word.0);
}

/// What the packet logic's reason means for whoever wants to send.
fn no_way(reason: Reason) -> NoWay {
    match reason {
        Reason::Local => NoWay::Local,
        _ => NoWay::Unresolved,
    }
}

/// Writes the slots of the backends that had an id when it was made.
///
/// Stores of states take no lock. A writer from before an apply cannot touch an id that has a new holder since, and
/// ids stay with their holder for longer than a second after the apply that removed it.
#[derive(Clone)]
pub struct SlotWriter {
    maps: Arc<MapSet>,
    pools: Arc<Slots>,
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
        Self { maps, pools: state.slots.clone(), labels }
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

    /// A pool's backends and their ids.
    pub fn ids(&self, pool: &str) -> impl Iterator<Item = (BackendKey, u16)> {
        let pools = self.pools.get_key_value(pool).into_iter();
        pools.flat_map(|(pool, slots)| {
            let key = |name: &Arc<str>| BackendKey { pool: pool.clone(), backend: name.clone() };
            slots.backends.iter().map(move |(name, id, _)| (key(name), *id))
        })
    }

    /// A backend's id.
    #[must_use]
    pub fn id(&self, pool: &str, backend: &str) -> Option<u16> {
        self.slot(pool, backend).map(|(id, _)| id)
    }

    /// The largest IP packet that fits the way to a backend, in bytes.
    ///
    /// # Errors
    /// No frame goes there.
    pub fn room(&self, backend: &BackendKey, inside: Inside) -> Result<usize, NoWay> {
        let (_, record) = self.record(backend)?;
        let room = forward::room(&flows::memory(&self.maps), record, inside.mode.layout()).map_err(no_way)?;
        usize::try_from(room).map_err(|_| NoWay::Unresolved)
    }

    /// Puts an IP packet into the frame in which the program would send it to a backend.
    ///
    /// # Errors
    /// No frame goes there.
    pub fn wrap(&self, backend: &BackendKey, inside: Inside, packet: &[u8]) -> Result<Wrapped, NoWay> {
        let (id, record) = self.record(backend)?;
        let family = match packet.first() {
            Some(version) if version >> 4 == 6 => Family::V6,
            _ => Family::V4,
        };
        let length = u32::try_from(packet.len()).map_err(|_| NoWay::Unresolved)?;
        // One way of several, as a flow has it: what is found there does not change from probe to probe.
        let inner = Inner { family, traffic_class: 0, length, hash: hash::again(id.into(), 1) };
        let memory = flows::memory(&self.maps);
        let rules =
            ForwardWord::new(0, inside.mode.layout(), OnDown::Auto, false).with_gue_port(inside.gue_port);
        let route = forward::route(&memory, record, rules, inner).map_err(no_way)?;
        let mut buffer = vec![0; HEADROOM + ETHERNET_LEN];
        buffer.extend_from_slice(packet);
        let mut frame = Frame::new(&mut buffer, HEADROOM);
        route.rewrite(&mut frame).map_err(no_way)?;
        Ok(Wrapped { frame: frame.bytes().to_vec(), interface: route.port() })
    }

    /// A backend's id and record in the maps.
    fn record(&self, backend: &BackendKey) -> Result<(u16, &Backend), NoWay> {
        let id = self.id(&backend.pool, &backend.backend).ok_or(NoWay::Unresolved)?;
        let record = self.maps.backends.get(usize::from(id)).ok_or(NoWay::Unresolved)?;
        Ok((id, record))
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
        // A writer from before an apply may have published once more, where nobody keeps a list any longer.
        let kept = live.is_empty() || slots.buffers.iter().any(|buffer| buffer.line == live.line());
        if kept && super::tables::ids(&self.maps, live) == usable {
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
