//! Lists change as a whole: packets after every single write see the lists before or those after.

use std::time::Duration;

use ipnet::IpNet;
use lb_common::reason::Reason;
use lb_userspace::config::model::{Config, Ports};
use lb_userspace::filter::Prefixes;
use lb_userspace::maps::set::MapSet;

use crate::frames::{Kind, Packet};
use crate::world::{World, config, desired, limits, pool, send, service, vip};

const VIPS: [&str; 2] = ["198.51.100.10", "2001:db8::10"];
/// A client of each family for each list.
const CLIENTS: [[&str; 3]; 2] =
    [["192.0.2.1", "192.0.2.130", "203.0.113.7"], ["2001:db8:1::1", "2001:db8:2::1", "2001:db8:3::1"]];

fn prefixes(texts: &[&str]) -> Prefixes {
    texts.iter().map(|text| text.parse::<IpNet>().unwrap()).collect()
}

fn with(deny: &[&str], own: &[&str], allow: &[&str]) -> Config {
    let mut config = config(limits());
    config.pools.insert("web".into(), pool("web", 1, 3));
    let mut vip = vip("edge", &VIPS);
    (vip.deny, vip.allow) = (prefixes(own), prefixes(allow));
    config.vips.insert("edge".into(), vip);
    config.services.insert("web".into(), service("web", "edge", Ports::Any, "web"));
    config.deny = prefixes(deny);
    config
}

/// What becomes of a packet of every client.
fn verdicts(maps: &MapSet, now_ns: u64) -> Vec<bool> {
    let clients = CLIENTS.iter().zip(VIPS).flat_map(|(clients, vip)| clients.map(|client| (client, vip)));
    clients
        .map(|(client, vip)| {
            let packet = Packet {
                client: client.parse().unwrap(),
                client_port: 1000,
                vip: vip.parse().unwrap(),
                port: 80,
                kind: Kind::Ack,
            };
            match send(maps, now_ns, &packet).reason {
                Reason::Denied | Reason::NotAllowed => false,
                Reason::FlowResumed | Reason::FlowKnown => true,
                reason => panic!("{packet:?}: {reason:?}"),
            }
        })
        .collect()
}

fn steps() -> Vec<(Config, [bool; 6])> {
    vec![
        (with(&[], &[], &[]), [true; 6]),
        (with(&["192.0.2.0/25"], &[], &[]), [false, true, true, true, true, true]),
        (with(&["203.0.113.0/24", "2001:db8:1::/48"], &[], &[]), [true, true, false, false, true, true]),
        (
            with(&["203.0.113.0/24"], &["192.0.2.128/25", "::/0"], &[]),
            [true, false, false, false, false, false],
        ),
        (with(&[], &[], &["192.0.2.0/24"]), [true, true, false, false, false, false]),
        (
            with(&["192.0.2.1/32"], &[], &["192.0.2.0/24", "2001:db8::/32"]),
            [false, true, false, true, true, true],
        ),
        (with(&[], &[], &[]), [true; 6]),
    ]
}

#[test]
fn every_packet_is_judged_by_the_lists_before_or_after_a_reload() {
    let mut world = World::empty(&limits());
    let mut before: Option<[bool; 6]> = None;
    // Twice, so that every step follows every way to it.
    for (config, expected) in steps().into_iter().chain(steps()) {
        let (maps, now_ns) = (world.maps.clone(), world.now_ns);
        world
            .applier
            .apply_stepwise(&desired(&config), now_ns, &mut |write| {
                if let Some(before) = before {
                    let seen = verdicts(&maps, now_ns);
                    for (client, seen) in seen.iter().enumerate() {
                        let sound = *seen == before[client] || *seen == expected[client];
                        assert!(sound, "client {client} after {}", name(write));
                    }
                }
            })
            .unwrap();
        assert_eq!(verdicts(&world.maps, world.now_ns), expected);
        before = Some(expected);
        world.after(Duration::from_secs(2));
        world.tick();
    }
}

fn name(write: &lb_userspace::apply::Write) -> &'static str {
    use lb_userspace::apply::Write;
    match write {
        Write::List { .. } => "a list",
        Write::Lists { .. } => "a line of lists",
        Write::Vip { .. } => "a vip's word",
        Write::Service { .. } => "a service's word",
        _ => "another write",
    }
}

#[test]
fn lists_are_given_back_when_they_are_replaced_and_by_the_next_daemon() {
    let mut world = World::empty(&limits());
    for round in 0..200_u32 {
        // More lines than the map has, over all rounds.
        let many: Vec<String> = (0..200).map(|n| format!("10.{}.{}.0/24", round % 250, n)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        world.apply(&with(&many, &["192.0.2.1/32"], &[])).unwrap();
        world.after(Duration::from_secs(2));
        world.tick();
        if round % 20 == 10 {
            let maps = world.maps.clone();
            world.applier = lb_userspace::apply::Applier::adopt(maps, world.now_ns);
            assert_eq!(
                verdicts(&world.maps, world.now_ns),
                [false, true, true, true, true, true],
                "an adopter changes nothing"
            );
        }
    }
    world.apply(&with(&["10.0.0.0/9"], &[], &[])).unwrap();
    let many: Vec<String> =
        (0..20_000).map(|n| format!("10.{}.{}.{}/32", n / 4000, n / 16 % 250, n % 16 * 2)).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let error = world.apply(&with(&many, &[], &[])).unwrap_err();
    assert!(error.to_string().contains("raise limits.prefixes"), "{error}");
}
