//! Divides a pool's new flows between a canary set and the others: pure arithmetic over what the pool offers anyway.
//!
//! By weight the canaries get the share s = W(canaries) / W(all that take new flows). A flow carries a number u,
//! uniform in 0..1000, and a backend takes it if u < admit; a flow that its slot's backend refuses walks to further
//! slots. With admit x for the canaries and 1000 for the others, flows with u < x are taken by whom they meet, a
//! canary with probability s, and the rest by others only. So the canaries get x/1000 × s, and x = 1000 × p / s gives
//! the share p wherever p ≤ s. Beyond it the others are the ones held back: x = 1000 × (1 − p) / (1 − s).
//!
//! The last refuge of a refused flow is the list of usable backends, which asks no admit share: it holds those with
//! a whole one alone, and there is always one such side.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use super::machine::FULL_ADMIT;
use super::pool_view::{Member, PoolView, SlotState};

/// Who gets which share of a pool's new flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Names of the canaries.
    pub canary: BTreeSet<String>,
    /// Their share together, in per mille.
    pub permille: u16,
}

/// The admit shares of both sides in per mille, canaries first.
#[must_use]
pub fn admits(permille: u16, canary_weight: u64, other_weight: u64) -> (u16, u16) {
    let permille = u64::from(permille.min(FULL_ADMIT));
    let full = u64::from(FULL_ADMIT);
    let total = canary_weight + other_weight;
    let share = |wanted: u64, weight: u64| {
        let admit = (wanted * total + weight / 2) / weight.max(1);
        u16::try_from(admit).unwrap_or(FULL_ADMIT).min(FULL_ADMIT)
    };
    match permille * total <= full * canary_weight {
        true => (share(permille, canary_weight), FULL_ADMIT),
        false => (FULL_ADMIT, share(full - permille, other_weight)),
    }
}

impl Split {
    /// Divides what a pool offers; `names` are the members'. Does nothing while one of both sides has nobody who
    /// takes new flows: then the other takes all.
    pub fn apply<'a>(&self, members: &[Member], names: impl Iterator<Item = &'a str>, view: &mut PoolView) {
        if view.last_resort.is_some() {
            return;
        }
        let serves = |member: &Member, state: SlotState| {
            Some(member.tier) == view.active_tier && state == SlotState::Active
        };
        let sides: Vec<Option<Side>> = members
            .iter()
            .zip(&view.slots)
            .zip(names)
            .map(|((member, slot), name)| {
                let side = if self.canary.contains(name) { Side::Canary } else { Side::Other };
                serves(member, slot.state).then_some(side)
            })
            .collect();
        let weight = |wanted: Side| -> u64 {
            let of_side = members.iter().zip(&sides).filter(|(_, side)| **side == Some(wanted));
            of_side.map(|(member, _)| u64::from(member.weight)).sum()
        };
        let (canaries, others) = (weight(Side::Canary), weight(Side::Other));
        if canaries == 0 || others == 0 {
            return;
        }
        let (canary_admit, other_admit) = admits(self.permille, canaries, others);
        for (side, admit) in [(Side::Canary, canary_admit), (Side::Other, other_admit)] {
            let of_side = || sides.iter().enumerate().filter(move |(_, of)| **of == Some(side));
            let largest = of_side().map(|(position, _)| view.slots[position].admit).max().unwrap_or(0).max(1);
            for (position, _) in of_side() {
                let own = u64::from(view.slots[position].admit);
                let scaled = own * u64::from(admit) / u64::from(largest);
                view.slots[position].admit = u16::try_from(scaled).unwrap_or(FULL_ADMIT);
            }
        }
        let whole = |position: &u32| view.slots[*position as usize].admit == FULL_ADMIT;
        view.usable = view.usable.iter().copied().filter(whole).collect();
    }
}

/// A side of the division.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Canary,
    Other,
}

#[cfg(test)]
mod tests {
    use super::super::machine::Health;
    use super::super::pool_view::{Admin, PoolRules, combine};
    use super::*;
    use crate::config::model::LastResort;

    const RULES: PoolRules =
        PoolRules { tier_takeover_below: 0.0, max_ejected: 0.5, last_resort: LastResort::Keep };

    fn member(weight: u16) -> Member {
        Member { admin: Admin::Active, health: Health::Up, kind: None, weight, tier: 0, admit: FULL_ADMIT }
    }

    /// Admit shares and list of usable backends of `a`, `b`, `c`, …, where `a` is the canary.
    fn divided(permille: u16, members: &[Member]) -> (Vec<u16>, Vec<u32>) {
        let names = ["a", "b", "c", "d"];
        let split = Split { canary: BTreeSet::from(["a".to_owned()]), permille };
        let mut view = combine(&RULES, members, None);
        split.apply(members, names.into_iter(), &mut view);
        (view.slots.iter().map(|slot| slot.admit).collect(), view.usable)
    }

    #[test]
    fn admits_give_the_share_for_any_weights() {
        // Share of the canaries by the arithmetic of the module, in per mille.
        let gives = |(x, y): (u16, u16), canary: u64, other: u64| {
            let s = canary as f64 / (canary + other) as f64;
            match y {
                1000 => f64::from(x) * s,
                _ => 1000.0 - f64::from(y) * (1.0 - s),
            }
        };
        for (canary, other) in [(100, 100), (100, 900), (900, 100), (1, 1000), (1000, 1), (37, 101)] {
            for permille in [0, 1, 10, 100, 250, 500, 750, 990, 1000] {
                let admits = admits(permille, canary, other);
                let got = gives(admits, canary, other);
                assert!(
                    (got - f64::from(permille)).abs() <= 0.5,
                    "{permille} of {canary}:{other}: {admits:?} gives {got}"
                );
                assert!(admits.0 == 1000 || admits.1 == 1000, "{admits:?}");
            }
        }
    }

    #[test]
    fn a_refused_flow_finds_only_the_side_that_takes_all() {
        assert_eq!(divided(100, &[member(100), member(100)]), (vec![200, 1000], vec![1]));
        assert_eq!(divided(900, &[member(100), member(100)]), (vec![1000, 200], vec![0]));
        assert_eq!(divided(500, &[member(100), member(100)]), (vec![1000, 1000], vec![0, 1]));
        assert_eq!(divided(0, &[member(100), member(100), member(100)]), (vec![0, 1000, 1000], vec![1, 2]));
        assert_eq!(divided(1000, &[member(100), member(100)]), (vec![1000, 0], vec![0]));
    }

    #[test]
    fn the_share_stays_when_members_come_and_go() {
        let down = Member { health: Health::Down, ..member(100) };
        let (admits, _) = divided(100, &[member(100), member(100), member(100)]);
        assert_eq!(admits, [300, 1000, 1000]);
        let (admits, usable) = divided(100, &[member(100), down, member(100)]);
        assert_eq!((admits[0], admits[2], usable), (200, 1000, vec![2]));
    }

    #[test]
    fn with_one_side_gone_the_other_takes_all() {
        let down = Member { health: Health::Down, ..member(100) };
        assert_eq!(divided(0, &[member(100), down]).1, [0]);
        assert_eq!(divided(0, &[member(100), down]).0[0], 1000);
        assert_eq!(divided(1000, &[down, member(100)]), (vec![1000, 1000], vec![1]));
    }

    #[test]
    fn a_backend_on_trial_keeps_its_small_part_of_its_sides_share() {
        let trial = Member { health: Health::Trial, admit: 100, ..member(100) };
        let (admits, usable) = divided(100, &[member(100), trial, member(100)]);
        assert_eq!((admits, usable), (vec![300, 100, 1000], vec![2]));
        // Alone on its side, its part is the whole.
        let (admits, _) = divided(100, &[trial, member(100), member(100)]);
        assert_eq!(admits, [300, 1000, 1000]);
    }
}
