//! The whole transition table, then random sequences of events.

use proptest::prelude::*;

use super::*;

const PACE: Pace = Pace {
    hold_down: Duration::from_secs(1),
    hold_down_max: Duration::from_secs(300),
    slow_start: Duration::from_secs(10),
};
const HARD: Finding = Finding::Bad(FailureKind::Hard);
const SOFT: Finding = Finding::Bad(FailureKind::Soft);
const FINDINGS: [Finding; 5] = [Finding::Pending, Finding::Good, Finding::Doubtful, HARD, SOFT];

/// Health and failure kind after each of [`FINDINGS`].
type Row = [(Health, Option<FailureKind>); FINDINGS.len()];

fn at(millis: u64) -> Moment {
    Moment(millis * 1_000_000)
}

fn machine(state: State) -> Machine {
    Machine { state, ..Machine::new(PACE, at(0)) }
}

/// Health and failure kind after one finding at 5 s.
fn after(state: State, finding: Finding) -> (Health, Option<FailureKind>) {
    let mut machine = machine(state);
    machine.on_finding(finding, at(5000));
    (machine.health(), machine.failure_kind())
}

#[test]
fn every_state_answers_every_finding_as_the_table_says() {
    use FailureKind::{Hard, Soft};
    use Health::{Down, Suspect, Trial, Unknown, Up};
    let down = |kind, held_until| State::Down { kind, held_until };
    let (past, ahead) = (Some(at(4000)), Some(at(6000)));
    let rows: [(State, Row); 9] = [
        // state                                 pending          good             doubtful         hard          soft
        (
            State::Unknown,
            [(Unknown, None), (Up, None), (Unknown, None), (Down, Some(Hard)), (Down, Some(Soft))],
        ),
        (State::Up, [(Up, None), (Up, None), (Suspect, None), (Down, Some(Hard)), (Down, Some(Soft))]),
        (
            State::Suspect { trial_until: None },
            [(Up, None), (Up, None), (Suspect, None), (Down, Some(Hard)), (Down, Some(Soft))],
        ),
        (
            State::Suspect { trial_until: ahead },
            [(Trial, None), (Trial, None), (Suspect, None), (Down, Some(Hard)), (Down, Some(Soft))],
        ),
        (
            State::Trial { until: at(6000) },
            [(Trial, None), (Trial, None), (Suspect, None), (Down, Some(Hard)), (Down, Some(Soft))],
        ),
        (
            down(Hard, None),
            [(Down, Some(Hard)), (Up, None), (Down, Some(Hard)), (Down, Some(Hard)), (Down, Some(Soft))],
        ),
        (
            down(Soft, None),
            [(Down, Some(Soft)), (Up, None), (Down, Some(Soft)), (Down, Some(Hard)), (Down, Some(Soft))],
        ),
        (
            down(Hard, past),
            [(Down, Some(Hard)), (Trial, None), (Down, Some(Hard)), (Down, Some(Hard)), (Down, Some(Soft))],
        ),
        (
            down(Hard, ahead),
            [
                (Down, Some(Hard)),
                (Down, Some(Hard)),
                (Down, Some(Hard)),
                (Down, Some(Hard)),
                (Down, Some(Soft)),
            ],
        ),
    ];
    for (state, wanted) in rows {
        for (finding, wanted) in FINDINGS.into_iter().zip(wanted) {
            assert_eq!(after(state, finding), wanted, "{state:?} on {finding:?}");
        }
    }
}

/// Every state there is, with each of its times before and after 5 s.
fn every_state() -> Vec<State> {
    let (past, ahead) = (at(4000), at(6000));
    let mut states =
        vec![State::Unknown, State::Up, State::Trial { until: past }, State::Trial { until: ahead }];
    states.extend([None, Some(past), Some(ahead)].map(|trial_until| State::Suspect { trial_until }));
    for kind in [FailureKind::Hard, FailureKind::Soft] {
        states.extend([None, Some(past), Some(ahead)].map(|held_until| State::Down { kind, held_until }));
    }
    states
}

#[test]
fn time_ends_trials_and_hold_downs_and_nothing_else() {
    for (state, last) in every_state().into_iter().flat_map(|state| FINDINGS.map(|last| (state, last))) {
        let mut machine = Machine { finding: last, ..machine(state) };
        let change = machine.on_time(at(5000)).map(|change| (change.to, change.cause));
        let wanted = match state {
            State::Trial { until } if until == at(4000) => Some((Health::Up, Cause::TrialPassed)),
            State::Down { held_until: Some(until), .. } if until == at(4000) && last == Finding::Good => {
                Some((Health::Trial, Cause::HoldDownOver))
            }
            _ => None,
        };
        assert_eq!(change, wanted, "{state:?} after {last:?}");
        if wanted.is_none() {
            assert_eq!(machine.state, state, "after {last:?}");
        }
    }
}

#[test]
fn other_times_move_no_state_and_adoption_starts_a_trial_anew() {
    for state in every_state() {
        let mut machine = machine(state);
        machine.set_pace(Pace { hold_down: Duration::from_secs(9), ..PACE });
        assert_eq!(machine.state, state);
        let adopted = Machine::adopted(PACE, machine.health(), machine.failure_kind(), at(5000));
        let wanted = match state {
            State::Trial { .. } => State::Trial { until: at(6000) },
            State::Suspect { .. } => State::Suspect { trial_until: None },
            State::Down { kind, .. } => State::Down { kind, held_until: None },
            kept => kept,
        };
        assert_eq!(adopted.state, wanted);
    }
}

#[test]
fn every_state_has_a_deadline_exactly_where_time_can_move_it() {
    for state in every_state() {
        let wanted = match state {
            State::Trial { until } => Some(until),
            State::Down { held_until: Some(until), .. } if until > at(5000) => Some(until),
            _ => None,
        };
        assert_eq!(machine(state).next_deadline(at(5000)), wanted, "{state:?}");
    }
}

#[test]
fn held_backend_goes_over_trial_and_a_ramp_to_full_service() {
    let mut machine = Machine::new(PACE, at(0));
    for down in [1000, 2000, 3000] {
        machine.on_finding(Finding::Good, at(down - 100));
        machine.on_finding(HARD, at(down));
    }
    assert_eq!(machine.held_until(), Some(at(4000)));
    assert_eq!(machine.on_finding(Finding::Good, at(3100)), None);
    assert_eq!(machine.on_time(at(3999)), None);
    let trial = machine.on_time(at(4000)).expect("the hold-down is over");
    assert_eq!((trial.to, trial.cause), (Health::Trial, Cause::HoldDownOver));
    assert_eq!(machine.admit(at(4500)), TRIAL_ADMIT);
    let up = machine.on_time(at(5000)).expect("the trial is over");
    assert_eq!((up.to, up.cause), (Health::Up, Cause::TrialPassed));
    let ramp = [0, 2500, 5000, 9999, 10_000].map(|passed| machine.admit(at(5000 + passed)));
    assert_eq!(ramp, [100, 250, 500, 950, 1000]);
    assert_eq!(machine.next_deadline(at(5000)), Some(at(5500)));
    assert_eq!(machine.next_deadline(at(15_000)), None);
}

#[test]
fn suspicion_during_a_trial_returns_to_the_same_trial() {
    let mut machine = machine(State::Trial { until: at(6000) });
    machine.on_finding(Finding::Doubtful, at(5000));
    assert_eq!(machine.on_time(at(7000)), None);
    machine.on_finding(Finding::Good, at(7000));
    assert_eq!(machine.health(), Health::Trial);
    assert_eq!(machine.on_time(at(7000)).map(|change| change.to), Some(Health::Up));
}

#[test]
fn first_up_after_a_cold_start_takes_its_full_share_at_once() {
    let mut machine = Machine::new(PACE, at(0));
    machine.on_finding(Finding::Good, at(10));
    assert_eq!(machine.admit(at(10)), FULL_ADMIT);
}

#[test]
fn adopted_health_is_kept_until_the_checks_say_otherwise() {
    for health in [Health::Unknown, Health::Up, Health::Suspect, Health::Down, Health::Trial] {
        let machine = Machine::adopted(PACE, health, Some(FailureKind::Soft), at(0));
        assert_eq!(machine.health(), health);
        assert_eq!(machine.failure_kind().is_some(), health == Health::Down);
    }
}

#[test]
fn worst_finding_wins_and_good_needs_every_check() {
    assert_eq!(Finding::combine([]), Finding::Good);
    assert_eq!(Finding::combine([Finding::Good, Finding::Pending]), Finding::Pending);
    assert_eq!(Finding::combine([Finding::Doubtful, Finding::Pending, SOFT]), SOFT);
    assert_eq!(Finding::combine([HARD, SOFT, Finding::Good]), HARD);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Find(Finding),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        prop::sample::select(FINDINGS.to_vec()).prop_map(Step::Find),
        (0u64..5000).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn any_sequence_of_events_keeps_the_rules(steps in prop::collection::vec(step(), 1..200)) {
        let mut machine = Machine::new(PACE, at(0));
        let mut now = at(0);
        for step in steps {
            let (before, held) = (machine.health(), machine.held_until());
            let change = match step {
                Step::Find(finding) => machine.on_finding(finding, now),
                Step::Wait(millis) => {
                    now = now + Duration::from_millis(millis);
                    machine.on_time(now)
                }
            };
            let after = machine.health();
            // A change is reported, and only a change.
            prop_assert_eq!(change.is_some_and(|change| change.from != change.to), before != after);
            if let Some(change) = change {
                prop_assert_eq!((change.from, change.to), (before, after));
                prop_assert_eq!(change.kind, machine.failure_kind());
                prop_assert_eq!(machine.since(), now);
            }
            prop_assert_eq!(machine.failure_kind().is_some(), after == Health::Down);
            // Confirmed failure is down whatever was before; nothing else is.
            match step {
                Step::Find(Finding::Bad(kind)) => {
                    prop_assert_eq!((after, machine.failure_kind()), (Health::Down, Some(kind)));
                }
                _ => prop_assert!(after != Health::Down || before == Health::Down),
            }
            // Nobody leaves a hold-down early, or into full service.
            if let (Health::Down, Some(until)) = (before, held) && after != Health::Down {
                prop_assert!(now >= until);
                prop_assert_eq!(after, Health::Trial);
            }
            prop_assert!((TRIAL_ADMIT..=FULL_ADMIT).contains(&machine.admit(now)));
            if let Some(deadline) = machine.next_deadline(now).filter(|_| after == Health::Up) {
                prop_assert!(deadline > now);
            }
        }
    }

    #[test]
    fn any_flapping_is_damped_from_the_third_down_and_by_twice_as_much_each_time(
        gaps in prop::collection::vec((1u64..40_000, 1u64..400_000), 1..60),
    ) {
        let pace = Pace { slow_start: Duration::ZERO, ..PACE };
        let mut machine = Machine::new(pace, at(0));
        machine.on_finding(Finding::Good, at(0));
        let mut now = at(0);
        let mut downs: Vec<Moment> = Vec::new();
        let mut last_hold: Option<Duration> = None;
        for (good_for, bad_for) in gaps {
            now = now + Duration::from_millis(good_for);
            machine.on_time(now);
            // Service is left only by a failure.
            if machine.health() == Health::Down {
                continue;
            }
            let in_service_for = now.since(machine.since());
            let was_up = machine.health() == Health::Up;
            machine.on_finding(HARD, now);
            downs.push(now);
            let recent = downs.iter().filter(|down| now.since(**down) < Duration::from_secs(60)).count();
            let quiet = was_up && in_service_for >= last_hold.unwrap_or_default().max(Duration::from_secs(60));
            let hold = machine.held_until().map(|until| until.since(now));
            if let Some(hold) = hold {
                prop_assert!(hold >= pace.hold_down && hold <= pace.hold_down_max);
                let doubled = last_hold.filter(|_| !quiet).map_or(pace.hold_down, |last| last * 2);
                prop_assert_eq!(hold, doubled.min(pace.hold_down_max));
            }
            // The third within a minute is held, and the first two never are.
            prop_assert!(hold.is_some() || quiet || recent < 3);
            prop_assert!(hold.is_none() || downs.len() >= 3);
            last_hold = hold.or(last_hold.filter(|_| !quiet));
            // The checks pass at once, time passes: over a trial exactly where it was held.
            machine.on_finding(Finding::Good, now);
            prop_assert_eq!(machine.health() == Health::Down, hold.is_some());
            now = now + Duration::from_millis(bad_for);
            if let Some(trial) = machine.on_time(now) {
                prop_assert_eq!((trial.from, trial.to), (Health::Down, Health::Trial));
                prop_assert_eq!(machine.admit(now), TRIAL_ADMIT);
            }
        }
    }
}
