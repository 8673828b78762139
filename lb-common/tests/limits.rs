//! Limits of new flows, and sources that nobody can have.
#![cfg(not(loom))]

use std::net::{IpAddr, Ipv4Addr};

use lb_common::layout::{Charged, Family, Scheduler};
use lb_common::reason::Reason;
use lb_common::time::Tick;
use weir_model::{
    CID_CONFIG, DENIED_THERE, Host, IcmpSpec, PORTS_FIRST, PacketSpec, Plain, QuicHeader, Scene, SceneSizes,
    Transport, check, client, quic, vip,
};

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn tables() -> Plain {
    let mut tables = Plain::new(&SceneSizes::SMALL);
    Scene::fill(&mut tables, &SceneSizes::SMALL.geometry(Scene::START));
    tables
}

fn host(tables: &Plain, now: Tick) -> Host<'_> {
    Host::new(tables.slices(), SceneSizes::SMALL.geometry(now))
}

fn syn(source: IpAddr, port: u16) -> PacketSpec {
    let family = if source.is_ipv4() { Family::V4 } else { Family::V6 };
    PacketSpec::syn(source, vip(family, 0), (port, PORTS_FIRST + service() as u16))
}

/// A limited service of pool 2, whose backends are all active: 4 flows a tick of a source, which is 4 addresses of IPv4
/// and a /64 of IPv6; 40 flows a tick in all.
fn service() -> u32 {
    let active =
        |service: &u32| Scene::limited(*service) && Scene::rules(*service).0 == 2 && Scene::rules(*service).3;
    (1..=Scene::services()).find(active).expect("the scene has one")
}

fn run(host: &Host<'_>, spec: &PacketSpec) -> Reason {
    let frame = spec.frame();
    let ran = host.run(&frame, 256);
    check(&frame, &ran.outcome, &ran.output).unwrap_or_else(|broken| panic!("{spec:?}: {broken}"));
    ran.outcome.reason
}

#[test]
fn a_source_starts_as_many_flows_as_it_may_and_others_theirs() {
    for family in FAMILIES {
        let tables = tables();
        let host = host(&tables, Scene::START);
        let reasons = |n: u32, ports: std::ops::Range<u16>| -> Vec<Reason> {
            ports.map(|port| run(&host, &syn(client(family, n), port))).collect()
        };
        let new = [Reason::FlowNew; 4];
        assert_eq!(reasons(1, 1000..1004), new);
        assert_eq!(reasons(1, 1004..1006), [Reason::SourceLimited; 2]);
        assert_eq!(reasons(0, 2000..2001), [Reason::SourceLimited], "of the same prefix");
        assert_eq!(reasons(8, 1000..1004), new, "another source has its own");
        // Known flows go on.
        let data = syn(client(family, 1), 1000).carrying(Transport::Tcp { flags: 0x10, options: 0 });
        assert_eq!(run(&host, &data), Reason::FlowKnown);
        let resumed = syn(client(family, 1), 3000).carrying(Transport::Tcp { flags: 0x10, options: 0 });
        assert_eq!(run(&host, &resumed), Reason::FlowResumed, "another instance's flow is not new");
        let charges = host.totals().charges[service() as usize];
        assert_eq!((charges.of(Charged::Allowed), charges.of(Charged::Source)), (8, 3));
    }
}

#[test]
fn what_was_used_up_under_a_limit_by_the_hour_is_no_hour_s_wait_under_one_by_the_tick() {
    for family in FAMILIES {
        let tables = tables();
        let limit = &tables.slices().limits[service() as usize];
        let words =
            [&limit.source_interval, &limit.source_period, &limit.total_interval, &limit.total_period];
        let [source_interval, source_period, total_interval, total_period] = words.map(|word| word.get());
        let times = 500;
        for (word, value) in words.into_iter().zip([
            source_interval * times,
            source_period * times,
            total_interval * times,
            total_period * times,
        ]) {
            word.set(value);
        }
        let start = |now: Tick, n: u32| {
            let host = host(&tables, now);
            (0..60).filter(|port| run(&host, &syn(client(family, n), 2000 + port)) == Reason::FlowNew).count()
        };
        assert_eq!(start(Scene::START, 1), 4, "all that the source may");
        let others = (8..64).step_by(4).map(|n| start(Scene::START, n));
        assert_eq!(others.sum::<usize>(), 36, "all that the service may");
        for (word, value) in
            words.into_iter().zip([source_interval, source_period, total_interval, total_period])
        {
            word.set(value);
        }
        assert_eq!(start(Scene::START, 1), 0, "used up is used up");
        assert_eq!(start(Scene::START.plus(2), 1), 0, "the service's, which is asked once the source may");
        assert_eq!(start(Scene::START.plus(4), 1), 4, "each for one of the new periods");
    }
}

#[test]
fn a_flow_is_charged_once_however_many_stages_its_packets_go_through() {
    let busy = Scene::scheduled(Scheduler::LeastConnections, 3);
    let named = Scene::quic(3);
    let translated = Scene::translated(3);
    for family in FAMILIES {
        let to = |service: u32, port: u16| {
            PacketSpec::syn(client(family, 1), vip(family, 0), (port, PORTS_FIRST + service as u16))
        };
        let cid: Vec<u8> = {
            let (number, length) = CID_CONFIG;
            let id = [3, 5, 0xaa ^ 2];
            std::iter::once(number << 5 | 0x0b)
                .chain(id[..length.into()].iter().copied())
                .chain([7; 4])
                .collect()
        };
        let datagram = |port| PacketSpec { payload: 60, ..to(named, port) }.carrying(Transport::Udp);
        let tagged = |port| {
            let mut frame = to(busy, port).frame();
            frame.splice(12..12, [0x81, 0x00, 0x00, 0x64]);
            frame
        };
        let long = |port| PacketSpec { payload: 600, ..to(busy, port) }.carrying(Transport::Udp);
        type Frames<'a> = &'a dyn Fn(u16) -> Vec<u8>;
        let cases: [(&str, u32, Reason, Frames<'_>); 7] = [
            ("least connections", busy, Reason::FlowNew, &|port| to(busy, port).frame()),
            ("least connections behind a tag", busy, Reason::FlowNew, &tagged),
            ("QUIC that names nobody", named, Reason::FlowNew, &|port| datagram(port).frame()),
            ("QUIC that names a server", named, Reason::QuicRouted, &|port| {
                quic(datagram(port), QuicHeader::Short, &cid)
            }),
            ("mode nat", translated, Reason::FlowNew, &|port| to(translated, port).frame()),
            ("a first fragment", busy, Reason::FlowNew, &|port| long(port).fragments(7, 512)[0].clone()),
            ("from a listed client", busy, Reason::FlowNew, &|port| {
                PacketSpec { source: client(family, DENIED_THERE), ..to(busy, port) }.frame()
            }),
        ];
        for (what, service, lives, frame) in cases {
            let tables = tables();
            let host = host(&tables, Scene::START);
            let reason = |port| host.run(&frame(port), 256).outcome.reason;
            let reasons: Vec<Reason> = (1000..1006).map(reason).collect();
            let limited = Reason::SourceLimited;
            assert_eq!(reasons, [lives, lives, lives, lives, limited, limited], "{what} over {family:?}");
            let charges = host.totals().charges[service as usize];
            assert_eq!((charges.of(Charged::Allowed), charges.of(Charged::Source)), (4, 2), "{what}");
        }
    }
}

#[test]
fn an_allowance_comes_back_with_time() {
    let tables = tables();
    let limited = |now: Tick, port: u16| {
        let host = host(&tables, now);
        (0..8).filter(|n| run(&host, &syn(client(Family::V4, 1), port + n)) == Reason::SourceLimited).count()
    };
    assert_eq!(limited(Scene::START, 1000), 4);
    assert_eq!(limited(Scene::START.plus(1), 1100), 4, "a period later it is whole again");
    assert_eq!(limited(Scene::START.plus(900), 1200), 4, "and no more than whole after a long time");
}

#[test]
fn a_service_takes_no_more_than_its_total() {
    let tables = tables();
    let host = host(&tables, Scene::START);
    let source = |n: u32| IpAddr::from(Ipv4Addr::from(0xcb00_7100 + n * 4));
    let reasons: Vec<Reason> = (0..60).map(|n| run(&host, &syn(source(n), 1000))).collect();
    assert_eq!(reasons[..40], [Reason::FlowNew; 40]);
    assert_eq!(reasons[40..], [Reason::TotalLimited; 20]);
}

#[test]
fn a_flood_of_sources_neither_frees_one_that_hammers_nor_uses_up_anybodys_allowance() {
    let tables = tables();
    tables.slices().limits[service() as usize].total_interval.set(0);
    let host = host(&tables, Scene::START);
    let hammer = |port: u16| run(&host, &syn(client(Family::V4, 1), port));
    assert_eq!((0..4).map(hammer).collect::<Vec<_>>(), [Reason::FlowNew; 4]);
    // More sources than the table has places.
    for n in 0..400_000_u32 {
        let source = IpAddr::from(Ipv4Addr::from(0x1400_0000 + n * 4));
        let reason = run(&host, &syn(source, 1000));
        assert!(matches!(reason, Reason::FlowNew | Reason::FlowTableFull), "source {n}: {reason:?}");
    }
    assert_eq!(hammer(5000), Reason::SourceLimited, "who lacks most is not driven out");
    assert_ne!(run(&host, &syn(client(Family::V4, 20), 1000)), Reason::SourceLimited);
}

#[test]
fn sources_that_nobody_can_have_start_no_flow() {
    let cases: [(&str, Reason); 10] = [
        ("127.0.0.1", Reason::Martian),
        ("0.0.0.0", Reason::Martian),
        ("0.1.2.3", Reason::Martian),
        ("224.0.0.1", Reason::Martian),
        ("239.255.255.255", Reason::Martian),
        ("255.255.255.255", Reason::Martian),
        ("240.0.0.1", Reason::FlowNew),
        ("::1", Reason::Martian),
        ("::", Reason::Martian),
        ("ff02::1", Reason::Martian),
    ];
    for (source, expected) in cases {
        let source: IpAddr = source.parse().expect("an address");
        for transport in [Transport::Tcp { flags: 2, options: 0 }, Transport::Udp] {
            let family = if source.is_ipv4() { Family::V4 } else { Family::V6 };
            // One service remembers flows, one does not, one is in mode `nat`.
            for service in [2, 82, Scene::translated(2) as u16] {
                let spec = PacketSpec::syn(source, vip(family, 0), (5000, PORTS_FIRST + service))
                    .carrying(transport);
                let tables = tables();
                let reason = run(&host(&tables, Scene::START), &spec);
                let reason = if reason == Reason::Untracked { Reason::FlowNew } else { reason };
                assert_eq!(reason, expected, "{source} to service {service}");
            }
        }
    }
}

#[test]
fn a_vip_as_its_own_client_is_let_in_unless_the_port_is_its_own_too() {
    for family in FAMILIES {
        let tables = tables();
        let host = host(&tables, Scene::START);
        let own = |port| PacketSpec::syn(vip(family, 0), vip(family, 0), (port, PORTS_FIRST + 2));
        assert_eq!(run(&host, &own(PORTS_FIRST + 2)), Reason::Martian);
        assert_eq!(run(&host, &own(40_000)), Reason::FlowNew);
    }
}

#[test]
fn what_has_no_hop_left_is_dropped_and_one_hop_is_enough() {
    for family in FAMILIES {
        let at = if family == Family::V4 { 22 } else { 21 };
        let with_ttl = |mut frame: Vec<u8>, ttl: u8| {
            frame[at] = ttl;
            frame
        };
        let spec = PacketSpec::syn(client(family, 1), vip(family, 0), (5000, PORTS_FIRST + 2));
        let echo = IcmpSpec::echo(client(family, 1), vip(family, 0), 8).frame_like(&spec);
        let fragment =
            PacketSpec { payload: 600, ..spec.clone() }.carrying(Transport::Udp).fragments(7, 512)[0].clone();
        for (frame, lives) in
            [(spec.frame(), Reason::FlowNew), (echo, Reason::EchoAnswered), (fragment, Reason::FlowNew)]
        {
            for (ttl, expected) in [(0, Reason::TtlExpired), (1, lives)] {
                let tables = tables();
                let ran = host(&tables, Scene::START).run(&with_ttl(frame.clone(), ttl), 256);
                assert_eq!(ran.outcome.reason, expected, "TTL {ttl}");
            }
        }
    }
}
