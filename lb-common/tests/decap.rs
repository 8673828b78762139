//! How a backend treats frames: a description, a frame, the reason it leaves for or what is found of its MSS.
#![cfg(not(loom))]

use std::net::IpAddr;

use lb_common::decap::Reason;
use lb_common::decap::mss::Finding;
use weir_model::decap::{Backend, Outer, check_answer, check_incoming, internet_sum};
use weir_model::{PacketSpec, Transport};

fn packet(destination: &str) -> PacketSpec {
    let destination: IpAddr = destination.parse().expect("address");
    let source = if destination.is_ipv4() { "203.0.113.9" } else { "2001:db8:c::9" };
    let spec = PacketSpec::syn(source.parse().expect("address"), destination, (50_000, 80));
    PacketSpec { payload: 40, ..spec }
}

fn v4() -> Vec<u8> {
    packet("198.51.100.10").frame()
}

fn v6() -> Vec<u8> {
    packet("2001:db8::10").frame()
}

fn outer_v4() -> Outer {
    Outer::ipip("10.0.0.1", "10.0.1.11")
}

fn outer_v6() -> Outer {
    Outer::ipip("fd00::2", "fd00:1::11")
}

/// Writes bytes `at` behind the link header and makes the outer IPv4 checksum right.
fn edit(mut frame: Vec<u8>, at: usize, bytes: &[u8]) -> Vec<u8> {
    frame[14 + at..14 + at + bytes.len()].copy_from_slice(bytes);
    if frame[12] == 8 {
        frame[24..26].fill(0);
        let sum = (!(internet_sum(&frame[14..34]) as u16)).to_be_bytes();
        frame[24..26].copy_from_slice(&sum);
    }
    frame
}

fn expect_all(cases: Vec<(&str, Vec<u8>, Reason)>) {
    for (description, frame, expected) in cases {
        let backend = Backend::default();
        let (reason, output) = backend.incoming(&frame);
        assert_eq!(reason, expected, "{description}");
        check_incoming(&frame, reason, &output).unwrap_or_else(|broken| panic!("{description}: {broken}"));
        for counted in Reason::ALL {
            let packets = backend.reasons()[*counted as usize].packets;
            assert_eq!(packets, u64::from(*counted == expected), "{description}: {}", counted.name());
        }
    }
}

#[test]
fn tunnels_for_a_vip_are_opened_whatever_the_families() {
    let gue = |number| [0, number, 0, 0];
    let tagged = |tags: &[[u8; 4]]| Outer { tags: tags.to_vec(), ..outer_v4() }.around(&v4());
    expect_all(vec![
        ("IPv4 in IPv4", outer_v4().around(&v4()), Reason::OpenedIpip),
        ("IPv6 in IPv4", outer_v4().around(&v6()), Reason::OpenedIpip),
        ("IPv4 in IPv6", outer_v6().around(&v4()), Reason::OpenedIpip),
        ("IPv6 in IPv6", outer_v6().around(&v6()), Reason::OpenedIpip),
        ("IPv4 in GUE over IPv4", outer_v4().gue(gue(4)).around(&v4()), Reason::OpenedGue),
        ("IPv6 in GUE over IPv4", outer_v4().gue(gue(41)).around(&v6()), Reason::OpenedGue),
        ("IPv4 in GUE over IPv6", outer_v6().gue(gue(4)).around(&v4()), Reason::OpenedGue),
        ("IPv6 in GUE over IPv6", outer_v6().gue(gue(41)).around(&v6()), Reason::OpenedGue),
        ("one VLAN tag", tagged(&[[0x81, 0, 0x60, 100]]), Reason::OpenedIpip),
        ("two VLAN tags", tagged(&[[0x88, 0xa8, 0, 7], [0x81, 0, 0, 100]]), Reason::OpenedIpip),
        ("three VLAN tags", tagged(&[[0x81, 0, 0, 1]; 3]), Reason::NotIp),
        ("a source in a prefix", Outer::ipip("10.0.15.255", "10.0.1.11").around(&v4()), Reason::OpenedIpip),
        (
            "padding behind the packet",
            outer_v4().around(&v4()).into_iter().chain([0; 9]).collect(),
            Reason::OpenedIpip,
        ),
        (
            "an inner fragment",
            outer_v4().around(&PacketSpec { flags_offset: 0x2000, ..packet("198.51.100.10") }.frame()),
            Reason::OpenedIpip,
        ),
        (
            "inner options",
            outer_v4().around(&PacketSpec { options: 10, ..packet("198.51.100.10") }.frame()),
            Reason::OpenedIpip,
        ),
    ]);
}

#[test]
fn what_is_no_tunnel_for_a_vip_from_a_source_passes() {
    let from = |source| Outer::ipip(source, "10.0.1.11").around(&v4());
    expect_all(vec![
        ("no tunnel", v4(), Reason::NotTunnel),
        ("no tunnel, IPv6", v6(), Reason::NotTunnel),
        ("ARP", edit_ethertype(v4(), [0x08, 0x06]), Reason::NotIp),
        ("UDP to another port", packet("198.51.100.10").carrying(Transport::Udp).frame(), Reason::NotTunnel),
        ("another address", outer_v4().around(&packet("198.51.100.12").frame()), Reason::NotVip),
        ("another address, IPv6", outer_v6().around(&packet("2001:db8::11").frame()), Reason::NotVip),
        ("another source", from("10.0.0.2"), Reason::NotSource),
        ("just outside a prefix", from("10.0.16.0"), Reason::NotSource),
        ("another source, IPv6", Outer::ipip("fd00:0:0:1::1", "fd00:1::11").around(&v6()), Reason::NotSource),
    ]);
}

fn edit_ethertype(mut frame: Vec<u8>, ethertype: [u8; 2]) -> Vec<u8> {
    frame[12..14].copy_from_slice(&ethertype);
    frame
}

#[test]
fn a_damaged_tunnel_passes_to_the_host() {
    let whole = outer_v4().around(&v4());
    let length = (whole.len() - 14) as u16;
    let total = |length: u16| edit(whole.clone(), 2, &length.to_be_bytes());
    let mut wrong_sum = whole.clone();
    wrong_sum[24] ^= 1;
    let v6_whole = outer_v6().around(&v4());
    let payload = |length: u16| edit(v6_whole.clone(), 4, &length.to_be_bytes());
    let gue = outer_v4().gue([0, 4, 0, 0]).around(&v4());
    let udp_length = |length: u16| edit(gue.clone(), 24, &length.to_be_bytes());
    expect_all(vec![
        ("outer length past the frame", total(length + 1), Reason::OuterMalformed),
        ("outer length less than its header", total(19), Reason::OuterMalformed),
        ("outer length less than the inner packet", total(length - 1), Reason::InnerMalformed),
        ("outer checksum", wrong_sum, Reason::OuterMalformed),
        ("outer IHL too short", edit(whole.clone(), 0, &[0x44]), Reason::OuterMalformed),
        ("outer options", edit(whole.clone(), 0, &[0x46]), Reason::OuterOptions),
        ("outer version", edit(whole.clone(), 0, &[0x65]), Reason::Truncated),
        ("outer payload length past the frame", payload(81), Reason::OuterMalformed),
        ("outer payload length less than the inner packet", payload(79), Reason::InnerMalformed),
        ("a first fragment", edit(whole.clone(), 6, &[0x20, 0]), Reason::OuterFragment),
        ("a later fragment", edit(whole.clone(), 6, &[0, 9]), Reason::OuterFragment),
        ("a first fragment of GUE", edit(gue.clone(), 6, &[0x20, 0]), Reason::OuterFragment),
        ("inner version", edit(whole.clone(), 20, &[0x55]), Reason::InnerMalformed),
        ("inner IHL", edit(whole.clone(), 20, &[0x44]), Reason::InnerMalformed),
        ("inner length past the tunnel", edit(whole.clone(), 22, &[0xff, 0xff]), Reason::InnerMalformed),
        ("inner length less than its header", edit(whole.clone(), 22, &[0, 19]), Reason::InnerMalformed),
        ("UDP length past the packet", udp_length(93), Reason::OuterMalformed),
        ("UDP length less than its headers", udp_length(11), Reason::OuterMalformed),
        ("UDP length less than the inner packet", udp_length(91), Reason::InnerMalformed),
    ]);
    for whole in [whole, gue] {
        for length in 14..whole.len() {
            let backend = Backend::default();
            let (reason, output) = backend.incoming(&whole[..length]);
            assert!(
                matches!(reason, Reason::Truncated | Reason::NotTunnel | Reason::OuterMalformed),
                "{length} of {}: {reason:?}",
                whole.len()
            );
            assert_eq!(output, whole[..length]);
        }
    }
}

#[test]
fn gue_that_is_more_than_a_plain_data_packet_passes() {
    let gue = |header| outer_v4().gue(header).around(&v4());
    expect_all(vec![
        ("variant 1: IPv4 directly in UDP", gue([0x45, 0, 0, 80]), Reason::GueVariant),
        ("variant 1: IPv6 directly in UDP", gue([0x60, 0, 0, 0]), Reason::GueVariant),
        ("variant 2", gue([0x80, 4, 0, 0]), Reason::GueVariant),
        ("a control message", gue([0x20, 4, 0, 0]), Reason::GueControl),
        ("extension words or private data", gue([0x01, 4, 0, 0]), Reason::GueExtended),
        ("a flag", gue([0, 4, 0x80, 0]), Reason::GueExtended),
        ("the last flag", gue([0, 4, 0, 1]), Reason::GueExtended),
        ("no next header", gue([0, 59, 0, 0]), Reason::GueProtocol),
        ("the other family", gue([0, 41, 0, 0]), Reason::InnerMalformed),
    ]);
}

#[test]
fn congestion_marks_of_the_tunnel_reach_the_packet_inside() {
    for (outer, tunnel) in [("IPv4", outer_v4()), ("IPv6", outer_v6())] {
        for destination in ["198.51.100.10", "2001:db8::10"] {
            for (inner, mark, expected) in [(2, 3, Some(3)), (1, 3, Some(3)), (2, 1, Some(1)), (0, 3, None)] {
                let packet = PacketSpec { traffic_class: 0xb8 | inner, ..packet(destination) }.frame();
                let frame = Outer { traffic_class: 0x28 | mark, ..tunnel.clone() }.around(&packet);
                let (reason, output) = Backend::default().incoming(&frame);
                check_incoming(&frame, reason, &output).expect("holds");
                let told = format!("{inner} in {mark}, {destination} in {outer}");
                let Some(expected) = expected else {
                    assert_eq!(reason, Reason::EcnConflict, "{told}");
                    continue;
                };
                let left = PacketSpec { traffic_class: 0xb8 | expected, ..self::packet(destination) }.frame();
                // Checksums included.
                assert_eq!(output, left, "{told}");
            }
        }
    }
}

/// A SYN-ACK from a VIP with these options, and a right checksum.
fn syn_ack(source: &str, options: &[u8]) -> Vec<u8> {
    let source: IpAddr = source.parse().expect("address");
    let client = if source.is_ipv4() { "203.0.113.9" } else { "2001:db8:c::9" };
    let spec = PacketSpec::syn(source, client.parse().expect("address"), (80, 50_000));
    let words = options.len() / 4;
    let mut frame = spec.carrying(Transport::Tcp { flags: 0x12, options: words }).frame();
    let at = frame.len() - options.len();
    frame[at..].copy_from_slice(options);
    let pseudo = if source.is_ipv4() { 26..34 } else { 22..54 };
    frame[at - 4..at - 2].fill(0);
    let length = (frame.len() - (at - 20)) as u16;
    let covered = [&frame[pseudo], &[0, 6], &length.to_be_bytes(), &frame[at - 20..]].concat();
    let sum = (!(internet_sum(&covered) as u16)).to_be_bytes();
    frame[at - 4..at - 2].copy_from_slice(&sum);
    frame
}

#[test]
fn the_mss_of_a_vips_syn_ack_is_lowered_to_what_fits() {
    const V4: &str = "198.51.100.10";
    const V6: &str = "2001:db8::10";
    let flags = |flags: u8| {
        let mut frame = syn_ack(V4, &[2, 4, 0x05, 0xb4]);
        frame[14 + 20 + 13] = flags;
        frame
    };
    let mut cut = syn_ack(V4, &[2, 4, 0x05, 0xb4]);
    cut.truncate(cut.len() - 1);
    let cases = [
        ("1460 over IPv4", syn_ack(V4, &[2, 4, 0x05, 0xb4]), Some(Finding::Lowered)),
        ("1440 over IPv6", syn_ack(V6, &[2, 4, 0x05, 0xa0]), Some(Finding::Lowered)),
        ("just what fits", syn_ack(V4, &[2, 4, 0x05, 0x80]), Some(Finding::Fits)),
        ("one more", syn_ack(V4, &[2, 4, 0x05, 0x81]), Some(Finding::Lowered)),
        ("what fits IPv4 but not IPv6", syn_ack(V6, &[2, 4, 0x05, 0x80]), Some(Finding::Lowered)),
        ("at an odd offset", syn_ack(V4, &[1, 2, 4, 0x05, 0xb4, 0, 0, 0]), Some(Finding::Lowered)),
        ("behind others", syn_ack(V4, &[4, 2, 3, 3, 7, 1, 1, 1, 2, 4, 0x23, 0]), Some(Finding::Lowered)),
        ("behind the end of options", syn_ack(V4, &[0, 0, 0, 0, 2, 4, 0x05, 0xb4]), Some(Finding::Absent)),
        ("no options", syn_ack(V4, &[]), Some(Finding::Absent)),
        ("behind eight others", syn_ack(V4, &[1, 1, 1, 1, 1, 1, 1, 1, 2, 4, 5, 180]), Some(Finding::Absent)),
        ("an option of length 0", syn_ack(V4, &[9, 0, 1, 1, 2, 4, 5, 180]), Some(Finding::Malformed)),
        ("an MSS of five bytes", syn_ack(V4, &[2, 5, 5, 180, 0, 0, 0, 0]), Some(Finding::Malformed)),
        ("a frame that ends within", cut, Some(Finding::Malformed)),
        ("of another address", syn_ack("198.51.100.12", &[2, 4, 0x05, 0xb4]), None),
        ("a SYN", flags(0x02), None),
        ("an ACK", flags(0x10), None),
        ("SYN, ACK and ECE", flags(0x52), Some(Finding::Lowered)),
    ];
    for (description, frame, expected) in cases {
        let backend = Backend::default();
        let (finding, output) = backend.outgoing(&frame);
        assert_eq!(finding, expected, "{description}");
        check_answer(&frame, finding, &output).unwrap_or_else(|broken| panic!("{description}: {broken}"));
        let counted: u64 = backend.findings().iter().map(|counter| counter.packets).sum();
        assert_eq!(counted, u64::from(expected.is_some()), "{description}");
    }
}
