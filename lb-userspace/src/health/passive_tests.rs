//! Comparisons by hand, then pools played second by second.

use proptest::prelude::*;

use super::*;

const RULES: PassiveRules = PassiveRules { sample: 20, excess: 0.5, sight: Sight::Clients };
/// Where answers pass weir.
const DIRECT: PassiveRules = PassiveRules { sight: Sight::Both, ..RULES };

/// So many SYNs, of which so many led to nothing.
fn window(attempts: u64, failed: u64) -> Handshakes {
    Handshakes { opened: attempts, completed: attempts - failed, ..Handshakes::default() }
}

/// So many flows in mode `nat`, of which the backend answered and refused so many, and whose clients completed so many.
fn direct(opened: u64, (answered, refused): (u64, u64), completed: u64) -> Handshakes {
    Handshakes { opened, completed, answered, refused, ..Handshakes::default() }
}

fn outliers(windows: &[Handshakes]) -> Vec<bool> {
    outliers_by(&RULES, windows)
}

fn outliers_by(rules: &PassiveRules, windows: &[Handshakes]) -> Vec<bool> {
    let verdicts = compare(rules, windows);
    verdicts.iter().map(|verdict| matches!(verdict, Verdict::Outlier { .. })).collect()
}

fn s(seconds: u64) -> Moment {
    Moment(seconds * 1_000_000_000)
}

#[test]
fn one_that_loses_a_third_stands_out_and_nobody_else() {
    let ordinary = window(100, 1);
    assert_eq!(outliers(&[ordinary, window(100, 30), ordinary]), [false, true, false]);
    assert_eq!(outliers(&[ordinary, window(100, 30)]), [false, true]);
    // Repeated SYNs are failures too: each of these flows got through in the end.
    let repeated = Handshakes { opened: 100, repeated: 43, completed: 100, ..Handshakes::default() };
    assert_eq!(outliers(&[ordinary, repeated, ordinary]), [false, true, false]);
}

#[test]
fn a_flood_that_hits_all_alike_makes_nobody_an_outlier() {
    let flooded = [window(10_000, 9_000), window(10_100, 9_090), window(9_900, 8_950)];
    assert_eq!(outliers(&flooded), [false; 3]);
    assert_eq!(outliers(&[window(10_000, 10_000); 3]), [false; 3]);
}

#[test]
fn one_that_refuses_and_one_that_is_silent_stand_out_beside_one_that_answers() {
    let (healthy, refuses, silent) =
        (direct(100, (100, 0), 100), direct(100, (0, 100), 0), direct(100, (0, 0), 0));
    assert_eq!(outliers_by(&DIRECT, &[healthy, refuses, silent]), [false, true, true]);
    assert_eq!(outliers_by(&DIRECT, &[healthy, refuses]), [false, true]);
    let verdicts = compare(&DIRECT, &[refuses, healthy]);
    assert_eq!(verdicts[0], Verdict::Outlier { window: refuses, failed: 1.0, others: 0.0 });
    // The comparison goes by what is seen: clients alone show a majority that fails, which is no outlier.
    assert_eq!(outliers(&[healthy, refuses, silent]), [false; 3]);
}

#[test]
fn what_clients_leave_half_open_says_nothing_about_a_backend_that_answers() {
    // By source affinity a flood meets one backend alone.
    let (calm, flooded) = (direct(100, (100, 0), 100), direct(10_100, (10_100, 0), 100));
    assert_eq!(outliers_by(&DIRECT, &[calm, flooded, calm]), [false; 3]);
    assert_eq!(outliers(&[calm, flooded, calm]), [false, true, false], "one direction cannot tell");
    // And it hides no backend that loses a third of its SYNs.
    let lossy = direct(10_100, (6_700, 0), 100);
    assert_eq!(outliers_by(&DIRECT, &[calm, lossy, flooded]), [false, true, false]);
}

#[test]
fn ports_that_every_backend_refuses_make_nobody_an_outlier() {
    let scanned = direct(1000, (100, 900), 100);
    assert_eq!(outliers_by(&DIRECT, &[scanned; 3]), [false; 3]);
    assert_eq!(outliers_by(&DIRECT, &[direct(1000, (0, 1000), 0); 3]), [false; 3]);
    // Most of what is refused in between is not: the others of the majority are the measure.
    let (bad, good) = (direct(100, (50, 50), 50), direct(100, (100, 0), 100));
    assert_eq!(outliers_by(&DIRECT, &[bad, bad, bad, good]), [false; 4]);
}

#[test]
fn syns_that_come_again_count_as_unanswered_until_one_is_answered() {
    let window = Handshakes { repeated: 43, ..direct(100, (90, 4), 90) };
    assert_eq!((window.attempts(), window.unanswered()), (143, 49));
    assert_eq!(window.ratio(Sight::Both), Some(90.0 / 143.0));
    // An answer to a SYN of before the window.
    assert_eq!(direct(1, (2, 0), 2).unanswered(), 0);
    assert_eq!(direct(1, (2, 0), 2).ratio(Sight::Both), Some(1.0));
}

#[test]
fn few_handshakes_and_chance_prove_nothing() {
    assert_eq!(compare(&RULES, &[window(19, 19), window(100, 0)]), [Verdict::TooFew; 2]);
    assert_eq!(outliers(&[window(20, 2), window(100, 0)]), [false; 2]);
    assert_eq!(outliers(&[window(20, 6), window(100, 0)]), [true, false]);
    let off = PassiveRules { sample: 0, ..RULES };
    assert_eq!(compare(&off, &[window(100, 90), window(100, 0)]), [Verdict::TooFew; 2]);
    assert_eq!(compare(&RULES, &[]), []);
}

#[test]
fn most_of_a_pool_is_no_outlier() {
    let (bad, good) = (window(100, 30), window(100, 0));
    assert_eq!(outliers(&[bad, bad, good]), [false; 3]);
    assert_eq!(outliers(&[bad, good, good, bad, good]), [true, false, false, true, false]);
}

/// A backend under comparison: totals that grow by this a second.
struct Played {
    passive: Passive,
    totals: Handshakes,
}

impl Played {
    fn new() -> Self {
        Self { passive: Passive::default(), totals: Handshakes::default() }
    }

    fn second(&mut self, attempts: u64, failed: u64, now: Moment) {
        self.totals.opened += attempts;
        self.totals.completed += attempts - failed;
        self.passive.note(self.totals, now);
    }
}

/// Plays seconds: `lossy` of 100 handshakes of the first backend fail in each; the shares after each second.
fn play(pool: &mut [Played; 3], from: u64, lossy: &[u64], agrees: bool) -> Vec<u16> {
    let mut caps = Vec::new();
    for (second, lossy) in lossy.iter().enumerate() {
        let now = s(from + second as u64);
        for (index, backend) in pool.iter_mut().enumerate() {
            backend.second(100, if index == 0 { *lossy } else { 1 }, now);
        }
        let windows: Vec<Handshakes> = pool.iter().map(|backend| backend.passive.window()).collect();
        for (backend, verdict) in pool.iter_mut().zip(compare(&RULES, &windows)) {
            backend.passive.judge(verdict, agrees, now);
        }
        caps.push(pool[0].passive.cap());
    }
    caps
}

#[test]
fn an_outliers_share_falls_within_five_seconds_and_is_ramped_back() {
    let mut pool = [Played::new(), Played::new(), Played::new()];
    assert_eq!(play(&mut pool, 1, &[1; 10], false), [1000; 10]);
    let falling = play(&mut pool, 11, &[30; 8], false);
    assert!(falling[4] < 1000, "{falling:?}");
    assert_eq!(falling.last(), Some(&100));
    assert!(!pool[0].passive.is_ejected(), "no active check agreed");
    let rising = play(&mut pool, 19, &[1; 20], false);
    assert!(rising.is_sorted() && rising.last() == Some(&1000), "{rising:?}");
    assert!(pool[1..].iter().all(|backend| backend.passive.cap() == 1000));
}

#[test]
fn an_outlier_is_taken_out_only_while_an_active_check_agrees() {
    let mut pool = [Played::new(), Played::new(), Played::new()];
    play(&mut pool, 1, &[1; 10], true);
    assert!(pool.iter().all(|backend| !backend.passive.is_ejected()));
    play(&mut pool, 11, &[30; 8], true);
    assert_eq!(pool.each_ref().map(|backend| backend.passive.is_ejected()), [true, false, false]);
    // No new flows, no evidence: it stays out until the check passes.
    pool[0].passive.judge(Verdict::TooFew, true, s(30));
    assert!(pool[0].passive.is_ejected());
    pool[0].passive.judge(Verdict::TooFew, false, s(31));
    assert!(!pool[0].passive.is_ejected());
}

#[test]
fn a_share_too_small_to_be_judged_by_rises_all_the_same() {
    let mut passive = Passive { cap: 100, ..Passive::default() };
    for second in 0..60 {
        passive.note(window(second, 0), s(second));
        passive.judge(Verdict::TooFew, false, s(second));
    }
    assert_eq!(passive.cap(), 1000);
}

#[test]
fn what_is_forgotten_is_not_judged_by() {
    let mut passive = Passive::default();
    passive.note(window(0, 0), s(1));
    passive.note(window(1000, 1000), s(2));
    passive.forget();
    assert_eq!((passive.window(), passive.recent()), (Handshakes::default(), Handshakes::default()));
    passive.note(window(1100, 1000), s(3));
    passive.note(window(1110, 1000), s(4));
    assert_eq!(passive.window(), window(10, 0));
}

#[test]
fn counters_that_start_anew_are_no_handshakes() {
    let mut passive = Passive::default();
    passive.note(window(1000, 0), s(1));
    passive.note(window(5, 0), s(2));
    assert_eq!(passive.window(), Handshakes::default());
    passive.note(window(8, 1), s(3));
    assert_eq!(passive.window(), window(3, 1));
}

proptest! {
    #[test]
    fn handshakes_lost_by_the_same_chance_rarely_make_an_outlier_and_never_most(
        chance in 0.0f64..1.0,
        draws in prop::collection::vec(prop::collection::vec(0.0f64..1.0, 20..200), 2..12),
    ) {
        let windows: Vec<Handshakes> = draws
            .iter()
            .map(|draws| window(draws.len() as u64, draws.iter().filter(|draw| **draw < chance).count() as u64))
            .collect();
        let count = outliers(&windows).iter().filter(|outlier| **outlier).count();
        prop_assert!(count * 2 <= windows.len(), "{count} of {}", windows.len());
    }

    #[test]
    fn any_comparisons_keep_the_share_within_its_bounds(
        steps in prop::collection::vec((0u64..200, 0.0f64..1.0, any::<bool>(), 0u8..3), 1..100),
    ) {
        let mut passive = Passive::default();
        let mut totals = Handshakes::default();
        for (second, (attempts, lost, agrees, verdict)) in steps.into_iter().enumerate() {
            let now = s(second as u64);
            totals.opened += attempts;
            totals.completed += attempts - (attempts as f64 * lost) as u64;
            passive.note(totals, now);
            let outlier = Verdict::Outlier { window: totals, failed: lost, others: 0.0 };
            let verdict = [Verdict::TooFew, Verdict::Ordinary, outlier][usize::from(verdict)];
            let (before, was_out) = (passive.cap(), passive.is_ejected());
            let shift = passive.judge(verdict, agrees, now);
            prop_assert!((TRIAL_ADMIT..=FULL_ADMIT).contains(&passive.cap()));
            // Only an outlying verdict lowers, only another raises.
            let lowered = passive.cap() < before;
            let outlying = matches!(verdict, Verdict::Outlier { .. });
            prop_assert!(!lowered || outlying);
            prop_assert_eq!(shift == Some(Shift::Lowered), before == FULL_ADMIT && lowered);
            // Taken out only on the word of an active check, and only after an outlying verdict.
            prop_assert!(!passive.is_ejected() || agrees);
            prop_assert!(was_out || !passive.is_ejected() || passive.strikes >= STRIKES);
        }
    }
}
