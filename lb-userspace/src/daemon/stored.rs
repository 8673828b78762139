//! How long a change took from its decision until the data plane had it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::events::event::micros;
use crate::events::{Event, Kind};
use crate::health::BackendKey;
use crate::state::overlay::Note;

/// The stores of one change.
#[derive(Clone, Debug)]
pub(super) struct Stored {
    /// When it was decided.
    pub(super) at: Timestamp,
    began: Instant,
    /// Backends whose slot was stored ahead of everything else, each with its time since the decision.
    slots: HashMap<BackendKey, Duration>,
    /// When all that follows was written.
    rest: Option<Duration>,
    /// Who asked for it, and why, where somebody did.
    asked: Option<Note>,
}

impl Stored {
    /// A change that is decided now.
    pub(super) fn decided_now() -> Self {
        Self { at: Timestamp::now(), began: Instant::now(), slots: HashMap::new(), rest: None, asked: None }
    }

    /// The same, asked for by somebody.
    pub(super) fn asked(self, asked: Option<Note>) -> Self {
        Self { asked, ..self }
    }

    /// Notes that a backend's slot has just been stored.
    pub(super) fn slot(&mut self, backend: BackendKey) {
        self.slots.insert(backend, self.began.elapsed());
    }

    /// Notes that everything has just been written.
    pub(super) fn rest(&mut self) {
        self.rest = Some(self.began.elapsed());
    }

    /// The event, with the time that its change took, as far as it is one that the data plane is told, and with who asked
    /// for it: what ends a change leaves nothing that says so.
    pub(super) fn told(&self, event: Event) -> Event {
        let key = event.pool.as_deref().zip(event.backend.as_deref());
        let slot = key.and_then(|(pool, backend)| self.slots.get(&BackendKey::new(pool, backend)).copied());
        let event = match (&self.asked, event.kind) {
            (Some(asked), Kind::Admin | Kind::Weight) if slot.is_some() => {
                let unsaid = asked.reason.is_empty() && event.by.is_none();
                let event = event.asked_by(&asked.by);
                if unsaid { event } else { event.because(&asked.reason) }
            }
            _ => event,
        };
        let after = match event.kind {
            Kind::Admin => slot.or(self.rest),
            Kind::Weight | Kind::Backend | Kind::Tier => self.rest,
            _ => return event,
        };
        Event { applied_after_us: after.map(micros), ..event }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asked_is_told_of_their_own_backends_whatever_else_is_in_force_there() {
        let asked = Note { by: "bob".to_owned(), since: Timestamp::now(), reason: "disk is new".to_owned() };
        let mut stored = Stored::decided_now().asked(Some(asked.clone()));
        stored.slot(BackendKey::new("web", "web-1"));
        let event = |backend: &str| {
            Event::new(Kind::Admin, stored.at).of_backend("web", backend).asked_by("alice").because("canary")
        };
        let told = |stored: &Stored, backend: &str| {
            let event = stored.told(event(backend));
            (event.by.unwrap_or_default(), event.reason)
        };
        let pair = |by: &str, reason: &str| (by.to_owned(), reason.to_owned());
        assert_eq!(told(&stored, "web-1"), pair("bob", "disk is new"));
        assert_eq!(
            told(&stored, "web-2"),
            pair("alice", "canary"),
            "of another one whose change ended meanwhile"
        );
        let silent = stored.clone().asked(Some(Note { reason: String::new(), ..asked }));
        assert_eq!(told(&silent, "web-1"), pair("bob", ""));
        let ended = Event::new(Kind::Admin, stored.at).of_backend("web", "web-1").because("the change ended");
        assert_eq!(silent.told(ended).reason, "the change ended");
    }

    #[test]
    fn admin_changes_count_to_their_slot_and_weights_to_the_table() {
        let mut stored = Stored::decided_now();
        stored.slot(BackendKey::new("web", "web-1"));
        let event = |kind, backend: &str| Event::new(kind, stored.at).of_backend("web", backend);
        let admin = stored.told(event(Kind::Admin, "web-1")).applied_after_us;
        assert!(admin.is_some());
        assert_eq!(stored.told(event(Kind::Weight, "web-1")).applied_after_us, None);
        std::thread::sleep(Duration::from_millis(1));
        let mut written = stored.clone();
        written.rest();
        let weight = written.told(event(Kind::Weight, "web-1")).applied_after_us;
        assert!(weight > admin);
        assert_eq!(written.told(event(Kind::Admin, "web-1")).applied_after_us, admin);
        assert_eq!(written.told(event(Kind::Reload, "web-1")).applied_after_us, None);
    }
}
