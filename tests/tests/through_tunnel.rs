//! Checks that take the way of real traffic find what checks of the host cannot: a broken tunnel, a missing VIP, a
//! filter on the backend, a path that loses large packets. A direct ping tells them from a dead host.

use std::{
    fmt::Write as _,
    net::{IpAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use weir_tests::{Family, Lab, WeirProc, eventually, plan};

const HEAD: &str =
    "interfaces = [\"eth0\", \"eth1\"]\n[limits]\nflows_v4 = 4096\nflows_v6 = 1024\nmaglev_slots = 131_072\n";

/// What is said of a backend whose host is well.
const BROKEN: &str = "tunnel broken, VIP missing or rp_filter, its host answers pings";

/// The name of a pool's backend: one name is one address in all pools.
fn backend(address: IpAddr, number: u8) -> String {
    if address.is_ipv4() { format!("backend-{number}") } else { format!("backend-{number}-v6") }
}

/// A service `name` and its pool of the same name.
fn service(name: &str, vip: IpAddr, mode: &str, checks: &str, addresses: &[IpAddr]) -> String {
    let mut text = format!(
        "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = 80\nprotocol = \"tcp\"\nmode = \"{mode}\"\n\
         pool = \"{name}\"\n[[pool]]\nname = \"{name}\"\nhold_down = \"0s\"\n{checks}"
    );
    for (address, number) in addresses.iter().zip(1..) {
        let name = backend(*address, number);
        let _ = write!(text, "[[pool.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    }
    text
}

fn check(kind: &str, through: &str) -> String {
    format!(
        "[[pool.health]]\ntype = \"{kind}\"\ninterval = \"20ms\"\ntimeout = \"200ms\"\nfall = 3\nthrough = \"{through}\"\n"
    )
}

/// Two pools of the same backends: `inside` is asked through the tunnel, `outside` directly.
fn inside_and_outside(mode: &str, kind: &str, addresses: [[u8; 4]; 2]) -> String {
    let addresses = addresses.map(IpAddr::from);
    let of = |name, index, through| {
        service(name, plan::vip(index).v4.into(), mode, &check(kind, through), &addresses)
    };
    [HEAD, &of("inside", 0, "tunnel"), &of("outside", 1, "direct")].concat()
}

fn told(weir: &WeirProc, pool: &str, backend: &str, what: &str) -> String {
    let Ok(list) = weir.json(&["backends", "--pool", pool]) else { return String::new() };
    let found = list["backends"].as_array().into_iter().flatten().find(|one| one["name"] == backend);
    found.and_then(|one| one[what].as_str()).unwrap_or_default().to_owned()
}

fn becomes(weir: &WeirProc, pool: &str, backend: &str, health: &str) -> Duration {
    let begin = Instant::now();
    eventually(&format!("{pool}/{backend} is {health}"), || told(weir, pool, backend, "health") == health);
    begin.elapsed()
}

/// `inside/backend-1` goes down for a reason, and nothing else does. The backend's own ICMP errors about packets of the
/// tunnel concern `outside` too, whose traffic takes the same tunnel: it may be suspect.
fn found(weir: &WeirProc, what: &str, reason: &str, kind: &str) {
    let after = becomes(weir, "inside", "backend-1", "down");
    let why = told(weir, "inside", "backend-1", "why");
    println!("{what}: down after {after:?}: {why}");
    assert!(why.starts_with(reason), "{what}: {why}");
    assert_eq!(told(weir, "inside", "backend-1", "failure_kind"), kind, "{what}");
    let outside = told(weir, "outside", "backend-1", "health");
    assert!(outside == "up" || outside == "suspect", "{what}: its host is well, outside is {outside}");
    assert_eq!(told(weir, "inside", "backend-2", "health"), "up", "{what}: so is the other");
}

fn ready(weir: &WeirProc) {
    for backend in ["backend-1", "backend-2"] {
        becomes(weir, "inside", backend, "up");
        becomes(weir, "outside", backend, "up");
    }
}

#[test]
fn removed_tunnel_missing_vip_and_mtu_black_hole_are_found_and_named() -> Result<()> {
    let lab = Lab::builder().direct(1).routed(1).vips(2).start()?;
    let weir = lab.weir(&inside_and_outside("ipip", "syn", [[10, 0, 1, 11], [10, 0, 2, 11]]))?;
    ready(&weir);
    let backend = lab.backend("direct-1");

    backend.break_tunnel()?;
    found(&weir, "tunnel removed", BROKEN, "hard");
    backend.mend_tunnel()?;
    becomes(&weir, "inside", "backend-1", "up");

    backend.ip("addr del 198.51.100.10/32 dev lo")?;
    found(&weir, "VIP removed", BROKEN, "hard");
    backend.ip("addr add 198.51.100.10/32 dev lo")?;
    becomes(&weir, "inside", "backend-1", "up");

    lab.edge().ip("link set dev direct-1 mtu 1400")?;
    found(&weir, "large packets lost", "MTU black hole, small packets are answered", "soft");
    lab.edge().ip("link set dev direct-1 mtu 1600")?;
    becomes(&weir, "inside", "backend-1", "up");

    backend.freeze()?;
    becomes(&weir, "inside", "backend-1", "down");
    let why = told(&weir, "inside", "backend-1", "why");
    assert!(why.contains("its host answers no direct ping"), "{why}");
    Ok(())
}

#[test]
fn source_checks_on_the_backend_are_found() -> Result<()> {
    let lab = Lab::builder().direct(2).vips(2).start()?;
    let addresses = [1, 2].map(|number| lab.backend(&format!("direct-{number}")).address(Family::V6));
    let of = |name, index, through| {
        service(name, plan::vip(index).v4.into(), "ipip", &check("syn", through), &addresses)
    };
    let weir = lab.weir(&[HEAD, &of("inside", 0, "tunnel"), &of("outside", 1, "direct")].concat())?;
    let [first, second] = [1, 2].map(|number| backend(addresses[0], number));
    let all_up = || {
        for pool in ["inside", "outside"] {
            becomes(&weir, pool, &first, "up");
            becomes(&weir, pool, &second, "up");
        }
    };
    all_up();
    let host = lab.backend("direct-1");
    // What comes by one device is answered by another.
    host.ip(&format!("link add eth9 type veth peer name second netns {}-edge", lab.name()))?;
    lab.edge().ip("link set second master direct up")?;
    host.ip("link set eth9 up")?;
    host.ip("addr add 10.0.1.99/32 dev eth9")?;
    host.ip("route add 10.0.0.2/32 via 10.0.1.1 dev eth9 onlink")?;
    thread::sleep(Duration::from_secs(1));
    all_up();
    host.exec("sysctl", &["-qw", "net.ipv4.conf.eth0.rp_filter=1"])?;
    becomes(&weir, "inside", &first, "down");
    let why = told(&weir, "inside", &first, "why");
    assert!(why.starts_with(BROKEN), "{why}");
    assert_eq!(told(&weir, "outside", &first, "health"), "up");
    assert_eq!(told(&weir, "inside", &second, "health"), "up");
    host.exec("sysctl", &["-qw", "net.ipv4.conf.eth0.rp_filter=0"])?;
    becomes(&weir, "inside", &first, "up");
    Ok(())
}

/// The mode, the family of the backends' addresses, and the family of the VIP.
const WAYS: [(&str, Family, Family); 10] = [
    ("dsr-l2", Family::V4, Family::V4),
    ("dsr-l2", Family::V6, Family::V6),
    ("ipip", Family::V4, Family::V4),
    ("ipip", Family::V4, Family::V6),
    ("ipip", Family::V6, Family::V4),
    ("ipip", Family::V6, Family::V6),
    ("gue", Family::V4, Family::V4),
    ("gue", Family::V4, Family::V6),
    ("gue", Family::V6, Family::V4),
    ("gue", Family::V6, Family::V6),
];

#[test]
fn every_way_is_asked_and_healthy_backends_stay_up_unseen_by_the_tables() -> Result<()> {
    let lab = Lab::builder().direct(2).vips(10).start()?;
    let mut config = HEAD.to_owned();
    let mut names = Vec::new();
    for ((mode, outer, inner), index) in WAYS.into_iter().zip(0..) {
        let name = format!("{mode}-{inner:?}-in-{outer:?}").to_lowercase();
        let addresses: Vec<IpAddr> = lab.backends().iter().map(|backend| backend.address(outer)).collect();
        let checks = [check("syn", "tunnel"), check("ping", "tunnel")].concat();
        config += &service(&name, plan::vip(index).of(inner), mode, &checks, &addresses);
        let [first, second] = [1, 2].map(|number| backend(addresses[0], number));
        names.push((name, plan::vip(index).of(inner), first, second));
    }
    let weir = lab.weir(&config)?;
    for (name, _, first, second) in &names {
        becomes(&weir, name, first, "up");
        becomes(&weir, name, second, "up");
    }
    thread::sleep(Duration::from_secs(5));
    let log = weir.log();
    assert!(!log.contains("to=\"down\""), "healthy backends went down: {log}");
    assert_eq!(weir.json(&["flows", "--count"])?["total"], 0, "probes made flows");
    let services = weir.json(&["services"])?;
    for service in services["services"].as_array().context("services")? {
        assert_eq!(service["packets"], 0, "probes were counted: {service}");
    }
    for backend in lab.backends() {
        let half_open = backend.exec("ss", &["-Htn", "state", "syn-recv"])?;
        assert!(half_open.lines().count() <= 10, "half-open connections stay: {half_open}");
    }
    let backend = lab.backend("direct-1");
    for (name, vip, first, _) in &names {
        let length = if vip.is_ipv4() { 32 } else { 128 };
        backend.ip(&format!("addr del {vip}/{length} dev lo"))?;
        becomes(&weir, name, first, "down");
        let why = told(&weir, name, first, "why");
        assert!(why.starts_with(BROKEN), "{name}: {why}");
    }
    for (name, _, _, second) in &names {
        assert_eq!(told(&weir, name, second, "health"), "up", "{name}");
    }
    Ok(())
}

#[test]
fn refusals_are_told_and_a_restarted_server_is_found() -> Result<()> {
    let lab = Lab::builder().direct(2).vips(2).start()?;
    let weir = lab.weir(&inside_and_outside("gue", "syn", [[10, 0, 1, 11], [10, 0, 1, 12]]))?;
    ready(&weir);
    let backend = lab.backend("direct-1");
    backend.kill();
    becomes(&weir, "inside", "backend-1", "down");
    let why = told(&weir, "inside", "backend-1", "why");
    assert!(why.contains("connection refused"), "{why}");
    backend.start()?;
    becomes(&weir, "inside", "backend-1", "up");
    Ok(())
}

#[test]
fn the_host_itself_is_asked_as_its_traffic_goes() -> Result<()> {
    let lab = Lab::builder().direct(1).vips(2).start()?;
    let weir_host = lab.weir_host();
    weir_host.ip("addr add 198.51.100.10/32 dev lo")?;
    let _listener = weir_host.run(|| TcpListener::bind("0.0.0.0:80"))?;
    let weir = lab.weir(&inside_and_outside("ipip", "syn", [[10, 0, 1, 2], [10, 0, 1, 11]]))?;
    becomes(&weir, "inside", "backend-1", "up");
    becomes(&weir, "inside", "backend-2", "up");
    weir_host.ip("addr del 198.51.100.10/32 dev lo")?;
    becomes(&weir, "inside", "backend-1", "down");
    let why = told(&weir, "inside", "backend-1", "why");
    assert!(why.contains("198.51.100.10 is no address of this host"), "{why}");
    Ok(())
}
