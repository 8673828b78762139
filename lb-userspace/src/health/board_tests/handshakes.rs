//! Handshakes of backends compared: shares, reasons, and what an active check has to say.

use super::*;
use crate::health::passive::Handshakes;

#[test]
fn handshakes_lost_lower_a_backends_share_and_take_it_out_when_its_check_fails_too() {
    let (mut board, recorder, mut events) = board();
    let slow = Check { fall: 9, ..check(CheckKind::Tcp) };
    board.load(vec![pool("x", vec![slow], (1..=3).map(|n| backend(&format!("b{n}"), n)).collect())], at(0));
    board.pass(1, at(1));
    while events.try_recv().is_ok() {}
    recorder.take();
    // Of b1's handshakes a third fails.
    let totals = |second: u64| {
        let one = |lost: u64| Handshakes {
            opened: second * 90,
            completed: second * (90 - lost),
            ..Handshakes::default()
        };
        ["b1", "b2", "b3"].map(|name| (BackendKey::new("x", name), one(if name == "b1" { 30 } else { 0 })))
    };
    board.take_handshakes(&totals(0), at(1000));
    board.take_handshakes(&totals(1), at(2000));
    board.flush(at(2000));
    assert_eq!(recorder.lock().drain(..).collect::<Vec<_>>(), [("x/b1".to_owned(), SlotState::Active, 500)]);
    let event = events.try_recv().expect("an event");
    assert_eq!((event.from, event.to), (Health::Up, Health::Up));
    assert!(event.reason.contains("33 % of its SYNs fail, 0 % elsewhere"), "{}", event.reason);
    board.take_handshakes(&totals(2), at(3000));
    board.flush(at(3000));
    assert_eq!(board.health_of("x/b1"), Health::Up);
    // One failure among its probes is no down, and agreement enough.
    let id = board.stream_of(1);
    board.sent(id, 2, at(3001), at(3001));
    board.failed(id, 2, Failure::Refused, at(3001));
    board.sent(id, 3, at(3002), at(3002));
    board.answered(id, 3, at(3002), at(3002));
    board.flush(at(3002));
    assert_eq!(board.health_of("x/b1"), Health::Up);
    recorder.take();
    board.take_handshakes(&totals(3), at(4000));
    board.flush(at(4000));
    assert_eq!(recorder.take()[0], ("x/b1".to_owned(), SlotState::DownSoft));
    // Its failure is forgotten after eight probes that pass.
    for seq in 4..=12 {
        board.sent(id, seq, at(4000 + seq), at(4000 + seq));
        board.answered(id, seq, at(4000 + seq), at(4000 + seq));
    }
    board.take_handshakes(&totals(3), at(5000));
    board.flush(at(5000));
    assert_eq!(board.health_of("x/b1"), Health::Up);
    let found =
        board.snapshot(&Which::All, at(5000)).into_iter().find(|one| &*one.key.backend == "b1").expect("b1");
    assert_eq!((found.handshakes.admit, found.handshakes.window.opened), (125, 270));
}

#[test]
fn where_answers_pass_weir_what_was_seen_of_them_is_the_reason_and_clients_count_for_nothing() {
    let (mut board, recorder, mut events) = board();
    let backends = (1..=3).map(|n| backend(&format!("b{n}"), n)).collect();
    let pools = named(vec![pool("x", vec![check(CheckKind::Tcp)], backends)]);
    let both = Targets { pools, answering: ["x".to_owned()].into(), ..Targets::default() };
    board.update(&both, at(0));
    board.pass(1, at(1));
    while events.try_recv().is_ok() {}
    recorder.take();
    // b1 refuses all but a few, b2 is silent, b3 answers a flood that its clients leave half open.
    let totals = |second: u64| {
        let of = |opened: u64, answered: u64, refused: u64, completed: u64| Handshakes {
            opened: second * opened,
            answered: second * answered,
            refused: second * refused,
            completed: second * completed,
            ..Handshakes::default()
        };
        let each = [("b1", of(40, 1, 36, 1)), ("b2", of(40, 0, 0, 0)), ("b3", of(900, 900, 0, 1))];
        each.map(|(name, handshakes)| (BackendKey::new("x", name), handshakes))
    };
    board.take_handshakes(&totals(0), at(1000));
    board.take_handshakes(&totals(1), at(2000));
    board.flush(at(2000));
    let shares: Vec<_> = recorder.lock().drain(..).map(|(name, _, share)| (name, share)).collect();
    assert_eq!(shares, [("x/b1".to_owned(), 500), ("x/b2".to_owned(), 500)]);
    let reasons: Vec<String> =
        std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.reason).collect();
    assert_eq!(
        reasons,
        [
            "handshakes: 36 of 40 SYNs were refused (RST), 3 got no answer (98 %), 0 % elsewhere in the pool; takes \
             50 % of its share of new flows",
            "handshakes: 40 of 40 SYNs got no answer (100 %), 0 % elsewhere in the pool; takes 50 % of its share of \
             new flows",
        ]
    );
    // Refusals alone are no down, however long.
    (2..20).for_each(|second| board.take_handshakes(&totals(second), at(1000 + second * 1000)));
    board.flush(at(21_000));
    assert!(["x/b1", "x/b2", "x/b3"].iter().all(|name| board.health_of(name) == Health::Up));
    let found = board.snapshot(&Which::All, at(21_000));
    let admits: Vec<u16> = found.iter().map(|one| one.handshakes.admit).collect();
    assert_eq!(admits, [100, 100, 1000]);
    // Another mode: what was counted before is not held against anybody.
    board.update(&Targets { answering: Default::default(), ..both }, at(21_500));
    board.take_handshakes(&totals(20), at(22_000));
    let found = board.snapshot(&Which::All, at(22_000));
    assert!(found.iter().all(|one| one.handshakes.window == Handshakes::default()));
    assert!(found.iter().all(|one| one.handshakes.sight == Sight::Clients));
}
