//! From detection's words to the slots'.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use lb_common::layout::{AdminBits, BackendState, FailureBits, HealthBits, HotWord};

use crate::apply::labels;
use crate::config::model::{Backend, Config, Pool};
use crate::desired::{BackendView, PoolView};
use crate::health::machine::{FULL_ADMIT, FailureKind, Health, TRIAL_ADMIT};
use crate::health::pool_view::{self, Admin, Member, PoolRules, Remaining, SlotState};
use crate::health::split::Split;
use crate::health::{Adopted, BackendHealth, BackendKey, Wish};
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

/// What an earlier daemon left in the slots, of backends that have the address that the config gives them: what is known
/// of another address says nothing of this one.
pub(super) fn known_in_maps(maps: &MapSet, config: &Config) -> HashMap<BackendKey, Known> {
    let named =
        maps.backend_info.iter().enumerate().filter(|(_, info)| info.name.len != 0 && info.removed == 0);
    let known = named.filter_map(|(id, info)| {
        let pool = maps.pool_info.get(usize::from(info.pool))?;
        let configured = config.pools.get(pool.name.as_str())?.backends.get(info.name.as_str())?;
        if labels::address(info.address, info.family) != Some(configured.address) {
            return None;
        }
        let hot = HotWord(maps.backends.get(id)?.hot.get());
        let key = BackendKey::new(pool.name.as_str(), info.name.as_str());
        Some((key, Known::from_slot(hot, info.since_ms, info.why.as_str())))
    });
    known.collect()
}

/// What the operator wants of a backend: the config's weight and service, unless a runtime change says otherwise.
pub(super) fn wish(overlay: &Overlay, pool: &Pool, backend: &Backend, now: Timestamp) -> Wish {
    let name = BackendName::new(&pool.name, &backend.name);
    let admin = match overlay.admin(&name, now).map(|change| (change.state, change.remaining)) {
        None => Admin::Active,
        Some((Out::Draining, remaining)) => Admin::Draining(remaining),
        Some((Out::Maintenance, remaining)) => Admin::Maintenance(remaining),
    };
    Wish { admin, weight: overlay.weight(&name, backend.weight, now) }
}

/// Views of pools, by name.
pub(super) type Views = BTreeMap<String, PoolView>;

/// Combines what is known of these pools into what the slots should say, by the rules that detection itself uses.
pub(super) fn views<'c>(
    pools: impl Iterator<Item = &'c Pool>,
    overlay: &Overlay,
    known: &HashMap<BackendKey, Known>,
    tiers: &HashMap<String, u8>,
    splits: &BTreeMap<String, Split>,
    now: Timestamp,
) -> Views {
    let view = |pool: &Pool| {
        let (tier, split) = (tiers.get(&pool.name).copied(), splits.get(&pool.name));
        view(pool, overlay, known, tier, split, now)
    };
    pools.map(|pool| (pool.name.clone(), view(pool))).collect()
}

fn view(
    pool: &Pool,
    overlay: &Overlay,
    known: &HashMap<BackendKey, Known>,
    tier: Option<u8>,
    split: Option<&Split>,
    now: Timestamp,
) -> PoolView {
    let known = |name: &str| {
        known.get(&BackendKey::new(pool.name.as_str(), name)).cloned().unwrap_or_else(Known::nothing)
    };
    let found: Vec<Known> = pool.backends.keys().map(|name| known(name)).collect();
    let wishes: Vec<Wish> = pool.backends.values().map(|backend| wish(overlay, pool, backend, now)).collect();
    let members: Vec<Member> = pool
        .backends
        .values()
        .zip(found.iter().zip(&wishes))
        .map(|(backend, (known, wish))| Member {
            admin: wish.admin,
            health: known.health,
            kind: known.kind,
            weight: wish.weight,
            tier: backend.tier,
            // A slot of a divided pool shows the division, too: it is made anew below.
            admit: match (split, known.health) {
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
    let mut combined = pool_view::combine(&rules, &members, tier);
    if let Some(split) = split {
        split.apply(&members, pool.backends.keys().map(String::as_str), &mut combined);
    }
    let backends = combined.slots.iter().zip(found.into_iter().zip(&wishes));
    let backends = backends.map(|(slot, (known, wish))| BackendView {
        state: state(slot.state),
        admit: slot.admit,
        admin: admin_bits(wish.admin),
        health: health_bits(known.health),
        failure: failure_bits(known.kind),
        since_ms: known.since_ms,
        why: known.why,
    });
    let lowest = pool.backends.values().map(|backend| backend.tier).min().unwrap_or(0);
    let active_tier = combined.active_tier.unwrap_or(lowest);
    PoolView { active_tier, backends: backends.collect(), usable: combined.usable }
}

/// Whether a slot's admin state and health let new flows come; the guard on a pool's last backends goes by it.
pub(super) fn takes_new_flows(hot: HotWord) -> bool {
    hot.admin() == AdminBits::Active
        && matches!(hot.health(), HealthBits::Up | HealthBits::Trial | HealthBits::Unknown)
}

pub(super) fn state(state: SlotState) -> BackendState {
    match state {
        SlotState::Active => BackendState::Active,
        SlotState::Draining => BackendState::Draining,
        SlotState::Suspect => BackendState::Suspect,
        SlotState::DownSoft => BackendState::DownSoft,
        SlotState::Down => BackendState::Down,
        SlotState::Resetting => BackendState::Resetting,
    }
}

/// What the operator wants, as a slot says.
pub(super) fn admin(view: &BackendView) -> Admin {
    let remaining = match view.state {
        BackendState::Resetting => Remaining::Reset,
        _ => Remaining::Usual,
    };
    match view.admin {
        AdminBits::Active => Admin::Active,
        AdminBits::Draining => Admin::Draining(remaining),
        AdminBits::Maintenance => Admin::Maintenance(remaining),
    }
}

pub(super) fn admin_bits(admin: Admin) -> AdminBits {
    match admin {
        Admin::Active => AdminBits::Active,
        Admin::Draining(_) => AdminBits::Draining,
        Admin::Maintenance(_) => AdminBits::Maintenance,
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
