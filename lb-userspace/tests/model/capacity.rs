//! How many flows fit, and what floods cannot do.

use std::collections::HashMap;

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
