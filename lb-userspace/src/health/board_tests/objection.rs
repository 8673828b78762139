//! Links lose their carrier and hosts refuse tunnelled packets, played without sockets.

use super::*;
use crate::health::hearsay::{Cause, Complaint};
use crate::net::carrier::{Carrier, LinkCarrier};

fn link(ifindex: u32, carrier: Carrier) -> LinkCarrier {
    LinkCarrier { ifindex, name: format!("eth{ifindex}"), carrier }
}

/// Three backends, all up: two behind link 1, one behind link 2.
fn loaded() -> (Board, Recorder, UnboundedReceiver<HealthEvent>, Targets) {
    let (mut board, recorder, events) = board();
    let backends = (1..=3).map(|last| backend(&format!("b{last}"), last)).collect();
    let pools = named(vec![pool("x", vec![check(CheckKind::Tcp)], backends)]);
    let way = |last: u8, link: u32| (IpAddr::from([10, 0, 0, last]), link);
    let ways = HashMap::from([way(1, 1), way(2, 1), way(3, 2)]);
    let targets = Targets { pools, ways, ..Targets::default() };
    board.update(&targets, at(0));
    board.pass(1, at(1));
    recorder.take();
    (board, recorder, events, targets)
}

fn health(board: &Board) -> [Health; 3] {
    ["x/b1", "x/b2", "x/b3"].map(|name| board.health_of(name))
}

#[test]
fn all_backends_behind_a_link_without_carrier_are_down_at_once_and_the_others_stay() {
    let (mut board, recorder, mut events, _) = loaded();
    while events.try_recv().is_ok() {}
    board.set_carrier(link(1, Carrier::Lost), at(2));
    let told = [("x/b1", SlotState::Down), ("x/b2", SlotState::Down)];
    assert_eq!(recorder.take(), told.map(|(name, state)| (name.to_owned(), state)));
    let event = events.try_recv().expect("an event");
    assert_eq!(
        (event.reason.as_str(), event.evidence.check.as_str()),
        ("no carrier on eth1", "no carrier on eth1")
    );
    // An answer that was on its way does not bring anybody back.
    board.pass(2, at(3));
    assert_eq!(health(&board), [Health::Down, Health::Down, Health::Up]);
}

#[test]
fn backends_come_back_with_the_carrier_as_their_checks_say() {
    let (mut board, _, _events, _) = loaded();
    board.set_carrier(link(1, Carrier::Lost), at(2));
    let id = board.stream_of(2);
    board.sent(id, 2, at(3), at(3));
    board.judge(id, at(10));
    board.set_carrier(link(1, Carrier::Present), at(11));
    assert_eq!(health(&board), [Health::Up, Health::Down, Health::Up]);
}

#[test]
fn a_route_that_the_link_took_along_changes_nothing_and_another_way_brings_backends_back() {
    let (mut board, _, _events, targets) = loaded();
    board.set_carrier(link(1, Carrier::Lost), at(2));
    board.update(&Targets { ways: HashMap::new(), ..targets.clone() }, at(3));
    assert_eq!(health(&board), [Health::Down, Health::Down, Health::Up]);
    let ways = targets.ways.keys().map(|address| (*address, 2)).collect();
    board.update(&Targets { ways, ..targets }, at(4));
    assert_eq!(health(&board), [Health::Up, Health::Up, Health::Up]);
}

#[test]
fn links_that_lead_to_no_backend_and_repeated_messages_do_not_matter() {
    let (mut board, recorder, _events, _) = loaded();
    board.set_carrier(link(7, Carrier::Lost), at(2));
    board.set_carrier(link(1, Carrier::Present), at(2));
    assert_eq!(recorder.take(), []);
    board.set_carrier(link(1, Carrier::Lost), at(3));
    recorder.take();
    board.set_carrier(link(1, Carrier::Lost), at(4));
    assert_eq!(recorder.take(), []);
}

fn icmp(from: u8, cause: Cause) -> Complaint {
    Complaint::Icmp { from: IpAddr::from([10, 0, 0, from]), cause }
}

#[test]
fn complained_of_backend_is_suspect_and_asked_at_once_and_its_next_answer_clears_it() {
    let (mut board, _, mut events, _) = loaded();
    while events.try_recv().is_ok() {}
    let about = IpAddr::from([10, 0, 0, 1]);
    board.complained(about, icmp(254, Cause::Host), at(1000));
    assert_eq!(health(&board), [Health::Suspect, Health::Up, Health::Up]);
    assert_eq!(board.take_urgent(), [board.stream_of(1)]);
    board.pass(2, at(1002));
    assert_eq!(health(&board), [Health::Up; 3]);
    let reasons: Vec<String> =
        std::iter::from_fn(|| events.try_recv().ok()).map(|event| event.reason).collect();
    assert_eq!(reasons[0], "icmp: tunnelled packets: host unreachable, says 10.0.0.254");
    assert_eq!(reasons.len(), 2, "{reasons:?}");
    // Who was contradicted is not heard again for a while: forged errors keep nobody suspect.
    board.complained(about, icmp(254, Cause::Host), at(2000));
    assert_eq!((health(&board), board.take_urgent()), ([Health::Up; 3], vec![]));
}

#[test]
fn complaint_that_the_checks_confirm_ends_in_down_and_never_by_itself() {
    let (mut board, _, _events, _) = loaded();
    let about = IpAddr::from([10, 0, 0, 1]);
    for ms in 0..100 {
        board.complained(about, icmp(1, Cause::Protocol), at(1000 + ms));
    }
    assert_eq!(health(&board), [Health::Suspect, Health::Up, Health::Up]);
    let id = board.stream_of(1);
    board.sent(id, 2, at(1100), at(1100));
    board.judge(id, at(1106));
    assert_eq!(health(&board), [Health::Down, Health::Up, Health::Up]);
}

#[test]
fn backend_that_refuses_tunnelled_packets_is_suspect_for_as_long_as_it_does() {
    let (mut board, _, _events, _) = loaded();
    board.complained(IpAddr::from([10, 0, 0, 1]), icmp(1, Cause::Protocol), at(1000));
    // Its checks pass all the while: they take another way.
    board.pass(2, at(2000));
    assert_eq!(health(&board)[0], Health::Suspect);
    assert_eq!(board.next_deadline(), Some(at(11_000)));
    board.on_time(at(11_000));
    assert_eq!(health(&board)[0], Health::Up);
}

#[test]
fn only_quotes_of_what_is_sent_through_the_tunnel_are_believed() {
    let (mut board, _, _events, targets) = loaded();
    let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
    let tunnelled = Tunnelled {
        source: "10.9.0.0/24".parse().expect("a prefix"),
        gue_port: 6080,
        vips: [ip("198.51.100.10")].into(),
    };
    let tunnels = HashMap::from([(ip("10.0.0.1"), tunnelled)]);
    board.update(&Targets { tunnels, ..targets }, at(2));
    let told = |to: &str, source: &str, port, vip: &str| board.tunnels(ip(to), ip(source), port, ip(vip));
    assert!(told("10.0.0.1", "10.9.0.7", None, "198.51.100.10"));
    assert!(told("10.0.0.1", "10.9.0.7", Some(6080), "198.51.100.10"));
    assert!(!told("10.0.0.1", "10.9.0.7", Some(53), "198.51.100.10"));
    assert!(!told("10.0.0.1", "10.8.0.7", None, "198.51.100.10"));
    assert!(!told("10.0.0.1", "10.9.0.7", None, "198.51.100.11"));
    assert!(!told("10.0.0.2", "10.9.0.7", None, "198.51.100.10"));
}

#[test]
fn errors_about_strangers_do_not_matter() {
    let (mut board, recorder, _events, _) = loaded();
    let stranger = IpAddr::from([10, 0, 0, 99]);
    board.complained(stranger, icmp(99, Cause::Host), at(1000));
    assert_eq!((recorder.take(), board.next_deadline()), (vec![], None));
}
