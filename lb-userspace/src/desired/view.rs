//! What detection says of a pool, as the slots take it.

use lb_common::layout::{AdminBits, BackendState, FailureBits, HealthBits, MAX_ADMIT};

/// A backend as its slot should have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendView {
    /// Which flows it gets.
    pub state: BackendState,
    /// Share of new flows in per mille.
    pub admit: u16,
    /// What the operator wants.
    pub admin: AdminBits,
    /// What detection found.
    pub health: HealthBits,
    /// Kind of the failure of a backend that is down.
    pub failure: FailureBits,
    /// Unix time of the last transition, in milliseconds.
    pub since_ms: u64,
    /// Why it is in this state.
    pub why: String,
}

impl BackendView {
    /// An active backend that detection has found up.
    #[must_use]
    pub fn up() -> Self {
        Self {
            state: BackendState::Active,
            admit: MAX_ADMIT,
            admin: AdminBits::Active,
            health: HealthBits::Up,
            failure: FailureBits::None,
            since_ms: 0,
            why: String::new(),
        }
    }
}

/// A pool as detection combined it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolView {
    /// The tier that takes new flows.
    pub active_tier: u8,
    /// One per backend of the config, in the order of their names.
    pub backends: Vec<BackendView>,
    /// Positions in `backends` of those that take new flows, ascending.
    pub usable: Vec<u32>,
}

impl PoolView {
    /// Every backend of the lowest tier up; `tiers_weights` is in name order.
    #[must_use]
    pub fn all_up(tiers_weights: &[(u8, u16)]) -> Self {
        let active_tier =
            tiers_weights.iter().filter(|(_, weight)| *weight > 0).map(|(tier, _)| *tier).min().unwrap_or(0);
        let takes_new = |(position, (tier, weight)): (usize, &(u8, u16))| {
            (*tier == active_tier && *weight > 0).then_some(position as u32)
        };
        Self {
            active_tier,
            backends: tiers_weights.iter().map(|_| BackendView::up()).collect(),
            usable: tiers_weights.iter().enumerate().filter_map(takes_new).collect(),
        }
    }
}
