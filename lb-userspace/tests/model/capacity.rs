//! How many flows fit, and what floods cannot do.

use std::collections::HashMap;

use lb_common::layout::{Asking, Scratch};
use lb_common::reason::Reason;
use lb_userspace::flows;

use crate::frames::{Kind, Packet};
use crate::world::{World, client, limits, web};

const FLOWS: u32 = 65_536;

fn world() -> World {
    let mut limits = limits();
    limits.flows_v4 = FLOWS;
    World::new(&web(limits, 20))
}

fn prove(world: &World, number: u32) -> (Packet, String) {
    for kind in [Kind::Syn, Kind::Ack] {
        world.send(&client(number, kind));
    }
    (client(number, Kind::Ack), world.to(&client(number, Kind::Ack)).1)
}

#[test]
fn at_the_configured_limit_fewer_than_one_in_a_thousand_flows_find_no_place() {
    let world = world();
    for number in 0..FLOWS {
        prove(&world, number);
    }
    let lost = (0..FLOWS)
        .filter(|number| world.send(&client(*number, Kind::Ack)).reason == Reason::FlowTableFull)
        .count();
    let secret = world.maps.meta[0].geometry.secret;
    let mask = world.maps.flows_v4.len() as u32 - 1;
    let mut first = 0u32;
    for number in 0..FLOWS {
        let packet = client(number, Kind::Ack);
        let std::net::IpAddr::V4(source) = packet.client else { continue };
        let key = lb_common::flow::FlowKey::v4(
            secret,
            source.into(),
            (packet.client_port, 80),
            1,
            lb_common::wire::Protocol::Tcp,
        );
        let bucket = &world.maps.flows_v4[key.buckets(mask).0 as usize];
        first += u32::from(lb_common::flow::find(bucket, &key).is_some());
    }
    let swept = flows::sweep(&world.maps, world.now_ns, &flows::Purge::default());
    println!(
        "{FLOWS} proven flows: {lost} without a place ({:.4} %), {:.2} % in their first bucket",
        lost as f64 * 100.0 / f64::from(FLOWS),
        f64::from(first) * 100.0 / f64::from(FLOWS),
    );
    assert_eq!(swept.live_v4 + lost as u64, u64::from(FLOWS));
    assert!(first > FLOWS / 2, "{first}");
    assert!(lost < FLOWS as usize / 1000, "{lost}");
}

#[test]
fn floods_of_half_a_million_spoofed_flows_end_no_proven_connection() {
    for kind in [Kind::Syn, Kind::Ack, Kind::Udp] {
        let mut world = world();
        let proven: Vec<(Packet, String)> = (0..200).map(|number| prove(&world, number)).collect();
        let mut reasons: HashMap<Reason, u32> = HashMap::new();
        for number in 0..500_000u32 {
            let reason = world.send(&client(1_000_000 + number, kind)).reason;
            *reasons.entry(reason).or_default() += 1;
            // The connections go on meanwhile, and time does.
            if number % 50_000 == 0 {
                world.after_ticks(1);
                for (packet, name) in proven.iter().skip(number as usize / 50_000 % 2).step_by(2) {
                    assert_eq!(world.to(packet), (Reason::FlowKnown, name.clone()), "{kind:?} {number}");
                }
            }
        }
        for (packet, name) in &proven {
            assert_eq!(world.to(packet), (Reason::FlowKnown, name.clone()), "{kind:?}");
        }
        println!("{kind:?}: {reasons:?}");
        assert_eq!(reasons.values().sum::<u32>(), 500_000);
    }
}

#[test]
fn connections_opened_during_a_flood_are_proven_and_stay() {
    let world = world();
    for number in 0..400_000u32 {
        world.send(&client(1_000_000 + number, Kind::Ack));
    }
    let opened: Vec<(Packet, String)> = (0..200).map(|number| prove(&world, number)).collect();
    for number in 400_000..500_000u32 {
        world.send(&client(1_000_000 + number, Kind::Syn));
    }
    for (packet, name) in &opened {
        assert_eq!(world.to(packet), (Reason::FlowKnown, name.clone()));
    }
}

/// Proves as many flows as fit; gives those that have a place.
fn fill(world: &World) -> Vec<(Packet, String)> {
    let proven = (0..FLOWS).map(|number| prove(world, number));
    proven.filter(|(packet, _)| world.send(packet).reason == Reason::FlowKnown).collect()
}

fn assert_known(world: &World, flows: &[(Packet, String)]) {
    for (packet, name) in flows {
        assert_eq!(world.to(packet), (Reason::FlowKnown, name.clone()), "{packet:?}");
    }
}

#[test]
fn marks_of_second_buckets_go_with_their_flows_and_no_sooner() {
    let mut world = world();
    let flows = fill(&world);
    let marks = world.marks();
    println!("{} flows, {marks} marks", flows.len());
    assert!(marks > 1000, "{marks}");
    assert_eq!(world.settle(|| ()), 0, "all marks are of this moment");
    // Far enough from the moment in which they were set.
    world.after_ticks(5);
    assert_eq!(world.settle(|| ()), 0, "each is of a live flow");
    assert_known(&world, &flows);
    // Past the idle time of proven flows.
    world.after_ticks(1900);
    assert_eq!((world.settle(|| ()), world.marks()), (marks, 0));
}

#[test]
fn a_mark_that_is_set_during_the_look_through_the_tables_stays() {
    let mut world = world();
    let flows = fill(&world);
    let marks = world.marks();
    world.after_ticks(1900);
    // Expired flows go on as long as nobody takes their places.
    let taken_back = world.settle(|| assert_known(&world, &flows));
    assert_eq!((taken_back, world.marks()), (0, marks));
    assert_known(&world, &flows);
}

#[test]
fn a_flood_stays_out_of_second_buckets() {
    let mut world = world();
    let cpu = Scratch::default();
    for number in 0..500_000 {
        world.send_on(&cpu, &client(1_000_000 + number, Kind::Syn));
    }
    let (marks, buckets) = (world.marks(), world.maps.flows_v4.len());
    let swept = flows::sweep(&world.maps, world.now_ns, &flows::Purge::default());
    println!("{} flows of a flood, {marks} marks of {buckets}", swept.live_v4);
    assert!(swept.live_v4 > buckets as u64 * 4 * 99 / 100, "the table is full");
    assert!(marks > 0 && marks <= Asking::most(buckets as u32 - 1) as usize, "{marks}");
    // Nor does it go on reading them, in the next tick either: none has a better place.
    world.after_ticks(1);
    for number in 0..10_000 {
        world.send_on(&cpu, &client(2_000_000 + number, Kind::Syn));
    }
    let asked = cpu.asking.get() as u32;
    assert!((Asking::MOST_IN_VAIN..100).contains(&asked), "{asked} of 10,000 asked");
    // What comes of it all the same: legitimate flows among it are proven, and stay.
    let opened: Vec<(Packet, String)> = (0..200).map(|number| prove(&world, number)).collect();
    assert_known(&world, &opened);
}
