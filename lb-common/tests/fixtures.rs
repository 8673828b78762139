//! How frames are parsed and to which service they belong: a description, a frame, the reason it leaves for.
#![cfg(not(loom))]

use std::net::IpAddr;

use lb_common::layout::Family;
use lb_common::reason::Reason;
use weir_model::{
    Extension, Host, PORTS_FIRST, PacketSpec, Plain, Scene, SceneSizes, Transport, check, client, not_vip,
    vip,
};

/// Service 2: pool 2, whose backends are all active, by `ipip`.
const PORT: u16 = PORTS_FIRST + 2;
/// Offset of the transport header behind the shortest IP headers.
const V4: usize = 34;
const V6: usize = 54;

fn tables() -> Plain {
    let mut tables = Plain::new(&SceneSizes::SMALL);
    Scene::fill(&mut tables, &SceneSizes::SMALL.geometry(Scene::START));
    tables
}

fn to(destination: IpAddr, port: u16) -> PacketSpec {
    let family = if destination.is_ipv4() { Family::V4 } else { Family::V6 };
    PacketSpec::syn(client(family, 1), destination, (50_000, port))
}

fn v4() -> PacketSpec {
    to(vip(Family::V4, 0), PORT)
}

fn v6() -> PacketSpec {
    to(vip(Family::V6, 0), PORT)
}

fn edit(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[at..at + bytes.len()].copy_from_slice(bytes);
    frame
}

fn extended(extensions: &[Extension]) -> PacketSpec {
    PacketSpec { extensions: extensions.to_vec(), ..v6() }
}

/// The frame with these tags, outermost first.
fn tagged(mut frame: Vec<u8>, protocols: &[u16]) -> Vec<u8> {
    for protocol in protocols.iter().rev() {
        let [high, low] = protocol.to_be_bytes();
        frame.splice(12..12, [high, low, 0x60, 100]);
    }
    frame
}

fn expect_all(cases: Vec<(&str, Vec<u8>, Reason)>) {
    for (description, frame, expected) in cases {
        // Tables of its own for each: no case sees another's flow.
        let tables = tables();
        let host = Host::new(tables.slices(), SceneSizes::SMALL.geometry(Scene::START));
        let ran = host.run(&frame, 256);
        assert_eq!(ran.outcome.reason, expected, "{description}");
        check(&frame, &ran.outcome, &ran.output).unwrap_or_else(|broken| panic!("{description}: {broken}"));
        let counted = host.totals().reasons;
        for reason in Reason::ALL {
            let packets = counted[*reason as usize].packets;
            assert_eq!(
                packets,
                u64::from(*reason == expected),
                "{description}: counted as {}",
                reason.name()
            );
        }
    }
}

#[test]
fn what_is_not_ip_for_a_vip_passes() {
    expect_all(vec![
        ("IPv4 to another address", to(not_vip(Family::V4), PORT).frame(), Reason::NotVip),
        ("IPv6 to another address", to(not_vip(Family::V6), PORT).frame(), Reason::NotVip),
        (
            "malformed IPv4 to another address",
            edit(to(not_vip(Family::V4), PORT).frame(), 14, &[0x41]),
            Reason::NotVip,
        ),
        ("ARP", edit(v4().frame(), 12, &[0x08, 0x06]), Reason::NotIp),
        ("tagged ARP", tagged(edit(v4().frame(), 12, &[0x08, 0x06]), &[0x8100]), Reason::NotIp),
        (
            "tagged, to another address",
            tagged(to(not_vip(Family::V4), PORT).frame(), &[0x8100]),
            Reason::NotVip,
        ),
        ("three tags", tagged(v4().frame(), &[0x88a8, 0x8100, 0x8100]), Reason::Vlan),
        ("cut in the second tag", tagged(v4().frame(), &[0x88a8, 0x8100])[..20].to_vec(), Reason::Truncated),
        ("802.3 length", edit(v4().frame(), 12, &[0x00, 0x40]), Reason::NotIp),
        ("IPv4 ethertype, version 6", edit(v4().frame(), 14, &[0x65]), Reason::Truncated),
        ("IPv6 ethertype, version 4", edit(v6().frame(), 14, &[0x40]), Reason::Truncated),
        ("ICMP echo to a VIP", v4().carrying(Transport::Icmp).frame(), Reason::EchoAnswered),
        ("ICMPv6 echo to a VIP", v6().carrying(Transport::Icmp).frame(), Reason::EchoAnswered),
    ]);
}

#[test]
fn a_frame_cut_at_any_length_is_never_forwarded() {
    let specs = [
        v4(),
        v6(),
        v4().carrying(Transport::Udp),
        v6().carrying(Transport::Udp),
        v4().carrying(Transport::Sctp { chunk: 1 }),
        PacketSpec { options: 10, ..v4() },
        extended(&[Extension::HopByHop(0), Extension::Authentication(1)]),
    ];
    for spec in specs {
        let whole = spec.frame();
        let header = if spec.destination.is_ipv4() { V4 } else { V6 };
        for length in 0..whole.len() {
            let expected = if length < header { Reason::Truncated } else { Reason::Malformed };
            expect_all(vec![("cut", whole[..length].to_vec(), expected)]);
        }
        expect_all(vec![("whole", whole, Reason::FlowNew)]);
    }
}

#[test]
fn a_length_that_the_frame_does_not_hold_drops() {
    let udp = |length: u16| edit(v4().carrying(Transport::Udp).frame(), V4 + 4, &length.to_be_bytes());
    let total = |length: u16| edit(v4().frame(), 16, &length.to_be_bytes());
    let mut padded = v4().frame();
    padded.resize(60, 0);
    let mut long = udp(8);
    long.extend([0; 8]);
    expect_all(vec![
        ("IHL of 4 words", edit(v4().frame(), 14, &[0x44]), Reason::Malformed),
        ("IHL of no words", edit(v4().frame(), 14, &[0x40]), Reason::Malformed),
        ("IHL past the end", edit(v4().frame(), 14, &[0x4f]), Reason::Malformed),
        ("total length one more than the frame", total(41), Reason::Malformed),
        ("total length less than the TCP header", total(39), Reason::Malformed),
        ("total length less than the IP header", total(19), Reason::Malformed),
        ("total length 0", total(0), Reason::Malformed),
        ("IPv6 payload one more than the frame", edit(v6().frame(), 18, &[0, 21]), Reason::Malformed),
        ("IPv6 payload less than the TCP header", edit(v6().frame(), 18, &[0, 19]), Reason::Malformed),
        ("IPv6 payload length 0", edit(v6().frame(), 18, &[0, 0]), Reason::Malformed),
        ("TCP data offset of 4 words", edit(v4().frame(), V4 + 12, &[0x40]), Reason::Malformed),
        ("TCP data offset past the packet", edit(v4().frame(), V4 + 12, &[0x60]), Reason::Malformed),
        (
            "TCP over IPv6, data offset past the packet",
            edit(v6().frame(), V6 + 12, &[0xf0]),
            Reason::Malformed,
        ),
        ("UDP length less than its header", udp(7), Reason::Malformed),
        ("UDP length 0", udp(0), Reason::Malformed),
        ("UDP length past the packet", udp(9), Reason::Malformed),
        ("UDP length past the packet but not past the frame", edit(long, V4 + 4, &[0, 9]), Reason::Malformed),
        ("padding after the packet", padded, Reason::FlowNew),
        ("ten words of IPv4 options", PacketSpec { options: 10, ..v4() }.frame(), Reason::FlowNew),
    ]);
}

#[test]
fn ipv6_extension_headers_are_walked_up_to_a_bound() {
    use Extension::{Authentication, Destination, Fragment, HopByHop, Routing};
    let case = |extensions: &[Extension]| extended(extensions).frame();
    let none = |extensions: &[Extension]| extended(extensions).carrying(Transport::Other(59)).frame();
    let past = edit(case(&[HopByHop(0)]), V6 + 1, &[9]);
    expect_all(vec![
        ("hop-by-hop", case(&[HopByHop(0)]), Reason::FlowNew),
        ("routing", case(&[Routing(2)]), Reason::FlowNew),
        ("destination options", case(&[Destination(30)]), Reason::FlowNew),
        ("authentication", case(&[Authentication(4)]), Reason::FlowNew),
        ("all of them", case(&[HopByHop(1), Destination(0), Routing(0), Authentication(1)]), Reason::FlowNew),
        ("six", case(&[Destination(0); 6]), Reason::FlowNew),
        ("seven", case(&[Destination(0); 7]), Reason::ExtensionHeaders),
        ("fifty", case(&[Destination(0); 50]), Reason::ExtensionHeaders),
        (
            "1024 bytes, walked, then too long for a next hop of 600",
            case(&[Destination(127)]),
            Reason::TooBig,
        ),
        ("1032 bytes", case(&[Destination(128)]), Reason::ExtensionHeaders),
        ("atomic fragment", case(&[Fragment(0)]), Reason::FlowNew),
        ("atomic fragment behind hop-by-hop", case(&[HopByHop(0), Fragment(0)]), Reason::FlowNew),
        ("atomic fragment before options", case(&[Fragment(0), Destination(0)]), Reason::FlowNew),
        ("two fragment headers", case(&[Fragment(0), Fragment(0)]), Reason::Malformed),
        ("later fragment behind hop-by-hop", case(&[HopByHop(0), Fragment(0x20)]), Reason::FragmentUnknown),
        ("no next header", none(&[]), Reason::UnmatchedPass),
        ("no next header behind routing", none(&[Routing(0)]), Reason::UnmatchedPass),
        (
            "ICMPv6 behind hop-by-hop",
            extended(&[HopByHop(0)]).carrying(Transport::Icmp).frame(),
            Reason::Unanswerable,
        ),
        ("an extension that ends past the packet", past, Reason::Malformed),
    ]);
}

#[test]
fn what_no_service_claims_leaves_by_the_vips_policy() {
    let mut cases = Vec::new();
    for family in [Family::V4, Family::V6] {
        let other = |n| to(vip(family, n), PORT).carrying(Transport::Other(47)).frame();
        cases.extend([
            ("GRE to a VIP that passes", other(0), Reason::UnmatchedPass),
            ("GRE to a VIP that drops", other(1), Reason::UnmatchedDrop),
            ("GRE to a VIP that rejects", other(2), Reason::UnmatchedReject),
            (
                "a port of a VIP without any-port services",
                to(vip(family, 1), 9).frame(),
                Reason::UnmatchedDrop,
            ),
            ("a port outside the VIP's ranges", to(vip(family, 2), 9).frame(), Reason::UnmatchedReject),
            ("a port of a VIP with an any-port service", to(vip(family, 3), 9).frame(), Reason::FlowNew),
        ]);
    }
    expect_all(cases);
}

/// The service that a frame is counted for.
fn service_of(frame: &[u8]) -> Option<usize> {
    let tables = tables();
    let host = Host::new(tables.slices(), SceneSizes::SMALL.geometry(Scene::START));
    let _ = host.run(frame, 256);
    host.totals().services.iter().position(|counter| counter.packets > 0)
}

#[test]
fn an_exact_port_beats_a_range_and_a_range_beats_any_port() {
    let mut tables = tables();
    let geometry = SceneSizes::SMALL.geometry(Scene::START);
    let (tcp, exact) = (lb_common::wire::Protocol::Tcp, 2002);
    let find = |tables: &Plain, vip, port| {
        let on = |_, _| {};
        let on_forwarded = |_, _, _| {};
        let memory = lb_common::memory::Memory {
            slices: tables.slices(),
            geometry,
            now: Scene::START,
            scratch: None,
            on_count: &on,
            on_forwarded: &on_forwarded,
            on_handshake: &|_, _| {},
            on_refused: &|_, _| {},
            on_charged: &|_, _| {},
            limited: &[],
        };
        lb_common::service::service(&memory, vip, tcp, port)
    };
    // VIP 1: TCP ranges 2000–2004, 2030–2034, …; any TCP port is service 2's.
    assert_eq!(find(&tables, 1, 2002), Ok(1));
    assert_eq!(find(&tables, 1, 2005), Ok(2));
    assert_eq!(find(&tables, 1, 1999), Ok(2));
    Scene::add_port(&mut tables, &geometry, 1, tcp, exact, 13);
    assert_eq!(find(&tables, 1, exact), Ok(13));
    assert_eq!(find(&tables, 1, exact + 1), Ok(1));
    // VIP 2 has neither ranges nor any port.
    assert_eq!(find(&tables, 2, 2002), Err(Reason::UnmatchedDrop));
}

#[test]
fn the_protocol_chooses_the_service() {
    let any = |transport| to(vip(Family::V4, 3), 9).carrying(transport).frame();
    assert_eq!(service_of(&any(Transport::Tcp { flags: 2, options: 0 })), Some(2));
    assert_eq!(service_of(&any(Transport::Udp)), Some(13));
    assert_eq!(service_of(&any(Transport::Icmp)), None);
}

#[test]
fn vlan_tags_are_read_and_the_next_hops_are_written() {
    let stacks: [&[u16]; 4] = [&[], &[0x8100], &[0x88a8], &[0x88a8, 0x8100]];
    // Next hop 1 is untagged, 3 is behind a tag, 4 behind two.
    let hops: [(u16, &[u8]); 3] =
        [(1, &[]), (3, &[0x88, 0xa8, 0, 200]), (4, &[0x88, 0xa8, 0, 200, 0x81, 0, 0x60, 100])];
    for spec in [v4(), v6()] {
        for stack in stacks {
            for (hop, expected) in hops {
                let mut tables = tables();
                for backend in 1..SceneSizes::SMALL.backends {
                    Scene::next_hop_of(&mut tables, backend, hop);
                }
                let host = Host::new(tables.slices(), SceneSizes::SMALL.geometry(Scene::START));
                let frame = tagged(spec.frame(), stack);
                let ran = host.run(&frame, 256);
                assert_eq!(ran.outcome.reason, Reason::FlowNew, "{stack:x?} to next hop {hop}");
                check(&frame, &ran.outcome, &ran.output).unwrap();
                assert_eq!(&ran.output[12..12 + expected.len()], expected, "{stack:x?} to next hop {hop}");
                let ethertype = &ran.output[12 + expected.len()..][..2];
                assert!([[0x08, 0x00], [0x86, 0xdd]].iter().any(|ip| ethertype == ip), "{ethertype:x?}");
            }
        }
    }
}
