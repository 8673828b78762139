//! What the data plane is told about a pool: admin state, health, tiers and limits combined.
//!
//! A pure function of its input; no step of it depends on when or in which order things happened, except that the
//! active tier has hysteresis and therefore takes the previous one.

#![forbid(unsafe_code)]

use serde::{Deserialize, Serialize};

use super::machine::{FULL_ADMIT, FailureKind, Health};
use crate::config::model::LastResort;

/// What the operator wants of a backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Admin {
    /// In service.
    #[default]
    Active,
    /// Takes no new flows.
    Draining(Remaining),
    /// Takes nothing.
    Maintenance(Remaining),
}

/// What becomes of the flows that a backend has when it is taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Remaining {
    /// What the admin state says: they stay while it drains, and are selected anew in maintenance.
    #[default]
    Usual,
    /// TCP connections are answered with a reset, other flows are selected anew.
    Reset,
}

impl Admin {
    /// The name used in events and the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining(Remaining::Usual) => "draining",
            Self::Maintenance(Remaining::Usual) => "maintenance",
            Self::Draining(Remaining::Reset) | Self::Maintenance(Remaining::Reset) => "resetting",
        }
    }
}

/// Which flows the data plane sends to a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SlotState {
    /// New and known flows.
    Active,
    /// Known flows: the operator, or a weight of 0, keeps new ones away.
    Draining,
    /// Known flows: detection doubts.
    Suspect,
    /// Known flows, unless the service selects anew on every down.
    DownSoft,
    /// None.
    Down,
    /// None, and TCP connections are reset.
    Resetting,
}

/// The content of a backend's hot word, as far as detection decides it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Which flows.
    pub state: SlotState,
    /// Share of new flows in per mille.
    pub admit: u16,
}

/// One backend, as the combination sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The operator's wish.
    pub admin: Admin,
    /// The machine's health.
    pub health: Health,
    /// Kind of the failure of a down backend.
    pub kind: Option<FailureKind>,
    /// 0..=1000; 0 takes no new flows.
    pub weight: u16,
    /// Lower tiers serve first.
    pub tier: u8,
    /// Share of new flows in per mille by trial or slow start.
    pub admit: u16,
}

impl Member {
    /// Whether the operator lets it take new flows.
    fn wanted(&self) -> bool {
        self.admin == Admin::Active && self.weight > 0
    }
}

/// Limits of a pool.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PoolRules {
    /// Share of a tier's weight below which the next tier replaces it.
    pub tier_takeover_below: f64,
    /// Largest share of the pool's weight that may be out by health before soft findings, and suspicions, are kept
    /// from taking out more; hard failures count, and always act.
    pub max_ejected: f64,
    /// What happens when nothing is usable.
    pub last_resort: LastResort,
}

/// The pool as the data plane should see it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolView {
    /// The tier that takes new flows.
    pub active_tier: Option<u8>,
    /// One slot per member, in the order of the input.
    pub slots: Vec<Slot>,
    /// Positions of the active tier's members that take new flows, ascending.
    pub usable: Vec<u32>,
    /// Set when nothing is usable. Under [`LastResort::Keep`] the members that serve anyway are `usable`.
    pub last_resort: Option<LastResort>,
}

/// Share of weight that a better tier must have above the threshold to take back.
const TIER_HYSTERESIS: f64 = 0.1;

/// Combines a pool's members (in name order) into what the data plane should do.
#[must_use]
pub fn combine(rules: &PoolRules, members: &[Member], previous_tier: Option<u8>) -> PoolView {
    let mut slots: Vec<Slot> =
        members.iter().map(|member| Slot { state: own_state(member), admit: member.admit }).collect();
    let mut tiers: Vec<u8> = members.iter().map(|member| member.tier).collect();
    tiers.sort_unstable();
    tiers.dedup();

    limit_ejections(rules, members, &mut slots, SlotState::DownSoft);
    limit_ejections(rules, members, &mut slots, SlotState::Suspect);
    for &tier in &tiers {
        settle_tier(members, &mut slots, tier);
    }
    let mut view = PoolView { active_tier: None, slots, usable: Vec::new(), last_resort: None };
    view.active_tier = active_tier(rules, members, &view.slots, &tiers, previous_tier);
    if view.active_tier.is_none() {
        view.last_resort = Some(rules.last_resort);
        if rules.last_resort == LastResort::Keep {
            view.active_tier = keep_serving(members, &mut view.slots);
        }
    }
    let serves = |(position, slot): (usize, &Slot)| {
        let in_tier = Some(members[position].tier) == view.active_tier;
        (in_tier && slot.state == SlotState::Active).then(|| u32::try_from(position).ok()).flatten()
    };
    view.usable = view.slots.iter().enumerate().filter_map(serves).collect();
    view
}

/// The state that a member's own admin state and health give it.
fn own_state(member: &Member) -> SlotState {
    match (member.admin, member.health, member.kind) {
        (Admin::Draining(Remaining::Reset) | Admin::Maintenance(Remaining::Reset), ..) => {
            SlotState::Resetting
        }
        (Admin::Maintenance(Remaining::Usual), ..) => SlotState::Down,
        (_, Health::Down, Some(FailureKind::Soft)) => SlotState::DownSoft,
        (_, Health::Down, _) => SlotState::Down,
        _ if !member.wanted() => SlotState::Draining,
        (_, Health::Suspect, _) => SlotState::Suspect,
        (_, Health::Up | Health::Trial | Health::Unknown, _) => SlotState::Active,
    }
}

/// Lets members in `state` serve again, from the first that would bring the weight that is out by health beyond the
/// limit. One of each kind is always allowed: the limit keeps capacity, not a single bad backend.
///
/// Name order decides, so that instances with the same view of health agree.
fn limit_ejections(rules: &PoolRules, members: &[Member], slots: &mut [Slot], state: SlotState) {
    let weight = |with: &dyn Fn(SlotState) -> bool| -> u64 {
        let wanted =
            members.iter().zip(slots.iter()).filter(|(member, slot)| member.wanted() && with(slot.state));
        wanted.map(|(member, _)| u64::from(member.weight)).sum()
    };
    let total = weight(&|_| true);
    let graver: &[SlotState] = match state {
        SlotState::DownSoft => &[SlotState::Down],
        _ => &[SlotState::Down, SlotState::DownSoft],
    };
    let mut out = weight(&|other| graver.contains(&other));
    let mut allowed = Allowed::NoneYet;
    for (member, slot) in
        members.iter().zip(slots).filter(|(member, slot)| member.wanted() && slot.state == state)
    {
        let with = out + u64::from(member.weight);
        #[expect(clippy::cast_precision_loss, reason = "sums of weights stay far below 2^53")]
        let within = with as f64 <= rules.max_ejected * total as f64;
        match within || allowed == Allowed::NoneYet {
            true => (out, allowed) = (with, Allowed::One),
            false => slot.state = SlotState::Active,
        }
    }
}

/// Whether a finding of the kind has taken a member out.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Allowed {
    NoneYet,
    One,
}

/// Settles who of one tier takes new flows: the verified, else the unknown, else the suspected.
fn settle_tier(members: &[Member], slots: &mut [Slot], tier: u8) {
    let verified = |member: &Member, slot: &Slot| {
        member.tier == tier && slot.state == SlotState::Active && member.health != Health::Unknown
    };
    if members.iter().zip(slots.iter()).any(|(member, slot)| verified(member, slot)) {
        let unverified = |member: &Member, slot: &Slot| {
            member.tier == tier && slot.state == SlotState::Active && member.health == Health::Unknown
        };
        for (_, slot) in members.iter().zip(&mut *slots).filter(|(member, slot)| unverified(member, slot)) {
            slot.state = SlotState::Suspect;
        }
    } else if !members
        .iter()
        .zip(slots.iter())
        .any(|(m, slot)| m.tier == tier && slot.state == SlotState::Active)
    {
        for (member, slot) in members.iter().zip(&mut *slots) {
            if member.tier == tier && slot.state == SlotState::Suspect {
                slot.state = SlotState::Active;
            }
        }
    }
    spread_admit(members, slots, tier);
}

/// Scales the tier's admit shares so that the largest is whole: with nobody to take the rest, a share is no share.
fn spread_admit(members: &[Member], slots: &mut [Slot], tier: u8) {
    let in_tier = |member: &Member, slot: &Slot| member.tier == tier && slot.state == SlotState::Active;
    let shares = members.iter().zip(slots.iter()).filter(|(member, slot)| in_tier(member, slot));
    let largest = shares.map(|(_, slot)| slot.admit).max().unwrap_or(FULL_ADMIT).max(1);
    for (_, slot) in members.iter().zip(&mut *slots).filter(|(member, slot)| in_tier(member, slot)) {
        let scaled = u32::from(slot.admit) * u32::from(FULL_ADMIT) / u32::from(largest);
        slot.admit = u16::try_from(scaled).unwrap_or(FULL_ADMIT);
    }
}

/// The lowest tier with enough weight left, else the lowest with any.
fn active_tier(
    rules: &PoolRules,
    members: &[Member],
    slots: &[Slot],
    tiers: &[u8],
    previous: Option<u8>,
) -> Option<u8> {
    let share = |tier: u8| {
        let of_tier = || members.iter().zip(slots).filter(move |(member, _)| member.tier == tier);
        let total: u64 = of_tier().map(|(member, _)| u64::from(member.weight)).sum();
        // A suspicion does not move a tier's flows to the next.
        let left: u64 = of_tier()
            .filter(|(_, slot)| matches!(slot.state, SlotState::Active | SlotState::Suspect))
            .map(|(member, _)| u64::from(member.weight))
            .sum();
        #[expect(clippy::cast_precision_loss, reason = "sums of weights stay far below 2^53")]
        let share = left as f64 / total.max(1) as f64;
        share
    };
    let enough = |tier: u8| {
        let takes_back = previous.is_some_and(|previous| tier < previous) && rules.tier_takeover_below > 0.0;
        let needed = rules.tier_takeover_below + if takes_back { TIER_HYSTERESIS } else { 0.0 };
        let share = share(tier);
        share > 0.0 && share >= needed.min(1.0)
    };
    let mut lowest = tiers.iter().copied();
    lowest.clone().find(|tier| enough(*tier)).or_else(|| lowest.find(|tier| share(*tier) > 0.0))
}

/// Makes backends serve that are down: the softly failed of the lowest tier that has some, else all of the lowest.
fn keep_serving(members: &[Member], slots: &mut [Slot]) -> Option<u8> {
    let lowest = |slots: &[Slot], state: SlotState| {
        let candidates =
            members.iter().zip(slots).filter(|(member, slot)| member.wanted() && slot.state == state);
        candidates.map(|(member, _)| member.tier).min()
    };
    let (tier, state) = [SlotState::DownSoft, SlotState::Down]
        .into_iter()
        .find_map(|state| lowest(slots, state).map(|tier| (tier, state)))?;
    for (member, slot) in members.iter().zip(slots) {
        if member.wanted() && member.tier == tier && slot.state == state {
            *slot = Slot { state: SlotState::Active, admit: FULL_ADMIT };
        }
    }
    Some(tier)
}

#[cfg(test)]
#[path = "pool_view_tests.rs"]
mod tests;
