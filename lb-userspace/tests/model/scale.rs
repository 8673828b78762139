//! Large configs and tables. Times are printed, not judged: they depend on the machine and the profile.

use std::sync::Arc;
use std::time::Instant;

use lb_common::time::Tick;
use lb_userspace::apply::Applier;
use lb_userspace::flows;

use crate::frames::Kind;
use crate::world::{World, client, config, desired, limits, maps, pool, port, service, vip, web};

#[test]
fn a_thousand_services_with_ten_thousand_backends_apply_and_change() {
    let mut limits = limits();
    (limits.services, limits.backends, limits.maglev_slots) = (1024, 16_384, 4_194_304);
    let mut config = config(limits);
    for number in 0..1000u16 {
        let name = format!("s{number:04}");
        let [high, low] = number.to_be_bytes();
        config.vips.insert(name.clone(), vip(&name, &[&format!("198.51.{high}.{low}")]));
        let mut pool = pool(&name, 0, 10);
        for (position, backend) in pool.backends.values_mut().enumerate() {
            backend.address = std::net::IpAddr::from([10, high + 1, low, position as u8]);
        }
        config.pools.insert(name.clone(), pool);
        config.services.insert(name.clone(), service(&name, &name, port(80), &name));
    }
    let mut world = World::empty(&limits);
    let start = Instant::now();
    let wanted = desired(&config);
    println!("desired state: {:?}", start.elapsed());
    let start = Instant::now();
    let summary = world.applier.apply(&wanted, world.now_ns).unwrap();
    println!("full apply: {:?}, {summary:?}", start.elapsed());
    assert_eq!((summary.tables_built, summary.backends_added), (1000, 10_000));

    config.pools.get_mut("s0500").unwrap().backends.get_mut("b-003").unwrap().weight = 50;
    let start = Instant::now();
    let wanted = desired(&config);
    println!("desired state again: {:?}", start.elapsed());
    let start = Instant::now();
    let summary = world.applier.apply(&wanted, world.now_ns).unwrap();
    println!("one weight: {:?}, {summary:?}", start.elapsed());
    assert_eq!((summary.tables_built, summary.tables_published, summary.writes), (1, 1, 6));

    let mut one = lb_userspace::desired::Desired::clone(&wanted);
    let pool = Arc::make_mut(one.pools.get_mut("s0501").unwrap());
    pool.backends.get_mut("b-003").unwrap().weight = 50;
    let one = Arc::new(one);
    let start = Instant::now();
    let summary = world.applier.apply(&one, world.now_ns).unwrap();
    println!("one weight, other pools shared: {:?}", start.elapsed());
    assert_eq!(summary.writes, 6);

    let start = Instant::now();
    assert_eq!(world.applier.apply(&one, world.now_ns).unwrap().writes, 0);
    println!("no change: {:?}", start.elapsed());
    let start = Instant::now();
    let mut other = Applier::adopt(world.maps.clone(), world.now_ns);
    assert_eq!(other.apply(&one, world.now_ns).unwrap().writes, 0);
    println!("adoption: {:?}", start.elapsed());
}

#[test]
fn a_million_flows_are_swept_and_listed() {
    let mut limits = limits();
    limits.flows_v4 = 1_048_576;
    let config = web(limits, 20);
    let world = World::new(&config);
    for number in 0..1_000_000 {
        world.send(&client(number, Kind::Ack));
    }
    let start = Instant::now();
    let sweep = flows::sweep(&world.maps, world.now_ns, &flows::Purge::default());
    println!("sweep: {:?}", start.elapsed());
    assert!(sweep.live_v4 > 999_000, "{}", sweep.live_v4);
    assert_eq!(sweep.backends.iter().map(|count| u64::from(count.live)).sum::<u64>(), sweep.live_v4);
    let start = Instant::now();
    let listed = flows::list(&world.maps, Tick::from_ns(world.now_ns)).count();
    println!("list: {:?}", start.elapsed());
    assert_eq!(listed as u64, sweep.live_v4);
    let other = maps(&limits, 3);
    Applier::adopt(other.clone(), world.now_ns).apply(&desired(&config), world.now_ns).unwrap();
    let ids = flows::Translation::between(&world.maps, &other);
    let start = Instant::now();
    let carried = flows::carry(&world.maps, &other, &ids, Tick::from_ns(world.now_ns));
    println!("carry: {:?} {carried:?}", start.elapsed());
    assert_eq!(carried.carried + carried.full, sweep.live_v4);
}
