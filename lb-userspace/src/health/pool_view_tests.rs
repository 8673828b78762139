//! Tables of pools, then random ones.

use proptest::prelude::*;

use super::*;

const RULES: PoolRules =
    PoolRules { tier_takeover_below: 0.0, max_ejected: 0.5, last_resort: LastResort::Keep };

fn member(health: Health) -> Member {
    let kind = (health == Health::Down).then_some(FailureKind::Hard);
    Member { admin: Admin::Active, health, kind, weight: 100, tier: 0, admit: FULL_ADMIT }
}

fn soft() -> Member {
    Member { kind: Some(FailureKind::Soft), ..member(Health::Down) }
}

fn tier(tier: u8, member: Member) -> Member {
    Member { tier, ..member }
}

fn states(members: &[Member]) -> Vec<SlotState> {
    combine(&RULES, members, None).slots.iter().map(|slot| slot.state).collect()
}

#[test]
fn admin_and_health_of_one_backend_give_its_state() {
    use SlotState::{Active, Down, DownSoft, Draining, Resetting, Suspect};
    let health =
        [member(Health::Up), member(Health::Trial), member(Health::Suspect), soft(), member(Health::Down)];
    let rows = [
        (Admin::Active, 100, [Active, Active, Suspect, DownSoft, Down]),
        (Admin::Active, 0, [Draining, Draining, Draining, DownSoft, Down]),
        (Admin::Draining(Remaining::Usual), 100, [Draining, Draining, Draining, DownSoft, Down]),
        (Admin::Maintenance(Remaining::Usual), 100, [Down; 5]),
        (Admin::Draining(Remaining::Reset), 100, [Resetting; 5]),
        (Admin::Maintenance(Remaining::Reset), 100, [Resetting; 5]),
    ];
    for (admin, weight, wanted) in rows {
        for (own, wanted) in health.into_iter().zip(wanted) {
            // Another one is up, so that nothing is a last resort.
            let members = [Member { admin, weight, ..own }, member(Health::Up)];
            assert_eq!(states(&members), [wanted, Active], "{admin:?} {weight} {own:?}");
        }
    }
}

#[test]
fn unknown_backend_takes_no_new_flows_while_its_tier_has_one_that_is_up() {
    use SlotState::{Active, Suspect};
    assert_eq!(states(&[member(Health::Unknown), member(Health::Up)]), [Suspect, Active]);
    assert_eq!(states(&[member(Health::Unknown), member(Health::Unknown)]), [Active, Active]);
    assert_eq!(states(&[member(Health::Unknown), tier(1, member(Health::Up))]), [Active, Active]);
}

#[test]
fn suspicion_of_everybody_keeps_nobody_away() {
    assert_eq!(states(&[member(Health::Suspect)]), [SlotState::Active]);
    let all = [member(Health::Suspect); 4];
    assert!(states(&all).contains(&SlotState::Active));
    let with_down = [member(Health::Down), member(Health::Suspect)];
    assert_eq!(states(&with_down), [SlotState::Down, SlotState::Active]);
}

#[test]
fn soft_failures_take_out_at_most_the_limit_but_always_one() {
    use SlotState::{Active, DownSoft};
    assert_eq!(states(&[soft(); 4]), [DownSoft, DownSoft, Active, Active]);
    let rules = PoolRules { max_ejected: 0.0, ..RULES };
    let view = combine(&rules, &[soft(), soft(), member(Health::Up)], None);
    assert_eq!(view.slots.iter().map(|slot| slot.state).collect::<Vec<_>>(), [DownSoft, Active, Active]);
}

#[test]
fn what_failed_hard_counts_towards_the_limit_of_what_soft_findings_take_out() {
    use SlotState::{Active, Down, DownSoft, Suspect};
    let (hard, up) = (member(Health::Down), member(Health::Up));
    // Half of the weight is out already: one soft failure still acts, a second does not.
    assert_eq!(states(&[hard, hard, soft(), soft(), up, up]), [Down, Down, DownSoft, Active, Active, Active]);
    assert_eq!(states(&[hard, hard, hard, soft(), soft(), up]), [Down, Down, Down, DownSoft, Active, Active]);
    let suspect = member(Health::Suspect);
    assert_eq!(
        states(&[hard, soft(), suspect, suspect, up, up]),
        [Down, DownSoft, Suspect, Active, Active, Active]
    );
}

#[test]
fn hard_failures_always_act() {
    let members = [member(Health::Down), member(Health::Down), member(Health::Down), member(Health::Up)];
    let rules = PoolRules { max_ejected: 0.1, ..RULES };
    let view = combine(&rules, &members, None);
    assert_eq!(view.usable, [3]);
    assert_eq!(view.last_resort, None);
}

#[test]
fn next_tier_takes_over_when_nothing_of_the_first_is_usable() {
    let members = [member(Health::Down), tier(1, member(Health::Up)), tier(1, member(Health::Down))];
    let view = combine(&RULES, &members, Some(0));
    assert_eq!((view.active_tier, view.usable), (Some(1), vec![1]));
}

#[test]
fn suspicion_does_not_move_flows_to_the_next_tier() {
    let members = [member(Health::Suspect), member(Health::Suspect), tier(1, member(Health::Up))];
    assert_eq!(combine(&RULES, &members, Some(0)).active_tier, Some(0));
}

#[test]
fn tier_with_too_little_weight_is_replaced_and_takes_back_with_hysteresis() {
    let rules = PoolRules { tier_takeover_below: 0.5, ..RULES };
    let pool = |up: usize| {
        let mut members = vec![member(Health::Down); 20];
        members[..up].fill(member(Health::Up));
        members.push(tier(1, member(Health::Up)));
        members
    };
    let rows = [(0, 10, 0), (0, 9, 1), (1, 10, 1), (1, 11, 1), (1, 12, 0)];
    for (previous, up, wanted) in rows {
        assert_eq!(combine(&rules, &pool(up), Some(previous)).active_tier, Some(wanted), "{previous} {up}");
    }
}

#[test]
fn tier_below_the_threshold_serves_when_there_is_no_better() {
    let rules = PoolRules { tier_takeover_below: 0.9, ..RULES };
    let members = [member(Health::Up), member(Health::Down), tier(1, member(Health::Down))];
    assert_eq!(combine(&rules, &members, Some(0)).active_tier, Some(0));
}

#[test]
fn last_resort_keeps_the_softly_failed_before_the_dead_and_nobody_in_maintenance() {
    let out = Member { admin: Admin::Maintenance(Remaining::Usual), ..member(Health::Up) };
    let view = combine(&RULES, &[soft(), member(Health::Down), out], None);
    assert_eq!((view.usable, view.last_resort), (vec![0], Some(LastResort::Keep)));
    let view = combine(&RULES, &[member(Health::Down), member(Health::Down), out], None);
    assert_eq!((view.usable, view.active_tier), (vec![0, 1], Some(0)));
    let drained = Member { admin: Admin::Draining(Remaining::Usual), ..member(Health::Up) };
    let view = combine(&RULES, &[drained], None);
    assert_eq!((view.slots[0].state, view.usable), (SlotState::Draining, vec![]));
    let rules = PoolRules { last_resort: LastResort::Drop, ..RULES };
    let view = combine(&rules, &[member(Health::Down)], None);
    assert_eq!((view.slots[0].state, view.last_resort), (SlotState::Down, Some(LastResort::Drop)));
}

#[test]
fn share_of_new_flows_needs_somebody_to_take_the_rest() {
    let trial = Member { admit: 100, ..member(Health::Trial) };
    let ramp = Member { admit: 200, ..member(Health::Up) };
    let admits = |members: &[Member]| {
        let view = combine(&RULES, members, None);
        view.slots.iter().map(|slot| slot.admit).collect::<Vec<_>>()
    };
    assert_eq!(admits(&[trial]), [1000]);
    assert_eq!(admits(&[trial, ramp]), [500, 1000]);
    assert_eq!(admits(&[trial, member(Health::Up)]), [100, 1000]);
}

fn any_member() -> impl Strategy<Value = Member> {
    let health =
        prop::sample::select(vec![Health::Unknown, Health::Up, Health::Suspect, Health::Trial, Health::Down]);
    let admin = prop::sample::select(vec![
        Admin::Active,
        Admin::Active,
        Admin::Draining(Remaining::Usual),
        Admin::Draining(Remaining::Reset),
        Admin::Maintenance(Remaining::Usual),
    ]);
    (health, any::<bool>(), admin, 0u16..=1000, 0u8..3).prop_map(|(health, soft, admin, weight, tier)| {
        let kind = if soft { FailureKind::Soft } else { FailureKind::Hard };
        let kind = (health == Health::Down).then_some(kind);
        Member { admin, health, kind, weight, tier, admit: FULL_ADMIT }
    })
}

proptest! {
    #[test]
    fn any_pool_keeps_the_rules(
        members in prop::collection::vec(any_member(), 0..30),
        previous in prop::option::of(0u8..3),
    ) {
        let rules = PoolRules { last_resort: LastResort::Drop, ..RULES };
        let view = combine(&rules, &members, previous);
        for (member, slot) in members.iter().zip(&view.slots) {
            // What the operator ends is ended, whatever health says.
            let ends = matches!(member.admin, Admin::Draining(Remaining::Reset));
            prop_assert_eq!(slot.state == SlotState::Resetting, ends);
            if ends {
                continue;
            }
            // Promise 4: a backend that is down for certain gets nothing.
            if member.admin == Admin::Maintenance(Remaining::Usual) || member.kind == Some(FailureKind::Hard) {
                prop_assert_eq!(slot.state, SlotState::Down);
            }
            // A wish of the operator is never overruled.
            if !member.wanted() {
                prop_assert_ne!(slot.state, SlotState::Active);
            }
            // Known flows stay with everybody else.
            if member.kind.is_none() && member.admin != Admin::Maintenance(Remaining::Usual) {
                prop_assert_ne!(slot.state, SlotState::Down);
            }
        }
        // A usable backend is used: nobody is left without because of suspicion or ignorance.
        let alive = |member: &Member| member.wanted() && member.health != Health::Down;
        if members.iter().any(alive) {
            prop_assert!(!view.usable.is_empty());
            prop_assert_eq!(view.last_resort, None);
        }
        for position in &view.usable {
            let index = usize::try_from(*position).unwrap_or(usize::MAX);
            prop_assert_eq!(view.slots[index].state, SlotState::Active);
            prop_assert_eq!(Some(members[index].tier), view.active_tier);
        }
        prop_assert!(view.usable.is_sorted());
    }

    #[test]
    fn soft_findings_never_take_out_more_than_one_beyond_the_limit(
        members in prop::collection::vec(any_member(), 0..30),
        max_ejected in 0.0f64..=1.0,
    ) {
        let rules = PoolRules { max_ejected, last_resort: LastResort::Drop, ..RULES };
        let view = combine(&rules, &members, None);
        let wanted = || members.iter().zip(&view.slots).filter(|(member, _)| member.wanted());
        let weight = |state: SlotState| -> u64 {
            wanted().filter(|(_, slot)| slot.state == state).map(|(member, _)| u64::from(member.weight)).sum()
        };
        let total: u64 = wanted().map(|(member, _)| u64::from(member.weight)).sum();
        #[expect(clippy::cast_precision_loss, reason = "small sums")]
        let limit = max_ejected * total as f64;
        let softly: Vec<&Member> =
            wanted().filter(|(_, slot)| slot.state == SlotState::DownSoft).map(|(member, _)| member).collect();
        #[expect(clippy::cast_precision_loss, reason = "small sums")]
        let out = (weight(SlotState::Down) + weight(SlotState::DownSoft)) as f64;
        prop_assert!(softly.len() <= 1 || out <= limit);
        // And one is always allowed.
        let failed = members.iter().filter(|member| member.wanted() && member.kind == Some(FailureKind::Soft));
        prop_assert_eq!(failed.count() > 0, !softly.is_empty());
    }

    #[test]
    fn tiers_do_not_flap_while_the_weight_moves_within_the_hysteresis(
        shares in prop::collection::vec(50usize..60, 1..50),
        start in 0u8..2,
    ) {
        // Between 0.5 and 0.6 of the weight, whichever tier was active stays.
        let rules = PoolRules { tier_takeover_below: 0.5, ..RULES };
        let mut active = Some(start);
        for up in shares {
            let mut members = vec![member(Health::Down); 100];
            members[..up].fill(member(Health::Up));
            members.push(tier(1, member(Health::Up)));
            active = combine(&rules, &members, active).active_tier;
            prop_assert_eq!(active, Some(start));
        }
    }
}
