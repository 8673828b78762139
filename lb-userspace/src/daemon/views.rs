//! From detection's words to the slots'.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use lb_common::layout::{AdminBits, BackendState, FailureBits, HealthBits, HotWord};

use crate::config::model::Config;
use crate::desired::{self, BackendView};
use crate::health::machine::{FULL_ADMIT, FailureKind, Health, TRIAL_ADMIT};
use crate::health::pool_view::{self, Admin, Member, PoolRules, SlotState};
use crate::health::split::Split;
use crate::health::{Adopted, BackendHealth, BackendKey};
use crate::maps::set::MapSet;
use crate::state::overlay::{BackendName, Out, Overlay};

/// What is known of a backend before detection runs, or from it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    pub(super) health: Health,
    pub(super) kind: Option<FailureKind>,
    pub(super) admit: u16,
    pub(super) since_ms: u64,
    pub(super) why: String,
}

impl Known {
    /// A backend that nothing is known of.
    pub(super) fn nothing() -> Self {
        Self {
            health: Health::Unknown,
            kind: None,
            admit: 1000,
            since_ms: now_ms(),
            why: "not checked yet".to_owned(),
        }
    }

    /// From detection.
    pub(super) fn from_health(health: &BackendHealth) -> Self {
        Self {
            health: health.health,
            kind: health.failure_kind,
            admit: health.slot.map_or(1000, |slot| slot.admit),
            since_ms: ms(health.since),
            why: health.why.clone(),
        }
    }

    /// From a slot that an earlier daemon left.
    pub(super) fn from_slot(hot: HotWord, since_ms: u64, why: &str) -> Self {
        let health = match hot.health() {
            HealthBits::Unknown => Health::Unknown,
            HealthBits::Up => Health::Up,
            HealthBits::Suspect => Health::Suspect,
            HealthBits::Down => Health::Down,
            HealthBits::Trial => Health::Trial,
        };
        let kind = match hot.failure() {
            FailureBits::None => None,
            FailureBits::Hard => Some(FailureKind::Hard),
            FailureBits::Soft => Some(FailureKind::Soft),
        };
        Self { health, kind, admit: hot.admit(), since_ms, why: why.to_owned() }
    }

    pub(super) fn adopted(&self) -> Adopted {
        let age = Duration::from_millis(now_ms().saturating_sub(self.since_ms));
        Adopted { health: self.health, kind: self.kind, age, why: self.why.clone() }
    }
}

/// What an earlier daemon left in the slots.
pub(super) fn known_in_maps(maps: &MapSet) -> HashMap<BackendKey, Known> {
    let named =
        maps.backend_info.iter().enumerate().filter(|(_, info)| info.name.len != 0 && info.removed == 0);
    let known = named.filter_map(|(id, info)| {
        let pool = maps.pool_info.get(usize::from(info.pool))?;
        let hot = HotWord(maps.backends.get(id)?.hot.get());
        let key = BackendKey::new(pool.name.as_str(), info.name.as_str());
        Some((key, Known::from_slot(hot, info.since_ms, info.why.as_str())))
    });
    known.collect()
}

/// The operator's wish for a backend.
pub(super) fn admin(overlay: &Overlay, pool: &str, backend: &str, now: Timestamp) -> Admin {
    match overlay.admin(&BackendName::new(pool, backend), now).map(|change| change.state) {
        None => Admin::Active,
        Some(Out::Draining) => Admin::Draining,
        Some(Out::Maintenance) => Admin::Maintenance,
    }
}

/// The views of all pools, and of their backends by key.
pub(super) struct Views {
    pub(super) pools: BTreeMap<String, desired::PoolView>,
    pub(super) backends: HashMap<BackendKey, BackendView>,
}

/// Combines what is known into what the slots should say, by the rules that detection itself uses.
pub(super) fn views(
    config: &Config,
    overlay: &Overlay,
    known: &HashMap<BackendKey, Known>,
    tiers: &HashMap<String, u8>,
    splits: &BTreeMap<String, Split>,
    now: Timestamp,
) -> Views {
    let mut views = Views { pools: BTreeMap::new(), backends: HashMap::new() };
    for pool in config.pools.values() {
        let known = |name: &str| {
            known.get(&BackendKey::new(pool.name.as_str(), name)).cloned().unwrap_or_else(Known::nothing)
        };
        let found: Vec<Known> = pool.backends.keys().map(|name| known(name)).collect();
        let admins: Vec<Admin> =
            pool.backends.keys().map(|name| admin(overlay, &pool.name, name, now)).collect();
        let members: Vec<Member> = pool
            .backends
            .values()
            .zip(found.iter().zip(&admins))
            .map(|(backend, (known, admin))| Member {
                admin: *admin,
                health: known.health,
                kind: known.kind,
                weight: overlay.weight(&BackendName::new(&pool.name, &backend.name), backend.weight, now),
                tier: backend.tier,
                // A slot of a divided pool shows the division, too: it is made anew below.
                admit: match (splits.get(&pool.name), known.health) {
                    (None, _) => known.admit,
                    (Some(_), Health::Trial) => TRIAL_ADMIT,
                    (Some(_), _) => FULL_ADMIT,
                },
            })
            .collect();
        let rules = PoolRules {
            tier_takeover_below: pool.tier_takeover_below,
            max_ejected: pool.max_ejected,
            last_resort: pool.last_resort,
        };
        let mut combined = pool_view::combine(&rules, &members, tiers.get(&pool.name).copied());
        if let Some(split) = splits.get(&pool.name) {
            split.apply(&members, pool.backends.keys().map(String::as_str), &mut combined);
        }
        let backends: Vec<BackendView> = combined
            .slots
            .iter()
            .zip(found.iter().zip(&admins))
            .map(|(slot, (known, admin))| BackendView {
                state: state(slot.state),
                admit: slot.admit,
                admin: admin_bits(*admin),
                health: health_bits(known.health),
                failure: failure_bits(known.kind),
                since_ms: known.since_ms,
                why: known.why.clone(),
            })
            .collect();
        for (name, view) in pool.backends.keys().zip(&backends) {
            views.backends.insert(BackendKey::new(pool.name.as_str(), name.as_str()), view.clone());
        }
        let lowest = pool.backends.values().map(|backend| backend.tier).min().unwrap_or(0);
        let active_tier = combined.active_tier.unwrap_or(lowest);
        views
            .pools
            .insert(pool.name.clone(), desired::PoolView { active_tier, backends, usable: combined.usable });
    }
    views
}

pub(super) fn state(state: SlotState) -> BackendState {
    match state {
        SlotState::Active => BackendState::Active,
        SlotState::Draining => BackendState::Draining,
        SlotState::Suspect => BackendState::Suspect,
        SlotState::DownSoft => BackendState::DownSoft,
        SlotState::Down => BackendState::Down,
    }
}

pub(super) fn admin_bits(admin: Admin) -> AdminBits {
    match admin {
        Admin::Active => AdminBits::Active,
        Admin::Draining => AdminBits::Draining,
        Admin::Maintenance => AdminBits::Maintenance,
    }
}

pub(super) fn health_bits(health: Health) -> HealthBits {
    match health {
        Health::Unknown => HealthBits::Unknown,
        Health::Up => HealthBits::Up,
        Health::Suspect => HealthBits::Suspect,
        Health::Down => HealthBits::Down,
        Health::Trial => HealthBits::Trial,
    }
}

pub(super) fn failure_bits(kind: Option<FailureKind>) -> FailureBits {
    match kind {
        None => FailureBits::None,
        Some(FailureKind::Hard) => FailureBits::Hard,
        Some(FailureKind::Soft) => FailureBits::Soft,
    }
}

/// Unix time in milliseconds.
pub(super) fn ms(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// The present as Unix time in milliseconds.
pub(super) fn now_ms() -> u64 {
    ms(SystemTime::now())
}
