//! Changes of backends at run time: what a request would change, bringing it into force, and its end.

use std::collections::BTreeSet;

use jiff::Timestamp;
use tracing::{error, info};

use super::engine::Engine;
use super::stored::Stored;
use super::views;
use crate::apply::SlotWriter;
use crate::config::model::{Backend, Config, Pool};
use crate::failure::Failure;
use crate::health::{BackendKey, Which, Wish};
use crate::state::change::{self, Change, Member, NewFlows};
use crate::state::overlay::{BackendName, Note, Overlay};
use crate::state::request::BackendRequest;

impl Engine {
    /// What a request would change. Nothing is changed yet.
    pub(super) fn plan(&self, request: &BackendRequest, by: &str) -> Result<Change, Failure> {
        let now = Timestamp::now();
        let slots = self.sink.writer();
        let new_flows = |member: &Member<'_>| self.new_flows(&slots, member, now);
        let change =
            |members: &[Member<'_>]| change::change(members, &new_flows, &self.overlay, request, by, now);
        // Of thousands of backends, those of the pools that are named. What is not found there is told with the nearest
        // name of all.
        let named = request.targets.pools_named();
        let named = named.iter().flatten().filter_map(|pool| self.config.pools.get(*pool));
        match change(&named.flat_map(members).collect::<Vec<_>>()) {
            Ok(change) => Ok(change),
            Err(_) => change(&self.members()),
        }
    }

    /// The backends of the config.
    pub(super) fn members(&self) -> Vec<Member<'_>> {
        self.config.pools.values().flat_map(members).collect()
    }

    /// Whether a backend takes new flows, by its slot.
    pub(super) fn new_flows(&self, slots: &SlotWriter, member: &Member<'_>, now: Timestamp) -> NewFlows {
        let name = BackendName::new(member.pool, member.name);
        let weight = self.overlay.weight(&name, member.file_weight, now);
        let hot = slots.hot(member.pool, member.name);
        match hot.is_some_and(|hot| weight > 0 && views::takes_new_flows(hot)) {
            true => NewFlows::Taken,
            false => NewFlows::Refused,
        }
    }

    /// Puts new runtime changes in force, for whoever asked. They are in the state directory already.
    pub(super) async fn set_overlay(&mut self, overlay: Overlay, asked: Option<Note>) -> Result<(), Failure> {
        let said = asked.as_ref().map(|note| note.reason.clone()).filter(|reason| !reason.is_empty());
        let mut stored = Stored::decided_now().asked(asked);
        let now = stored.at;
        let before = std::mem::replace(&mut self.overlay, overlay);
        let mut pools = BTreeSet::new();
        for name in self.overlay.differing(&before) {
            let Some((pool, backend)) = configured(&self.config, name) else { continue };
            self.set_wish(name, views::wish(&self.overlay, pool, backend, now), said.as_deref(), now).await;
            stored.slot(BackendKey::new(name.pool.as_str(), name.name.as_str()));
            pools.insert(pool.name.clone());
        }
        self.sync(&Which::Pools(pools), stored).await.map(drop)
    }

    /// Lets the slot follow what the operator wants, ahead of everything that takes longer.
    async fn set_wish(&self, name: &BackendName, wish: Wish, said: Option<&str>, now: Timestamp) {
        let key = BackendKey::new(name.pool.as_str(), name.name.as_str());
        // The slot tells what was in force: by the clock a timed change was over before it was taken back.
        if self.sink.admin(&key) != Some(wish.admin) {
            let note = self.overlay.admin(name, now).map(|change| change.note.reason.clone());
            let why = note.unwrap_or_else(|| said.unwrap_or("back in service").to_owned());
            self.sink.set_admin(&key, views::admin_bits(wish.admin), &why);
            info!(backend = %key, admin = wish.admin.name(), reason = why, "admin state changed");
        }
        if let Err(error) = self.health.set_wish(key.clone(), wish).await {
            error!("{key}: {error}");
        }
    }

    /// Takes runtime changes back that could not be brought into force.
    pub(super) async fn take_back(&mut self, before: Overlay) {
        let saved = self.save(&before);
        let restored = self.set_overlay(before, None).await;
        for failure in [saved.err(), restored.err()].into_iter().flatten() {
            error!("take runtime changes back: {}", failure.message);
        }
    }

    /// The file that runtime changes are kept in.
    pub(super) fn save(&self, overlay: &Overlay) -> Result<(), Failure> {
        Ok(self.place.store.save(overlay)?)
    }

    /// Ends runtime changes whose time is over, and weights that the config has overtaken.
    pub(super) async fn end_changes(&mut self, now: Timestamp) {
        let mut overlay = self.overlay.clone();
        if !end_changes(&mut overlay, &self.config, now) {
            return;
        }
        // What cannot be saved has ended all the same; the next start reads it once more.
        let saved = self.save(&overlay);
        let ended = self.set_overlay(overlay, None).await;
        for failure in [saved.err(), ended.err()].into_iter().flatten() {
            error!("end runtime changes: {}", failure.message);
        }
    }
}

/// The backends of a pool.
fn members(pool: &Pool) -> impl Iterator<Item = Member<'_>> {
    pool.backends.values().map(|backend| Member {
        pool: &pool.name,
        name: &backend.name,
        host: backend.host.as_deref(),
        file_weight: backend.weight,
    })
}

/// A backend of the config, and its pool.
fn configured<'c>(config: &'c Config, name: &BackendName) -> Option<(&'c Pool, &'c Backend)> {
    let pool = config.pools.get(&name.pool)?;
    pool.backends.get(&name.name).map(|backend| (pool, backend))
}

/// Takes out of runtime changes those that have ended; whether there were any.
pub(super) fn end_changes(overlay: &mut Overlay, config: &Config, now: Timestamp) -> bool {
    let ended = overlay.prune(now, |name| file_weight(config, name));
    ended.iter().for_each(|line| info!("{line}"));
    !ended.is_empty()
}

/// The weight that the config gives a backend.
pub(super) fn file_weight(config: &Config, name: &BackendName) -> Option<u16> {
    configured(config, name).map(|(_, backend)| backend.weight)
}
