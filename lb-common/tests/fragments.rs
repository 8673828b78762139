//! Fragments: which are sent on, and where to.
#![cfg(not(loom))]

use lb_common::forward::Egress;
use lb_common::layout::{BackendState, Family};
use lb_common::reason::Reason;
use lb_common::time::Tick;
use weir_model::{
    Extension, Host, PORTS_FIRST, PacketSpec, Plain, Ran, Scene, SceneSizes, Transport, check, client, vip,
};

/// A service of pool 2, whose backends are all active, by `ipip`.
const IPIP: u16 = PORTS_FIRST + 2;
/// The same by `gue`.
const GUE: u16 = PORTS_FIRST + 162;

fn tables() -> Plain {
    let mut tables = Plain::new(&SceneSizes::SMALL);
    Scene::fill(&mut tables, &SceneSizes::SMALL.geometry(Scene::START));
    for backend in 1..SceneSizes::SMALL.backends {
        Scene::next_hop_of(&mut tables, backend, 1);
    }
    tables
}

fn host(tables: &Plain, now: Tick) -> Host<'_> {
    Host::new(tables.slices(), SceneSizes::SMALL.geometry(now))
}

/// A datagram of a client's flow.
fn datagram(family: Family, source_port: u16, port: u16, payload: usize) -> PacketSpec {
    let spec = PacketSpec::syn(client(family, 1), vip(family, 0), (source_port, port));
    PacketSpec { payload, ..spec.carrying(Transport::Udp) }
}

fn run(host: &Host<'_>, frame: &[u8]) -> Ran {
    let ran = host.run(frame, 256);
    check(frame, &ran.outcome, &ran.output).unwrap_or_else(|broken| panic!("{broken}: {frame:02x?}"));
    ran
}

fn reason(host: &Host<'_>, frame: &[u8]) -> Reason {
    run(host, frame).outcome.reason
}

/// The outer header's destination, of a frame that left by `ipip` or `gue` to an IPv4 backend.
fn backend(ran: &Ran) -> [u8; 4] {
    ran.output[30..34].try_into().expect("4 bytes")
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

#[test]
fn all_fragments_of_a_flows_packets_go_to_the_flows_backend() {
    let tables = tables();
    let host = host(&tables, Scene::START);
    for family in FAMILIES {
        for port in [IPIP, GUE] {
            for flow in 0..50 {
                let known = backend(&run(&host, &datagram(family, 30_000 + flow, port, 9).frame()));
                for id in 0..3 {
                    let spec = datagram(family, 30_000 + flow, port, 8000);
                    let fragments = spec.fragments(u32::from(flow) << 8 | id, 1400);
                    let mut expected = Reason::FlowKnown;
                    for fragment in &fragments {
                        let ran = run(&host, fragment);
                        assert_eq!(
                            (ran.outcome.reason, backend(&ran)),
                            (expected, known),
                            "{family:?} {flow}"
                        );
                        expected = Reason::Fragment;
                    }
                }
            }
        }
    }
}

#[test]
fn fragments_of_one_packet_have_one_outer_source_port() {
    let tables = tables();
    let host = host(&tables, Scene::START);
    let fragments = datagram(Family::V4, 30_000, GUE, 8000).fragments(7, 1400);
    let ports: Vec<_> =
        fragments.iter().map(|fragment| run(&host, fragment).output[34..36].to_vec()).collect();
    assert!(ports.windows(2).all(|pair| pair[0] == pair[1]), "{ports:?}");
}

#[test]
fn a_fragment_before_its_packets_first_one_drops() {
    for family in FAMILIES {
        let tables = tables();
        let host = host(&tables, Scene::START);
        let fragments = datagram(family, 30_000, IPIP, 3000).fragments(7, 1400);
        let other = datagram(family, 30_000, IPIP, 3000).fragments(8, 1400);
        assert_eq!(reason(&host, &fragments[1]), Reason::FragmentUnknown);
        assert_eq!(reason(&host, &fragments[0]), Reason::FlowNew);
        assert_eq!(reason(&host, &fragments[2]), Reason::Fragment, "in any order behind the first");
        assert_eq!(reason(&host, &fragments[1]), Reason::Fragment);
        assert_eq!(reason(&host, &other[1]), Reason::FragmentUnknown, "of another packet");
        let elsewhere = PacketSpec { source: client(family, 2), ..datagram(family, 30_000, IPIP, 3000) };
        assert_eq!(
            reason(&host, &elsewhere.fragments(7, 1400)[1]),
            Reason::FragmentUnknown,
            "of another client"
        );
        let to = PacketSpec { destination: vip(family, 1), ..datagram(family, 30_000, IPIP, 3000) };
        assert_eq!(reason(&host, &to.fragments(7, 1400)[1]), Reason::FragmentUnknown, "to another VIP");
    }
}

#[test]
fn a_first_fragment_is_remembered_through_the_next_tick() {
    for (later, expected) in [(0, Reason::Fragment), (1, Reason::Fragment), (2, Reason::FragmentUnknown)] {
        let tables = tables();
        let fragments = datagram(Family::V4, 30_000, IPIP, 3000).fragments(7, 1400);
        assert_eq!(reason(&host(&tables, Scene::START), &fragments[0]), Reason::FlowNew);
        let then = host(&tables, Scene::START.plus(later));
        assert_eq!(reason(&then, &fragments[1]), expected, "{later} ticks later");
    }
}

#[test]
fn fragments_of_a_backend_that_went_down_drop_and_of_a_draining_one_go_on() {
    for (state, expected) in [
        (BackendState::Down, Reason::FragmentUnknown),
        (BackendState::Absent, Reason::FragmentUnknown),
        (BackendState::Draining, Reason::Fragment),
        (BackendState::Suspect, Reason::Fragment),
    ] {
        let mut tables = tables();
        let fragments = datagram(Family::V4, 30_000, IPIP, 3000).fragments(7, 1400);
        assert_eq!(reason(&host(&tables, Scene::START), &fragments[0]), Reason::FlowNew);
        for backend in Scene::backends_of(2) {
            Scene::set_state(&mut tables, backend, state);
        }
        assert_eq!(reason(&host(&tables, Scene::START), &fragments[1]), expected, "{state:?}");
    }
}

#[test]
fn a_flood_of_first_fragments_leaves_the_latest_of_each_line() {
    let tables = tables();
    let host = host(&tables, Scene::START);
    let fragments = |id| datagram(Family::V4, 30_000, IPIP, 3000).fragments(id, 1400);
    for id in 0..5000 {
        let [first, second, ..] = &fragments(id)[..] else { panic!("three fragments") };
        assert_ne!(run(&host, first).outcome.egress, Egress::NONE);
        assert_eq!(reason(&host, second), Reason::Fragment, "right behind its first: {id}");
    }
    let known = (0..5000).filter(|id| reason(&host, &fragments(*id)[2]) == Reason::Fragment).count();
    let places = SceneSizes::SMALL.fragments as usize * 2;
    assert!(known > places / 2 && known <= places, "{known} of {places}");
}

#[test]
fn the_first_fragment_must_hold_the_transport_header_and_others_must_not() {
    let tables = tables();
    let host = host(&tables, Scene::START);
    for family in FAMILIES {
        let tcp = |flags, options| PacketSpec {
            payload: 100,
            ..datagram(family, 30_000, IPIP, 0).carrying(Transport::Tcp { flags, options })
        };
        let cut = |spec: PacketSpec, size, number: usize| spec.fragments(9, size)[number].clone();
        let cases = [
            ("8 bytes of TCP", cut(tcp(2, 0), 8, 0), Reason::Malformed),
            ("16 bytes of TCP", cut(tcp(2, 0), 16, 0), Reason::Malformed),
            ("TCP without its options", cut(tcp(2, 5), 24, 0), Reason::Malformed),
            ("TCP with its options", cut(tcp(2, 5), 40, 0), Reason::FlowNew),
            ("TCP from byte 8 on", cut(tcp(2, 0), 8, 1), Reason::Malformed),
            ("TCP from byte 16 on", cut(tcp(2, 0), 16, 1), Reason::Malformed),
            ("TCP from byte 40 on", cut(tcp(2, 5), 40, 1), Reason::Fragment),
            ("8 bytes of UDP", cut(datagram(family, 30_001, IPIP, 64), 8, 0), Reason::FlowNew),
            ("UDP from byte 8 on", cut(datagram(family, 30_001, IPIP, 64), 8, 1), Reason::Fragment),
        ];
        for (description, frame, expected) in cases {
            assert_eq!(reason(&host, &frame), expected, "{family:?}: {description}");
        }
    }
}

#[test]
fn impossible_fragments_drop() {
    let tables = tables();
    let host = host(&tables, Scene::START);
    for family in FAMILIES {
        // Where flags and offset are, and the flag for more.
        let (at, more) = if family == Family::V4 { (20, 0x2000) } else { (56, 1) };
        let fragments = datagram(family, 30_000, IPIP, 3000).fragments(7, 1400);
        assert_eq!(reason(&host, &fragments[0]), Reason::FlowNew);
        let with = |frame: &[u8], offset: u16, flag: u16| {
            let word = if family == Family::V4 { offset >> 3 | flag } else { offset | flag };
            let mut frame = frame.to_vec();
            frame[at..at + 2].copy_from_slice(&word.to_be_bytes());
            frame
        };
        let short = |length: usize| {
            let header = if family == Family::V4 { 34 } else { 62 };
            let claimed = if family == Family::V4 { length + 20 } else { length + 8 };
            let mut frame = fragments[1][..header + length].to_vec();
            let at = if family == Family::V4 { 16 } else { 18 };
            frame[at..at + 2].copy_from_slice(&(claimed as u16).to_be_bytes());
            frame
        };
        let cases = [
            ("past 65,535 bytes", with(&fragments[1], 64_800, more), Reason::Malformed),
            ("up to 65,528 bytes", with(&fragments[1], 64_128, more), Reason::Fragment),
            ("no bytes", short(0), Reason::Malformed),
            ("a length that is no multiple of 8, more follow", short(1399), Reason::Malformed),
            ("the last one", with(&short(1399), 1400, 0), Reason::Fragment),
        ];
        for (description, frame, expected) in cases {
            assert_eq!(reason(&host, &frame), expected, "{family:?}: {description}");
        }
    }
}

#[test]
fn fragments_are_followed_behind_tags_options_and_extension_headers() {
    let chain = vec![Extension::HopByHop(0), Extension::Destination(0)];
    let specs = [
        PacketSpec { options: 4, ..datagram(Family::V4, 30_000, IPIP, 3000) },
        PacketSpec { extensions: chain, ..datagram(Family::V6, 30_000, IPIP, 3000) },
    ];
    for spec in specs {
        let tables = tables();
        let host = host(&tables, Scene::START);
        let mut expected = Reason::FlowNew;
        for mut fragment in spec.fragments(7, 1400) {
            assert_eq!(reason(&host, &fragment), expected, "{spec:?}");
            expected = if expected == Reason::FlowNew { Reason::FlowKnown } else { Reason::Fragment };
            fragment.splice(12..12, [0x81, 0, 0, 7]);
            assert_eq!(reason(&host, &fragment), expected, "tagged: {spec:?}");
            expected = Reason::Fragment;
        }
    }
}

#[test]
fn fragments_of_what_no_service_takes_leave_as_the_whole_would() {
    let tables = tables();
    let host = host(&tables, Scene::START);
    for family in FAMILIES {
        for (transport, expected) in
            [(Transport::Icmp, Reason::Icmp), (Transport::Other(47), Reason::UnmatchedPass)]
        {
            let spec = datagram(family, 30_000, IPIP, 3000).carrying(transport);
            for fragment in spec.fragments(7, 1400) {
                assert_eq!(reason(&host, &fragment), expected, "{family:?} {transport:?}");
            }
        }
    }
}

#[test]
fn a_fragment_that_does_not_fit_with_its_outer_header_drops() {
    let mut tables = tables();
    for backend in Scene::backends_of(2) {
        Scene::next_hop_of(&mut tables, backend, 4);
    }
    let host = host(&tables, Scene::START);
    // Next hop 4 takes packets of up to 600 bytes.
    let fragments = datagram(Family::V4, 30_000, IPIP, 700).fragments(7, 568);
    assert_eq!(reason(&host, &fragments[0]), Reason::TooBig);
    assert_eq!(reason(&host, &fragments[1]), Reason::Fragment, "the last one is short");
}
