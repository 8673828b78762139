//! The rules of the flow table and of selection, one by one.

use std::collections::BTreeMap;

use lb_common::flow::Class;
use lb_common::layout::{BackendState, LastResort, MAX_ADMIT};
use lb_common::reason::Reason;
use lb_common::time::Tick;
use lb_userspace::config::model;
use lb_userspace::desired::{BackendView, PoolView};
use lb_userspace::flows;

use crate::frames::{Kind, Packet};
use crate::world::{World, client, limits, web};

/// Sets a backend's slot, and the list of those that take new flows.
fn set(world: &World, backend: &str, state: BackendState, admit: u16) {
    let slots = world.applier.slots();
    slots.set_state("web", backend, &BackendView { state, admit, ..BackendView::up() });
    let names: Vec<String> = world
        .maps
        .backend_info
        .iter()
        .map(|info| info.name.as_str().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    let active =
        |name: &String| slots.hot("web", name).is_some_and(|hot| hot.state() == BackendState::Active);
    let mut names_sorted = names;
    names_sorted.sort();
    let usable: Vec<u32> = names_sorted
        .iter()
        .enumerate()
        .filter(|(_, name)| active(name))
        .map(|(position, _)| position as u32)
        .collect();
    slots.set_usable("web", &usable);
}

/// A flow in this class, at its backend.
fn flow(world: &World, number: u32, class: Class) -> (Packet, String) {
    let packet = client(number, Kind::Ack);
    let kinds: &[Kind] = match class {
        Class::Embryonic => &[Kind::Syn],
        Class::Answered => &[Kind::Syn, Kind::Ack],
        Class::Young => &[Kind::Ack],
        Class::Proven => &[Kind::Syn, Kind::Ack, Kind::Ack],
        Class::Closing => &[Kind::Syn, Kind::Ack, Kind::Ack, Kind::Fin],
        Class::Ended => &[Kind::Syn, Kind::Fin],
        Class::Empty => &[],
    };
    let name = kinds
        .iter()
        .map(|kind| world.to(&packet.with(*kind)).1)
        .fold(None, |_, name| Some(name))
        .unwrap_or_default();
    assert_eq!(class_of(world, &packet), Some(class));
    (packet, name)
}

fn class_of(world: &World, packet: &Packet) -> Option<Class> {
    let mut flows = flows::list(&world.maps, Tick::from_ns(world.now_ns));
    flows
        .find(|flow| (flow.client, flow.client_port) == (packet.client, packet.client_port))
        .map(|flow| flow.class)
}

#[test]
fn a_known_flow_stays_while_its_backend_may_serve_it() {
    use BackendState::{Active, Down, DownSoft, Draining, Suspect};
    use model::OnDown::{Auto, Keep, Reselect};
    let cases = [
        (Auto, Active, true),
        (Auto, Draining, true),
        (Auto, Suspect, true),
        (Auto, DownSoft, true),
        (Auto, Down, false),
        (Reselect, Suspect, true),
        (Reselect, DownSoft, false),
        (Reselect, Down, false),
        (Keep, DownSoft, true),
        (Keep, Down, true),
    ];
    for (on_down, state, stays) in cases {
        let mut config = web(limits(), 5);
        config.services.get_mut("web").unwrap().on_down = on_down;
        let world = World::new(&config);
        let (packet, name) = flow(&world, 1, Class::Proven);
        set(&world, &name, state, MAX_ADMIT);
        let (reason, after) = world.to(&packet);
        let expected = if stays { Reason::FlowKnown } else { Reason::FlowRehomed };
        assert_eq!((reason, after == name), (expected, stays), "{on_down:?} {state:?}");
        // A flow that was selected anew stays where it went, also when its old backend comes back.
        set(&world, &name, Active, MAX_ADMIT);
        assert_eq!(world.to(&packet), (Reason::FlowKnown, after));
    }
}

#[test]
fn a_syn_on_a_known_flow_starts_anew_or_not_by_class_backend_and_idle_time() {
    use BackendState::{Active, Draining, Suspect};
    // Class, backend's state, idle ticks, whether the SYN starts a new flow.
    let cases = [
        (Class::Embryonic, Active, 0, false),
        (Class::Embryonic, Draining, 0, true),
        (Class::Embryonic, Suspect, 0, true),
        (Class::Young, Active, 0, false),
        (Class::Young, Draining, 0, false),
        (Class::Proven, Active, 0, false),
        (Class::Proven, Active, 1000, false),
        (Class::Proven, Draining, 0, false),
        (Class::Proven, Draining, 1, false),
        (Class::Proven, Draining, 2, true),
        (Class::Proven, Suspect, 2, true),
        (Class::Closing, Active, 0, true),
        (Class::Closing, Draining, 0, true),
        (Class::Ended, Active, 0, true),
        (Class::Proven, Active, 1900, true),
        (Class::Embryonic, Active, 20, true),
    ];
    for (class, state, idle, anew) in cases {
        let mut world = World::new(&web(limits(), 5));
        let (packet, name) = flow(&world, 1, class);
        set(&world, &name, state, MAX_ADMIT);
        world.after_ticks(idle);
        let (reason, after) = world.to(&packet.with(Kind::Syn));
        let expected = if anew { Reason::FlowNew } else { Reason::FlowKnown };
        assert_eq!(reason, expected, "{class:?} {state:?} idle {idle}");
        assert_eq!(after == name, state == Active || !anew, "{class:?} {state:?} idle {idle}");
        let now = class_of(&world, &packet);
        assert_eq!(now, Some(if anew { Class::Embryonic } else { class }), "{class:?} {state:?} idle {idle}");
    }
}

#[test]
fn a_draining_backend_gets_no_new_flow_and_no_reused_port() {
    let world = World::new(&web(limits(), 5));
    let (packet, name) = flow(&world, 1, Class::Proven);
    set(&world, &name, BackendState::Draining, MAX_ADMIT);
    world.to(&packet.with(Kind::Fin));
    let (reason, after) = world.to(&packet.with(Kind::Syn));
    assert_eq!(reason, Reason::FlowNew);
    assert_ne!(after, name);
    for number in 100..1100 {
        for kind in [Kind::Syn, Kind::Udp] {
            assert_ne!(world.to(&client(number, kind)).1, name);
        }
    }
}

#[test]
fn a_packet_without_syn_and_entry_ignores_drain_and_admit_but_not_down() {
    let world = World::new(&web(limits(), 5));
    let slot: Vec<String> = (0..500).map(|number| world.to(&client(number, Kind::Syn)).1).collect();
    // Another instance's flows: unknown here.
    let other = World::new(&web(limits(), 5));
    set(&other, "b-001", BackendState::Draining, MAX_ADMIT);
    set(&other, "b-002", BackendState::Active, 0);
    set(&other, "b-003", BackendState::Down, MAX_ADMIT);
    for (number, name) in (0..500).zip(&slot) {
        let (reason, after) = other.to(&client(number, Kind::Ack));
        assert_eq!(reason, Reason::FlowResumed);
        assert_eq!(after == *name, name != "b-003", "{name} {after}");
    }
}

#[test]
fn a_packet_without_syn_and_entry_goes_by_the_table_before_for_ten_minutes() {
    let before = web(limits(), 10);
    let mut after = before.clone();
    after.pools.get_mut("web").unwrap().backends.get_mut("b-000").unwrap().weight = 900;
    let old = World::new(&before);
    let slot: Vec<String> = (0..500).map(|number| old.to(&client(number, Kind::Syn)).1).collect();
    let mut world = World::new(&before);
    world.apply(&after).unwrap();
    world.after_ticks(139);
    let moved = (0..500).zip(&slot).filter(|(number, name)| {
        assert_eq!(world.to(&client(*number, Kind::Ack)).1, **name);
        world.to(&client(10_000 + number, Kind::Syn));
        let fresh = World::new(&after);
        *number < 20 && fresh.to(&client(*number, Kind::Syn)).1 != **name
    });
    assert!(moved.count() > 3, "the tables differ");
    world.after_ticks(2000);
    world.tick();
    let fresh = World::new(&after);
    for number in 20_000..20_500 {
        assert_eq!(world.to(&client(number, Kind::Ack)).1, fresh.to(&client(number, Kind::Syn)).1);
    }
}

#[test]
fn a_backend_that_is_down_is_refused_by_the_table_before_too() {
    let before = web(limits(), 10);
    let mut after = before.clone();
    after.pools.get_mut("web").unwrap().backends.get_mut("b-000").unwrap().weight = 900;
    let mut world = World::new(&before);
    world.apply(&after).unwrap();
    set(&world, "b-004", BackendState::Down, MAX_ADMIT);
    for number in 0..1000 {
        assert_ne!(world.to(&client(number, Kind::Ack)).1, "b-004");
    }
}

#[test]
fn admit_lets_its_share_of_new_flows_through() {
    let world = World::new(&web(limits(), 10));
    let share = |admit: u16| {
        set(&world, "b-005", BackendState::Active, admit);
        let numbers = u32::from(admit) * 100_000..u32::from(admit) * 100_000 + 40_000;
        numbers.filter(|number| world.to(&client(*number, Kind::Rst)).1 == "b-005").count();
        let numbers = u32::from(admit) * 100_000..u32::from(admit) * 100_000 + 40_000;
        numbers.filter(|number| world.to(&client(*number, Kind::Syn)).1 == "b-005").count() as f64
    };
    let full = share(1000);
    for admit in [0, 10, 100, 500] {
        let part = share(admit) / full;
        let expected = f64::from(admit) / 1000.0;
        // The list of usable backends is only for flows that five slots refused.
        assert!((part - expected).abs() < 0.03 + expected * 0.1, "{admit}: {part}");
    }
}

#[test]
fn nothing_usable_means_the_last_resort() {
    let cases = [
        (model::LastResort::Keep, LastResort::Keep, None),
        (model::LastResort::Reset, LastResort::Reset, Some(Reason::NoBackendReset)),
        (model::LastResort::Drop, LastResort::Drop, Some(Reason::NoBackend)),
    ];
    for (configured, stored, refused) in cases {
        let mut config = web(limits(), 5);
        config.pools.get_mut("web").unwrap().last_resort = configured;
        let world = World::new(&config);
        assert!(world.maps.pools.iter().skip(1).any(|pool| pool.last_resort.get() == stored as u64));
        let before: Vec<String> = (0..100).map(|number| world.to(&client(number, Kind::Syn)).1).collect();
        for number in 0..5 {
            set(&world, &format!("b-{number:03}"), BackendState::Down, MAX_ADMIT);
        }
        for (number, name) in (0..100).zip(&before) {
            let packet = client(number, Kind::Udp);
            match refused {
                Some(reason) => assert_eq!(world.send(&packet).reason, reason),
                None => {
                    assert_eq!(world.to(&packet).0, Reason::FlowNew);
                    assert_eq!(world.to(&client(number, Kind::Syn)).1, *name, "as if all were up");
                }
            }
        }
    }
}

#[test]
fn a_full_table_forwards_and_counts() {
    let mut limits = limits();
    limits.flows_v4 = 64;
    let world = World::new(&web(limits, 5));
    for number in 0..400 {
        for kind in [Kind::Syn, Kind::Ack, Kind::Ack] {
            world.to(&client(number, kind));
        }
    }
    let full: Vec<u32> =
        (0..400).filter(|number| world.to(&client(*number, Kind::Ack)).0 == Reason::FlowTableFull).collect();
    assert!(full.len() >= 400 - 128, "{}", full.len());
    let fresh = World::new(&web(limits, 5));
    for number in full {
        assert_eq!(world.to(&client(number, Kind::Ack)).1, fresh.to(&client(number, Kind::Rst)).1);
    }
}

#[test]
fn an_expired_entry_is_reused_by_others_but_serves_its_own_tcp_flow() {
    let mut world = World::new(&web(limits(), 5));
    let (tcp, name) = flow(&world, 1, Class::Proven);
    let udp = client(2, Kind::Udp);
    world.to(&udp);
    world.after_ticks(1900);
    assert_eq!(class_of(&world, &tcp), None, "not listed once expired");
    assert_eq!(world.to(&tcp), (Reason::FlowKnown, name));
    assert_eq!(class_of(&world, &tcp), Some(Class::Proven), "refreshed");
    assert_eq!(world.to(&udp).0, Reason::FlowNew, "an expired udp entry is nobody's");
}

#[test]
fn steady_traffic_refreshes_and_idle_time_counts() {
    let mut world = World::new(&web(limits(), 5));
    let (packet, _) = flow(&world, 1, Class::Proven);
    for _ in 0..3000 {
        world.after_ticks(1);
        assert_eq!(world.to(&packet).0, Reason::FlowKnown);
    }
    world.after_ticks(10);
    let flow = flows::list(&world.maps, Tick::from_ns(world.now_ns)).next().unwrap();
    assert_eq!((flow.class, flow.idle_s), (Class::Proven, Some(42)));
    assert_eq!((flow.client, flow.client_port, flow.port), (packet.client, packet.client_port, 80));
    assert_eq!(world.maps.service_info[usize::from(flow.service.unwrap())].name.as_str(), "web");
}

#[test]
fn an_untracked_service_leaves_no_entry() {
    let mut config = web(limits(), 5);
    config.services.get_mut("web").unwrap().track = false;
    let world = World::new(&config);
    let first = world.to(&client(1, Kind::Udp));
    assert_eq!(first.0, Reason::Untracked);
    assert_eq!(world.to(&client(1, Kind::Udp)), first);
    assert_eq!(flows::list(&world.maps, Tick::from_ns(world.now_ns)).count(), 0);
}

#[test]
fn ipv6_flows_are_known_and_listed() {
    let world = World::new(&web(limits(), 5));
    let packet = Packet {
        client: "2001:db8:1::9".parse().unwrap(),
        client_port: 4000,
        vip: "2001:db8::10".parse().unwrap(),
        port: 80,
        kind: Kind::Syn,
    };
    let (reason, name) = world.to(&packet);
    assert_eq!(reason, Reason::FlowNew);
    assert_eq!(world.to(&packet.with(Kind::Ack)), (Reason::FlowKnown, name));
    let flow = flows::list(&world.maps, Tick::from_ns(world.now_ns)).next().unwrap();
    assert_eq!((flow.client, flow.vip, flow.class), (packet.client, packet.vip, Class::Answered));
}

#[test]
fn a_tier_without_usable_backends_gives_way_to_the_next() {
    let mut config = web(limits(), 4);
    for name in ["b-002", "b-003"] {
        config.pools.get_mut("web").unwrap().backends.get_mut(name).unwrap().tier = 1;
    }
    let mut world = World::new(&config);
    let names = |world: &World, from: u32| -> BTreeMap<String, usize> {
        let mut names = BTreeMap::new();
        for number in from..from + 300 {
            *names.entry(world.to(&client(number, Kind::Syn)).1).or_default() += 1;
        }
        names
    };
    assert_eq!(names(&world, 0).keys().collect::<Vec<_>>(), ["b-000", "b-001"]);
    let mut view = PoolView { active_tier: 1, usable: vec![2, 3], backends: vec![BackendView::up(); 4] };
    for position in [0, 1] {
        view.backends[position].state = BackendState::Down;
    }
    // At once, by the list; then by a table of the new tier.
    world.applier.slots().publish("web", &view);
    assert_eq!(names(&world, 1000).keys().collect::<Vec<_>>(), ["b-002", "b-003"]);
    let desired = crate::world::desired_with(&config, &BTreeMap::from([("web".into(), view)]));
    assert_eq!(world.applier.apply(&desired, world.now_ns).unwrap().tables_published, 1);
    assert_eq!(names(&world, 2000).keys().collect::<Vec<_>>(), ["b-002", "b-003"]);
}
