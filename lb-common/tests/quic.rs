//! QUIC by connection IDs: what names a server goes there, from wherever it comes; all else goes by addresses and ports.
#![cfg(not(loom))]

use lb_common::layout::{BackendState, Family};
use lb_common::reason::Reason;
use weir_model::{
    CID_CONFIG, Host, OTHER_CID_CONFIG, PORTS_FIRST, PacketSpec, Plain, QuicHeader, Scene, SceneSizes,
    Transport, client, quic, vip,
};

/// A pool whose backends are all active; its service takes datagrams away from those that are down.
const POOL: u32 = 3;

fn tables() -> Plain {
    let mut tables = Plain::new(&SceneSizes::SMALL);
    Scene::fill(&mut tables, &SceneSizes::SMALL.geometry(Scene::START));
    for backend in Scene::backends_of(POOL) {
        Scene::next_hop_of(&mut tables, backend, 1);
    }
    tables
}

/// Reason, and the place in its pool of the backend that got the frame.
fn run(tables: &Plain, frame: &[u8]) -> (Reason, Option<u32>) {
    let host = Host::new(tables.slices(), SceneSizes::SMALL.geometry(Scene::START));
    let ran = host.run(frame, 256);
    let got = host.totals().backends.iter().position(|counter| counter.packets > 0);
    (ran.outcome.reason, got.map(|id| id as u32 - Scene::backends_of(POOL).start))
}

fn datagram(family: Family, from: u16, header: QuicHeader, cid: &[u8]) -> Vec<u8> {
    let ports = (from, PORTS_FIRST + Scene::quic(POOL) as u16);
    let spec = PacketSpec::syn(client(family, 1), vip(family, 0), ports).carrying(Transport::Udp);
    quic(PacketSpec { payload: 64, ..spec }, header, cid)
}

/// A connection ID of the scene's `n`-th backend: first octet, server id, nonce.
fn cid(n: u32, config: (u8, u8)) -> Vec<u8> {
    let (bytes, length) = Scene::server_id(POOL, n, config).bytes();
    let mut cid = vec![config.0 << 5 | 0x13];
    cid.extend_from_slice(&bytes[..length]);
    cid.extend_from_slice(&[0x5a; 4]);
    cid
}

#[test]
fn a_connection_id_names_its_server_from_any_port_in_both_headers_and_configurations() {
    for family in [Family::V4, Family::V6] {
        for header in [QuicHeader::Short, QuicHeader::Long] {
            for config in [CID_CONFIG, OTHER_CID_CONFIG] {
                let tables = tables();
                for n in 0..8 {
                    for port in [50_000, 50_001] {
                        // From one port come the connections of several clients behind a NAT.
                        let frame = datagram(family, port, header, &cid(n, config));
                        assert_eq!(
                            run(&tables, &frame),
                            (Reason::QuicRouted, Some(n)),
                            "{header:?} {config:?} {port}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn what_names_no_server_goes_by_addresses_and_ports() {
    let (octet, other) = (CID_CONFIG.0 << 5, OTHER_CID_CONFIG.0 << 5);
    let known = |first: u8| [&[first][..], &cid(1, CID_CONFIG)[1..]].concat();
    let cases = [
        ("the reserved configuration", QuicHeader::Short, known(0xe0)),
        ("a configuration that is not in use", QuicHeader::Short, known(0x00)),
        ("a server id of another configuration", QuicHeader::Short, known(other)),
        ("a server id that nobody has", QuicHeader::Short, vec![octet, 9, 9, 9, 1, 2, 3, 4]),
        (
            "a connection ID that ends within the server id",
            QuicHeader::Long,
            cid(1, CID_CONFIG)[..3].to_vec(),
        ),
        ("an empty connection ID", QuicHeader::Long, Vec::new()),
    ];
    for (what, header, cid) in cases {
        let tables = tables();
        let frame = datagram(Family::V4, 50_000, header, &cid);
        let (reason, home) = run(&tables, &frame);
        assert_eq!(reason, Reason::FlowNew, "{what}");
        assert_eq!(run(&tables, &frame), (Reason::FlowKnown, home), "{what}");
    }
    let tables = tables();
    let whole = datagram(Family::V4, 50_000, QuicHeader::Short, &cid(1, CID_CONFIG));
    let mut short = PacketSpec::syn(
        client(Family::V4, 1),
        vip(Family::V4, 0),
        (50_000, PORTS_FIRST + Scene::quic(POOL) as u16),
    )
    .carrying(Transport::Udp);
    short.payload = 10;
    let mut cut = short.frame();
    cut[42..52].copy_from_slice(&whole[42..52]);
    assert_eq!(run(&tables, &cut).0, Reason::FlowNew, "too short for a sealed packet");
}

#[test]
fn a_flow_follows_its_connection_id_and_stays_where_that_was() {
    let tables = tables();
    let initial = datagram(Family::V4, 50_000, QuicHeader::Long, &[0x00, 1, 2, 3, 4, 5, 6, 7]);
    let (reason, home) = run(&tables, &initial);
    assert_eq!(reason, Reason::FlowNew);
    let named = (home.expect("a backend has it") + 1) % 8;
    let frame = datagram(Family::V4, 50_000, QuicHeader::Short, &cid(named, CID_CONFIG));
    assert_eq!(run(&tables, &frame), (Reason::QuicRouted, Some(named)));
    assert_eq!(run(&tables, &initial), (Reason::FlowKnown, Some(named)), "its entry is of the named backend");
}

#[test]
fn a_drained_server_keeps_its_connections_and_gets_none_by_a_clients_choice() {
    let mut tables = tables();
    Scene::set_state(&mut tables, Scene::backends_of(POOL).start + 3, BackendState::Draining);
    let moved = datagram(Family::V6, 50_000, QuicHeader::Short, &cid(3, CID_CONFIG));
    assert_eq!(run(&tables, &moved), (Reason::QuicRouted, Some(3)));
    let chosen = datagram(Family::V6, 50_001, QuicHeader::Long, &cid(3, CID_CONFIG));
    let (reason, got) = run(&tables, &chosen);
    assert!(reason == Reason::FlowNew && got != Some(3), "{reason:?} {got:?}");
}

#[test]
fn a_server_that_is_down_gets_nothing_and_its_connections_go_elsewhere() {
    let mut tables = tables();
    Scene::set_state(&mut tables, Scene::backends_of(POOL).start + 3, BackendState::Down);
    for header in [QuicHeader::Short, QuicHeader::Long] {
        let (reason, got) = run(&tables, &datagram(Family::V4, 50_000, header, &cid(3, CID_CONFIG)));
        assert!(
            matches!(reason, Reason::FlowNew | Reason::FlowKnown) && got != Some(3),
            "{reason:?} {got:?}"
        );
    }
}

#[test]
fn tcp_and_fragments_are_not_read_for_connection_ids() {
    let tables = tables();
    let ports = (50_000, PORTS_FIRST + Scene::quic(POOL) as u16);
    let tcp = PacketSpec::syn(client(Family::V4, 1), vip(Family::V4, 0), ports);
    assert_eq!(run(&tables, &tcp.frame()).0, Reason::FlowNew);
    let spec = PacketSpec { payload: 2000, ..tcp.carrying(Transport::Udp) };
    assert_eq!(run(&tables, &spec.fragments(1, 1200)[0]).0, Reason::FlowNew);
}
