//! Mode `nat` over tables in memory: ports and their reuse, both directions, what cannot be translated.

use std::collections::HashSet;
use std::net::IpAddr;

use lb_common::layout::{AdminBits, BackendState, Family, HandshakeStep};
use lb_common::reason::Reason;
use lb_common::time::Tick;
use weir_model::{
    Choice, Host, PORTS_FIRST, PacketSpec, Plain, SNAT_FIRST, Scene, SceneSizes, Splitmix, Transport, answer,
    check, client, snat, vip,
};

/// Bytes before a frame.
const HEADROOM: usize = 256;
/// Ports of an address and protocol in the scene.
const PORTS: u16 = 64;
/// Services in mode `nat`, with `on_down = "auto"`: on IPv4 backends, and on IPv6 ones.
const TO_V4: u16 = 282;
const TO_V6: u16 = 283;

/// The scene's tables with every backend of pools 2 and 3 behind next hop 1.
fn tables() -> Plain {
    let mut tables = Plain::new(&SceneSizes::SMALL);
    Scene::fill(&mut tables, &SceneSizes::SMALL.geometry(Scene::START));
    for backend in 1..SceneSizes::SMALL.backends {
        Scene::next_hop_of(&mut tables, backend, 1);
    }
    tables
}

fn at(tables: &Plain, now: Tick) -> Host<'_> {
    Host::new(tables.slices(), SceneSizes::SMALL.geometry(now))
}

/// A client's segment to a service.
fn segment(family: Family, service: u16, source_port: u16, flags: u8) -> PacketSpec {
    let ports = (source_port, PORTS_FIRST + service);
    PacketSpec::syn(client(family, 1), vip(family, 0), ports).carrying(Transport::Tcp { flags, options: 0 })
}

/// Source address, source port and destination address of a frame without tags, options and extension headers.
fn ends(frame: &[u8]) -> (IpAddr, u16, IpAddr, u16) {
    let (v4, v6) = (
        |at: usize| <[u8; 4]>::try_from(&frame[at..at + 4]),
        |at: usize| <[u8; 16]>::try_from(&frame[at..at + 16]),
    );
    let port = |at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    match frame[14] >> 4 {
        4 => (v4(26).expect("whole").into(), port(34), v4(30).expect("whole").into(), port(36)),
        _ => (v6(22).expect("whole").into(), port(54), v6(38).expect("whole").into(), port(56)),
    }
}

/// The backend's answer to a frame that it got, with these control bits.
fn answered(sent: &[u8], flags: u8) -> Vec<u8> {
    let (source, source_port, destination, port) = ends(sent);
    PacketSpec::syn(destination, source, (port, source_port))
        .carrying(Transport::Tcp { flags, options: 0 })
        .frame()
}

/// Begins a flow of a client that tries a few times, each time from another port: a try looks at some of the ports only
/// whether they may be given back. The reason of the last try, and its frame.
fn begin(tables: &Plain, now: Tick, number: u16) -> (Reason, Vec<u8>) {
    let mut last = (Reason::Inconsistent, Vec::new());
    for attempt in 0..4 {
        let syn = segment(Family::V4, TO_V4, 60_000 + number * 4 + attempt, 2).frame();
        let ran = at(tables, now).run(&syn, HEADROOM);
        last = (ran.outcome.reason, ran.output);
        if last.0 == Reason::FlowNew {
            // Proven, so that it keeps its port.
            for _ in 0..2 {
                let ack = segment(Family::V4, TO_V4, 60_000 + number * 4 + attempt, 0x10).frame();
                assert_eq!(at(tables, now).run(&ack, HEADROOM).outcome.reason, Reason::FlowKnown);
            }
            break;
        }
    }
    last
}

#[test]
fn both_directions_are_translated_in_every_pair_of_families() {
    let tables = tables();
    let host = at(&tables, Scene::START);
    for (number, (family, service)) in
        [(Family::V4, TO_V4), (Family::V6, TO_V6), (Family::V4, TO_V6), (Family::V6, TO_V4)]
            .into_iter()
            .enumerate()
    {
        let syn = segment(family, service, 50_000 + number as u16, 2).frame();
        let there = host.run(&syn, HEADROOM);
        assert_eq!(there.outcome.reason, Reason::FlowNew, "{family:?} {service}");
        assert_eq!(check(&syn, &there.outcome, &there.output), Ok(()));
        let (source, port, _, backend_port) = ends(&there.output);
        assert_eq!(source, snat(if service == TO_V4 { 1 } else { 2 }));
        assert!((SNAT_FIRST..SNAT_FIRST + PORTS).contains(&port) && backend_port == PORTS_FIRST + service);
        let reply = answered(&there.output, 0x12);
        let back = host.run(&reply, HEADROOM);
        assert_eq!(back.outcome.reason, Reason::NatReply, "{family:?} {service}");
        assert_eq!(check(&reply, &back.outcome, &back.output), Ok(()));
        let expected = (vip(family, 0), PORTS_FIRST + service, client(family, 1), 50_000 + number as u16);
        assert_eq!(ends(&back.output), expected);
        assert_eq!(back.output[..6], syn[6..12], "the frame goes to who sent the client's");
    }
}

#[test]
fn every_flow_has_a_port_of_its_own_until_none_is_left() {
    let tables = tables();
    let host = at(&tables, Scene::START);
    let mut ports = HashSet::new();
    for number in 0..PORTS {
        let ran = host.run(&segment(Family::V4, TO_V4, 50_000 + number, 2).frame(), HEADROOM);
        assert_eq!(ran.outcome.reason, Reason::FlowNew, "flow {number}");
        assert!(ports.insert(ends(&ran.output).1), "flow {number} has another's port");
    }
    let syn = segment(Family::V4, TO_V4, 60_000, 2).frame();
    let refused = host.run(&syn, HEADROOM);
    assert_eq!(refused.outcome.reason, Reason::NatExhausted);
    assert_eq!(check(&syn, &refused.outcome, &refused.output), Ok(()));
    assert_eq!(refused.output[47], 0x14, "a reset that acknowledges the SYN");
    // UDP has ports of its own.
    let datagram = segment(Family::V4, TO_V4, 60_000, 2).carrying(Transport::Udp).frame();
    assert_eq!(host.run(&datagram, HEADROOM).outcome.reason, Reason::FlowNew);
}

#[test]
fn ports_come_back_in_the_order_in_which_their_flows_ended() {
    let tables = tables();
    let mut taken = Vec::new();
    for number in 0..PORTS {
        let ran =
            at(&tables, Scene::START).run(&segment(Family::V4, TO_V4, 50_000 + number, 2).frame(), HEADROOM);
        taken.push(ends(&ran.output).1);
    }
    // Closed in another order than opened, each in a tick of its own; 4 ticks later a port is free.
    let order: Vec<u16> = (0..8).map(|number| (number * 37 + 5) % PORTS).collect();
    for number in 0..PORTS {
        let now = Scene::START.plus(1);
        for flags in [0x10, 0x10] {
            let _ =
                at(&tables, now).run(&segment(Family::V4, TO_V4, 50_000 + number, flags).frame(), HEADROOM);
        }
    }
    for (tick, number) in order.iter().enumerate() {
        let now = Scene::START.plus(2 + tick as u32);
        let _ = at(&tables, now).run(&segment(Family::V4, TO_V4, 50_000 + number, 0x11).frame(), HEADROOM);
    }
    let first = Scene::START.plus(2 + 4);
    assert_eq!(begin(&tables, first, 100).0, Reason::NatExhausted, "the first FIN was 4 ticks ago");
    for (tick, number) in order.iter().enumerate() {
        let (reason, output) = begin(&tables, first.plus(1 + tick as u32), tick as u16);
        assert_eq!(reason, Reason::FlowNew, "reuse {tick}");
        assert_eq!(ends(&output).1, taken[usize::from(*number)], "reuse {tick}");
    }
}

#[test]
fn a_flow_of_which_only_a_syn_was_seen_gives_way_where_no_port_is_free_and_others_do_not() {
    let tables = tables();
    let open = |now, number| {
        let ran = at(&tables, now).run(&segment(Family::V4, TO_V4, 50_000 + number, 2).frame(), HEADROOM);
        (ran.outcome.reason, ran.output)
    };
    let mut ports = Vec::new();
    for number in 0..PORTS {
        let (_, output) = open(Scene::START, number);
        ports.push(ends(&output).1);
        if number != 9 {
            for _ in 0..2 {
                let _ = at(&tables, Scene::START)
                    .run(&segment(Family::V4, TO_V4, 50_000 + number, 0x10).frame(), HEADROOM);
            }
        }
    }
    assert_eq!(begin(&tables, Scene::START.plus(1), 100).0, Reason::NatExhausted, "it may still be answered");
    let (reason, output) = begin(&tables, Scene::START.plus(2), 101);
    assert_eq!((reason, ends(&output).1), (Reason::FlowNew, ports[9]));
    assert_eq!(begin(&tables, Scene::START.plus(2), 102).0, Reason::NatExhausted);
}

#[test]
fn a_segment_of_no_flow_is_reset_and_takes_no_port() {
    let tables = tables();
    let host = at(&tables, Scene::START);
    for flags in [0x10, 0x18, 0x11] {
        let frame = segment(Family::V4, TO_V4, 50_000, flags).frame();
        let ran = host.run(&frame, HEADROOM);
        assert_eq!(ran.outcome.reason, Reason::NatNoFlow);
        assert_eq!(check(&frame, &ran.outcome, &ran.output), Ok(()));
    }
    let syn = host.run(&segment(Family::V4, TO_V4, 50_001, 2).frame(), HEADROOM);
    assert_eq!(ends(&syn.output).1, SNAT_FIRST, "the first port is still there");
}

#[test]
fn a_flow_whose_backend_is_down_ends_and_a_new_one_begins_elsewhere() {
    let mut tables = tables();
    let syn = segment(Family::V4, TO_V4, 50_000, 2).frame();
    let before = at(&tables, Scene::START).run(&syn, HEADROOM);
    let (_, port, backend, _) = ends(&before.output);
    for id in Scene::backends_of(2) {
        let address = tables.slices().backends[id as usize].address;
        if IpAddr::from([address[0], address[1], address[2], address[3]]) == backend {
            Scene::set_state(&mut tables, id, BackendState::Down);
        }
    }
    let host = at(&tables, Scene::START);
    let data = segment(Family::V4, TO_V4, 50_000, 0x18).frame();
    assert_eq!(
        host.run(&data, HEADROOM).outcome.reason,
        Reason::NatNoFlow,
        "another backend knows nothing of it"
    );
    let again = host.run(&syn, HEADROOM);
    assert_eq!(again.outcome.reason, Reason::FlowNew);
    let (_, other_port, other, _) = ends(&again.output);
    assert!(other != backend && other_port != port);
    // What the old backend still says finds its flow, until that is over.
    let late = answered(&before.output, 0x11);
    assert_eq!(host.run(&late, HEADROOM).outcome.reason, Reason::NatReply);
}

#[test]
fn a_flow_keeps_its_backend_and_its_port_where_all_are_down_but_not_a_backend_in_maintenance() {
    let pool = 2;
    let mut tables = tables();
    let syn = segment(Family::V4, TO_V4, 50_000, 2).frame();
    let data = segment(Family::V4, TO_V4, 50_000, 0x18).frame();
    let home = ends(&at(&tables, Scene::START).run(&syn, HEADROOM).output);
    for id in Scene::backends_of(pool) {
        Scene::set_state(&mut tables, id, BackendState::Down);
    }
    tables.slices().pools[pool as usize].usable.set(0);
    let later = Scene::START.plus(2);
    let kept = at(&tables, later).run(&data, HEADROOM);
    assert_eq!(kept.outcome.reason, Reason::FlowKnown, "nobody else is there");
    assert_eq!(ends(&kept.output), home);
    for id in Scene::backends_of(pool) {
        let hot = &tables.slices().backends[id as usize].hot;
        hot.set(hot.get() | (AdminBits::Maintenance as u64) << 32);
    }
    let taken_out = at(&tables, later).run(&data, HEADROOM);
    assert_eq!(taken_out.outcome.reason, Reason::NatNoFlow, "the operator has taken it out");
}

#[test]
fn only_the_flow_s_backend_is_heard_at_its_port() {
    let tables = tables();
    let host = at(&tables, Scene::START);
    let sent = host.run(&segment(Family::V4, TO_V4, 50_000, 2).frame(), HEADROOM).output;
    let (source, port, backend, backend_port) = ends(&sent);
    let other = IpAddr::from([10, 99, 0, 1]);
    let cases = [
        (backend, (backend_port, port), Reason::NatReply),
        (other, (backend_port, port), Reason::UnmatchedReject),
        (backend, (backend_port + 1, port), Reason::UnmatchedReject),
        (backend, (backend_port, port + 1), Reason::UnmatchedReject),
        (backend, (backend_port, 80), Reason::UnmatchedReject),
    ];
    for (from, ports, reason) in cases {
        let frame =
            PacketSpec::syn(from, source, ports).carrying(Transport::Tcp { flags: 0x18, options: 0 }).frame();
        let ran = host.run(&frame, HEADROOM);
        assert_eq!(ran.outcome.reason, reason, "{from} {ports:?}");
        assert_eq!(check(&frame, &ran.outcome, &ran.output), Ok(()));
    }
    // The third address is the host's too, and nobody sends from it.
    let own = PacketSpec::syn(backend, snat(3), (backend_port, port)).frame();
    let ran = host.run(&own, HEADROOM);
    assert_eq!((ran.outcome.reason, ran.output), (Reason::UnmatchedPass, own));
}

/// What was counted of all backends' openings: opened, repeated, completed, answered, refused, reset.
fn steps(host: &Host<'_>) -> [u64; 6] {
    use HandshakeStep::{Answered, Completed, Opened, Refused, Repeated, Reset};
    let totals = host.totals().handshakes;
    [Opened, Repeated, Completed, Answered, Refused, Reset]
        .map(|step| totals.iter().map(|backend| backend.of(step)).sum())
}

/// Segments after a flow's first SYN, and what is counted.
type Case<'a> = (&'a str, &'a [(Sender, u8)], [u64; 6]);

/// Who sends a segment of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sender {
    Client,
    Backend,
}

#[test]
fn what_a_backend_makes_of_a_flow_is_counted_once_whatever_its_client_does() {
    use Sender::{Backend, Client};
    const SYN: u8 = 0x02;
    const SYN_ACK: u8 = 0x12;
    const ACK: u8 = 0x10;
    const FIN: u8 = 0x11;
    const RST: u8 = 0x14;
    let cases: [Case<'_>; 13] = [
        ("nobody answers", &[(Client, SYN), (Client, SYN)], [1, 2, 0, 0, 0, 0]),
        ("answered", &[(Backend, SYN_ACK), (Client, ACK)], [1, 0, 1, 1, 0, 0]),
        ("left half open", &[(Backend, SYN_ACK), (Backend, SYN_ACK)], [1, 0, 0, 1, 0, 0]),
        (
            "asked again after the answer",
            &[(Backend, SYN_ACK), (Client, SYN), (Backend, SYN_ACK)],
            [1, 0, 0, 1, 0, 0],
        ),
        ("answered late", &[(Client, SYN), (Backend, SYN_ACK), (Backend, SYN_ACK)], [1, 1, 0, 1, 0, 0]),
        ("the client has left before the answer", &[(Client, RST), (Backend, SYN_ACK)], [1, 0, 0, 1, 0, 0]),
        ("the client did not wait for the answer", &[(Client, ACK), (Backend, SYN_ACK)], [1, 0, 1, 1, 0, 0]),
        ("refused", &[(Backend, RST), (Backend, RST)], [1, 0, 0, 0, 1, 0]),
        ("refused twice", &[(Backend, RST), (Client, SYN), (Backend, RST)], [2, 0, 0, 0, 2, 0]),
        ("refused after the client has left", &[(Client, RST), (Backend, RST)], [1, 0, 0, 0, 1, 0]),
        (
            "reset",
            &[
                (Backend, SYN_ACK),
                (Client, ACK),
                (Client, ACK),
                (Backend, ACK),
                (Backend, RST),
                (Backend, RST),
            ],
            [1, 0, 1, 1, 0, 1],
        ),
        (
            "reset after the client closed",
            &[(Backend, SYN_ACK), (Client, ACK), (Client, FIN), (Backend, RST)],
            [1, 0, 1, 1, 0, 0],
        ),
        ("a SYN of the backend's own is no answer", &[(Backend, SYN), (Backend, ACK)], [1, 0, 0, 0, 0, 0]),
    ];
    for (family, service) in
        [(Family::V4, TO_V4), (Family::V6, TO_V6), (Family::V4, TO_V6), (Family::V6, TO_V4)]
    {
        for (description, segments, expected) in &cases {
            let tables = tables();
            let host = at(&tables, Scene::START);
            let mut sent = host.run(&segment(family, service, 50_000, SYN).frame(), HEADROOM).output;
            for (from, flags) in *segments {
                let reason = match from {
                    Client => {
                        let ran = host.run(&segment(family, service, 50_000, *flags).frame(), HEADROOM);
                        sent = ran.output;
                        ran.outcome.reason
                    }
                    Backend => host.run(&answered(&sent, *flags), HEADROOM).outcome.reason,
                };
                let known = [Reason::FlowKnown, Reason::NatReply, Reason::FlowNew].contains(&reason);
                assert!(known, "{description}: {from:?} {flags:#04x}: {reason:?}");
            }
            assert_eq!(steps(&host), *expected, "{description}, {family:?} to {service}");
        }
    }
}

#[test]
fn a_syn_that_comes_when_the_first_is_forgotten_opens_and_repeats_nothing() {
    for service in [TO_V4, 2] {
        let tables = tables();
        let syn = segment(Family::V4, service, 50_000, 0x02).frame();
        let counted = [0, 1, 100].map(|later| {
            let host = at(&tables, Scene::START.plus(later));
            let _ = host.run(&syn, HEADROOM);
            let [opened, repeated, ..] = steps(&host);
            (opened, repeated)
        });
        assert_eq!(counted, [(1, 0), (0, 1), (1, 0)], "service {service}");
    }
}

#[test]
fn only_the_flow_s_backend_can_answer_or_refuse_for_itself() {
    let tables = tables();
    let host = at(&tables, Scene::START);
    let sent = host.run(&segment(Family::V4, TO_V4, 50_000, 2).frame(), HEADROOM).output;
    let (source, port, backend, backend_port) = ends(&sent);
    for (from, ports, flags) in [
        (IpAddr::from([10, 99, 0, 1]), (backend_port, port), 0x12),
        (backend, (backend_port + 1, port), 0x14),
        (backend, (backend_port, port + 1), 0x14),
    ] {
        let frame = PacketSpec::syn(from, source, ports).carrying(Transport::Tcp { flags, options: 0 });
        let _ = host.run(&frame.frame(), HEADROOM);
    }
    assert_eq!(steps(&host), [1, 0, 0, 0, 0, 0]);
    // Datagrams have no handshake.
    let ports = (50_001, PORTS_FIRST + TO_V4);
    let datagram = PacketSpec::syn(client(Family::V4, 1), vip(Family::V4, 0), ports).carrying(Transport::Udp);
    let _ = host.run(&datagram.frame(), HEADROOM);
    assert_eq!(steps(&host), [1, 0, 0, 0, 0, 0]);
}

#[test]
fn a_datagram_without_a_checksum_keeps_none_over_ipv4_and_gets_a_right_one_over_ipv6() {
    let tables = tables();
    let host = at(&tables, Scene::START);
    for (service, absent) in [(TO_V4, true), (TO_V6, false)] {
        for payload in [0, 1, 2, 3, 64, 1400] {
            let mut spec = segment(Family::V4, service, 50_000, 0).carrying(Transport::Udp);
            spec.payload = payload;
            let mut frame = spec.frame();
            frame[40..42].copy_from_slice(&[0, 0]);
            let ran = host.run(&frame, HEADROOM);
            assert_eq!(check(&frame, &ran.outcome, &ran.output), Ok(()), "{payload} bytes to {service}");
            let at = if service == TO_V4 { 40 } else { 60 };
            assert_eq!(ran.output[at..at + 2] == [0, 0], absent, "{payload} bytes to {service}");
        }
    }
}

#[test]
fn a_checksum_stays_right_or_wrong_for_every_value_of_the_payload() {
    let tables = tables();
    let host = at(&tables, Scene::START);
    for word in 0..=u16::MAX {
        for (service, transport) in [(TO_V4, Transport::Udp), (TO_V6, Transport::Udp)] {
            let mut spec = segment(Family::V4, service, 50_000, 2).carrying(transport);
            spec.payload = 2;
            let mut frame = spec.frame();
            // The payload changes, and the checksum with it: by RFC 1624 for the test too.
            let old = u16::from_be_bytes([frame[42], frame[43]]);
            frame[42..44].copy_from_slice(&word.to_be_bytes());
            let updated = lb_common::wire::checksum::update([frame[40], frame[41]], old, word);
            frame[40..42].copy_from_slice(&lb_common::wire::checksum::never_zero(updated));
            let ran = host.run(&frame, HEADROOM);
            assert_eq!(check(&frame, &ran.outcome, &ran.output), Ok(()), "{word:#06x} to {service}");
        }
    }
}

#[test]
fn errors_reach_both_ends_in_every_pair_of_families() {
    let mut choice = Splitmix(7);
    // Answers that end flows leave their ports in use.
    let batches = std::iter::repeat_with(|| errors_that_reach(&mut choice)).take(40);
    let reached: u32 = batches.sum();
    assert!(reached > 300, "{reached} errors were translated");
}

/// How many of fifty flows an error reaches.
fn errors_that_reach(choice: &mut Splitmix) -> u32 {
    let tables = tables();
    let host = at(&tables, Scene::START);
    let mut reached = 0;
    for number in 0..50_u16 {
        let (family, service) =
            [(Family::V4, TO_V4), (Family::V6, TO_V6), (Family::V4, TO_V6), (Family::V6, TO_V4)]
                [usize::from(number) % 4];
        let mut spec = segment(family, service, 50_000 + number % 12, 2);
        spec.payload = choice.below(700);
        let there = host.run(&spec.frame(), HEADROOM);
        let Some(reply) = answer(choice, &there.output) else { panic!("{:?}", there.outcome) };
        let back = host.run(&reply, HEADROOM);
        assert_eq!(check(&reply, &back.outcome, &back.output), Ok(()), "{:?}", back.outcome);
        reached += u32::from(back.outcome.reason == Reason::IcmpError);
    }
    reached
}
