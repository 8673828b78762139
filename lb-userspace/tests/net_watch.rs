//! The network state against a real kernel: each test has two network namespaces of its own, joined by a veth,
//! and runs in the first. Needs root and `ip` (iproute2).

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use lb_userspace::config::model::Mac;
use lb_userspace::net::egress::EgressError;
use lb_userspace::net::ethtool::Switch;
use lb_userspace::net::facts::{self, RpFilter};
use lb_userspace::net::next_hop::MacOrigin;
use lb_userspace::net::snapshot::{Link, LinkKind, Resolution, Upkeep};
use lb_userspace::net::{
    NeighbourKeeper, NetEvent, NetState, NetWatch, NextHopState, NextHops, Observed, Overrides, RouteLookup,
    resolve, vip,
};
use rtnetlink::LinkUnspec;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(10);
const NEVER: Duration = Duration::from_secs(3600);

/// Two namespaces, `near` (weir's host) and `far`, joined by `near0` and `far0`; removed when dropped.
struct Lab {
    near: String,
    far: String,
}

impl Lab {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let tag = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { near: format!("weir-near-{tag}"), far: format!("weir-far-{tag}") };
        ip(&["netns", "add", &lab.near]);
        ip(&["netns", "add", &lab.far]);
        lab.join(10);
        lab
    }

    /// Joins the namespaces by a veth. Both ends' numbers differ: the kernel takes a link whose lower link has
    /// its own number for a physical one, and tells carrier changes of those at most once a second.
    fn join(&self, ifindex: u32) {
        let near = format!("link add near0 index {ifindex} address 02:00:00:00:00:01 type veth");
        let far = format!("peer name far0 index {} address 02:00:00:00:00:02", ifindex + 100);
        self.near(&format!("{near} {far} netns {}", self.far));
        for command in [
            "link set lo up",
            "link set near0 up",
            "address add 10.0.0.1/24 brd + dev near0",
            "address add 2001:db8::1/64 dev near0 nodad",
        ] {
            self.near(command);
        }
        for command in [
            "link set far0 up",
            "address add 10.0.0.2/24 dev far0",
            "address add 2001:db8::2/64 dev far0 nodad",
        ] {
            self.far(command);
        }
    }

    fn near(&self, command: &str) {
        run(&self.near, command);
    }

    fn far(&self, command: &str) {
        run(&self.far, command);
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for namespace in [&self.near, &self.far] {
            let _ = Command::new("ip").args(["netns", "delete", namespace]).status();
        }
    }
}

fn run(namespace: &str, command: &str) {
    let words: Vec<&str> = ["-n", namespace].into_iter().chain(command.split_whitespace()).collect();
    ip(&words);
}

fn ip(words: &[&str]) {
    let done = Command::new("ip").args(words).output().expect("run ip (iproute2)");
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success(), "ip {}: {said} (needs root)", words.join(" "));
}

/// Runs `work` on a thread of its own inside `namespace`.
fn inside<T: Send>(namespace: &str, work: impl AsyncFnOnce() -> T + Send) -> T {
    let _ = tracing_subscriber::fmt().with_test_writer().try_init();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let file = std::fs::File::open(format!("/run/netns/{namespace}")).expect("open namespace");
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("enter namespace");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(work())
        });
        match thread.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Reads events until one satisfies `wanted`.
async fn wait_for(events: &mut mpsc::Receiver<Observed>, wanted: impl Fn(&NetEvent) -> bool) -> Observed {
    let found = async {
        loop {
            let observed = events.recv().await.expect("the watch runs");
            if wanted(&observed.event) {
                return observed;
            }
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("event within the test's patience")
}

/// Waits until the state satisfies `wanted`.
async fn until(watch: &NetWatch, wanted: impl Fn(&NetState) -> bool) {
    let start = Instant::now();
    while !wanted(&watch.read()) {
        assert!(start.elapsed() < PATIENCE, "state: {:#?}", *watch.read());
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

fn address(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn near0(net: &NetState) -> u32 {
    net.link_named("near0").expect("near0").ifindex
}

#[test]
fn backends_resolve_to_port_source_and_router_and_the_others_say_why_not() {
    let lab = Lab::new();
    for command in [
        "route add 10.9.0.0/16 via 10.0.0.2",
        "route add 2001:db8:9::/48 via 2001:db8::2 mtu 1400",
        "address add 198.51.100.10/32 dev lo",
        "route add 10.8.0.0/16 via 10.0.0.2 src 198.51.100.10",
        "route add 10.7.0.0/16 via inet6 2001:db8::2",
        "route add blackhole 10.66.0.0/16",
        "route add unreachable 10.67.0.0/16",
        "route add prohibit 10.68.0.0/16",
        "route add blackhole 2001:db8:66::/48",
        "route add unreachable 2001:db8:67::/48",
        "route add prohibit 2001:db8:68::/48",
    ] {
        lab.near(command);
    }
    inside(&lab.near, async || {
        let (watch, _events) = NetWatch::start(NEVER).await.unwrap();
        let mut lookup = RouteLookup::open().unwrap();
        let vips = BTreeSet::from([address("198.51.100.10")]);
        let net = watch.read().clone();
        let good = [
            ("10.0.0.7", None, "10.0.0.7", "10.0.0.1", 1500),
            ("2001:db8::7", None, "2001:db8::7", "2001:db8::1", 1500),
            ("10.9.1.1", Some("10.0.0.2"), "10.0.0.2", "10.0.0.1", 1500),
            ("10.8.1.1", Some("10.0.0.2"), "10.0.0.2", "10.0.0.1", 1500),
            ("10.7.1.1", Some("2001:db8::2"), "2001:db8::2", "10.0.0.1", 1500),
            ("2001:db8:9::1", Some("2001:db8::2"), "2001:db8::2", "2001:db8::1", 1400),
        ];
        let asked: Vec<IpAddr> = good.iter().map(|case| address(case.0)).collect();
        let answers = resolve(&mut lookup, &watch, &vips, &asked).unwrap();
        for ((backend, gateway, next_hop, source, mtu), answer) in good.into_iter().zip(answers) {
            let egress = answer.unwrap_or_else(|error| panic!("{backend}: {error}"));
            assert_eq!((egress.ifindex, egress.ifname.as_str()), (near0(&net), "near0"));
            assert_eq!(egress.gateway, gateway.map(address), "{backend}");
            assert_eq!(egress.next_hop_ip, address(next_hop));
            assert_eq!((egress.source, egress.mtu), (address(source), mtu), "{backend}");
            assert_eq!(egress.src_mac, Mac([2, 0, 0, 0, 0, 1]));
            assert!(egress.vlans.is_empty());
        }
        type Cause = fn(IpAddr) -> EgressError;
        let bad: [(&str, Cause); 9] = [
            ("10.66.0.1", EgressError::Blackhole),
            ("10.67.0.1", EgressError::Unreachable),
            ("10.68.0.1", EgressError::Prohibited),
            ("2001:db8:66::1", EgressError::Blackhole),
            ("2001:db8:67::1", EgressError::Unreachable),
            ("2001:db8:68::1", EgressError::Prohibited),
            ("192.0.2.1", EgressError::NoRoute),
            ("2001:db8:ffff::1", EgressError::NoRoute),
            ("10.0.0.255", EgressError::Broadcast),
        ];
        let asked: Vec<IpAddr> = bad.iter().map(|case| address(case.0)).collect();
        let answers = resolve(&mut lookup, &watch, &vips, &asked).unwrap();
        for ((backend, error), answer) in bad.into_iter().zip(answers) {
            assert_eq!(answer, Err(error(address(backend))), "{backend}");
        }
        let own = [address("10.0.0.1"), address("127.0.0.1")];
        for answer in resolve(&mut lookup, &watch, &vips, &own).unwrap() {
            assert!(answer.unwrap().is_local());
        }
        let asked = [address("198.51.100.10"), address("198.51.100.11")];
        let owned: Vec<_> = vip::ownership(&net, asked).collect();
        assert_eq!(owned[0].links, ["lo"]);
        assert!(!owned[1].is_local());
    });
}

#[test]
fn ten_thousand_backends_resolve_at_once() {
    let lab = Lab::new();
    lab.near("route add 10.128.0.0/9 via 10.0.0.2");
    lab.near("route add 2001:db8:9::/48 via 2001:db8::2");
    inside(&lab.near, async || {
        let (watch, _events) = NetWatch::start(NEVER).await.unwrap();
        let mut lookup = RouteLookup::open().unwrap();
        type Backend = fn(u16) -> IpAddr;
        let families: [(&str, Backend); 2] = [
            ("v4", |n| IpAddr::from([10, 129, (n >> 8) as u8, n as u8])),
            ("v6", |n| IpAddr::from([0x2001, 0xdb8, 9, 0, 0, 0, 0, n])),
        ];
        for (family, backend) in families {
            let backends: Vec<IpAddr> = (0..10_000).map(backend).collect();
            let start = Instant::now();
            let ways = resolve(&mut lookup, &watch, &BTreeSet::new(), &backends).unwrap();
            let resolved = start.elapsed();
            let used = ways.into_iter().map(|way| (way.expect("a route"), Overrides::default()));
            let start = Instant::now();
            let changes = NextHops::default().replace(&watch.read(), used, Instant::now());
            println!("10,000 {family} backends: routes {resolved:?}, next hops {:?}", start.elapsed());
            assert_eq!(changes.len(), 1);
        }
    });
}

#[test]
fn a_router_that_changes_its_mac_changes_one_next_hop() {
    let lab = Lab::new();
    lab.near("route add 10.9.0.0/16 via 10.0.0.2");
    lab.near("neighbour replace 10.0.0.2 lladdr 02:00:00:00:00:aa dev near0 nud reachable");
    inside(&lab.near, async || {
        let (watch, mut events) = NetWatch::start(NEVER).await.unwrap();
        let mut lookup = RouteLookup::open().unwrap();
        let backends: Vec<IpAddr> = (1..=100).map(|n| IpAddr::from([10, 9, 0, n])).collect();
        let ways = resolve(&mut lookup, &watch, &BTreeSet::new(), &backends).unwrap();
        let mut hops = NextHops::default();
        let used = ways.into_iter().map(|way| (way.unwrap(), Overrides::default()));
        let changes = hops.replace(&watch.read(), used, Instant::now());
        let mac = |to: &Option<NextHopState>| match to {
            Some(NextHopState::Resolved(hop)) => (hop.dst_mac.to_string(), hop.origin),
            other => panic!("{other:?}"),
        };
        assert_eq!(mac(&changes[0].to), ("02:00:00:00:00:aa".into(), MacOrigin::Neighbour));

        lab.near("neighbour replace 10.0.0.2 lladdr 02:00:00:00:00:bb dev near0 nud reachable");
        wait_for(&mut events, |event| matches!(event, NetEvent::NeighbourChanged { .. })).await;
        let changes = hops.refresh(&watch.read(), Instant::now());
        assert_eq!(changes.len(), 1);
        assert_eq!(mac(&changes[0].to), ("02:00:00:00:00:bb".into(), MacOrigin::Neighbour));

        lab.near("neighbour delete 10.0.0.2 dev near0");
        until(&watch, |net| {
            let router = net.neighbour((near0(net), address("10.0.0.2")));
            router.is_none_or(|router| router.mac.is_none())
        })
        .await;
        let changes = hops.refresh(&watch.read(), Instant::now());
        assert_eq!(mac(&changes[0].to), ("02:00:00:00:00:bb".into(), MacOrigin::LastKnown));
    });
}

#[test]
fn routes_that_change_are_told_and_lead_elsewhere() {
    let lab = Lab::new();
    lab.near("nexthop add id 7 via 10.0.0.2 dev near0");
    lab.near("route add 10.9.0.0/16 nhid 7");
    inside(&lab.near, async || {
        let (watch, mut events) = NetWatch::start(NEVER).await.unwrap();
        let mut lookup = RouteLookup::open().unwrap();
        let backend = [address("10.9.0.1")];
        let mut gateway = || {
            let ways = resolve(&mut lookup, &watch, &BTreeSet::new(), &backend).unwrap();
            ways[0].as_ref().ok().and_then(|way| way.gateway)
        };
        assert_eq!(gateway(), Some(address("10.0.0.2")));
        for (command, expected) in [
            ("nexthop replace id 7 via 10.0.0.3 dev near0", Some("10.0.0.3")),
            ("route add 10.9.0.0/24 via 10.0.0.4", Some("10.0.0.4")),
            ("rule add to 10.9.0.1 blackhole", None),
            ("rule delete to 10.9.0.1 blackhole", Some("10.0.0.4")),
            ("route delete 10.9.0.0/24", Some("10.0.0.3")),
            ("link set near0 down", None),
        ] {
            lab.near(command);
            wait_for(&mut events, |event| *event == NetEvent::RoutesChanged).await;
            assert_eq!(gateway(), expected.map(address), "{command}");
        }
        assert_eq!(watch.stats().unread, 0);
    });
}

#[test]
fn a_recreated_interface_is_seen_to_vanish_and_come_back_under_another_number() {
    let lab = Lab::new();
    inside(&lab.near, async || {
        let (watch, mut events) = NetWatch::start(NEVER).await.unwrap();
        let old = near0(&watch.read());
        lab.near("link delete near0");
        let gone = NetEvent::LinkVanished { ifindex: old, name: "near0".into() };
        wait_for(&mut events, |event| *event == gone).await;
        lab.join(11);
        let back = |event: &NetEvent| matches!(event, NetEvent::LinkAppeared { name, .. } if name == "near0");
        wait_for(&mut events, back).await;
        let new = near0(&watch.read());
        assert_ne!(new, old);
        until(&watch, |net| net.addresses().any(|found| found.ip == address("10.0.0.1"))).await;

        lab.near("link set near0 down");
        lab.near("link set near0 name uplink");
        let renamed = NetEvent::LinkRenamed { ifindex: new, from: "near0".into(), to: "uplink".into() };
        wait_for(&mut events, |event| *event == renamed).await;
    });
}

#[test]
fn carrier_loss_is_told_fast() {
    const ROUNDS: usize = 50;
    let lab = Lab::new();
    let (order, orders) = std::sync::mpsc::channel::<()>();
    let (done, mut cut) = mpsc::unbounded_channel();
    let far = lab.far.clone();
    let cutter = std::thread::spawn(move || {
        inside(&far, async move || {
            let (connection, handle, _) = rtnetlink::new_connection().unwrap();
            tokio::spawn(connection);
            let (watch, _events) = NetWatch::start(NEVER).await.unwrap();
            let ifindex = watch.read().link_named("far0").unwrap().ifindex;
            let link = || LinkUnspec::new_with_index(ifindex);
            while orders.recv().is_ok() {
                let start = Instant::now();
                handle.link().set(link().down().build()).execute().await.unwrap();
                done.send(start).unwrap();
                if orders.recv().is_err() {
                    break;
                }
                handle.link().set(link().up().build()).execute().await.unwrap();
            }
        });
    });
    inside(&lab.near, async move || {
        let (watch, mut events) = NetWatch::start(NEVER).await.unwrap();
        until(&watch, |net| net.link_named("near0").is_some_and(|link| link.carrier)).await;
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            order.send(()).unwrap();
            wait_for(&mut events, |event| matches!(event, NetEvent::CarrierLost { .. })).await;
            let received = Instant::now();
            took.push(received - cut.recv().await.unwrap());
            assert!(!watch.read().link_named("near0").unwrap().carrier);
            order.send(()).unwrap();
            wait_for(&mut events, |event| matches!(event, NetEvent::CarrierGained { .. })).await;
        }
        took.sort();
        let (p50, p90, max) = (took[ROUNDS / 2], took[ROUNDS * 9 / 10], took[ROUNDS - 1]);
        println!(
            "carrier loss, from the peer's request to the event received: p50 {p50:?}, p90 {p90:?}, max {max:?}"
        );
    });
    cutter.join().unwrap();
}

#[test]
fn a_kept_neighbour_gets_resolved_survives_carrier_loss_and_is_let_go() {
    let lab = Lab::new();
    lab.near("neighbour add 10.0.0.9 lladdr 02:00:00:00:00:99 dev near0 nud permanent");
    inside(&lab.near, async || {
        let (watch, _events) = NetWatch::start(NEVER).await.unwrap();
        let link = near0(&watch.read());
        let wanted: BTreeSet<_> =
            ["10.0.0.2", "2001:db8::2", "10.0.0.9"].map(|ip| (link, address(ip))).into();
        let resolved = |net: &NetState| {
            wanted.iter().all(|key| net.neighbour(*key).is_some_and(|found| found.mac.is_some()))
        };
        let mut keeper = NeighbourKeeper::open(&watch.read()).unwrap();
        let start = Instant::now();
        assert!(keeper.keep(&watch.read(), &wanted).unwrap().is_empty());
        for key in &wanted {
            until(&watch, |net| net.neighbour(*key).is_some_and(|found| found.mac.is_some())).await;
            println!("{} resolved within {:?}", key.1, start.elapsed());
        }
        println!("all kept neighbours resolved within {:?}", start.elapsed());
        let router = *watch.read().neighbour((link, address("10.0.0.2"))).unwrap();
        assert_eq!(router.mac, Some(Mac([2, 0, 0, 0, 0, 2])));
        assert_eq!(router.upkeep, Upkeep::Weir);
        let set = *watch.read().neighbour((link, address("10.0.0.9"))).unwrap();
        assert_eq!((set.resolution, set.upkeep), (Resolution::Permanent, Upkeep::None));

        lab.far("link set far0 down");
        until(&watch, |net| {
            net.neighbour((link, address("10.0.0.2"))).is_none_or(|found| found.mac.is_none())
        })
        .await;
        lab.far("link set far0 up");
        lab.far("address replace 2001:db8::2/64 dev far0 nodad");
        until(&watch, |net| net.link(link).is_some_and(|link| link.carrier)).await;
        assert!(keeper.keep(&watch.read(), &wanted).unwrap().is_empty());
        until(&watch, resolved).await;

        // A restarted daemon knows its own, and lets go of what is wanted no longer.
        let mut keeper = NeighbourKeeper::open(&watch.read()).unwrap();
        keeper.keep(&watch.read(), &BTreeSet::from([(link, address("2001:db8::2"))])).unwrap();
        let upkeep = |net: &NetState, ip: &str| net.neighbour((link, address(ip))).map(|found| found.upkeep);
        until(&watch, |net| upkeep(net, "10.0.0.2") == Some(Upkeep::None)).await;
        assert_eq!(upkeep(&watch.read(), "2001:db8::2"), Some(Upkeep::Weir));
        keeper.release_all(&watch.read()).unwrap();
        until(&watch, |net| upkeep(net, "2001:db8::2") == Some(Upkeep::None)).await;
    });
}

#[test]
fn an_entry_that_the_operator_took_over_stays_permanent() {
    let lab = Lab::new();
    inside(&lab.near, async || {
        let (watch, _events) = NetWatch::start(NEVER).await.unwrap();
        let key = (near0(&watch.read()), address("10.0.0.2"));
        let mut keeper = NeighbourKeeper::open(&watch.read()).unwrap();
        keeper.keep(&watch.read(), &BTreeSet::from([key])).unwrap();
        until(&watch, |net| net.neighbour(key).is_some_and(|found| found.upkeep == Upkeep::Weir)).await;
        lab.near("neighbour replace 10.0.0.2 lladdr 02:00:00:00:00:bb dev near0 nud permanent");
        let permanent = |net: &NetState| {
            net.neighbour(key).is_some_and(|found| found.resolution == Resolution::Permanent)
        };
        until(&watch, permanent).await;
        keeper.keep(&watch.read(), &BTreeSet::from([key])).unwrap();
        keeper.release_all(&watch.read()).unwrap();
        let (fresh, _events) = NetWatch::start(NEVER).await.unwrap();
        assert!(permanent(&fresh.read()));
    });
}

#[test]
fn a_silent_neighbour_ends_as_failed() {
    let lab = Lab::new();
    inside(&lab.near, async || {
        let (watch, _events) = NetWatch::start(NEVER).await.unwrap();
        let key = (near0(&watch.read()), address("10.0.0.77"));
        let mut keeper = NeighbourKeeper::open(&watch.read()).unwrap();
        keeper.keep(&watch.read(), &BTreeSet::from([key])).unwrap();
        until(&watch, |net| net.neighbour(key).is_some_and(|found| found.resolution == Resolution::Failed))
            .await;
    });
}

#[test]
fn lost_notifications_are_noticed_and_repaired() {
    let lab = Lab::new();
    lab.near("address add 192.0.2.1/32 dev lo");
    inside(&lab.near, async || {
        let (watch, mut events) = NetWatch::start(NEVER).await.unwrap();
        let repairs = tokio::spawn(async move {
            let mut repaired = 0;
            while let Some(observed) = events.recv().await {
                if let NetEvent::Repaired { objects } = observed.event {
                    repaired += objects;
                }
            }
            repaired
        });
        let mut batch: String = (0..30_000)
            .map(|n| format!("route add 10.{}.{}.{}/32 dev near0\n", 100 + n / 65536, n / 256 % 256, n % 256))
            .collect();
        batch.push_str("address delete 192.0.2.1/32 dev lo\n");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), batch).unwrap();
        // The runtime has one thread, so the watch cannot read while this blocks it.
        lab.near(&format!("-batch {}", file.path().display()));
        until(&watch, |net| net.addresses().all(|found| found.ip != address("192.0.2.1"))).await;
        let stats = watch.stats();
        assert!(stats.overruns > 0, "{stats:?}");
        drop(watch);
        let repaired = repairs.await.unwrap();
        println!("after a burst that filled the receive buffer: {repaired} repaired, {stats:?}");
        assert_eq!(repaired, 1);
    });
}

#[test]
fn the_state_equals_a_fresh_dump_after_changes_and_needs_no_repair() {
    let lab = Lab::new();
    inside(&lab.near, async || {
        let (watch, mut events) = NetWatch::start(Duration::from_millis(20)).await.unwrap();
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        for round in 1..=20 {
            lab.near(&format!("address add 10.1.0.{round}/24 dev near0"));
            lab.near(&format!("neighbour replace 10.1.0.100 lladdr 02:00:00:00:01:{round:02} dev near0"));
            if round % 3 == 0 {
                lab.near(&format!("address delete 10.1.0.{round}/24 dev near0"));
                lab.near("link set near0 mtu 1400");
            } else {
                lab.near("link set near0 mtu 1500");
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let (fresh, _events) = NetWatch::start(NEVER).await.unwrap();
        assert_eq!(*watch.read(), *fresh.read());
        let stats = watch.stats();
        println!("{stats:?}");
        assert!(stats.resyncs > 0);
        assert_eq!((stats.repaired, stats.unread), (0, 0));
    });
}

#[test]
fn facts_about_an_interface_come_from_its_own_namespace() {
    let lab = Lab::new();
    inside(&lab.near, async || {
        std::fs::write("/proc/sys/net/ipv4/conf/near0/rp_filter", "1").unwrap();
        let (watch, _events) = NetWatch::start(NEVER).await.unwrap();
        let link = watch.read().link_named("near0").unwrap().clone();
        let facts = facts::gather(&link).unwrap();
        println!("{facts:?}");
        assert_eq!(facts.link.kind, LinkKind::Veth);
        assert_eq!(facts.rp_filter, Some(RpFilter::Strict));
        assert_eq!(facts.features.lro, Some(Switch::Off));
        assert!(facts.features.gro.is_some() && facts.features.tx_checksum.is_some());
        assert!(facts::gather(&Link { name: "absent0".into(), ..link }).is_err());
    });
}
