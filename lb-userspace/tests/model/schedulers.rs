//! What schedulers promise: one backend for a client, and no backend with much more than its share of live flows.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;

use lb_common::layout::Scheduler;
use lb_common::reason::Reason;
use lb_common::time::Tick;
use lb_userspace::apply::Applier;
use lb_userspace::config::model::Config;
use lb_userspace::desired::{BackendView, PoolView};
use lb_userspace::flows::{LoadCount, PARTS};
use proptest::prelude::*;

use crate::frames::{Kind, Packet};
use crate::world::{World, backend, client, limits, maps, port, service, web};

fn scheduled(scheduler: Scheduler, backends: usize) -> Config {
    let mut config = web(limits(), backends);
    config.services.get_mut("web").unwrap().scheduler = scheduler;
    config
}

fn count(world: &World) {
    let mut count = LoadCount::begin(&world.maps).expect("a service asks for it");
    let now = Tick::from_ns(world.now_ns);
    (0..PARTS).for_each(|part| count.part(&world.maps, part, now));
    count.publish(&world.maps, now);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn by_source_a_client_has_one_backend_over_ports_protocols_services_restarts_and_instances(
        last in any::<u32>(), v6 in any::<bool>(), ports in prop::collection::vec((any::<u16>(), any::<bool>()), 20)
    ) {
        let mut config = scheduled(Scheduler::Source, 20);
        let mut other = service("other", "edge", port(443), "web");
        other.scheduler = Scheduler::Source;
        config.services.insert("other".into(), other);
        // The second knows none of the first's flows, and has other ids.
        let one = World::new(&config);
        let mut two = World::empty(&config.limits);
        two.maps = maps(&config.limits, 99);
        two.applier = Applier::adopt(two.maps.clone(), two.now_ns);
        let mut detour = config.clone();
        detour.pools.get_mut("web").unwrap().backends.retain(|name, _| name.ends_with('7'));
        two.apply(&detour).unwrap();
        two.apply(&config).unwrap();
        let (from, vip): (IpAddr, &str) = match v6 {
            false => (IpAddr::from((0x0b00_0001 | last & 0xff_ffff).to_be_bytes()), "198.51.100.10"),
            true => (IpAddr::from((0x2001_0db8_u128 << 96 | u128::from(last)).to_be_bytes()), "2001:db8::10"),
        };
        let mut backends = BTreeSet::new();
        for (number, (client_port, udp)) in ports.into_iter().enumerate() {
            let kind = if udp { Kind::Udp } else { Kind::Syn };
            let port = if number % 2 == 0 { 80 } else { 443 };
            let packet = Packet { client: from, client_port, vip: vip.parse().unwrap(), port, kind };
            backends.extend([one.to(&packet).1, two.to(&packet).1]);
        }
        prop_assert_eq!(backends.len(), 1);
    }
}

#[test]
fn by_source_clients_spread_over_all_backends_and_a_failure_moves_only_its_own() {
    let world = World::new(&scheduled(Scheduler::Source, 20));
    let home = |number: u32| {
        let from = IpAddr::from((0xcb00_7100 + number).to_be_bytes());
        world.to(&Packet { client: from, ..client(number * 7, Kind::Syn) }).1
    };
    let before: Vec<String> = (0..4000).map(home).collect();
    let mut shares = BTreeMap::new();
    before.iter().for_each(|name| *shares.entry(name).or_insert(0) += 1);
    assert!(shares.len() == 20 && shares.values().all(|share| (120..280).contains(share)), "{shares:?}");
    let mut view = PoolView::all_up(&[(0, 100); 20]);
    view.backends[3] = BackendView { state: lb_common::layout::BackendState::Down, ..BackendView::up() };
    view.usable.retain(|position| *position != 3);
    world.applier.slots().publish("web", &view);
    for (number, before) in (0..).zip(&before) {
        let after = home(number);
        assert_eq!(after != *before, before == "b-003", "client {number}: {before}, then {after}");
    }
}

/// Clients that open flows at a steady rate; backends keep each for a while, each its own.
struct Load {
    world: World,
    /// Steps that each backend takes, by name.
    steps: BTreeMap<String, usize>,
    /// Flows by the step at which they end.
    ending: VecDeque<Vec<(Packet, String)>>,
    live: BTreeMap<String, u32>,
    next: u32,
    counting: Option<(LoadCount, usize)>,
}

/// Steps in a second.
const SECOND: usize = 100;

impl Load {
    fn new(config: &Config, steps: &[usize]) -> Self {
        let steps = steps.iter().enumerate().map(|(number, steps)| (format!("b-{number:03}"), *steps));
        Self {
            world: World::new(config),
            steps: steps.collect(),
            ending: VecDeque::from(vec![Vec::new(); 1024]),
            live: BTreeMap::new(),
            next: 0,
            counting: None,
        }
    }

    /// Runs for so many steps; gives the highest share of a backend's live flows, relative to its weight's, in the last
    /// third of them.
    fn run(&mut self, steps: usize, weights: &BTreeMap<String, u32>) -> f64 {
        let mut worst: f64 = 0.0;
        for step in 0..steps {
            self.world.now_ns += 1_000_000_000 / SECOND as u64;
            self.count();
            for _ in 0..20 {
                self.open();
            }
            self.ending.push_back(Vec::new());
            for (packet, name) in self.ending.pop_front().unwrap_or_default() {
                let kind = if packet.client_port.is_multiple_of(16) { Kind::Rst } else { Kind::Fin };
                assert_eq!(self.world.to(&packet.with(kind)).1, name);
                *self.live.entry(name).or_default() -= 1;
            }
            if step * 3 > steps * 2 {
                worst = worst.max(self.busiest(weights));
            }
        }
        worst
    }

    fn open(&mut self) {
        let packet = client(self.next, Kind::Syn);
        self.next += 1;
        let (_, name) = self.world.to(&packet);
        (0..2).for_each(|_| drop(self.world.to(&packet.with(Kind::Ack))));
        *self.live.entry(name.clone()).or_default() += 1;
        self.ending[self.steps[&name]].push((packet, name));
    }

    /// The daemon's count, a part at a time.
    fn count(&mut self) {
        let (mut count, part) = match self.counting.take() {
            Some(counting) => counting,
            None => match LoadCount::begin(&self.world.maps) {
                Some(count) => (count, 0),
                None => return,
            },
        };
        let now = Tick::from_ns(self.world.now_ns);
        for part in part..(part + 1).min(PARTS) {
            count.part(&self.world.maps, part, now);
        }
        match part + 1 {
            PARTS => count.publish(&self.world.maps, now),
            part => self.counting = Some((count, part)),
        }
    }

    fn busiest(&self, weights: &BTreeMap<String, u32>) -> f64 {
        let all = f64::from(self.live.values().sum::<u32>()) / f64::from(weights.values().sum::<u32>());
        let share = |name: &String| f64::from(self.live.get(name).copied().unwrap_or(0)) / all;
        weights.iter().map(|(name, weight)| share(name) / f64::from(*weight)).fold(0.0, f64::max)
    }
}

fn weigh(config: &mut Config, weights: &[u16]) -> BTreeMap<String, u32> {
    let backends = config.pools.get_mut("web").unwrap().backends.values_mut();
    let weighed = backends.zip(weights).map(|(backend, weight)| {
        backend.weight = *weight;
        (backend.name.clone(), u32::from(*weight))
    });
    weighed.collect()
}

#[test]
fn by_least_connections_the_busiest_backend_has_at_most_its_share_and_three_tenths() {
    // Steps for each flow, weights.
    let cases: [(&[usize], &[u16]); 5] = [
        (&[20, 200], &[100, 100]),
        (&[20, 200, 20], &[100, 100, 100]),
        (&[20, 200, 20, 200], &[100, 100, 100, 100]),
        (&[20, 400, 400, 400, 20], &[100, 100, 200, 50, 300]),
        (&[30, 30, 30, 30, 30, 30, 30, 300], &[100; 8]),
    ];
    for (steps, weights) in cases {
        let mut config = scheduled(Scheduler::LeastConnections, steps.len());
        config.limits.flows_v4 = 1 << 16;
        let mut weights = weigh(&mut config, weights);
        let mut load = Load::new(&config, steps);
        let worst = load.run(8 * SECOND, &weights);
        println!("{steps:?}: busiest {worst:.2} of its share, live {:?}", load.live);
        assert!(worst <= 1.3, "{steps:?}: {worst}, {:?}", load.live);

        let added = backend("b-added", "10.1.9.9".parse().unwrap());
        config.pools.get_mut("web").unwrap().backends.insert("b-added".into(), added);
        weights.insert("b-added".into(), 100);
        load.steps.insert("b-added".into(), 100);
        load.world.apply(&config).unwrap();
        let worst = load.run(8 * SECOND, &weights);
        println!("{steps:?} and one more: busiest {worst:.2} of its share, live {:?}", load.live);
        assert!(worst <= 1.3, "{steps:?} and one more: {worst}, {:?}", load.live);
    }
}

#[test]
fn by_the_table_alone_a_slow_backend_fills_up() {
    let mut config = scheduled(Scheduler::Maglev, 4);
    config.limits.flows_v4 = 1 << 16;
    let weights = weigh(&mut config, &[100; 4]);
    let mut load = Load::new(&config, &[20, 200, 20, 200]);
    let worst = load.run(8 * SECOND, &weights);
    assert!(worst > 1.5, "{worst}: the load of these tests is no test of schedulers");
}

#[test]
fn flows_that_end_without_a_word_are_missed_by_the_next_count() {
    let world = World::new(&scheduled(Scheduler::LeastConnections, 4));
    count(&world);
    (0..400).for_each(|number| drop(world.to(&client(number, Kind::Udp))));
    let live = || world.maps.loads.iter().map(|load| load.live()).sum::<u32>();
    assert_eq!(live(), 400);
    count(&world);
    assert_eq!(live(), 400, "a count finds what was seen");
    let mut later = world;
    later.after_ticks(100);
    assert_eq!(later.maps.loads.iter().map(|load| load.live()).sum::<u32>(), 400);
    count(&later);
    assert_eq!(later.maps.loads.iter().map(|load| load.live()).sum::<u32>(), 0);
}

#[test]
fn without_a_recent_count_least_connections_is_the_table_alone() {
    let (least, table) = (
        World::new(&scheduled(Scheduler::LeastConnections, 8)),
        World::new(&scheduled(Scheduler::Maglev, 8)),
    );
    let differ = |least: &World, from: u32| {
        let other = |number: &u32| {
            let packet = client(*number, Kind::Syn);
            least.to(&packet).1 != table.to(&packet).1
        };
        (from..from + 400).filter(other).count()
    };
    assert_eq!(differ(&least, 0), 0, "never counted");
    count(&least);
    assert!(differ(&least, 1000) > 50, "counted");
    let mut late = least;
    late.after_ticks(u64::from(lb_common::select::LOADS_TICKS) + 1);
    assert_eq!(differ(&late, 2000), 0, "counted too long ago");
}

#[test]
fn least_connections_sends_new_flows_neither_to_drained_backends_nor_past_admit() {
    let world = World::new(&scheduled(Scheduler::LeastConnections, 4));
    count(&world);
    let mut view = PoolView::all_up(&[(0, 100); 4]);
    view.backends[0].state = lb_common::layout::BackendState::Draining;
    view.backends[1].state = lb_common::layout::BackendState::Suspect;
    view.backends[2].admit = 100;
    view.usable = vec![2, 3];
    world.applier.slots().publish("web", &view);
    let mut got = BTreeMap::new();
    for number in 0..2000 {
        let (reason, name) = world.to(&client(number, Kind::Syn));
        assert_eq!(reason, Reason::FlowNew);
        *got.entry(name).or_insert(0) += 1;
    }
    // One in ten may go to the one that is being started slowly, which is the idler of the two for all of them.
    assert_eq!(got.keys().collect::<Vec<_>>(), ["b-002", "b-003"], "{got:?}");
    assert!((150..=250).contains(&got["b-002"]), "{got:?}");
}
