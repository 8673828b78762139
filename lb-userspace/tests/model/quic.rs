//! Server ids in the maps: what connection IDs name over a backend's life.

use lb_common::layout::{CidConfigs, ServerId};
use lb_common::reason::Reason;
use lb_userspace::apply::ApplyError;
use lb_userspace::config::model::{CidConfig, Config};

use crate::frames::Kind;
use crate::world::{World, client, limits, web};

/// The `n`-th server's id.
fn id(n: usize) -> ServerId {
    ServerId::new(&[0xc0, n as u8]).unwrap()
}

/// A service of five backends by connection IDs.
fn config() -> Config {
    let mut config = web(limits(), 5);
    config.services.get_mut("web").unwrap().quic = vec![CidConfig { config_id: 3, server_id_length: 2 }];
    for (n, backend) in config.pools.get_mut("web").unwrap().backends.values_mut().enumerate() {
        backend.server_ids = vec![id(n)];
    }
    config
}

/// Reason and backend of a datagram to a connection ID of this server, from any client.
fn sent(world: &World, number: u32, server: ServerId) -> (Reason, String) {
    let (bytes, length) = server.bytes();
    let mut payload = vec![0x40, 3 << 5 | 9];
    payload.extend_from_slice(&bytes[..length]);
    payload.resize(40, 7);
    world.datagram(&client(number, Kind::Udp), &payload)
}

#[test]
fn connection_ids_name_servers_from_any_client_until_the_service_goes_by_flows() {
    let mut config = config();
    let mut world = World::new(&config);
    for number in 0..100 {
        let n = number as usize % 5;
        assert_eq!(sent(&world, number, id(n)), (Reason::QuicRouted, format!("b-{n:03}")));
        assert_eq!(sent(&world, number + 1000, id(n)).1, format!("b-{n:03}"));
    }
    let service = &world.maps.services[1];
    assert_eq!(CidConfigs(service.quic.get()).length(3 << 5), 2);
    config.services.get_mut("web").unwrap().quic.clear();
    world.apply(&config).unwrap();
    assert_eq!(sent(&world, 2000, id(1)).0, Reason::FlowNew);
}

#[test]
fn a_removed_server_keeps_its_connections_and_loses_its_ids_with_its_own() {
    let whole = config();
    let mut world = World::new(&whole);
    let mut config = whole.clone();
    config.pools.get_mut("web").unwrap().backends.remove("b-002");
    assert_eq!(sent(&world, 0, id(2)).1, "b-002");
    world.apply(&config).unwrap();
    assert_eq!(
        sent(&world, 1, id(2)),
        (Reason::QuicRouted, "b-002".into()),
        "it drains, and the client has moved"
    );
    world.after_ticks(100);
    (0..3).for_each(|_| {
        world.tick();
        world.after_ticks(100);
    });
    assert_eq!(sent(&world, 2, id(2)).0, Reason::FlowNew, "its connections are over");
    let named =
        |line: &lb_common::layout::IndexLine| line.entries.iter().filter(|entry| entry.get() != 0).count();
    assert_eq!(world.maps.servers.iter().map(named).sum::<usize>(), 4);
    // Another server may have the id then.
    let mut again = config.clone();
    let pool = again.pools.get_mut("web").unwrap();
    let mut new = pool.backends["b-001"].clone();
    (new.name, new.address, new.server_ids) = ("b-new".into(), "10.1.9.9".parse().unwrap(), vec![id(2)]);
    pool.backends.insert("b-new".into(), new);
    world.apply(&again).unwrap();
    assert_eq!(sent(&world, 3, id(2)), (Reason::QuicRouted, "b-new".into()));
}

#[test]
fn a_server_may_change_its_id_or_give_it_to_another() {
    let mut config = config();
    let mut world = World::new(&config);
    let backends = &mut config.pools.get_mut("web").unwrap().backends;
    backends.get_mut("b-001").unwrap().server_ids = vec![id(4)];
    backends.get_mut("b-004").unwrap().server_ids = vec![id(1), ServerId::new(&[1, 2, 3]).unwrap()];
    world.apply(&config).unwrap();
    assert_eq!((sent(&world, 0, id(4)).1, sent(&world, 1, id(1)).1), ("b-001".into(), "b-004".into()));
    let again = world.apply(&config).unwrap();
    assert_eq!(again.writes, 0, "what is as it should be is not written");
}

#[test]
fn an_adopter_finds_server_ids_as_they_are() {
    let config = config();
    let world = World::new(&config);
    let mut applier = lb_userspace::apply::Applier::adopt(world.maps.clone(), world.now_ns);
    let writes = applier.apply(&crate::world::desired(&config), world.now_ns).unwrap().writes;
    assert_eq!(writes, 0);
    assert_eq!(sent(&world, 0, id(3)).1, "b-003");
}

#[test]
fn two_servers_with_one_id_are_refused_and_nothing_is_written() {
    let mut config = config();
    let mut world = World::new(&config);
    config.pools.get_mut("web").unwrap().backends.get_mut("b-001").unwrap().server_ids = vec![id(0)];
    let expected = ApplyError::ServerId { pool: "web".into(), id: id(0).to_string() };
    assert_eq!(world.apply(&config).unwrap_err(), expected);
    assert_eq!(sent(&world, 0, id(1)).1, "b-001");
}
