//! How long a change took from its decision until the data plane had it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;

use crate::events::event::micros;
use crate::events::{Event, Kind};
use crate::health::BackendKey;

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
}

impl Stored {
    /// A change that is decided now.
    pub(super) fn decided_now() -> Self {
        Self { at: Timestamp::now(), began: Instant::now(), slots: HashMap::new(), rest: None }
    }

    /// Notes that a backend's slot has just been stored.
    pub(super) fn slot(&mut self, backend: BackendKey) {
        self.slots.insert(backend, self.began.elapsed());
    }

    /// Notes that everything has just been written.
    pub(super) fn rest(&mut self) {
        self.rest = Some(self.began.elapsed());
    }

    /// The event, with the time that its change took, as far as it is one that the data plane is told.
    pub(super) fn told(&self, event: Event) -> Event {
        let of_slot = || {
            let key = BackendKey::new(event.pool.as_deref()?, event.backend.as_deref()?);
            self.slots.get(&key).copied()
        };
        let after = match event.kind {
            Kind::Admin => of_slot().or(self.rest),
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
