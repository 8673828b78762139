//! Runtime changes laid over the config. Pure: time is a parameter.

use std::collections::BTreeMap;
use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::denied::Denied;
use super::limited::Limited;
use crate::health::pool_view::Remaining;
use crate::view::status::Change;

/// A backend of a pool, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BackendName {
    /// Name of the pool.
    pub pool: String,
    /// Name in the pool.
    pub name: String,
}

impl BackendName {
    /// The backend `name` of `pool`.
    pub fn new(pool: impl Into<String>, name: impl Into<String>) -> Self {
        Self { pool: pool.into(), name: name.into() }
    }
}

impl fmt::Display for BackendName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.name)
    }
}

/// Admin states that take a backend out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Out {
    /// Keeps known flows, takes no new ones.
    Draining,
    /// Out of service for work on it.
    Maintenance,
}

impl Out {
    /// The name in lists and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::Maintenance => "maintenance",
        }
    }
}

/// Who changed something, when, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// User name.
    pub by: String,
    /// When.
    pub since: Timestamp,
    /// Why; empty where nobody said.
    #[serde(default)]
    pub reason: String,
}

/// An admin state set at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AdminChange {
    /// The state.
    pub state: Out,
    /// What becomes of the flows that are left.
    #[serde(default)]
    pub remaining: Remaining,
    /// When it ends by itself.
    pub until: Option<Timestamp>,
    /// Who, when, why.
    #[serde(flatten)]
    pub note: Note,
}

/// A weight set at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WeightChange {
    /// The weight in force.
    pub weight: u16,
    /// The file's weight at that time; another one ends the change.
    pub file_weight: u16,
    /// When it ends by itself.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// Who, when, why.
    #[serde(flatten)]
    pub note: Note,
}

/// The changes of one backend; at least one is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Admin state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<AdminChange>,
    /// Weight.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<WeightChange>,
}

/// All runtime changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overlay {
    pub(super) entries: BTreeMap<BackendName, Entry>,
    pub(super) denied: Denied,
    pub(super) limited: Limited,
}

impl Overlay {
    /// Prefixes that are denied.
    #[must_use]
    pub fn denied(&self) -> &Denied {
        &self.denied
    }

    /// The same with these prefixes denied instead.
    #[must_use]
    pub fn with_denied(self, denied: Denied) -> Self {
        Self { denied, ..self }
    }

    /// Limits of new flows.
    #[must_use]
    pub fn limited(&self) -> &Limited {
        &self.limited
    }

    /// The same with these limits instead.
    #[must_use]
    pub fn with_limited(self, limited: Limited) -> Self {
        Self { limited, ..self }
    }

    /// The admin state of a backend at `now`; `None` is active.
    #[must_use]
    pub fn admin(&self, backend: &BackendName, now: Timestamp) -> Option<&AdminChange> {
        let change = self.entries.get(backend)?.admin.as_ref()?;
        live(change.until, now).then_some(change)
    }

    /// The weight of a backend at `now`, given the file's.
    #[must_use]
    pub fn weight(&self, backend: &BackendName, file_weight: u16, now: Timestamp) -> u16 {
        self.weight_change(backend, file_weight, now).map_or(file_weight, |change| change.weight)
    }

    fn weight_change(
        &self,
        backend: &BackendName,
        file_weight: u16,
        now: Timestamp,
    ) -> Option<&WeightChange> {
        let change = self.entries.get(backend)?.weight.as_ref()?;
        (change.file_weight == file_weight && live(change.until, now)).then_some(change)
    }

    /// Who keeps a backend from being as the file says: by admin state, else by weight.
    #[must_use]
    pub fn note(&self, backend: &BackendName, file_weight: u16, now: Timestamp) -> Option<&Note> {
        let admin = self.admin(backend, now).map(|change| &change.note);
        admin.or_else(|| self.weight_change(backend, file_weight, now).map(|change| &change.note))
    }

    /// Sets or, with `None`, clears a backend's admin state.
    pub fn set_admin(&mut self, backend: &BackendName, change: Option<AdminChange>) {
        self.edit(backend, |entry| entry.admin = change);
    }

    /// Sets or, with `None`, clears a backend's weight.
    pub fn set_weight(&mut self, backend: &BackendName, change: Option<WeightChange>) {
        self.edit(backend, |entry| entry.weight = change);
    }

    /// The backends whose changes differ.
    pub fn differing<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a BackendName> {
        let names =
            self.entries.keys().chain(other.entries.keys().filter(|name| !self.entries.contains_key(*name)));
        names.filter(|name| self.entries.get(*name) != other.entries.get(*name))
    }

    fn edit(&mut self, backend: &BackendName, change: impl FnOnce(&mut Entry)) {
        let entry = self.entries.entry(backend.clone()).or_default();
        change(entry);
        if *entry == Entry::default() {
            self.entries.remove(backend);
        }
    }

    /// Removes what has ended: expired changes, and weights whose file value changed. `file_weight` is `None` for a
    /// backend that is not in the config, whose changes are kept. Gives one line for the log for each.
    pub fn prune(
        &mut self,
        now: Timestamp,
        file_weight: impl Fn(&BackendName) -> Option<u16>,
    ) -> Vec<String> {
        let mut ended = Vec::new();
        for (backend, entry) in &mut self.entries {
            if let Some(change) = entry.admin.take_if(|change| !live(change.until, now)) {
                ended.push(format!("backend {backend}: {} ended, its time is over", change.state.name()));
            }
            let expired = entry.weight.take_if(|change| !live(change.until, now));
            if let Some(change) = expired {
                ended.push(format!("backend {backend}: weight {} ended, its time is over", change.weight));
            }
            let file = file_weight(backend);
            if let Some(change) =
                entry.weight.take_if(|change| file.is_some_and(|file| file != change.file_weight))
            {
                ended.push(format!(
                    "backend {backend}: weight {} ended, the config's changed from {}",
                    change.weight, change.file_weight
                ));
            }
        }
        self.entries.retain(|_, entry| *entry != Entry::default());
        ended
    }

    /// When the next change ends by itself.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        let admin = self.entries.values().filter_map(|entry| entry.admin.as_ref()?.until);
        let weight = self.entries.values().filter_map(|entry| entry.weight.as_ref()?.until);
        admin.chain(weight).min()
    }

    /// The changes in force, for `status`. `file_weight` is as for [`Self::prune`].
    pub fn changes(&self, now: Timestamp, file_weight: impl Fn(&BackendName) -> Option<u16>) -> Vec<Change> {
        let mut changes = Vec::new();
        for (backend, entry) in &self.entries {
            let file = file_weight(backend);
            let mut add =
                |kind: &str, of: (Option<u16>, Remaining), until: Option<Timestamp>, note: &Note| {
                    changes.push(Change {
                        pool: backend.pool.clone(),
                        backend: backend.name.clone(),
                        kind: kind.to_owned(),
                        weight: of.0,
                        resets: of.1 == Remaining::Reset,
                        by: note.by.clone(),
                        since: note.since,
                        reason: note.reason.clone(),
                        until,
                        configured: file.is_some(),
                    });
                };
            if let Some(change) = entry.admin.as_ref().filter(|change| live(change.until, now)) {
                add(change.state.name(), (None, change.remaining), change.until, &change.note);
            }
            let weight = entry.weight.as_ref().filter(|change| {
                live(change.until, now) && file.is_none_or(|file| file == change.file_weight)
            });
            if let Some(change) = weight {
                add("weight", (Some(change.weight), Remaining::Usual), change.until, &change.note);
            }
        }
        changes
    }
}

pub(super) fn live(until: Option<Timestamp>, now: Timestamp) -> bool {
    until.is_none_or(|until| now < until)
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Timestamp = Timestamp::constant(1_795_000_000, 0);

    fn after(seconds: i64) -> Timestamp {
        Timestamp::constant(1_795_000_000 + seconds, 0)
    }

    fn note() -> Note {
        Note { by: "root".to_owned(), since: START, reason: "kernel update".to_owned() }
    }

    fn web_1() -> BackendName {
        BackendName::new("web", "web-1")
    }

    fn drained_for(until: Option<Timestamp>) -> Overlay {
        let mut overlay = Overlay::default();
        overlay.set_admin(
            &web_1(),
            Some(AdminChange { state: Out::Draining, remaining: Remaining::Usual, until, note: note() }),
        );
        overlay
    }

    fn weighted(weight: u16, file_weight: u16) -> Overlay {
        let mut overlay = Overlay::default();
        let change = WeightChange { weight, file_weight, until: None, note: note() };
        overlay.set_weight(&web_1(), Some(change));
        overlay
    }

    #[test]
    fn admin_state_holds_until_it_is_cleared() {
        let mut overlay = drained_for(None);
        let state = overlay.admin(&web_1(), after(1_000_000)).map(|change| change.state);
        assert_eq!(state, Some(Out::Draining));
        assert_eq!(overlay.admin(&BackendName::new("api", "web-1"), START), None);
        overlay.set_admin(&web_1(), None);
        assert_eq!(overlay, Overlay::default());
    }

    #[test]
    fn backends_differ_whose_changes_came_went_or_are_others() {
        let (none, drained, weighted) = (Overlay::default(), drained_for(None), weighted(50, 100));
        for (one, other) in [(&none, &drained), (&drained, &none), (&drained, &weighted)] {
            assert_eq!(one.differing(other).collect::<Vec<_>>(), [&web_1()]);
        }
        assert_eq!(drained.differing(&drained_for(None)).count(), 0);
    }

    #[test]
    fn admin_state_with_a_time_ends_by_itself() {
        let mut overlay = drained_for(Some(after(60)));
        assert_eq!(overlay.next_expiry(), Some(after(60)));
        assert!(overlay.admin(&web_1(), after(59)).is_some());
        assert!(overlay.admin(&web_1(), after(60)).is_none());
        assert_eq!(
            overlay.prune(after(60), |_| Some(100)),
            ["backend web/web-1: draining ended, its time is over"]
        );
        assert_eq!((overlay.clone(), overlay.next_expiry()), (Overlay::default(), None));
    }

    #[test]
    fn runtime_weight_holds_until_the_files_value_changes() {
        let mut overlay = weighted(50, 100);
        assert_eq!(overlay.weight(&web_1(), 100, START), 50);
        assert_eq!(overlay.weight(&web_1(), 80, START), 80);
        assert!(overlay.prune(START, |_| Some(100)).is_empty());
        assert_eq!(
            overlay.prune(START, |_| Some(80)),
            ["backend web/web-1: weight 50 ended, the config's changed from 100"]
        );
        assert_eq!(overlay.weight(&web_1(), 100, START), 100);
    }

    #[test]
    fn changes_of_backends_outside_the_config_are_kept_and_listed() {
        let mut overlay = drained_for(None);
        assert!(overlay.prune(START, |_| None).is_empty());
        let changes = overlay.changes(START, |_| None);
        assert_eq!((changes.len(), changes[0].configured, changes[0].kind.as_str()), (1, false, "draining"));
    }

    #[test]
    fn both_changes_of_a_backend_are_listed_with_who_when_and_why() {
        let mut overlay = weighted(50, 100);
        overlay.set_admin(
            &web_1(),
            Some(AdminChange {
                state: Out::Maintenance,
                remaining: Remaining::Usual,
                until: Some(after(60)),
                note: note(),
            }),
        );
        let kinds = |now| {
            let changes = overlay.changes(now, |_| Some(100));
            changes.iter().map(|change| (change.kind.clone(), change.weight)).collect::<Vec<_>>()
        };
        assert_eq!(kinds(START), [("maintenance".to_owned(), None), ("weight".to_owned(), Some(50))]);
        assert_eq!(kinds(after(61)), [("weight".to_owned(), Some(50))]);
        let change = &overlay.changes(START, |_| Some(100))[0];
        assert_eq!((&*change.by, change.since, &*change.reason), ("root", START, "kernel update"));
    }
}
