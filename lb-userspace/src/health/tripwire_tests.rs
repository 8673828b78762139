//! What a tripwire does, on a clock of its own.

use std::time::Duration;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);
const PACE: Pace = Pace {
    interval: Duration::from_secs(1),
    timeout: Duration::from_millis(500),
    patience: Duration::from_millis(1500),
};

fn at(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

/// A tripwire with a proven connection since `at(21)`.
fn held() -> Tripwire {
    let mut wire = Tripwire::new(PACE, at(0));
    assert_eq!(wire.on_time(at(0)), Some(Step::Connect(1)));
    wire.on_connected(at(1));
    assert_eq!(wire.on_time(at(21)), Some(Step::Confirm));
    assert_eq!(wire.on_confirmed(), Some(Report::Alive { seq: 1, connected_at: at(1) }));
    wire
}

#[test]
fn a_connection_proves_a_server_only_after_twenty_milliseconds_and_beside_a_second_one() {
    let mut wire = Tripwire::new(PACE, at(0));
    assert_eq!(wire.on_time(at(0)), Some(Step::Connect(1)));
    wire.on_connected(at(1));
    assert_eq!(wire.on_time(at(20)), None);
    assert_eq!(wire.next_deadline(), Some(at(21)));
    assert_eq!(wire.on_confirmed(), None, "nothing was asked yet");
    assert_eq!(wire.on_time(at(21)), Some(Step::Confirm));
    assert_eq!(wire.next_deadline(), Some(at(521)));
    assert!(matches!(wire.on_confirmed(), Some(Report::Alive { .. })));
    assert_eq!(wire.next_deadline(), None, "an idle connection needs no timer");
}

#[test]
fn a_connection_that_only_this_side_believes_in_proves_nothing() {
    let silent = |wire: &mut Tripwire| match wire.on_time(at(522)) {
        Some(Step::Report(report)) => Some(report),
        _ => None,
    };
    type Happens<'a> = &'a dyn Fn(&mut Tripwire) -> Option<Report>;
    let cases: [(&str, Happens<'_>, Failure); 4] = [
        ("nobody listens any more", &|wire| wire.on_refused(Failure::Refused, at(22)), Failure::Refused),
        ("the host is gone", &silent, Failure::Silent),
        ("it is reset after all", &|wire| wire.on_end(End::Reset, at(22)), Failure::Reset),
        ("the keepalive has no answer", &|wire| wire.on_end(End::Silent, at(22)), Failure::Silent),
    ];
    for (what, happens, failure) in cases {
        let mut wire = Tripwire::new(PACE, at(0));
        wire.on_time(at(0));
        wire.on_connected(at(1));
        assert_eq!(wire.on_time(at(22)), Some(Step::Confirm));
        assert_eq!(happens(&mut wire), Some(Report::Failed { seq: 1, failure }), "{what}");
        assert_eq!(wire.on_confirmed(), None, "{what}");
        let again = wire.next_deadline().expect("another attempt");
        assert_eq!(wire.on_time(again), Some(Step::Connect(2)), "{what}");
    }
}

#[test]
fn the_end_of_a_proven_connection_raises_doubt_and_connects_at_once() {
    for end in [End::Closed, End::Reset, End::Silent] {
        let mut wire = held();
        let report = wire.on_end(end, at(60_000));
        assert_eq!(report, Some(Report::Doubt { failure: Failure::Ended(end.text()) }));
        assert_eq!(wire.on_time(at(60_000)), Some(Step::Connect(2)));
    }
}

#[test]
fn refused_and_reset_young_are_failures_and_wait_for_the_interval() {
    for reset in [false, true] {
        let mut wire = held();
        wire.on_end(End::Closed, at(100));
        wire.on_time(at(100));
        let (report, failure) = match reset {
            false => (wire.on_refused(Failure::Refused, at(101)), Failure::Refused),
            true => {
                wire.on_connected(at(101));
                (wire.on_end(End::Reset, at(105)), Failure::Reset)
            }
        };
        assert_eq!(report, Some(Report::Failed { seq: 2, failure }));
        let again = wire.next_deadline().expect("another attempt");
        assert!(again >= at(1101) && again <= at(1105), "{again:?}");
        assert_eq!(wire.on_time(again), Some(Step::Connect(3)));
    }
}

#[test]
fn silence_is_a_failure_after_the_timeout_and_the_next_attempt_follows_at_once() {
    let mut wire = Tripwire::new(PACE, at(0));
    wire.on_time(at(0));
    assert_eq!(wire.on_time(at(499)), None);
    let silent = Report::Failed { seq: 1, failure: Failure::Silent };
    assert_eq!(wire.on_time(at(500)), Some(Step::Report(silent)));
    assert_eq!(wire.on_time(at(500)), Some(Step::Connect(2)));
}

#[test]
fn trouble_of_this_host_is_no_verdict() {
    let mut wire = Tripwire::new(PACE, at(0));
    wire.on_time(at(0));
    assert_eq!(wire.on_not_tried(at(0)), Some(Report::Withdrawn { seq: 1 }));
    assert_eq!(wire.next_deadline(), Some(at(1000)));
}

#[test]
fn workers_that_die_one_after_the_other_never_fail_a_server() {
    let mut wire = held();
    wire.on_end(End::Closed, at(100));
    let mut now = at(100);
    for _ in 0..8 {
        now = wire.next_deadline().expect("an attempt").max(now);
        assert!(matches!(wire.on_time(now), Some(Step::Connect(_))));
        wire.on_connected(now);
        assert!(matches!(wire.on_end(End::Closed, now + MS), Some(Report::Withdrawn { .. })));
    }
    now = wire.next_deadline().expect("an attempt");
    wire.on_time(now);
    wire.on_connected(now);
    assert_eq!(wire.on_time(now + PROOF), Some(Step::Confirm));
    assert!(matches!(wire.on_confirmed(), Some(Report::Alive { .. })));
    assert_eq!(wire.young, None);
}

#[test]
fn a_server_that_closes_every_connection_is_asked_less_and_less_often_and_fails_in_the_end() {
    let mut wire = held();
    wire.on_end(End::Closed, at(100));
    let (mut now, mut attempts) = (at(100), 0);
    let failed_at = loop {
        now = wire.next_deadline().expect("an attempt").max(now);
        assert!(matches!(wire.on_time(now), Some(Step::Connect(_))));
        attempts += 1;
        wire.on_connected(now);
        match wire.on_end(End::Closed, now) {
            Some(Report::Withdrawn { .. }) => {}
            Some(Report::Failed { failure: Failure::NotHeld, .. }) => break now,
            other => panic!("{other:?}"),
        }
    };
    assert!(failed_at.since(at(100)) >= PACE.patience);
    assert!(attempts < 15, "{attempts}");
}

/// What the network may do to a tripwire, after a wait.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Connect,
    Refuse,
    End(End),
    Nothing,
}

fn deeds() -> impl Strategy<Value = Vec<(u64, Deed)>> {
    let deed = prop_oneof![
        3 => Just(Deed::Connect),
        1 => Just(Deed::Refuse),
        2 => prop_oneof![Just(End::Closed), Just(End::Reset), Just(End::Silent)].prop_map(Deed::End),
        2 => Just(Deed::Nothing),
    ];
    prop::collection::vec((0..700_u64, deed), 0..200)
}

proptest! {
    #[test]
    fn any_order_of_events_reports_each_attempt_at_most_once_and_never_stops_watching(deeds in deeds()) {
        let mut wire = Tripwire::new(PACE, at(0));
        let mut now = at(0);
        let (mut open, mut connects, mut held) = (None, 0, false);
        for (wait, deed) in deeds {
            now = now + MS * u32::try_from(wait).unwrap_or(0);
            let mut reports = Vec::new();
            reports.extend(match deed {
                Deed::Connect => { wire.on_connected(now); wire.on_confirmed() }
                Deed::Refuse => wire.on_refused(Failure::Refused, now),
                Deed::End(end) => wire.on_end(end, now),
                Deed::Nothing => None,
            });
            while let Some(step) = wire.on_time(now) {
                match step {
                    Step::Report(report) => reports.push(report),
                    Step::Confirm => prop_assert!(open.is_some(), "of an attempt without a result"),
                    Step::Connect(seq) => {
                        // Reports come before the connects that follow them.
                        for report in reports.drain(..) { account(&report, &mut open, &mut held)?; }
                        connects += 1;
                        prop_assert_eq!(seq, connects);
                        prop_assert_eq!(open.replace(seq), None, "the attempt before has no result");
                    }
                }
            }
            for report in reports { account(&report, &mut open, &mut held)?; }
            prop_assert_eq!(wire.next_deadline().is_none(), held, "idle only while a connection is held");
            prop_assert!(wire.next_deadline().is_none_or(|at| at > now && at <= now + PACE.interval));
        }
    }
}

/// Follows what the judge would be told.
fn account(report: &Report, open: &mut Option<Sequence>, held: &mut bool) -> Result<(), TestCaseError> {
    match report {
        Report::Alive { seq, .. } => {
            prop_assert_eq!(open.take(), Some(*seq));
            *held = true;
        }
        Report::Failed { seq, .. } | Report::Withdrawn { seq } => {
            prop_assert_eq!(open.take(), Some(*seq));
            prop_assert!(!*held);
        }
        Report::Doubt { .. } => prop_assert!(std::mem::take(held)),
    }
    Ok(())
}
