//! The guard alone: who counts, when it turns.

use super::*;

fn rules() -> GuardRules {
    GuardRules {
        panic_threshold: 0.5,
        freeze_max: Duration::from_secs(30),
        spread: Duration::from_millis(500),
    }
}

fn host(last: u8) -> IpAddr {
    IpAddr::from([10, 0, 0, last])
}

fn ms(millis: u64) -> Moment {
    Moment(millis * 1_000_000)
}

/// A guard over addresses that were all heard.
fn over(count: u8) -> Guard {
    let mut guard = Guard::new(rules());
    (1..=count).for_each(|last| guard.add(host(last), true));
    guard
}

fn failing() -> SelfCheck {
    SelfCheck::Failing("eth0 has no carrier".to_owned())
}

#[test]
fn half_is_not_past_the_threshold_and_one_more_is() {
    let mut guard = over(4);
    for (last, wanted) in [(1, None), (2, None), (3, Some(Turn::Verify))] {
        guard.fell_silent(host(last), ms(u64::from(last)));
        assert_eq!(guard.step(ms(10), |_| SelfCheck::Unsettled), wanted, "host {last}");
    }
    assert_eq!(guard.belief(), Belief::Suspicion);
}

#[test]
fn an_address_is_silent_once_however_many_of_its_checks_are() {
    let mut guard = over(3);
    guard.fell_silent(host(1), ms(1));
    guard.fell_silent(host(1), ms(2));
    assert_eq!(guard.tally(), (1, 3));
    guard.broke_silence(host(1));
    assert_eq!(guard.tally(), (1, 3));
    guard.broke_silence(host(1));
    assert_eq!(guard.tally(), (0, 3));
}

#[test]
fn addresses_never_heard_or_silent_for_long_do_not_count() {
    let mut guard = over(4);
    guard.add(host(9), false);
    guard.fell_silent(host(9), ms(0));
    assert_eq!(guard.tally(), (0, 4));
    guard.fell_silent(host(1), ms(0));
    guard.fell_silent(host(2), ms(0));
    assert_eq!(guard.step(ms(500), |_| failing()), None);
    assert_eq!(guard.tally(), (2, 4));
    assert_eq!(guard.step(ms(501), |_| failing()), None);
    assert_eq!(guard.tally(), (0, 2), "believed and old");
    // Of the two that are left one is not past the threshold, both are.
    guard.fell_silent(host(3), ms(600));
    assert_eq!(guard.step(ms(600), |_| failing()), None);
    guard.fell_silent(host(4), ms(601));
    assert!(matches!(guard.step(ms(601), |_| failing()), Some(Turn::Freeze { .. })));
    // Heard again, it counts again.
    guard.broke_silence(host(1));
    guard.heard(host(1));
    assert_eq!(guard.tally(), (2, 3));
}

#[test]
fn self_check_is_asked_from_the_last_that_fell_silent() {
    let mut guard = over(2);
    guard.fell_silent(host(1), ms(10));
    guard.fell_silent(host(2), ms(20));
    let mut asked = None;
    guard.step(ms(30), |since| {
        asked = Some(since);
        SelfCheck::Unsettled
    });
    assert_eq!(asked, Some(ms(20)));
}

#[test]
fn freezes_in_a_row_share_the_longest_time() {
    let mut guard = over(1);
    guard.fell_silent(host(1), ms(0));
    let until = |turn: Option<Turn>| match turn {
        Some(Turn::Freeze { until, .. }) => until,
        other => panic!("{other:?}"),
    };
    assert_eq!(until(guard.step(ms(0), |_| failing())), ms(30_000));
    assert_eq!(guard.step(ms(20_000), |_| SelfCheck::Vouched), Some(Turn::Thaw));
    assert_eq!(guard.belief(), Belief::Full);
    // Nobody was heard in between: ten seconds are left.
    guard.broke_silence(host(1));
    guard.fell_silent(host(1), ms(21_000));
    assert_eq!(until(guard.step(ms(21_000), |_| failing())), ms(31_000));
    assert_eq!(guard.step(ms(31_000), |_| failing()), Some(Turn::Expire));
    assert_eq!(guard.step(ms(31_001), |_| failing()), None);
    guard.broke_silence(host(1));
    guard.heard(host(1));
    guard.fell_silent(host(1), ms(40_000));
    assert_eq!(until(guard.step(ms(40_000), |_| failing())), ms(70_000));
}

#[test]
fn without_anybody_to_ask_silence_is_believed() {
    let mut guard = over(2);
    guard.fell_silent(host(1), ms(0));
    guard.fell_silent(host(2), ms(0));
    assert_eq!(guard.step(ms(1), |_| SelfCheck::NoWitness), None);
    assert_eq!(guard.belief(), Belief::Full);
    // Until it is old, trouble of weir's own still explains it.
    assert!(matches!(guard.step(ms(100), |_| failing()), Some(Turn::Freeze { .. })));
}
