//! Between detection and the slots: states go in at once, from the probe thread; labels follow.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lb_common::layout::AdminBits;
use tokio::sync::mpsc::UnboundedSender;

use super::views::{self, Views};
use crate::apply::SlotWriter;
use crate::desired::BackendView;
use crate::health::pool_view::{PoolView, Slot};
use crate::health::{Applier, BackendKey, HealthEvent};

/// The views of all backends as the slots have them.
pub(super) struct Slots {
    writer: SlotWriter,
    views: HashMap<BackendKey, BackendView>,
    tiers: HashMap<String, u8>,
}

/// Shared by the probe thread and the daemon; held for single stores only.
#[derive(Clone)]
pub(super) struct Sink {
    slots: Arc<Mutex<Slots>>,
    /// Told the names of pools whose active tier changed.
    tiers: UnboundedSender<String>,
}

impl Sink {
    pub(super) fn new(writer: SlotWriter, tiers: UnboundedSender<String>) -> Self {
        let slots = Slots { writer, views: HashMap::new(), tiers: HashMap::new() };
        Self { slots: Arc::new(Mutex::new(slots)), tiers }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the writer of a config that was just applied, with the views that it was applied with.
    ///
    /// A view that is here already stays: detection may have changed it since the config was combined.
    pub(super) fn replace(&self, writer: SlotWriter, views: Views) {
        let mut slots = self.lock();
        let Slots { writer: current, views: held, tiers } = &mut *slots;
        *current = writer;
        tiers.retain(|pool, _| views.pools.contains_key(pool));
        for (pool, view) in views.pools {
            tiers.entry(pool).or_insert(view.active_tier);
        }
        let mut before = std::mem::take(held);
        *held = views
            .backends
            .into_iter()
            .map(|(key, view)| {
                let view = before.remove(&key).unwrap_or(view);
                current.set_state(&key.pool, &key.backend, &view);
                (key, view)
            })
            .collect();
    }

    /// Labels a backend with what the operator wants; its state follows from detection.
    pub(super) fn set_admin(&self, key: &BackendKey, admin: AdminBits, why: &str) {
        self.change(key, |view| {
            view.admin = admin;
            view.since_ms = views::now_ms();
            view.why = why.to_owned();
        });
    }

    /// Labels a backend with a transition.
    pub(super) fn label(&self, event: &HealthEvent) {
        self.change(&event.backend, |view| {
            view.health = views::health_bits(event.to);
            view.failure = views::failure_bits(event.kind);
            view.since_ms = views::ms(event.time);
            view.why.clone_from(&event.reason);
        });
    }

    /// The tiers in force by pool.
    pub(super) fn tiers(&self) -> HashMap<String, u8> {
        self.lock().tiers.clone()
    }

    fn change(&self, key: &BackendKey, change: impl FnOnce(&mut BackendView)) {
        let mut slots = self.lock();
        let Slots { writer, views, .. } = &mut *slots;
        if let Some(view) = views.get_mut(key) {
            change(view);
            writer.set_state(&key.pool, &key.backend, view);
        }
    }
}

impl Applier for Sink {
    fn apply(&mut self, backend: &BackendKey, slot: Slot) {
        self.change(backend, |view| {
            view.state = views::state(slot.state);
            view.admit = slot.admit;
        });
    }

    fn pool_changed(&mut self, pool: &str, view: &PoolView) {
        let mut slots = self.lock();
        slots.writer.set_usable(pool, &view.usable);
        if let Some(tier) = view.active_tier
            && slots.tiers.insert(pool.to_owned(), tier) != Some(tier)
        {
            // Fails only while the daemon is ending.
            let _ = self.tiers.send(pool.to_owned());
        }
    }
}
