//! Checks through tunnels: what tells a broken tunnel from a dead host and from a path that loses large packets.

use super::*;
use crate::config::model::{Mode, ProbeSize};

const A: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

/// A pool `x` of `a`, up, asked with small and with full packets.
fn up() -> (Board, UnboundedReceiver<HealthEvent>) {
    let (mut board, _, events) = board();
    let inside =
        |size| Some(Inside { vip: [198, 51, 100, 10].into(), mode: Mode::Ipip, gue_port: 6080, size });
    let through = |size| Check { inside: inside(size), ..check(CheckKind::Syn) };
    let checks = vec![through(ProbeSize::Small), through(ProbeSize::Full)];
    board.load(vec![pool("x", checks, vec![backend("a", 1)])], at(0));
    board.pass(1, at(1));
    assert_eq!(board.health_of("x/a"), Health::Up);
    (board, events)
}

/// Sends a probe of each of the streams and answers those that `answered` names.
fn probe(board: &mut Board, seq: Sequence, millis: u64, answered: &[Option<ProbeSize>]) {
    for id in board.by_check.values().copied().collect::<Vec<_>>() {
        let size = board.stream(id).expect("a stream").check.inside.map(|inside| inside.size);
        board.sent(id, seq, at(millis), at(millis));
        if answered.contains(&size) {
            board.answered(id, seq, at(millis), at(millis));
        }
    }
}

/// Judges all, and returns the reasons of what followed.
fn judge(
    board: &mut Board,
    events: &mut UnboundedReceiver<HealthEvent>,
    millis: u64,
) -> Vec<(Health, Option<FailureKind>, String)> {
    for id in board.by_check.values().copied().collect::<Vec<_>>() {
        board.judge(id, at(millis));
    }
    board.flush(at(millis));
    std::iter::from_fn(|| events.try_recv().ok()).map(|event| (event.to, event.kind, event.reason)).collect()
}

const SMALL: Option<ProbeSize> = Some(ProbeSize::Small);
const FULL: Option<ProbeSize> = Some(ProbeSize::Full);
const HOST: Option<ProbeSize> = None;

#[test]
fn a_host_that_answers_directly_has_a_broken_tunnel() {
    let (mut board, mut events) = up();
    judge(&mut board, &mut events, 2);
    probe(&mut board, 2, 10, &[HOST, FULL]);
    let told = judge(&mut board, &mut events, 100);
    let (health, kind, reason) = told.last().expect("an event");
    assert_eq!((*health, *kind), (Health::Down, Some(FailureKind::Hard)));
    let cause = "tunnel broken, VIP missing or rp_filter, its host answers pings: ";
    assert!(
        reason.starts_with(&format!("{cause}syn 198.51.100.10:80 by ipip through 10.0.0.1: ")),
        "{reason}"
    );
}

#[test]
fn a_host_that_is_silent_too_is_told_so() {
    let (mut board, mut events) = up();
    judge(&mut board, &mut events, 2);
    probe(&mut board, 2, 10, &[]);
    let told = judge(&mut board, &mut events, 100);
    assert!(
        told.iter().any(|(_, _, reason)| reason.starts_with("its host answers no direct ping for")),
        "{told:?}"
    );
}

#[test]
fn lost_large_packets_are_a_soft_failure_while_small_ones_are_answered() {
    let (mut board, mut events) = up();
    judge(&mut board, &mut events, 2);
    probe(&mut board, 2, 10, &[HOST, SMALL]);
    let told = judge(&mut board, &mut events, 100);
    let (health, kind, reason) = told.last().expect("an event");
    assert_eq!((*health, *kind), (Health::Down, Some(FailureKind::Soft)));
    let named = "syn 198.51.100.10:80 by ipip through 10.0.0.1 in packets of full size: no answer";
    let cause = "MTU black hole, small packets are answered: ";
    assert!(reason.starts_with(&format!("{cause}{named}")), "{reason}");
}

#[test]
fn doubt_about_a_tunnel_asks_its_host_at_once() {
    let (mut board, mut events) = up();
    judge(&mut board, &mut events, 2);
    let hint = board.hints[&A];
    probe(&mut board, 2, 10, &[HOST, FULL]);
    assert!(board.take_urgent().is_empty());
    judge(&mut board, &mut events, 14);
    assert_eq!(board.take_urgent(), [hint]);
}

#[test]
fn a_check_like_the_direct_ping_has_a_stream_of_its_own() {
    let (mut board, _events) = up();
    let hint = board.stream(board.hints[&A]).expect("a stream").check.clone();
    let given = Check { through: Through::Direct, ..hint };
    let inside = board.pools[0].members[0].streams.len();
    let checks: Vec<Check> = board.by_check.keys().map(|(_, check, _)| check.clone()).collect();
    let checks = checks.into_iter().filter(|check| check.inside.is_some()).chain([given]).collect();
    board.load(vec![pool("x", checks, vec![backend("a", 1)])], at(5));
    assert_eq!(board.pools[0].members[0].streams.len(), inside + 1);
    assert_eq!(board.by_check.len(), inside + 2);
}
