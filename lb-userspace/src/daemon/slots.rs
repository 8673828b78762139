//! Between detection and the slots: states go in at once, then labels, from the probe thread.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lb_common::layout::AdminBits;
use tokio::sync::mpsc::UnboundedSender;

use super::views::{self, Views};
use crate::apply::SlotWriter;
use crate::config::model::Inside;
use crate::desired::{BackendView, PoolView};
use crate::health::pool_view::{self, Admin, Slot};
use crate::health::{Applier, BackendKey, GuardEvent, HealthEvent, NoWay, Which, Wrapped};

/// The views of all backends as the slots have them.
pub(super) struct Slots {
    writer: SlotWriter,
    views: HashMap<BackendKey, BackendView>,
    tiers: HashMap<String, u8>,
}

/// What a replacement of writer and views means for the pools that it has no views of.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Others {
    /// They are as they were.
    Unchanged,
    /// They left the config.
    Gone,
}

impl Slots {
    /// Takes a pool's views, which are older than a transition since: a backend that keeps its id keeps the view that
    /// is here.
    fn replace_pool(&mut self, before: &SlotWriter, pool: &str, view: &PoolView) {
        let Self { writer, views, tiers } = self;
        let pool: Arc<str> = pool.into();
        for (name, view) in writer.names(&pool).zip(&view.backends) {
            let kept = writer.id(&pool, name) == before.id(&pool, name);
            let key = BackendKey { pool: pool.clone(), backend: name.clone() };
            let held = match views.entry(key) {
                Entry::Occupied(held) if kept => held.into_mut(),
                entry => entry.insert_entry(view.clone()).into_mut(),
            };
            writer.set_state(&pool, name, held);
        }
        if !tiers.contains_key(&*pool) {
            tiers.insert(pool.to_string(), view.active_tier);
        }
    }
}

/// Shared by the probe thread and the daemon; held for a pool's stores at most.
#[derive(Clone)]
pub(super) struct Sink {
    slots: Arc<Mutex<Slots>>,
    /// Told the names of pools whose active tier changed.
    tiers: UnboundedSender<String>,
    /// Told when silence is believed no longer, or again.
    guard: UnboundedSender<GuardEvent>,
}

impl Sink {
    pub(super) fn new(
        writer: SlotWriter,
        tiers: UnboundedSender<String>,
        guard: UnboundedSender<GuardEvent>,
    ) -> Self {
        let slots = Slots { writer, views: HashMap::new(), tiers: HashMap::new() };
        Self { slots: Arc::new(Mutex::new(slots)), tiers, guard }
    }

    fn lock(&self) -> MutexGuard<'_, Slots> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the writer of a config that was just applied, with the views that its pools were applied with.
    pub(super) fn replace(&self, writer: SlotWriter, views: &Views, others: Others) {
        let before = std::mem::replace(&mut self.lock().writer, writer.clone());
        for (pool, view) in views {
            self.lock().replace_pool(&before, pool, view);
        }
        if others == Others::Gone {
            let mut slots = self.lock();
            slots.tiers.retain(|pool, _| views.contains_key(pool));
            let stays = |key: &BackendKey| {
                views.contains_key(&*key.pool) && writer.id(&key.pool, &key.backend).is_some()
            };
            slots.views.retain(|key, _| stays(key));
        }
    }

    /// What the operator wants of a backend, as its slot says.
    pub(super) fn admin(&self, key: &BackendKey) -> Option<Admin> {
        self.lock().views.get(key).map(views::admin)
    }

    /// The writer in force.
    pub(super) fn writer(&self) -> SlotWriter {
        self.lock().writer.clone()
    }

    /// Labels a backend with what the operator wants; its state follows from detection.
    pub(super) fn set_admin(&self, key: &BackendKey, admin: AdminBits, why: &str) {
        self.change(key, |view| {
            view.admin = admin;
            view.since_ms = views::now_ms();
            view.why = why.to_owned();
        });
    }

    /// The tiers in force, by pool.
    pub(super) fn tiers(&self, which: &Which) -> HashMap<String, u8> {
        let slots = self.lock();
        match which {
            Which::All => slots.tiers.clone(),
            Which::Pools(names) => {
                let known = names.iter().filter_map(|name| slots.tiers.get_key_value(name));
                known.map(|(name, tier)| (name.clone(), *tier)).collect()
            }
        }
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

    // On the probe thread too: an ordinary thread that held the lock for it could be kept from running, and the next
    // store would wait.
    fn label(&mut self, event: &HealthEvent) {
        self.change(&event.backend, |view| {
            view.health = views::health_bits(event.to);
            view.failure = views::failure_bits(event.kind);
            view.since_ms = views::ms(event.time);
            view.why.clone_from(&event.reason);
        });
    }

    fn room(&self, backend: &BackendKey, inside: Inside) -> Result<usize, NoWay> {
        self.lock().writer.room(backend, inside)
    }

    fn wrap(&self, backend: &BackendKey, inside: Inside, packet: &[u8]) -> Result<Wrapped, NoWay> {
        self.lock().writer.wrap(backend, inside, packet)
    }

    fn guard_turned(&mut self, event: &GuardEvent) {
        // Fails only while the daemon is ending.
        let _ = self.guard.send(event.clone());
    }

    fn pool_changed(&mut self, pool: &str, view: &pool_view::PoolView) {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use lb_common::layout::{BackendState, HotWord, LastResort};
    use tokio::sync::mpsc::unbounded_channel;

    use super::*;
    use crate::apply;
    use crate::config::model::Limits;
    use crate::desired::{BackendRecord, Desired, PoolRecord};
    use crate::health::pool_view::SlotState;
    use crate::maps::set::MapSet;
    use crate::maps::sizes::Sizes;

    /// Maps with a pool `web` of `a` and `b`, both up.
    fn maps() -> (Arc<MapSet>, apply::Applier) {
        let limits = Limits {
            flows_v4: 64,
            flows_v6: 64,
            services: 4,
            backends: 16,
            maglev_slots: 1 << 16,
            prefixes: 1024,
            nat_ports: 64,
        };
        let sizes = Sizes::of(&limits);
        let maps = Arc::new(MapSet::anonymous(&sizes).expect("memory"));
        maps.meta.update(0, |meta| meta.geometry = sizes.geometry(1));
        let backend = |last| BackendRecord {
            address: [10, 0, 0, last].into(),
            port: None,
            host: None,
            tier: 0,
            weight: 100,
            server_ids: Vec::new(),
            in_table: true,
            egress: None,
            view: BackendView::up(),
        };
        let pool = PoolRecord {
            name: "web".into(),
            seed: 1,
            last_resort: LastResort::Keep,
            table_size: 1021,
            active_tier: 0,
            backends: BTreeMap::from([("a".into(), backend(1)), ("b".into(), backend(2))]),
            usable: vec![0, 1],
        };
        let pools = BTreeMap::from([("web".into(), Arc::new(pool))]);
        let mut applier = apply::Applier::adopt(maps.clone(), 1 << 40);
        applier.apply(&Arc::new(Desired { pools, ..Desired::default() }), 1 << 40).expect("fits");
        (maps, applier)
    }

    #[test]
    fn a_transition_while_a_config_is_applied_outlives_it() {
        let (maps, applier) = maps();
        let key = BackendKey::new("web", "a");
        let views = Views::from([("web".into(), PoolView::all_up(&[(0, 100), (0, 100)]))]);
        let ((tiers, _), (guard, _)) = (unbounded_channel(), unbounded_channel());
        let mut sink = Sink::new(applier.slots(), tiers, guard);
        sink.replace(applier.slots(), &views, Others::Gone);
        // Detection acts after the views of the next config were drawn up, before they are taken.
        sink.apply(&key, Slot { state: SlotState::Down, admit: 1000 });
        sink.replace(applier.slots(), &views, Others::Gone);
        let id = applier.slots().id("web", "a").expect("an id");
        let hot = HotWord(maps.backends[usize::from(id)].hot.get());
        assert_eq!(hot.state(), BackendState::Down);
    }
}
