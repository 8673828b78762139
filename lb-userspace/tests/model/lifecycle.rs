//! Ids, tables and records over their life: drain, removal, reuse, limits, next hops, flows taken along.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use lb_common::forward::constant_sum;
use lb_common::layout::{BackendState, EgressWord, HotWord, Span};
use lb_common::reason::Reason;
use lb_common::time::{TICK_NS, Tick};
use lb_userspace::apply::{Applier, ApplyError, Limit, REMOVE_AFTER, Stored};
use lb_userspace::config::model::{Config, Ports};
use lb_userspace::desired::{BackendView, Desired, HopRecord};
use lb_userspace::flows;

use crate::frames::Kind;
use crate::world::{
    World, client, desired, hop_key, hop_record, limits, maps, pool, port, service, vip, web,
};

fn without(config: &Config, backend: &str) -> Config {
    let mut config = config.clone();
    config.pools.get_mut("web").unwrap().backends.remove(backend);
    config
}

fn state(world: &World, id: u16) -> BackendState {
    HotWord(world.maps.backends[usize::from(id)].hot.get()).state()
}

#[test]
fn a_removed_backend_keeps_its_flows_and_its_id_until_the_last_is_over() {
    let config = web(limits(), 5);
    let mut world = World::new(&config);
    let flow = |number: u32| (client(number, Kind::Ack), world.to(&client(number, Kind::Ack)).1);
    let flows: Vec<_> = (0..300).map(flow).filter(|(_, name)| name == "b-002").collect();
    let id = world.applier.slots().id("web", "b-002").unwrap();
    let summary = world.apply(&without(&config, "b-002")).unwrap();
    assert_eq!((summary.backends_removed, summary.tables_published), (1, 1));
    assert_eq!(state(&world, id), BackendState::Draining);
    assert_eq!(world.applier.slots().id("web", "b-002"), None);
    assert_eq!(world.maps.backend_info[usize::from(id)].removed, 1);
    for number in 1000..2000 {
        assert_ne!(world.to(&client(number, Kind::Syn)).1, "b-002");
    }
    for _ in 0..8 {
        world.after_ticks(10);
        for (packet, name) in &flows {
            assert_eq!(world.to(packet), (Reason::FlowKnown, name.clone()));
        }
        world.tick();
        assert_eq!(state(&world, id), BackendState::Draining);
    }
    // Then the clients fall silent.
    world.after_ticks(1900);
    world.tick();
    assert_eq!(state(&world, id), BackendState::Absent);
    assert_eq!(world.to(&flows[0].0).0, Reason::FlowRehomed);
    world.after_ticks(1);
    world.tick();
    world.after_ticks(1);
    world.tick();
    assert_eq!(world.maps.backend_info[usize::from(id)].name.as_str(), "");
    assert!(!world.applier.wants_sweep());
}

#[test]
fn a_removed_backend_that_never_drains_goes_after_the_longest_drain() {
    let config = web(limits(), 5);
    let mut world = World::new(&config);
    let id = world.applier.slots().id("web", "b-002").unwrap();
    let found = (0..300).map(|number| client(number, Kind::Ack)).find(|packet| world.to(packet).1 == "b-002");
    let packet = found.unwrap();
    world.apply(&without(&config, "b-002")).unwrap();
    let start = world.now_ns;
    while world.now_ns - start < REMOVE_AFTER.as_nanos() as u64 {
        assert_eq!(world.to(&packet), (Reason::FlowKnown, "b-002".into()));
        world.tick();
        world.after(Duration::from_secs(20));
    }
    world.tick();
    assert_eq!(state(&world, id), BackendState::Absent);
    assert_eq!(world.to(&packet).0, Reason::FlowRehomed);
}

#[test]
fn a_backend_that_returns_before_it_drained_has_its_id_and_flows() {
    let config = web(limits(), 5);
    let mut world = World::new(&config);
    let id = world.applier.slots().id("web", "b-002");
    let found = (0..300).map(|number| client(number, Kind::Ack)).find(|packet| world.to(packet).1 == "b-002");
    let packet = found.unwrap();
    world.apply(&without(&config, "b-002")).unwrap();
    world.after_ticks(1);
    world.apply(&config).unwrap();
    assert_eq!(world.applier.slots().id("web", "b-002"), id);
    assert_eq!(state(&world, id.unwrap()), BackendState::Active);
    assert_eq!(world.to(&packet), (Reason::FlowKnown, "b-002".into()));
    assert_eq!(world.applier.leaving().count(), 0);
}

#[test]
fn a_reused_backend_id_has_a_new_generation_and_no_flow_of_its_old_holder() {
    let mut limits = limits();
    limits.backends = 3;
    let mut config = web(limits, 3);
    let mut world = World::new(&config);
    let id = world.applier.slots().id("web", "b-001").unwrap();
    let generation = HotWord(world.maps.backends[usize::from(id)].hot.get()).generation();
    config = without(&config, "b-001");
    world.apply(&config).unwrap();
    config.pools.get_mut("web").unwrap().backends.extend(pool("web", 7, 1).backends.into_values().map(
        |mut new| {
            new.name = "new".into();
            ("new".into(), new)
        },
    ));
    assert_eq!(world.apply(&config), Err(ApplyError::Full(Limit::Backends)));
    // The table before names it for ten minutes.
    for _ in 0..20 {
        world.after(Duration::from_secs(10));
        world.tick();
    }
    assert_eq!(world.apply(&config), Err(ApplyError::Full(Limit::Backends)));
    for _ in 0..60 {
        world.after(Duration::from_secs(10));
        world.tick();
    }
    world.apply(&config).unwrap();
    assert_eq!(world.applier.slots().id("web", "new"), Some(id));
    let hot = HotWord(world.maps.backends[usize::from(id)].hot.get());
    assert_eq!((hot.state(), hot.generation()), (BackendState::Active, generation + 1));
}

#[test]
fn a_vip_id_is_not_given_to_another_address_while_a_flow_entry_names_it() {
    let mut config = web(limits(), 3);
    let mut world = World::new(&config);
    let packet = client(1, Kind::Ack);
    world.to(&packet);
    let id = |world: &World, address: &str| {
        let wanted: std::net::IpAddr = address.parse().unwrap();
        let bytes = match wanted {
            std::net::IpAddr::V4(v4) => v4.octets().to_vec(),
            std::net::IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        world.maps.vip_info.iter().position(|info| info.name.len != 0 && info.address.starts_with(&bytes))
    };
    let first = id(&world, "198.51.100.10");
    config.vips.insert("edge".into(), vip("edge", &["2001:db8::10"]));
    world.apply(&config).unwrap();
    assert_eq!(world.send(&packet).reason, Reason::NotVip);
    assert_eq!(id(&world, "198.51.100.10"), first, "still held");
    for _ in 0..3 {
        world.after_ticks(1);
        world.tick();
    }
    assert_eq!(id(&world, "198.51.100.10"), None, "free once its entries are forgotten");
    assert_eq!(flows::list(&world.maps, Tick::from_ns(world.now_ns)).count(), 0);
}

#[test]
fn what_does_not_fit_changes_nothing_and_names_the_limit() {
    let base = web(limits(), 5);
    let mut world = World::new(&base);
    let image = |world: &World| -> Vec<u64> {
        let services = world.maps.services.iter().map(|service| service.forward.get());
        let pools = world.maps.pools.iter().flat_map(|pool| [pool.current.get(), pool.usable.get()]);
        let ports = world.maps.ports.iter().flat_map(|line| line.entries.iter().map(|entry| entry.get()));
        let backends = world.maps.backends.iter().map(|backend| backend.hot.get());
        services.chain(pools).chain(ports).chain(backends).collect()
    };
    let before = image(&world);
    let mut too_many_backends = base.clone();
    too_many_backends.pools.insert("more".into(), pool("more", 2, 200));
    let mut too_many_services = base.clone();
    for number in 0..20u16 {
        let name = format!("s{number}");
        too_many_services.services.insert(name.clone(), service(&name, "edge", port(1000 + number), "web"));
    }
    let mut too_many_pools = base.clone();
    for number in 0..40u8 {
        let name = format!("p{number}");
        too_many_pools.pools.insert(name.clone(), pool(&name, number, 1));
    }
    let mut too_many_ports = base.clone();
    let ports = Ports::Ranges((0..2000).map(|number| (2000 + number * 2, 2000 + number * 2)).collect());
    too_many_ports.services.insert("many".into(), service("many", "edge", ports, "web"));
    let mut too_big = base.clone();
    too_big.services.get_mut("web").unwrap().table_size = Some(1_048_583);
    let mut too_many_vips = base.clone();
    for number in 0..60u8 {
        let name = format!("v{number}");
        too_many_vips.vips.insert(name.clone(), vip(&name, &[&format!("192.0.2.{number}")]));
    }
    let cases = [
        (too_many_backends, Limit::Backends),
        (too_many_services, Limit::Services),
        (too_many_pools, Limit::Pools),
        (too_many_ports, Limit::PortIndex),
        (too_big, Limit::Maglev),
        (too_many_vips, Limit::Vips),
    ];
    for (config, limit) in cases {
        assert_eq!(world.apply(&config), Err(ApplyError::Full(limit)));
        assert!(image(&world) == before, "{limit} wrote");
        assert_eq!(world.apply(&base).unwrap().writes, 0, "{limit}");
    }
    let mut ranges = base.clone();
    let many = (0..33).map(|number| (1000 + number * 10, 1005 + number * 10)).collect();
    ranges.services.insert("many".into(), service("many", "edge", Ports::Ranges(many), "web"));
    let refused = world.apply(&ranges).unwrap_err().to_string();
    assert!(refused.contains("vip edge: 66 port ranges"), "{refused}");
}

#[test]
fn tables_under_replacement_give_their_lines_back() {
    let mut config = web(limits(), 5);
    let mut world = World::new(&config);
    // Each table takes a tenth of the map.
    config.services.get_mut("web").unwrap().table_size = Some(16381);
    for round in 0..200u16 {
        config.pools.get_mut("web").unwrap().backends.get_mut("b-001").unwrap().weight = 1 + round;
        world.apply(&config).unwrap();
        world.after(Duration::from_secs(2));
        world.tick();
        world.to(&client(round.into(), Kind::Syn));
    }
}

#[test]
fn a_next_hop_changes_by_one_flip_and_not_twice_within_a_packets_time() {
    let world_config = web(limits(), 2);
    let mut world = World::new(&world_config);
    let key = hop_key("10.1.0.1".parse().unwrap());
    let macs = |world: &World| -> Vec<[u8; 12]> {
        let hops = world.maps.next_hops.iter().filter_map(|hop| hop.current());
        hops.map(|copy| copy.macs).collect()
    };
    let mut record = hop_record(&key);
    assert!(macs(&world).contains(&record.copy.macs));
    let start = std::time::Instant::now();
    for last in 1..=20 {
        record.copy.macs[0] = last * 2;
        assert!(world.applier.set_next_hop(&key, record));
        assert!(macs(&world).contains(&record.copy.macs));
    }
    assert!(start.elapsed() >= Duration::from_millis(19), "{:?}", start.elapsed());
    let unresolved = HopRecord { resolved: false, ..record };
    world.applier.set_next_hop(&key, unresolved);
    assert!(!macs(&world).contains(&record.copy.macs));
    let lost = (0..100).filter(|number| world.send(&client(*number, Kind::Syn)).reason == Reason::NoNextHop);
    assert!((20..80).contains(&lost.count()));
    assert!(!world.applier.set_next_hop(&hop_key("10.9.9.9".parse().unwrap()), record));
}

#[test]
fn next_hops_that_no_backend_uses_are_free_again() {
    let mut limits = limits();
    limits.backends = 6;
    let mut world = World::new(&web(limits, 6));
    // Other addresses each time: other next hops, of which six fit.
    for round in 2..10 {
        let mut config = web(limits, 0);
        config.pools.insert("web".into(), pool("web", round, if round % 2 == 0 { 0 } else { 6 }));
        for _ in 0..80 {
            world.after(Duration::from_secs(10));
            world.tick();
        }
        world.apply(&config).unwrap();
    }
}

#[test]
fn a_changed_outer_source_is_prepared_then_selected_with_its_checksum() {
    let config = web(limits(), 1);
    let mut world = World::new(&config);
    let id = usize::from(world.applier.slots().id("web", "b-000").unwrap());
    let first = EgressWord(world.maps.backends[id].egress.get());
    let mut changed = Desired::clone(&desired(&config));
    let web = Arc::make_mut(changed.pools.get_mut("web").unwrap());
    let backend = web.backends.get_mut("b-000").unwrap();
    backend.egress.as_mut().unwrap().source = "10.0.0.2".parse().unwrap();
    let changed = Arc::new(changed);
    assert_eq!(world.applier.apply(&changed, world.now_ns).unwrap().writes, 2);
    let second = EgressWord(world.maps.backends[id].egress.get());
    assert_ne!(first.source(), second.source());
    assert_eq!(second.sum(), constant_sum([10, 0, 0, 2], [10, 1, 0, 1]));
    assert_eq!(world.maps.backends[id].sources[second.source()][..4], [10, 0, 0, 2]);
}

#[test]
fn flows_move_into_maps_of_another_size_with_class_and_deadline() {
    let config = web(limits(), 10);
    let world = World::new(&config);
    for number in 0..2000 {
        for kind in [Kind::Syn, Kind::Ack, Kind::Ack].into_iter().take(number as usize % 3 + 1) {
            world.send(&client(number, kind));
        }
    }
    let mut larger = limits();
    larger.flows_v4 = 40_000;
    larger.backends = 500;
    let now_ns = world.now_ns + 3 * TICK_NS;
    let mut other = World { maps: maps(&larger, 12345), now_ns, ..World::empty(&larger) };
    other.applier = Applier::adopt(other.maps.clone(), now_ns);
    let mut grown = config.clone();
    grown.pools.insert("aaa".into(), pool("aaa", 4, 100));
    other.apply(&grown).unwrap();
    let ids = flows::Translation::between(&world.maps, &other.maps);
    let carried = flows::carry(&world.maps, &other.maps, &ids, Tick::from_ns(now_ns));
    assert_eq!((carried.carried, carried.foreign, carried.full), (2000, 0, 0));
    let sorted = |world: &World| {
        let now = Tick::from_ns(now_ns);
        let mut flows: Vec<_> = flows::list(&world.maps, now)
            .map(|flow| {
                (flow.client, flow.client_port, flow.class as u8, flow.idle_s, world.name(flow.backend))
            })
            .collect();
        flows.sort();
        flows
    };
    assert_eq!(sorted(&world), sorted(&other));
    for number in 0..2000 {
        let before = world.to(&client(number, Kind::Ack));
        assert_eq!(other.to(&client(number, Kind::Ack)), before);
    }
}

#[test]
fn entries_that_expired_a_week_ago_are_forgotten() {
    let mut world = World::new(&web(limits(), 3));
    world.to(&client(1, Kind::Ack));
    let forget = |world: &World| -> usize {
        let now = Tick::from_ns(world.now_ns);
        (0..flows::PARTS).map(|part| flows::forget_old(&world.maps, part, now)).sum()
    };
    let listed = |world: &World| flows::list(&world.maps, Tick::from_ns(world.now_ns)).count();
    world.after(Duration::from_secs(6 * 86_400));
    assert_eq!((forget(&world), listed(&world)), (0, 0));
    world.after(Duration::from_secs(2 * 86_400));
    assert_eq!(forget(&world), 1);
    assert_eq!(forget(&world), 0);
    // Ticks wrap: what nobody forgets lives again.
    world.to(&client(2, Kind::Ack));
    world.after(Duration::from_secs(30 * 86_400));
    assert_eq!(listed(&world), 1);
}

#[test]
fn lists_of_usable_backends_alternate_and_name_members_only() {
    let world = World::new(&web(limits(), 40));
    let slots = world.applier.slots();
    let list = |world: &World| -> Vec<u16> {
        let pool = world.maps.pools.iter().find(|pool| pool.usable.get() != 0).unwrap();
        let span = Span(pool.usable.get());
        let lines = world.maps.maglev.iter().skip(span.line() as usize);
        lines.flat_map(|line| line.ids).take(span.len() as usize).collect()
    };
    let mut regions = BTreeSet::new();
    for round in 0..20u32 {
        let usable: Vec<u32> = (0..40).filter(|position| (position + round) % 3 != 0).collect();
        assert_eq!(slots.set_usable("web", &usable), Stored::Changed);
        assert_eq!(slots.set_usable("web", &usable), Stored::Unchanged);
        let expected: Vec<u16> =
            usable.iter().map(|position| slots.id("web", &format!("b-{position:03}")).unwrap()).collect();
        assert_eq!(list(&world), expected);
        regions.extend(world.maps.pools.iter().map(|pool| Span(pool.usable.get()).line()));
    }
    regions.remove(&0);
    assert!(regions.len() <= 2, "{regions:?}");
}

#[test]
fn a_slot_writer_from_before_a_removal_cannot_touch_an_id_with_a_new_holder() {
    let mut limits = limits();
    limits.backends = 3;
    let mut config = web(limits, 3);
    let mut world = World::new(&config);
    let stale = world.applier.slots();
    config = without(&config, "b-001");
    world.apply(&config).unwrap();
    for _ in 0..80 {
        world.after(Duration::from_secs(10));
        world.tick();
    }
    let down = BackendView { state: BackendState::Down, ..BackendView::up() };
    assert_eq!(stale.set_state("web", "b-001", &down), Stored::Unknown);
    let mut new = pool("web", 7, 1).backends.into_values().next().unwrap();
    new.name = "new".into();
    config.pools.get_mut("web").unwrap().backends.insert("new".into(), new);
    world.apply(&config).unwrap();
    assert_eq!(world.applier.slots().id("web", "new"), stale.id("web", "b-001"));
    assert_eq!(stale.set_state("web", "b-001", &down), Stored::Unknown);
    assert_eq!(world.applier.slots().hot("web", "new").unwrap().state(), BackendState::Active);
}

#[test]
fn ids_that_entries_name_stay_held_until_a_sweep_finds_none() {
    let config = web(limits(), 5);
    let mut world = World::new(&config);
    let packet =
        (0..300).map(|number| client(number, Kind::Ack)).find(|packet| world.to(packet).1 == "b-002");
    assert!(packet.is_some());
    let backend = usize::from(world.applier.slots().id("web", "b-002").unwrap());
    let vip_id = world.maps.vip_info.iter().position(|info| info.family == 4).unwrap();
    let mut config = without(&config, "b-002");
    config.vips.insert("edge".into(), vip("edge", &["2001:db8::10"]));
    world.apply(&config).unwrap();
    let held = |world: &World| {
        (world.maps.backend_info[backend].name.len != 0, world.maps.vip_info[vip_id].name.len != 0)
    };
    // Sweeps that forget nothing: the entries go on naming both ids, also once they have expired.
    for _ in 0..100 {
        world.after(Duration::from_secs(100));
        let sweep = flows::sweep(&world.maps, world.now_ns, &flows::Purge::default());
        world.applier.tick(world.now_ns, Some(&sweep));
        assert_eq!(held(&world), (true, true));
    }
    // Without a sweep nothing is known of the entries.
    world.applier.tick(world.now_ns, None);
    assert_eq!(held(&world), (true, true));
    world.tick();
    assert_eq!(held(&world), (false, false));
}

#[test]
fn what_packets_in_flight_may_have_found_is_taken_back_after_a_grace_time() {
    let mut config = web(limits(), 3);
    config.pools.insert("other".into(), pool("other", 2, 3));
    config.services.insert("other".into(), service("other", "edge", port(81), "other"));
    let mut world = World::new(&config);
    let services = |world: &World| world.maps.services.iter().filter(|one| one.forward.get() != 0).count();
    let pools = |world: &World| world.maps.pools.iter().filter(|one| one.current.get() != 0).count();
    config.services.remove("other");
    config.pools.remove("other");
    world.apply(&config).unwrap();
    world.after(Duration::from_millis(900));
    world.tick();
    assert_eq!((services(&world), pools(&world)), (2, 2));
    world.after(Duration::from_millis(200));
    world.tick();
    assert_eq!((services(&world), pools(&world)), (1, 1));
}
