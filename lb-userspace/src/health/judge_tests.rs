//! Streams played by hand, then random ones.

use proptest::prelude::*;

use super::*;

const PING: Limits = Limits {
    timeout: Duration::from_millis(3),
    rise: 2,
    fall: 3,
    rule: Rule::OldestUnanswered,
    silence: FailureKind::Hard,
};
const TCP: Limits = Limits {
    timeout: Duration::from_millis(5),
    rise: 2,
    fall: 3,
    rule: Rule::Consecutive { expire_after: Duration::from_millis(5) },
    silence: FailureKind::Hard,
};
const HARD: Finding = Finding::Bad(FailureKind::Hard);

fn us(micros: u64) -> Moment {
    Moment(micros * 1000)
}

/// A stream with ten probes answered after 0.1 ms; the next probe is number 10, at 10 ms.
fn healthy(limits: Limits) -> Judge {
    let mut judge = Judge::new(limits);
    for seq in 0..10 {
        judge.sent(seq, us(seq * 1000), us(seq * 1000));
        judge.answered(seq, us(seq * 1000 + 100), us(seq * 1000 + 100));
    }
    assert_eq!(judge.finding(), Finding::Good);
    judge
}

#[test]
fn probes_that_are_answered_too_late_or_never_are_told_once() {
    let mut judge = healthy(PING);
    assert_eq!(judge.take_lost(), 0);
    // One in three gets lost, as a busy link has it; then the host is silent.
    for seq in 10..40 {
        judge.sent(seq, us(seq * 1000), us(seq * 1000));
        if seq % 3 != 0 {
            judge.answered(seq, us(seq * 1000 + 100), us(seq * 1000 + 100));
        }
    }
    assert_eq!(judge.take_lost(), 9, "of numbers 12 to 36");
    for seq in 40..44 {
        judge.sent(seq, us(seq * 1000), us(seq * 1000));
    }
    judge.judge(us(50_000));
    judge.judge(us(60_000));
    assert_eq!(judge.take_lost(), 5, "with number 39");
    assert_eq!(judge.take_lost(), 0);
}

#[test]
fn silence_raises_doubt_at_half_the_timeout_and_is_down_at_the_timeout() {
    let mut judge = healthy(PING);
    let mut seen = Vec::new();
    for seq in 10..14 {
        judge.sent(seq, us(seq * 1000), us(seq * 1000));
    }
    while let Some(at) = judge.next_judgement() {
        judge.judge(at);
        seen.push((at, judge.finding()));
    }
    assert_eq!(seen, [(us(11_500), Finding::Doubtful), (us(13_000), HARD)]);
    assert_eq!(judge.first_signal(), Some(us(10_000)));
}

#[test]
fn one_answer_clears_all_earlier_probes() {
    let mut judge = healthy(PING);
    for seq in 10..13 {
        judge.sent(seq, us(seq * 1000), us(seq * 1000));
    }
    judge.judge(us(12_500));
    assert_eq!(judge.finding(), Finding::Doubtful);
    judge.answered(12, us(12_600), us(12_600));
    assert_eq!((judge.finding(), judge.silence(us(13_000))), (Finding::Good, None));
    judge.judge(us(20_000));
    assert_eq!(judge.finding(), Finding::Good);
}

#[test]
fn a_stall_of_the_prober_is_not_silence() {
    // Nothing was sent or read from 10 ms to 60 ms; then the queue is drained before judging.
    let mut judge = healthy(PING);
    judge.sent(10, us(10_000), us(10_000));
    judge.answered(10, us(10_010), us(60_000));
    judge.judge(us(60_000));
    assert_eq!(judge.finding(), Finding::Good);
    // Sent late, counted from then.
    judge.sent(11, us(60_010), us(60_010));
    judge.judge(us(61_000));
    assert_eq!(judge.finding(), Finding::Good);
}

#[test]
fn one_lost_probe_with_interval_equal_to_timeout_is_not_down() {
    let limits = Limits { timeout: Duration::from_millis(100), fall: 2, ..PING };
    let mut judge = healthy(limits);
    judge.sent(10, us(110_000), us(110_000));
    judge.sent(11, us(210_000), us(210_000));
    judge.judge(us(210_000));
    assert_ne!(judge.finding(), HARD);
    judge.answered(11, us(210_100), us(210_100));
    judge.judge(us(300_000));
    assert_eq!(judge.finding(), Finding::Good);
}

#[test]
fn answers_later_than_the_timeout_do_not_bring_a_backend_back() {
    let mut judge = healthy(PING);
    for seq in 10..40 {
        judge.sent(seq, us(seq * 1000), us(seq * 1000));
        judge.judge(us(seq * 1000));
        if seq >= 15 {
            // Five milliseconds late each.
            judge.answered(seq - 5, us(seq * 1000), us(seq * 1000));
        }
        if seq >= 14 {
            assert_eq!(judge.finding(), HARD, "at {seq} ms");
        }
    }
}

#[test]
fn doubt_waits_for_longer_than_the_usual_round_trip() {
    let limits = Limits { timeout: Duration::from_millis(100), ..PING };
    let mut judge = Judge::new(limits);
    // A steady 60 ms away, probed every 10 ms: never doubtful, although six are always unanswered.
    for step in 0..200u64 {
        judge.sent(step, us(step * 10_000), us(step * 10_000));
        if let Some(answered) = step.checked_sub(6) {
            judge.answered(answered, us(step * 10_000), us(step * 10_000));
        }
        judge.judge(us(step * 10_000 + 5000));
        assert_ne!(judge.finding(), Finding::Doubtful, "probe {step}");
    }
    assert_eq!(judge.finding(), Finding::Good);
}

#[test]
fn refusal_with_fall_of_one_is_down_at_once() {
    let mut judge = healthy(Limits { fall: 1, ..TCP });
    judge.sent(10, us(10_000), us(10_000));
    judge.failed(10, Failure::Refused, us(10_050));
    assert_eq!(judge.finding(), HARD);
}

#[test]
fn counters_reset_on_the_opposite_result() {
    let mut judge = healthy(TCP);
    let mut result = |seq: u64, failure: Option<Failure>| {
        judge.sent(seq, us(seq * 1000), us(seq * 1000));
        match failure {
            Some(failure) => judge.failed(seq, failure, us(seq * 1000 + 100)),
            None => judge.answered(seq, us(seq * 1000 + 100), us(seq * 1000 + 100)),
        }
        (judge.finding(), judge.counters())
    };
    assert_eq!(result(10, Some(Failure::Refused)), (Finding::Doubtful, (0, 1)));
    assert_eq!(result(11, Some(Failure::Refused)), (Finding::Doubtful, (0, 2)));
    assert_eq!(result(12, None), (Finding::Good, (1, 0)));
    assert_eq!(result(13, Some(Failure::Status(503))), (Finding::Doubtful, (0, 1)));
    assert_eq!(result(14, Some(Failure::Status(503))), (Finding::Doubtful, (0, 2)));
    assert_eq!(result(15, Some(Failure::Status(503))), (Finding::Bad(FailureKind::Soft), (0, 3)));
    assert_eq!(result(16, None), (Finding::Bad(FailureKind::Soft), (1, 0)));
    assert_eq!(result(17, Some(Failure::Refused)), (HARD, (0, 1)));
    assert_eq!(result(18, None), (HARD, (1, 0)));
    assert_eq!(result(19, None), (Finding::Good, (2, 0)));
}

#[test]
fn silent_connect_is_doubtful_at_half_its_timeout_and_fails_at_its_timeout() {
    let mut judge = healthy(Limits { fall: 1, ..TCP });
    judge.sent(10, us(10_000), us(10_000));
    assert_eq!(judge.next_judgement(), Some(us(12_500)));
    judge.judge(us(12_500));
    assert_eq!((judge.finding(), judge.next_judgement()), (Finding::Doubtful, Some(us(15_000))));
    judge.judge(us(15_000));
    assert_eq!((judge.finding(), judge.is_outstanding(10)), (HARD, false));
}

#[test]
fn probe_that_expires_after_a_later_success_is_evidence_only() {
    let mut judge = healthy(Limits { fall: 1, ..TCP });
    judge.sent(10, us(10_000), us(10_000));
    judge.sent(11, us(12_000), us(12_000));
    judge.answered(11, us(12_100), us(12_100));
    judge.judge(us(15_000));
    assert_eq!(judge.finding(), Finding::Good);
    assert_eq!(judge.last_failure(), Some(&Failure::Silent));
}

/// What a tripwire's reports are judged by.
const REPORTED: Limits = Limits {
    timeout: Duration::from_millis(500),
    rise: 1,
    fall: 3,
    rule: Rule::Reported,
    silence: FailureKind::Hard,
};

#[test]
fn reported_proof_settles_at_once_and_reported_silence_is_counted() {
    for (failure, kind) in [
        (Failure::Refused, FailureKind::Hard),
        (Failure::Reset, FailureKind::Hard),
        (Failure::Unreachable("host is unreachable".to_owned()), FailureKind::Hard),
        (Failure::NotHeld, FailureKind::Soft),
    ] {
        let mut judge = healthy(REPORTED);
        judge.sent(10, us(10_000), us(10_000));
        judge.failed(10, failure, us(10_100));
        assert_eq!(judge.finding(), Finding::Bad(kind));
    }
    let mut judge = healthy(REPORTED);
    for (seq, finding) in [(10, Finding::Doubtful), (11, Finding::Doubtful), (12, HARD)] {
        judge.sent(seq, us(seq * 1000), us(seq * 1000));
        judge.failed(seq, Failure::Silent, us(seq * 1000 + 500));
        assert_eq!(judge.finding(), finding);
    }
}

#[test]
fn hints_raise_doubt_and_count_as_nothing_until_a_success_undoes_them() {
    let mut judge = healthy(REPORTED);
    judge.doubted(us(20_000), Failure::Ended("closed"), us(20_000));
    assert_eq!((judge.finding(), judge.first_signal()), (Finding::Doubtful, Some(us(20_000))));
    assert_eq!(judge.counters().1, 0);
    judge.sent(10, us(20_100), us(20_100));
    judge.withdrawn(10);
    assert!(!judge.is_outstanding(10));
    assert_eq!(judge.finding(), Finding::Doubtful);
    judge.sent(11, us(20_200), us(20_200));
    judge.answered(11, us(20_300), us(40_300));
    assert_eq!(judge.finding(), Finding::Good);
}

#[test]
fn reported_streams_are_never_judged_by_a_timer() {
    let mut judge = healthy(REPORTED);
    judge.sent(10, us(10_000), us(10_000));
    assert_eq!(judge.next_judgement(), None);
    judge.judge(us(60_000_000));
    assert_eq!(judge.finding(), Finding::Good);
}

#[test]
fn a_finding_rests_on_silence_or_on_what_came_back() {
    let mut silent = healthy(TCP);
    silent.sent(10, us(10_000), us(10_000));
    silent.judge(us(12_500));
    assert_eq!((silent.finding(), silent.nature()), (Finding::Doubtful, Nature::Silence));
    let mut refused = silent.clone();
    refused.failed(10, Failure::Refused, us(12_600));
    assert_eq!((refused.finding(), refused.nature()), (Finding::Doubtful, Nature::Answer));
    let mut hinted = healthy(TCP);
    hinted.doubted(us(10_000), Failure::Ended("closed"), us(10_000));
    assert_eq!((hinted.finding(), hinted.nature()), (Finding::Doubtful, Nature::Answer));
    let mut unreachable = healthy(Limits { fall: 1, ..TCP });
    unreachable.sent(10, us(10_000), us(10_000));
    unreachable.failed(10, Failure::Unreachable("no route to host".to_owned()), us(10_100));
    assert_eq!((unreachable.finding(), unreachable.nature()), (HARD, Nature::Silence));
    assert_eq!((healthy(TCP).nature(), healthy(TCP).last_answered()), (Nature::Answer, Some(us(9000))));
}

#[test]
fn forgotten_silence_counts_anew_and_refusals_are_not_forgotten() {
    let mut judge = healthy(PING);
    (10..13).for_each(|seq| judge.sent(seq, us(seq * 1000), us(seq * 1000)));
    judge.judge(us(20_000));
    assert_eq!(judge.finding(), HARD);
    judge.forget_silence();
    assert_eq!((judge.finding(), judge.silence(us(20_000))), (Finding::Pending, None));
    judge.judge(us(20_000));
    assert_eq!(judge.finding(), Finding::Pending);
    (20..23).for_each(|seq| judge.sent(seq, us(seq * 1000), us(seq * 1000)));
    judge.judge(us(23_000));
    assert_eq!(judge.finding(), HARD);
    let mut refused = healthy(Limits { fall: 1, ..TCP });
    refused.sent(10, us(10_000), us(10_000));
    refused.failed(10, Failure::Refused, us(10_000));
    refused.forget_silence();
    assert_eq!(refused.finding(), HARD);
}

proptest! {
    #[test]
    fn a_backend_that_answers_within_the_timeout_is_never_down(
        trips in prop::collection::vec(0u64..2900, 1..100),
        stalls in prop::collection::vec(0u64..50_000, 1..10),
    ) {
        let mut judge = Judge::new(PING);
        let mut now = 0;
        let mut drained = 0;
        let mut flying: Vec<(u64, u64)> = Vec::new();
        for (seq, trip) in trips.iter().enumerate() {
            // The prober wakes a millisecond later, every tenth time late by up to 50 ms.
            now += 1000 + if seq % 10 == 9 { stalls[seq % stalls.len()] } else { 0 };
            flying.retain(|(seq, arrives)| {
                if *arrives <= now {
                    judge.answered(*seq, us(drained), us(now));
                }
                *arrives > now
            });
            judge.judge(us(now));
            drained = now;
            prop_assert!(!matches!(judge.finding(), Finding::Bad(_)));
            let seq = u64::try_from(seq).unwrap_or(0);
            judge.sent(seq, us(now), us(now));
            flying.push((seq, now + trip));
        }
    }

    #[test]
    fn a_silent_backend_is_down_within_interval_and_timeout(interval in 100u64..5000, fall in 1u32..6) {
        let mut judge = healthy(Limits { fall, ..PING });
        let needed = interval * u64::from(fall - 1) + 3000;
        let mut next = 10_000;
        for seq in 10..100 {
            while let Some(at) = judge.next_judgement().filter(|at| *at < us(next)) {
                judge.judge(at);
            }
            if judge.finding() == HARD {
                break;
            }
            judge.sent(seq, us(next), us(next));
            next += interval;
        }
        prop_assert_eq!(judge.finding(), HARD);
        let decided = judge.last_result().map_or(us(0), |(_, at)| at);
        prop_assert!(decided.since(us(10_000)) >= PING.timeout);
        prop_assert!(decided.since(us(10_000)) <= Duration::from_micros(needed));
    }
}

#[test]
fn each_oldest_probe_is_judged_at_its_timeout_once() {
    let mut judge = healthy(PING);
    judge.sent(10, us(10_000), us(10_000));
    judge.sent(11, us(11_000), us(11_000));
    let expires = |sent: u64| us(sent * 1000) + PING.timeout;
    while let Some(at) = judge.next_judgement() {
        assert!(at <= expires(10), "{at:?}");
        judge.judge(at);
    }
    assert_ne!(judge.finding(), HARD, "two are not enough");
    // Late, because what had arrived by the timeout was read; then it is the next one's turn.
    judge.answered(10, expires(10) + Duration::from_micros(1), expires(11));
    assert_eq!(judge.last_failure(), Some(&Failure::Silent));
    assert_eq!(judge.next_judgement(), Some(expires(11)));
}
