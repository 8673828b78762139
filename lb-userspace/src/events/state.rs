//! The state that events lead from and to: folded from events, compared into events. Pure.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::event::{Event, Kind};

/// What events tell of an instance.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// Pools by name.
    #[serde(default)]
    pub pools: BTreeMap<String, Pool>,
    /// Interfaces that the program is on, and how.
    #[serde(default)]
    pub interfaces: BTreeMap<String, String>,
    /// Why detection does not believe itself, where it does not.
    #[serde(default)]
    pub frozen: Option<String>,
}

/// A pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Pool {
    /// The tier that takes new flows.
    #[serde(default)]
    pub active_tier: Option<u8>,
    /// Its rollout's stage and share, as `running 10%`.
    #[serde(default)]
    pub rollout: Option<String>,
    /// Backends by name.
    #[serde(default)]
    pub backends: BTreeMap<String, Backend>,
}

/// A backend of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Detection's word: `unknown`, `up`, `suspect`, `down`, `trial`.
    pub health: String,
    /// Since when.
    pub since: Timestamp,
    /// Why.
    #[serde(default)]
    pub why: String,
    /// The operator's: `active`, `draining`, `maintenance`, `resetting`.
    pub admin: String,
    /// Weight in force.
    pub weight: u16,
    /// Who keeps it from being as the config says, and why; for the events that follow.
    #[serde(skip)]
    pub note: Option<Note>,
}

/// Who wanted something, and why.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Note {
    /// User on record.
    pub by: String,
    /// Why; empty where nobody said.
    pub reason: String,
}

impl State {
    /// Takes what an event says.
    pub fn take(&mut self, event: &Event) {
        let to = event.to.clone().unwrap_or_default();
        match (event.kind, &event.pool, &event.backend) {
            (Kind::Snapshot, ..) => {
                let state = event.evidence.get("state").cloned().unwrap_or_default();
                if let Ok(state) = serde_json::from_value(state) {
                    *self = state;
                }
            }
            (Kind::Backend, Some(pool), Some(backend)) => match to.as_str() {
                "removed" => {
                    if let Some(known) = self.pools.get_mut(pool) {
                        known.backends.remove(backend);
                        if known.backends.is_empty() {
                            self.pools.remove(pool);
                        }
                    }
                }
                _ => self.add(pool, backend, event),
            },
            (Kind::Health, Some(pool), Some(backend)) => {
                if let Some(known) = self.backend(pool, backend) {
                    known.health = to;
                    known.since = event.time;
                    known.why.clone_from(&event.reason);
                }
            }
            (Kind::Admin, Some(pool), Some(backend)) => {
                if let Some(known) = self.backend(pool, backend) {
                    known.admin = to;
                }
            }
            (Kind::Weight, Some(pool), Some(backend)) => {
                if let (Some(known), Ok(weight)) = (self.backend(pool, backend), to.parse()) {
                    known.weight = weight;
                }
            }
            (Kind::Tier, Some(pool), _) => {
                if let Some(known) = self.pools.get_mut(pool) {
                    known.active_tier = to.parse().ok();
                }
            }
            (Kind::Rollout, Some(pool), _) => {
                if let Some(known) = self.pools.get_mut(pool) {
                    known.rollout = Some(to).filter(|to| to != "ended");
                }
            }
            (Kind::Interface, ..) => {
                if let Some(interface) = &event.interface {
                    match to.as_str() {
                        "detached" => drop(self.interfaces.remove(interface)),
                        _ => drop(self.interfaces.insert(interface.clone(), mode(event))),
                    }
                }
            }
            (Kind::Freeze, ..) => self.frozen = (to == "frozen").then(|| event.reason.clone()),
            _ => {}
        }
    }

    fn backend(&mut self, pool: &str, backend: &str) -> Option<&mut Backend> {
        self.pools.get_mut(pool)?.backends.get_mut(backend)
    }

    fn add(&mut self, pool: &str, backend: &str, event: &Event) {
        let word =
            |name: &str, or: &str| event.evidence.get(name).and_then(Value::as_str).unwrap_or(or).to_owned();
        let weight = event.evidence.get("weight").and_then(Value::as_u64).unwrap_or(0);
        let added = Backend {
            health: word("health", "unknown"),
            since: event.time,
            why: word("why", ""),
            admin: word("admin", "active"),
            weight: u16::try_from(weight).unwrap_or(0),
            note: None,
        };
        self.pools.entry(pool.to_owned()).or_default().backends.insert(backend.to_owned(), added);
    }
}

fn mode(event: &Event) -> String {
    event.evidence.get("mode").and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// The events that lead from one state to the next, but for those of health, freezes, rollouts and interfaces, which
/// report themselves: backends that came and went, admin states, weights, tiers. `reason` is of what the operator did
/// not ask for.
#[must_use]
pub fn difference(before: &State, after: &State, now: Timestamp, reason: &str) -> Vec<Event> {
    let mut events = Vec::new();
    let nothing = Pool::default();
    for (name, pool) in &before.pools {
        let next = after.pools.get(name).unwrap_or(&nothing);
        for backend in pool.backends.keys().filter(|backend| !next.backends.contains_key(*backend)) {
            let event = Event::new(Kind::Backend, now).of_backend(name, backend);
            events.push(event.is("removed").because(reason));
        }
    }
    for (name, pool) in &after.pools {
        let previous = before.pools.get(name);
        for (backend, is) in &pool.backends {
            let event = |kind| Event::new(kind, now).of_backend(name, backend);
            let Some(was) = previous.and_then(|pool| pool.backends.get(backend)) else {
                let added = event(Kind::Backend).is("added").because(reason);
                let added = added.with("health", is.health.as_str()).with("admin", is.admin.as_str());
                events.push(added.with("weight", is.weight).with("why", is.why.as_str()));
                continue;
            };
            let told = |event: Event| match is.note.as_ref().or(was.note.as_ref()) {
                Some(note) if is.note.is_some() => event.asked_by(&note.by).because(&note.reason),
                Some(_) => event.because("the runtime change ended"),
                None => event.because(reason),
            };
            if was.admin != is.admin {
                events.push(told(event(Kind::Admin).was(&was.admin).is(&is.admin)));
            }
            if was.weight != is.weight {
                events.push(told(event(Kind::Weight).was(was.weight.to_string()).is(is.weight.to_string())));
            }
        }
        let tier = |pool: &Pool| pool.active_tier.map(|tier| tier.to_string());
        let (was, is) = (previous.and_then(tier), tier(pool));
        if previous.is_some() && was != is {
            let event = Event::new(Kind::Tier, now).of_pool(name);
            events.push(Event { from: was, to: is, ..event.because("usable weight of its tiers") });
        }
    }
    events
}

/// The state at a time, from events in their order; `None` where they begin later.
#[must_use]
pub fn at(events: impl IntoIterator<Item = Event>, time: Timestamp) -> Option<State> {
    let mut state = None;
    for event in events {
        // Transitions are recorded in the order of their reports, which may differ from that of their times.
        if event.time > time {
            continue;
        }
        match &mut state {
            None if event.kind == Kind::Snapshot => {
                let mut first = State::default();
                first.take(&event);
                state = Some(first);
            }
            None => {}
            Some(state) => state.take(&event),
        }
    }
    state
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(second: i64) -> Timestamp {
        Timestamp::constant(1_795_000_000 + second, 0)
    }

    fn backend(health: &str, weight: u16) -> Backend {
        Backend {
            health: health.to_owned(),
            since: time(0),
            why: String::new(),
            admin: "active".to_owned(),
            weight,
            note: None,
        }
    }

    fn state(backends: &[(&str, u16)]) -> State {
        let backends = backends.iter().map(|(name, weight)| ((*name).to_owned(), backend("up", *weight)));
        let pool = Pool { active_tier: Some(0), rollout: None, backends: backends.collect() };
        State { pools: BTreeMap::from([("web".to_owned(), pool)]), ..State::default() }
    }

    fn drained(mut state: State, backend: &str) -> State {
        let known = state.backend("web", backend).expect("known");
        known.admin = "draining".to_owned();
        known.note = Some(Note { by: "alice".to_owned(), reason: "kernel update".to_owned() });
        state
    }

    fn snapshot(state: &State, second: i64) -> Event {
        let state = serde_json::to_value(state).expect("serialises");
        Event::new(Kind::Snapshot, time(second)).with("state", state)
    }

    fn health(backend: &str, to: &str, second: i64) -> Event {
        Event::new(Kind::Health, time(second)).of_backend("web", backend).is(to).because("refused")
    }

    #[test]
    fn differences_lead_from_one_state_to_the_other() {
        let before = state(&[("a", 100), ("b", 100)]);
        let mut after = drained(state(&[("b", 50), ("c", 7)]), "b");
        after.pools.get_mut("web").expect("known").active_tier = Some(1);
        let events = difference(&before, &after, time(9), "reload");
        let told: Vec<String> = events
            .iter()
            .map(|event| format!("{} {} {} by {:?}", event.kind, event.subject(), event.change(), event.by))
            .collect();
        assert_eq!(
            told,
            [
                "backend web/a removed by None",
                r#"admin web/b active → draining by Some("alice")"#,
                r#"weight web/b 100 → 50 by Some("alice")"#,
                "backend web/c added by None",
                "tier web 0 → 1 by None",
            ]
        );
        let mut folded = before;
        events.iter().for_each(|event| folded.take(event));
        let seen = |state: &State| {
            let backends = state.pools["web"].backends.iter();
            let backends = backends.map(|(name, b)| (name.clone(), b.admin.clone(), b.weight));
            (state.pools["web"].active_tier, backends.collect::<Vec<_>>())
        };
        assert_eq!(seen(&folded), seen(&after));
        assert_eq!(difference(&after, &after, time(9), "reload"), []);
    }

    #[test]
    fn the_end_of_a_runtime_change_says_so() {
        let events =
            difference(&drained(state(&[("a", 1)]), "a"), &state(&[("a", 1)]), time(1), "time is over");
        assert_eq!((events[0].change().as_str(), &events[0].by), ("draining → active", &None));
        assert_eq!(events[0].reason, "the runtime change ended");
    }

    #[test]
    fn a_pool_without_backends_is_gone() {
        let mut folded = state(&[("a", 1)]);
        let events = difference(&folded, &State::default(), time(1), "reload");
        events.iter().for_each(|event| folded.take(event));
        assert_eq!(folded, State::default());
    }

    #[test]
    fn the_state_at_a_time_is_the_last_snapshot_and_what_followed_it() {
        let start = state(&[("a", 100), ("b", 100)]);
        let events = || {
            vec![
                health("a", "down", 1),
                snapshot(&start, 2),
                health("a", "suspect", 3),
                health("a", "down", 4),
                health("a", "up", 6),
            ]
        };
        let at = |second| at(events(), time(second)).map(|state| state.pools["web"].backends["a"].clone());
        assert_eq!(at(1), None, "nothing is known of the time before the first snapshot");
        let health = |second| at(second).map(|backend| backend.health);
        assert_eq!(health(2).as_deref(), Some("up"));
        assert_eq!(health(5).as_deref(), Some("down"));
        assert_eq!(at(5).map(|backend| backend.since), Some(time(4)));
        assert_eq!(health(100).as_deref(), Some("up"));
    }
}
