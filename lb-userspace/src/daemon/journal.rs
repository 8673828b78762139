//! What the daemon records of what happens: events with their evidence, and the state that they lead to.

use std::collections::HashMap;

use jiff::Timestamp;
use tracing::info;

use super::place::Place;
use super::rollouts::Rollouts;
use super::stored::Stored;
use super::views::{self, Known};
use crate::admin::answers::Reloaded;
use crate::config::model as config;
use crate::events::state::{Backend, Note, Pool, State, difference};
use crate::events::{Event, Kind, Recorder};
use crate::failure::{Code, Failure};
use crate::health::{BackendKey, Which};
use crate::state::overlay::{BackendName, Overlay};
use crate::view::status::Interface;

/// Why backends come and go, and weights change, that nobody asked for at run time.
const CONFIG_CHANGED: &str = "the config changed";

/// Records, and knows the state that was recorded last.
pub(super) struct Journal {
    pub(super) recorder: Recorder,
    known: State,
}

impl Journal {
    /// Begins with a state.
    pub(super) fn new(recorder: Recorder, state: State) -> Self {
        recorder.begin(state.clone());
        let version = env!("CARGO_PKG_VERSION");
        let started = Event::new(Kind::Daemon, Timestamp::now()).is("started");
        recorder.record(started.with("version", version).with("pid", std::process::id()));
        Self { recorder, known: state }
    }

    /// Records what differs from the last state, and logs it where nobody else does; `state` is of these pools.
    pub(super) fn settle(&mut self, which: &Which, state: State, stored: &Stored) {
        let known = match which {
            Which::All => std::mem::take(&mut self.known),
            Which::Pools(names) => {
                let pools = names.iter().filter_map(|name| self.known.pools.remove_entry(name));
                State { pools: pools.collect(), ..State::default() }
            }
        };
        for event in difference(&known, &state, stored.at, CONFIG_CHANGED) {
            let event = stored.told(event);
            if matches!(event.kind, Kind::Weight) {
                info!(backend = event.subject(), reason = event.reason, "weight changed: {}", event.change());
            }
            self.recorder.record(event);
        }
        match which {
            Which::All => self.known = state,
            Which::Pools(_) => self.known.pools.extend(state.pools),
        }
    }

    /// Records a reload.
    pub(super) fn reloaded(&self, result: &Result<Reloaded, Failure>, by: &str) {
        let event = Event::new(Kind::Reload, Timestamp::now()).asked_by(by);
        self.recorder.record(match result {
            Ok(reloaded) => event
                .is("applied")
                .because(match reloaded.changes.as_slice() {
                    [] => "nothing changed".to_owned(),
                    [one] => one.clone(),
                    [first, more @ ..] => format!("{first}, and {} more changes", more.len()),
                })
                .with("changes", reloaded.changes.clone())
                .with("warnings", reloaded.warnings.clone()),
            Err(failure) => event.is("refused").because(failure.message.as_str()),
        });
    }

    /// Records the end of the daemon, and waits until everything is written.
    pub(super) fn finish(&self) {
        self.recorder.record(Event::new(Kind::Daemon, Timestamp::now()).is("stopping"));
        tokio::task::block_in_place(|| self.recorder.finish());
    }
}

/// Opens the record of what happens.
pub(super) fn open(place: &Place, config: &config::Config) -> Result<Recorder, Failure> {
    let (directory, limit) = (place.store.directory(), config.events.max_bytes);
    let started = Recorder::start(directory, limit, &config.hooks, tokio::runtime::Handle::current());
    started.map_err(|error| {
        Failure::new(Code::Failed, format!("open the record of events in {}: {error}", directory.display()))
    })
}

/// The state with what rollouts are at.
pub(super) fn with_rollouts(mut state: State, rollouts: &Rollouts) -> State {
    state.pools.iter_mut().for_each(|(name, pool)| pool.rollout = rollouts.told(name));
    state
}

/// An event of an interface.
pub(super) fn interface(name: &str, to: &str) -> Event {
    Event { interface: Some(name.to_owned()), ..Event::new(Kind::Interface, Timestamp::now()).is(to) }
}

/// The state of pools, and of the interfaces, as events tell it.
pub(super) fn state<'c>(
    pools: impl Iterator<Item = &'c config::Pool>,
    overlay: &Overlay,
    known: &HashMap<BackendKey, Known>,
    tiers: &HashMap<String, u8>,
    interfaces: &[Interface],
    now: Timestamp,
) -> State {
    let backend = |pool: &config::Pool, backend: &config::Backend| {
        let name = BackendName::new(&pool.name, &backend.name);
        let known = known.get(&BackendKey::new(pool.name.as_str(), backend.name.as_str()));
        let known = known.cloned().unwrap_or_else(Known::nothing);
        let since = i64::try_from(known.since_ms).ok();
        let wish = views::wish(overlay, pool, backend, now);
        Backend {
            health: known.health.name().to_owned(),
            since: since.and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(now),
            why: known.why,
            admin: wish.admin.name().to_owned(),
            weight: wish.weight,
            note: overlay
                .note(&name, backend.weight, now)
                .map(|note| Note { by: note.by.clone(), reason: note.reason.clone() }),
        }
    };
    let pool = |pool: &config::Pool| Pool {
        active_tier: tiers.get(&pool.name).copied(),
        rollout: None,
        backends: pool.backends.values().map(|b| (b.name.clone(), backend(pool, b))).collect(),
    };
    let attached = interfaces.iter().filter(|interface| interface.attached);
    State {
        pools: pools.map(|of| (of.name.clone(), pool(of))).collect(),
        interfaces: attached.map(|interface| (interface.name.clone(), interface.mode.clone())).collect(),
        frozen: None,
    }
}
