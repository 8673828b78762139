//! The share of new flows that canaries get: what a rollout computes, as selection carries it out.

use std::collections::BTreeSet;

use lb_common::layout::BackendState;
use lb_userspace::config::model::LastResort;
use lb_userspace::desired::BackendView;
use lb_userspace::health::machine::Health;
use lb_userspace::health::pool_view::{Admin, Member, PoolRules, PoolView, SlotState, combine};
use lb_userspace::health::split::Split;

use crate::frames::Kind;
use crate::world::{World, client, limits, web};

const FLOWS: u32 = 20_000;
/// Four deviations of a half share among so many flows, and what the slots of a table differ from weights.
const TOLERANCE: f64 = 0.02;

/// Members with these weights and health.
fn members(of: &[(u16, Health)]) -> Vec<Member> {
    let member = |&(weight, health): &(u16, Health)| Member {
        admin: Admin::Active,
        health,
        kind: None,
        weight,
        tier: 0,
        admit: 1000,
    };
    of.iter().map(member).collect()
}

/// Stores what the pool offers, as detection does.
fn publish(world: &World, view: &PoolView) {
    let slots = world.applier.slots();
    for (position, slot) in view.slots.iter().enumerate() {
        let state = match slot.state {
            SlotState::Active => BackendState::Active,
            SlotState::Down => BackendState::Down,
            other => panic!("{other:?}"),
        };
        let stored = BackendView { state, admit: slot.admit, ..BackendView::up() };
        slots.set_state("web", &format!("b-{position:03}"), &stored);
    }
    slots.set_usable("web", &view.usable);
}

/// The share of new flows that the canaries get.
fn share(of: &[(u16, Health)], canaries: usize, permille: u16) -> f64 {
    let mut config = web(limits(), of.len());
    config.services.get_mut("web").unwrap().track = false;
    let pool = config.pools.get_mut("web").unwrap();
    for (backend, (weight, _)) in pool.backends.values_mut().zip(of) {
        backend.weight = *weight;
    }
    let world = World::new(&config);
    let names: Vec<String> = (0..of.len()).map(|number| format!("b-{number:03}")).collect();
    let canary: BTreeSet<String> = names[..canaries].iter().cloned().collect();
    let rules = PoolRules { tier_takeover_below: 0.0, max_ejected: 0.5, last_resort: LastResort::Keep };
    let members = members(of);
    let mut view = combine(&rules, &members, None);
    Split { canary: canary.clone(), permille }.apply(&members, names.iter().map(String::as_str), &mut view);
    publish(&world, &view);
    let to_canary = (0..FLOWS).filter(|number| canary.contains(&world.to(&client(*number, Kind::Udp)).1));
    to_canary.count() as f64 / f64::from(FLOWS)
}

#[test]
fn canaries_get_their_share_of_new_flows_whatever_the_weights() {
    let up = |weights: &[u16]| weights.iter().map(|weight| (*weight, Health::Up)).collect::<Vec<_>>();
    for (weights, canaries) in [
        (vec![100, 100], 1),
        (vec![100, 100, 100], 1),
        (vec![100, 300, 50, 50], 2),
        (vec![10, 1000, 1000], 1),
        (vec![1000, 10], 1),
        (vec![100; 10], 1),
        (vec![100; 10], 9),
    ] {
        for permille in [0, 10, 100, 350, 600, 850, 1000] {
            let got = share(&up(&weights), canaries, permille);
            let wanted = f64::from(permille) / 1000.0;
            assert!(
                (got - wanted).abs() <= TOLERANCE,
                "{weights:?}, {canaries} canaries: {got} for {wanted}"
            );
            assert!(
                !matches!(permille, 0 | 1000) || got == wanted,
                "nothing and everything are exact: {got}"
            );
        }
    }
}

#[test]
fn the_share_stays_when_a_backend_of_either_side_is_down() {
    let (up, down) = ((100, Health::Up), (100, Health::Down));
    for of in [vec![up, down, up, up], vec![up, up, up, down], vec![down, up, up, down]] {
        for permille in [0, 100, 500, 900, 1000] {
            let got = share(&of, 2, permille);
            let wanted = f64::from(permille) / 1000.0;
            assert!((got - wanted).abs() <= TOLERANCE, "{of:?}: {got} for {wanted}");
        }
    }
}

#[test]
fn with_one_side_down_the_other_serves() {
    let (up, down) = ((100, Health::Up), (100, Health::Down));
    for permille in [0, 100, 1000] {
        assert_eq!(share(&[down, up, up], 1, permille), 0.0);
        assert_eq!(share(&[up, down, down], 1, permille), 1.0);
    }
}
