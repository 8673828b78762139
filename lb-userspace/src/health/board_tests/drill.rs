//! Rehearsed failures: what they do to answers, whom they touch, that they end by themselves.

use super::*;
use crate::health::drill::Fail;

/// A pool `x` of `a` and `b`, both up.
fn up(kinds: &[CheckKind]) -> (Board, UnboundedReceiver<HealthEvent>) {
    let (mut board, _, events) = board();
    let checks = kinds.iter().map(|kind| check(kind.clone())).collect();
    board.load(vec![pool("x", checks, vec![backend("a", 1), backend("b", 2)])], at(0));
    board.pass(1, at(1));
    assert_eq!(["x/a", "x/b"].map(|name| board.health_of(name)), [Health::Up; 2]);
    (board, events)
}

const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

/// Sends a probe of every stream at a time and answers it at once.
fn probe(board: &mut Board, seq: Sequence, millis: u64) {
    board.pass(seq, at(millis));
}

fn judge(board: &mut Board, millis: u64) {
    for id in board.by_check.values().copied().collect::<Vec<_>>() {
        board.judge(id, at(millis));
    }
    board.on_time(at(millis));
    board.flush(at(millis));
}

#[test]
fn a_crash_refuses_and_its_end_brings_the_backend_back() {
    let (mut board, mut events) = up(&[CheckKind::Tcp]);
    while events.try_recv().is_ok() {}
    board.set_drill(A, Some((Fail::Crash, at(50))));
    probe(&mut board, 2, 10);
    assert_eq!(["x/a", "x/b"].map(|name| board.health_of(name)), [Health::Down, Health::Up]);
    let event = events.try_recv().expect("an event");
    assert_eq!(event.reason, "tcp 10.0.0.1:80: connection refused (1 in a row)");
    probe(&mut board, 3, 50);
    assert_eq!(board.health_of("x/a"), Health::Up, "its time is over");
    assert_eq!(board.next_deadline(), Some(at(50)));
    board.on_time(at(50));
    assert_eq!(board.next_deadline(), None, "nothing of it is left");
}

#[test]
fn a_crash_leaves_the_pings_of_its_host() {
    let (mut board, _events) = up(&[CheckKind::Ping]);
    board.set_drill(A, Some((Fail::Crash, at(1000))));
    probe(&mut board, 2, 10);
    judge(&mut board, 100);
    assert_eq!(board.health_of("x/a"), Health::Up);
}

#[test]
fn silence_swallows_answers_and_refusals() {
    let (mut board, _events) = up(&[CheckKind::Tcp]);
    board.set_drill(A, Some((Fail::Silence, at(1000))));
    probe(&mut board, 2, 10);
    let id = board.stream_of(1);
    board.failed(id, 2, Failure::Refused, at(11));
    assert_eq!(board.health_of("x/a"), Health::Up, "nothing was heard");
    judge(&mut board, 15);
    assert_eq!(["x/a", "x/b"].map(|name| board.health_of(name)), [Health::Down, Health::Up]);
    board.set_drill(A, None);
    probe(&mut board, 3, 20);
    assert_eq!(board.health_of("x/a"), Health::Up);
}

#[test]
fn slow_answers_count_when_they_come() {
    for (slow, health) in [(3, Health::Up), (6, Health::Down)] {
        let (mut board, _events) = up(&[CheckKind::Tcp]);
        board.set_drill(A, Some((Fail::Slow(Some(Duration::from_millis(slow))), at(1000))));
        probe(&mut board, 2, 10);
        let id = board.stream_of(1);
        assert!(board.stream(id).is_some_and(|stream| stream.judge.is_outstanding(2)), "held back");
        assert_eq!(board.next_deadline(), Some(at(10 + slow)));
        board.on_time(at(13));
        judge(&mut board, 15);
        board.on_time(at(10 + slow));
        assert_eq!(board.health_of("x/a"), health, "{slow} ms of a timeout of 5 ms");
    }
}

#[test]
fn lost_answers_are_as_many_as_asked_for() {
    let (mut board, _events) = up(&[CheckKind::Tcp]);
    board.set_drill(A, Some((Fail::Loss(30), at(1_000_000))));
    let id = board.stream_of(1);
    let mut lost = 0;
    for seq in 2..2002 {
        let now = at(seq * 10);
        board.sent(id, seq, now, now);
        board.answered(id, seq, now, now);
        lost += usize::from(board.stream(id).is_some_and(|stream| stream.judge.is_outstanding(seq)));
        judge(&mut board, seq * 10 + 9);
    }
    // 600 expected, with a deviation of 20.
    assert!((500..700).contains(&lost), "{lost}");
}
