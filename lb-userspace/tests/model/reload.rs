//! No packet ever finds half a change: packets after every single write of random reloads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use lb_common::reason::Reason;
use lb_userspace::apply::{Applier, Write};
use lb_userspace::config::model::{Backend, Config, Limits, Mode, Ports, Protocol, Unmatched};
use lb_userspace::desired::PoolView;
use lb_userspace::flows;
use lb_userspace::maps::set::MapSet;
use proptest::prelude::*;

use crate::frames::{Kind, Packet};
use crate::world::{World, backend, config, desired, limits, pool, port, send, service, vip};

const ADDRESSES: [&[&str]; 2] = [&["198.51.100.10", "2001:db8::10"], &["198.51.100.20"]];
/// Ports that one service or another has; `None` is every port.
const UNITS: [Option<(u16, u16)>; 5] =
    [Some((80, 80)), Some((8000, 8049)), Some((8050, 8050)), Some((8051, 8100)), None];
const PORTS: [u16; 5] = [80, 8000, 8050, 8100, 9999];
const POOLS: [&str; 3] = ["p0", "p1", "p2"];

/// A random config as numbers.
#[derive(Clone, Debug)]
struct Shape {
    seed: u64,
    vips: Vec<VipShape>,
    /// For each pool, for each backend: absent, or weight, address and tier by number.
    pools: Vec<Vec<Option<(u16, u8)>>>,
}

#[derive(Clone, Debug)]
struct VipShape {
    present: bool,
    unmatched: u8,
    /// For each unit the service that has it, 0 is none.
    units: Vec<u8>,
    /// For each service: protocols, pool, mode.
    services: Vec<(u8, u8, bool)>,
}

fn shape() -> impl Strategy<Value = Shape> {
    let units = prop::collection::vec(0u8..3, UNITS.len());
    let services = prop::collection::vec((1u8..4, 0u8..3, any::<bool>()), 4);
    let vip = (prop::bool::weighted(0.85), 0u8..3, units, services)
        .prop_map(|(present, unmatched, units, services)| VipShape { present, unmatched, units, services });
    let backend = prop::option::weighted(0.8, (prop::sample::select(vec![0u16, 1, 100, 100]), 0u8..2));
    let pool = prop::collection::vec(backend, 5);
    (0u64..2, prop::collection::vec(vip, ADDRESSES.len()), prop::collection::vec(pool, POOLS.len()))
        .prop_map(|(seed, vips, pools)| Shape { seed, vips, pools })
}

/// A config that is often a small step away from the one before.
fn reloads() -> impl Strategy<Value = Vec<Config>> {
    let step = (shape(), prop::collection::vec(prop::bool::weighted(0.4), 7));
    (shape(), prop::collection::vec(step, 1..4)).prop_map(|(first, steps)| {
        let mut shapes = vec![first];
        for (next, takes) in steps {
            let mut shape = shapes.last().unwrap().clone();
            if takes[0] {
                shape.seed = next.seed;
            }
            if takes[6] {
                // Services change their pools while every port stays with its service.
                let services = shape.vips.iter_mut().flat_map(|vip| &mut vip.services);
                let others = next.vips.iter().flat_map(|vip| &vip.services);
                services.zip(others).for_each(|(service, other)| service.1 = other.1);
            }
            for (index, vip) in next.vips.into_iter().enumerate().filter(|(index, _)| takes[1 + index]) {
                shape.vips[index] = vip;
            }
            for (index, pool) in next.pools.into_iter().enumerate().filter(|(index, _)| takes[3 + index]) {
                shape.pools[index] = pool;
            }
            shapes.push(shape);
        }
        shapes.iter().map(build).collect()
    })
}

fn build(shape: &Shape) -> Config {
    // What left keeps its ids for a while: the reloads that follow each other closely need those of three. The flows that
    // begin at every write, thousands in all, are not to take the places of known ones.
    let mut config = config(Limits { services: 64, flows_v4: 1 << 16, flows_v6: 1 << 16, ..limits() });
    config.hash_seed = shape.seed;
    for (number, (name, backends)) in POOLS.iter().zip(&shape.pools).enumerate() {
        let mut pool = pool(name, number as u8, 0);
        for (position, shape) in backends.iter().enumerate() {
            let Some((weight, address)) = shape else { continue };
            let name = format!("b-{position}");
            let address = IpAddr::from([10, number as u8, *address, position as u8 + 1]);
            pool.backends.insert(name.clone(), Backend { weight: *weight, ..backend(&name, address) });
        }
        config.pools.insert((*name).into(), pool);
    }
    for (number, (addresses, shape)) in ADDRESSES.iter().zip(&shape.vips).enumerate() {
        if !shape.present {
            continue;
        }
        let name = format!("v{number}");
        let unmatched = [Unmatched::Pass, Unmatched::Drop, Unmatched::Reject][usize::from(shape.unmatched)];
        config
            .vips
            .insert(name.clone(), lb_userspace::config::model::Vip { unmatched, ..vip(&name, addresses) });
        for slot in 1u8..4 {
            let has = |unit: &(&Option<(u16, u16)>, &u8)| *unit.1 == slot && unit.0.is_some();
            let ranges: Vec<(u16, u16)> =
                UNITS.iter().zip(&shape.units).filter(has).filter_map(|(unit, _)| *unit).collect();
            let any = shape.units[4] == slot;
            // A service has every port or some: the any-port one is its own.
            let (protocols, pool, direct) = shape.services[usize::from(slot)];
            for (suffix, ports) in [("", Ports::Ranges(ranges)), ("-any", Ports::Any)] {
                let wanted = if ports == Ports::Any { any } else { ports != Ports::Ranges(Vec::new()) };
                if !wanted {
                    continue;
                }
                let mut service =
                    service(&format!("s{number}-{slot}{suffix}"), &name, ports, POOLS[usize::from(pool)]);
                service.protocols = match protocols {
                    1 => vec![Protocol::Tcp],
                    2 => vec![Protocol::Udp],
                    _ => vec![Protocol::Tcp, Protocol::Udp],
                };
                service.mode = if direct { Mode::DsrL2 } else { Mode::Ipip };
                config.services.insert(service.name.clone(), service);
            }
        }
    }
    // A pool comes and goes with its services, as in a config's short form.
    let used: BTreeSet<String> = config.services.values().map(|service| service.pool.clone()).collect();
    config.pools.retain(|name, _| used.contains(name));
    config
}

/// What a config says of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Expected {
    NotVip,
    Unmatched(Reason),
    /// Service, pool.
    Service(String, String),
}

fn expected(config: &Config, packet: &Packet) -> Expected {
    let Some(vip) = config.vips.values().find(|vip| vip.addresses.contains(&packet.vip)) else {
        return Expected::NotVip;
    };
    let protocol = if packet.kind == Kind::Udp { Protocol::Udp } else { Protocol::Tcp };
    let claims = |exact: &dyn Fn(&Ports) -> bool| {
        let mut services = config.services.values();
        services.find(|s| s.vip == vip.name && s.protocols.contains(&protocol) && exact(&s.ports))
    };
    let covers = |ports: &Ports| match ports {
        Ports::Any => false,
        Ports::Ranges(ranges) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&packet.port)),
    };
    match claims(&covers).or_else(|| claims(&|ports| *ports == Ports::Any)) {
        Some(service) => Expected::Service(service.name.clone(), service.pool.clone()),
        None => Expected::Unmatched(match vip.unmatched {
            Unmatched::Pass => Reason::UnmatchedPass,
            Unmatched::Drop => Reason::UnmatchedDrop,
            _ => Reason::UnmatchedReject,
        }),
    }
}

/// Addresses of a pool's backends that take new flows.
fn takers(config: &Config, pool: &str) -> BTreeSet<IpAddr> {
    let backends = config.pools.get(pool).into_iter().flat_map(|pool| pool.backends.values());
    backends.filter(|backend| backend.weight > 0).map(|backend| backend.address).collect()
}

fn packets() -> impl Iterator<Item = Packet> {
    let targets = ADDRESSES.iter().flat_map(|addresses| addresses.iter());
    targets.flat_map(|vip| {
        PORTS.iter().flat_map(move |port| {
            [Kind::Syn, Kind::Udp].into_iter().map(move |kind| {
                let vip: IpAddr = vip.parse().unwrap();
                let client = if vip.is_ipv4() { "203.0.113.9" } else { "2001:db8:1::9" };
                Packet { client: client.parse().unwrap(), client_port: 1024, vip, port: *port, kind }
            })
        })
    })
}

fn labels(maps: &MapSet, (service, backend): (u16, u16)) -> (String, String, IpAddr) {
    let info = &maps.backend_info[usize::from(backend)];
    let [a, b, c, d, ..] = info.address;
    let pool = maps.pool_info[usize::from(info.pool)].name.as_str().to_owned();
    let service = maps.service_info[usize::from(service)].name.as_str().to_owned();
    (service, pool, IpAddr::from([a, b, c, d]))
}

/// Checks new flows against the two configs that may be in force; `fresh` numbers the clients.
fn check_new(maps: &MapSet, now_ns: u64, configs: [&Config; 2], fresh: &mut u16, at: &str) {
    for packet in packets() {
        *fresh = fresh.wrapping_add(1).max(2000);
        let packet = Packet { client_port: *fresh, ..packet };
        let seen = send(maps, now_ns, &packet);
        let candidates = configs.map(|config| expected(config, &packet));
        let fits = |candidate: &Expected| match candidate {
            Expected::NotVip => seen.reason == Reason::NotVip,
            Expected::Unmatched(reason) => seen.reason == *reason,
            Expected::Service(service, pool) => match seen.to {
                Some(to) => {
                    let (by, of, address) = labels(maps, to);
                    // An id's label goes after the last packet that may find the id.
                    let served = *service == by || by.is_empty();
                    let takers = configs.map(|config| takers(config, pool));
                    served && *pool == of && takers.iter().any(|takers| takers.contains(&address))
                }
                None => {
                    seen.reason == Reason::NoBackend
                        && configs
                            .iter()
                            .any(|config| config.pools.contains_key(pool) && takers(config, pool).is_empty())
                }
            },
        };
        let to = seen.to.map(|to| labels(maps, to));
        assert!(candidates.iter().any(fits), "{at}: {packet:?} {seen:?} {to:?}, expected {candidates:?}");
    }
}

/// Proven flows and their backends.
type Known = BTreeMap<(IpAddr, u16, u8), (Packet, u16)>;

fn prove(world: &World, number: u16) -> Known {
    let mut known = Known::new();
    for packet in packets() {
        let packet = Packet { client_port: number, ..packet };
        for kind in [packet.kind, Kind::Ack, Kind::Ack] {
            let kind = if packet.kind == Kind::Udp { Kind::Udp } else { kind };
            if let Some((_, backend)) = world.send(&packet.with(kind)).to {
                let key = (packet.vip, packet.port, packet.kind as u8);
                let kind = if packet.kind == Kind::Udp { Kind::Udp } else { Kind::Ack };
                known.insert(key, (packet.with(kind), backend));
            }
        }
    }
    known
}

/// Known flows stay wherever a service has their port.
fn check_known(maps: &MapSet, now_ns: u64, known: &Known, at: &str) {
    for (packet, backend) in known.values() {
        let seen = send(maps, now_ns, packet);
        if let Some((_, to)) = seen.to {
            assert_eq!((to, seen.reason), (*backend, Reason::FlowKnown), "{at}: {packet:?}");
        }
    }
}

/// What detection does after every apply: its view of each pool, here that all are up.
fn publish(applier: &Applier, config: &Config) {
    let slots = applier.slots();
    for (name, pool) in &config.pools {
        let members: Vec<(u8, u16)> =
            pool.backends.values().map(|backend| (backend.tier, backend.weight)).collect();
        slots.publish(name, &PoolView::all_up(&members));
    }
}

fn name(write: &Write) -> &'static str {
    match write {
        Write::Grace => "grace",
        Write::HopCopy { .. } | Write::HopSelect { .. } => "hop",
        Write::Backend { .. } | Write::Source { .. } | Write::Egress { .. } => "backend",
        Write::Hot { .. } => "hot",
        Write::Table { .. } => "table",
        Write::Pool { .. } => "pool",
        Write::Service { .. } => "service",
        Write::Ranges { .. } => "ranges",
        Write::Vip { .. } => "vip",
        Write::Entry { .. } | Write::Overflow { .. } => "index entry",
        Write::AddressV6 { .. } | Write::IdV6 { .. } | Write::OverflowV6 { .. } => "v6 index entry",
        _ => "labels",
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_packet_after_every_write_is_served_as_before_or_after_the_reload(configs in reloads()) {
        let mut world = World::new(&configs[0]);
        let mut fresh = 2000;
        for (round, pair) in configs.windows(2).enumerate() {
            let [before, after] = [&pair[0], &pair[1]];
            let known = prove(&world, 1100 + round as u16);
            let (maps, now_ns) = (world.maps.clone(), world.now_ns);
            let mut step = 0;
            let wanted = desired(after);
            world.applier.apply_stepwise(&wanted, now_ns, &mut |write| {
                let at = format!("round {round}, write {step}, {}", name(write));
                check_new(&maps, now_ns, [before, after], &mut fresh, &at);
                check_known(&maps, now_ns, &known, &at);
                step += 1;
            }).unwrap();
            publish(&world.applier, after);
            check_new(&maps, now_ns, [after, after], &mut fresh, "applied");
            let again = world.applier.apply(&wanted, now_ns).unwrap();
            prop_assert_eq!((again.writes, again.tables_built), (0, 0));
            // Some reloads follow each other so closely that what left is still there when it returns.
            for _ in 0..round % 2 * 3 {
                world.after_ticks(1);
                let (maps, now_ns) = (world.maps.clone(), world.now_ns);
                let sweep = flows::sweep(&maps, now_ns, &world.applier.purge(now_ns));
                world.applier.tick_stepwise(now_ns, Some(&sweep), &mut |write| {
                    let at = format!("round {round}, taking back, {}", name(write));
                    check_new(&maps, now_ns, [after, after], &mut fresh, &at);
                    check_known(&maps, now_ns, &known, &at);
                });
                // Another daemon finds everything as this one left it.
                let mut other = Applier::adopt(maps.clone(), now_ns);
                let mut writes = Vec::new();
                let adopted = other.apply_stepwise(&desired(after), now_ns, &mut |write| writes.push(name(write)));
                prop_assert_eq!((writes, adopted.unwrap().backends_added), (Vec::new(), 0));
            }
        }
    }

    #[test]
    fn a_daemon_that_dies_between_two_writes_leaves_maps_that_the_next_one_completes(
        configs in reloads(),
        survives in any::<prop::sample::Index>(),
    ) {
        let [before, after] = [&configs[0], &configs[1]];
        let total = {
            let mut world = World::new(before);
            world.apply(after).unwrap().writes
        };
        let survives = survives.index(total + 1);
        let mut world = World::new(before);
        let (maps, now_ns) = (world.maps.clone(), world.now_ns);
        let mut fresh = 2000;
        let mut done = 0;
        // Stops like a killed daemon: the applier unwinds in the middle and is gone.
        let died = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            world.applier.apply_stepwise(&desired(after), now_ns, &mut |write| {
                done += usize::from(!matches!(write, Write::Grace));
                if done == survives {
                    std::panic::resume_unwind(Box::new(()));
                }
            })
        }));
        prop_assert_eq!(died.is_err(), survives > 0 && survives <= total);
        check_new(&maps, now_ns, [before, after], &mut fresh, "killed");
        let mut next = Applier::adopt(maps.clone(), now_ns);
        next.tick(now_ns, None);
        check_new(&maps, now_ns, [before, after], &mut fresh, "adopted");
        next.apply_stepwise(&desired(after), now_ns, &mut |write| {
            check_new(&maps, now_ns, [before, after], &mut fresh, &format!("completing, {}", name(write)));
        }).unwrap();
        publish(&next, after);
        check_new(&maps, now_ns, [after, after], &mut fresh, "completed");
        for round in 1..4 {
            let now_ns = now_ns + round * 5_000_000_000;
            let sweep = flows::sweep(&maps, now_ns, &next.purge(now_ns));
            next.tick(now_ns, Some(&sweep));
            check_new(&maps, now_ns, [after, after], &mut fresh, "tidied");
        }
    }
}

#[test]
fn a_port_moves_between_exact_range_and_any_without_a_stranger_in_between() {
    let layouts: [&[(&str, Ports)]; 4] = [
        &[("a", port(8050)), ("b", Ports::Any)],
        &[("a", Ports::Ranges(vec![(8000, 8100)])), ("c", Ports::Any)],
        &[("b", Ports::Ranges(vec![(8000, 8049), (8051, 8100)])), ("a", Ports::Any)],
        &[("c", Ports::Ranges(vec![(80, 80), (8050, 8060)]))],
    ];
    let build = |layout: &[(&str, Ports)]| {
        let mut config = config(limits());
        config.vips.insert("v0".into(), vip("v0", ADDRESSES[0]));
        for (number, name) in POOLS.iter().enumerate() {
            config.pools.insert((*name).into(), pool(name, number as u8, 3));
        }
        for (name, ports) in layout {
            let pool = POOLS[usize::from(name.as_bytes()[0] - b'a')];
            config.services.insert((*name).into(), service(name, "v0", ports.clone(), pool));
        }
        config
    };
    for from in &layouts {
        for to in &layouts {
            let (before, after) = (build(from), build(to));
            let mut world = World::new(&before);
            let (maps, now_ns) = (world.maps.clone(), world.now_ns);
            let mut fresh = 2000;
            let check = &mut |write: &Write| {
                check_new(&maps, now_ns, [&before, &after], &mut fresh, name(write));
            };
            world.applier.apply_stepwise(&desired(&after), now_ns, check).unwrap();
            publish(&world.applier, &after);
            check_new(&maps, now_ns, [&after, &after], &mut 30_000, "applied");
        }
    }
}
