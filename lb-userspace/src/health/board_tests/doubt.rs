//! Many backends fall silent at once: whose fault is it? Played with a witness, then random.

use proptest::prelude::*;

use super::*;
use crate::config::model::Guard;
use crate::health::self_check::WITNESS_CHECK;

const WITNESS: u8 = 254;

fn four() -> Vec<Backend> {
    (1..=4).map(|last| backend(&format!("b{last}"), last)).collect()
}

/// Four backends, all up, asked by pings every 5 ms with a timeout of 5 ms; the witness answered at 1 ms.
fn watched(guard: Guard) -> (Board, Recorder, UnboundedReceiver<HealthEvent>) {
    let (mut board, recorder, events) = board();
    let pools = named(vec![pool("x", vec![check(CheckKind::Ping)], four())]);
    let witnesses = vec![IpAddr::from([10, 0, 0, WITNESS]), IpAddr::from([10, 0, 0, 1])];
    let changes = board.update(&Targets { pools, guard, witnesses, ..Targets::default() }, at(0));
    assert_eq!(changes.added.len(), 5, "a backend is no witness");
    board.pass(1, at(1));
    recorder.take();
    (board, recorder, events)
}

impl Board {
    /// Sends a probe to each of these and judges them when it has timed out, 5 ms later.
    fn fall_silent(&mut self, lasts: &[u8], seq: Sequence, now: Moment) {
        for last in lasts {
            self.sent(self.stream_of(*last), seq, now, now);
        }
        for last in lasts {
            self.judge(self.stream_of(*last), now + Duration::from_millis(5));
        }
        self.flush(now + Duration::from_millis(5));
    }

    fn answer(&mut self, last: u8, seq: Sequence, now: Moment) {
        let id = self.stream_of(last);
        self.sent(id, seq, now, now);
        self.answered(id, seq, now, now);
        self.flush(now);
    }

    /// Three probes to the witness stay unanswered until it is silent for certain.
    fn lose_witness(&mut self, seq: Sequence, now: Moment) {
        let id = self.stream_of(WITNESS);
        for nth in 0..3 {
            self.sent(id, seq + nth, now, now);
        }
        self.judge(id, now + WITNESS_CHECK.timeout);
    }

    fn all_health(&self) -> Vec<Health> {
        (1..=4).map(|last| self.health_of(&format!("x/b{last}"))).collect()
    }
}

#[test]
fn a_minority_that_falls_silent_is_down_without_a_witness() {
    let (mut board, recorder, _events) = watched(Guard::default());
    board.fall_silent(&[1, 2], 2, at(10));
    assert_eq!(board.all_health()[..2], [Health::Down; 2]);
    assert!(recorder.turns().is_empty());
    assert!(board.take_urgent().is_empty());
}

#[test]
fn when_all_fall_silent_the_witness_is_asked_at_once_and_its_answer_takes_them_down() {
    let (mut board, recorder, _events) = watched(Guard::default());
    board.fall_silent(&[1, 2, 3, 4], 2, at(10));
    // Two were down before the third made it a panic.
    assert_eq!(board.all_health()[2..], [Health::Suspect; 2]);
    assert_eq!(board.take_urgent(), [board.stream_of(WITNESS)]);
    board.answer(WITNESS, 2, at(16));
    assert_eq!(board.all_health(), [Health::Down; 4]);
    assert_eq!(*recorder.turns(), ["believed"]);
    assert_eq!(board.pools[0].view.last_resort, Some(LastResort::Keep));
    // The guard is done with them: later trouble of the witness takes nothing back.
    board.lose_witness(3, at(20));
    assert_eq!(board.all_health(), [Health::Down; 4]);
}

#[test]
fn when_the_witness_is_silent_too_the_last_good_state_is_kept() {
    let (mut board, recorder, mut events) = watched(Guard::default());
    board.fall_silent(&[1, 2, 3, 4], 2, at(10));
    board.lose_witness(2, at(16));
    board.flush(at(116));
    assert_eq!(board.all_health(), [Health::Up; 4]);
    assert!(board.pools[0].view.slots.iter().all(|slot| slot.state == SlotState::Active));
    assert_eq!(*recorder.turns(), ["frozen"]);
    let status = board.guard_status(at(116));
    assert_eq!((status.silent, status.counted), (4, 4));
    assert_eq!(status.frozen.expect("frozen").cause, "gateway 10.0.0.254 is silent too");
    let mut pardons = 0;
    while let Ok(event) = events.try_recv() {
        pardons += usize::from(event.reason.starts_with("frozen"));
    }
    assert_eq!(pardons, 4);
    // Judged on, to no effect.
    board.fall_silent(&[1, 2, 3, 4], 3, at(200));
    assert_eq!(board.all_health(), [Health::Up; 4]);
    // The uplink is back; the gateway answers before the backends: their silence counts anew.
    board.answer(WITNESS, 9, at(300));
    assert_eq!(*recorder.turns(), ["frozen", "thawed"]);
    assert_eq!(board.all_health(), [Health::Up; 4]);
    [1, 2, 3].into_iter().for_each(|last| board.answer(last, 9, at(301)));
    board.fall_silent(&[4], 9, at(301));
    assert_eq!(board.all_health(), [Health::Up, Health::Up, Health::Up, Health::Down]);
}

#[test]
fn a_freeze_ends_by_its_longest_time_and_does_not_begin_again_until_somebody_is_heard() {
    let (mut board, recorder, _events) = watched(Guard::default());
    board.fall_silent(&[1, 2, 3, 4], 2, at(10));
    board.lose_witness(2, at(16));
    let frozen_at = at(116);
    let before = Moment(frozen_at.0 + 29_999_000_000);
    board.on_time(before);
    assert_eq!(board.all_health(), [Health::Up; 4]);
    assert!(board.next_deadline().is_some_and(|at| at <= frozen_at + Duration::from_secs(30)));
    board.on_time(frozen_at + Duration::from_secs(30));
    board.flush(frozen_at + Duration::from_secs(30));
    assert_eq!(*recorder.turns(), ["frozen", "expired"]);
    assert_eq!(board.all_health(), [Health::Down; 4]);
    assert_eq!(board.guard_status(at(40_000)).counted, 0);
}

#[test]
fn refusals_act_while_silence_is_frozen() {
    let (mut board, recorder, _events) = watched(Guard::default());
    board.fall_silent(&[2, 3, 4], 2, at(10));
    board.set_lost_carriers(vec!["eth1".to_owned()], at(15));
    assert_eq!(*recorder.turns(), ["frozen"]);
    assert_eq!(board.all_health(), [Health::Up; 4]);
    let id = board.stream_of(2);
    board.sent(id, 3, at(20), at(20));
    board.failed(id, 3, Failure::Refused, at(20));
    assert_eq!(board.all_health(), [Health::Up, Health::Down, Health::Up, Health::Up]);
    board.set_lost_carriers(Vec::new(), at(30));
    board.answer(WITNESS, 2, at(31));
    assert_eq!(*recorder.turns(), ["frozen", "thawed"]);
}

#[test]
fn freeze_max_of_zero_believes_silence_whatever_the_self_check_says() {
    let (mut board, _, _events) = watched(Guard { freeze_max: Duration::ZERO, ..Guard::default() });
    board.set_lost_carriers(vec!["eth1".to_owned()], at(5));
    board.fall_silent(&[1, 2, 3, 4], 2, at(10));
    assert_eq!(board.all_health(), [Health::Down; 4]);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Silent(u8),
    Answers(u8),
    Refuses(u8),
    WitnessAnswers,
    WitnessLost,
    Carrier(bool),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u8..=4).prop_map(Step::Silent),
        2 => (1u8..=4).prop_map(Step::Answers),
        1 => (1u8..=4).prop_map(Step::Refuses),
        1 => Just(Step::WitnessAnswers),
        1 => Just(Step::WitnessLost),
        1 => any::<bool>().prop_map(Step::Carrier),
        1 => (0u64..8000).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn any_sequence_keeps_hard_evidence_acting_and_every_freeze_short(
        steps in prop::collection::vec(step(), 1..120),
    ) {
        let longest = Duration::from_secs(3);
        let (mut board, recorder, _events) = watched(Guard { freeze_max: longest, ..Guard::default() });
        let (mut now, mut seq) = (at(10), 10);
        let mut frozen_since: Option<Moment> = None;
        for step in steps {
            now = now + Duration::from_millis(1);
            seq += 10;
            let (before, frozen_before) = (board.all_health(), board.guard.frozen().is_some());
            match step {
                Step::Silent(last) => {
                    board.fall_silent(&[last], seq, now);
                    now = now + Duration::from_millis(5);
                }
                Step::Answers(last) => board.answer(last, seq, now),
                Step::Refuses(last) => {
                    let id = board.stream_of(last);
                    board.sent(id, seq, now, now);
                    board.failed(id, seq, Failure::Refused, now);
                    // Hard evidence is never frozen.
                    prop_assert_eq!(board.all_health()[usize::from(last) - 1], Health::Down);
                }
                Step::WitnessAnswers => board.answer(WITNESS, seq, now),
                Step::WitnessLost => {
                    board.lose_witness(seq, now);
                    now = now + WITNESS_CHECK.timeout;
                }
                Step::Carrier(here) => {
                    let lost = if here { vec![] } else { vec!["eth1".to_owned()] };
                    board.set_lost_carriers(lost, now);
                }
                Step::Wait(millis) => {
                    let until = now + Duration::from_millis(millis);
                    while let Some(deadline) = board.next_deadline().filter(|deadline| *deadline <= until) {
                        now = now.max(deadline);
                        board.on_time(now);
                        if let Some(since) = frozen_since.filter(|_| board.guard.frozen().is_some()) {
                            prop_assert!(now.since(since) <= longest);
                        }
                    }
                    now = until;
                }
            }
            board.on_time(now);
            board.flush(now);
            let frozen = board.guard.frozen();
            // While frozen, silence takes nobody out of service.
            if frozen_before && frozen.is_some() && matches!(step, Step::Silent(_)) {
                for (was, is) in before.iter().zip(board.all_health()) {
                    let loss = matches!(is, Health::Suspect | Health::Down);
                    prop_assert!(*was == is || !loss, "{was:?} became {is:?} by silence");
                }
            }
            if let Some(frozen) = &frozen {
                prop_assert!(frozen.until.since(frozen.since) <= longest);
                prop_assert!(now <= frozen.until);
            }
            frozen_since = frozen.map(|frozen| frozen.since);
            let (silent, counted) = board.guard.tally();
            prop_assert!(silent <= counted && counted <= 4);
            // What the data plane was told is what health and the guard say.
            for (member, slot) in board.pools[0].members.iter().zip(&board.pools[0].view.slots) {
                prop_assert_eq!(member.applied, Some(*slot));
            }
        }
        drop(recorder);
    }
}
