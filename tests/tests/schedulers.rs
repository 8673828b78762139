//! Schedulers with real clients and servers: one backend for a client by `source`; no backend with much more than its
//! share of live connections by `least-connections`, however fast each is.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use weir_tests::{Get, Lab, Load, Rate, Web, plan::Family};

const HEAD: &str = r#"
interfaces = ["eth0", "eth1"]
[limits]
flows_v4 = 65_536
flows_v6 = 16_384
maglev_slots = 262_144
[[vip]]
name = "edge"
address = ["198.51.100.10", "2001:db8::10"]
"#;

fn config(lab: &Lab, scheduler: &str, weights: &[(&str, u32)]) -> Result<String> {
    let mut text = format!(
        "{HEAD}[[service]]\nname = \"web\"\nvip = \"edge\"\nports = [80, 81]\nprotocol = \"tcp\"\nmode = \"ipip\"\n\
         scheduler = \"{scheduler}\"\n[[service.health]]\ntype = \"none\"\n"
    );
    for (name, weight) in weights {
        let address = lab.backend(name).address(Family::V4);
        text +=
            &format!("[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\nweight = {weight}\n");
    }
    Ok(text)
}

fn vip(lab: &Lab, family: Family, port: u16) -> SocketAddr {
    SocketAddr::new(lab.vip().of(family), port)
}

#[test]
fn by_source_a_client_keeps_its_backend_over_ports_restarts_and_instances() -> Result<()> {
    const BACKENDS: [(&str, u32); 4] = [("direct-1", 1), ("direct-2", 1), ("direct-3", 1), ("direct-4", 1)];
    let web = Web { ports: vec![80, 81], ..Web::default() };
    let lab = Lab::builder().direct(4).clients(1).client_addresses(16).web(web).start()?;
    let text = config(&lab, "source", &BACKENDS)?;
    let addresses = lab.client().addresses().to_vec();
    let homes = |what: &str| -> Result<Vec<String>> {
        let mut homes = Vec::new();
        for family in Family::BOTH {
            for address in &addresses {
                let mut seen = BTreeSet::new();
                for port in [80, 81, 80, 81] {
                    let request =
                        Get::new(vip(&lab, family, port)).from(SocketAddr::new(address.of(family), 0));
                    seen.insert(lab.client().get(&request).context("get")?.backend);
                }
                ensure!(seen.len() == 1, "{what}: {} went to {seen:?}", address.of(family));
                homes.extend(seen);
            }
        }
        Ok(homes)
    };
    let mut weir = lab.weir(&text)?;
    let first = homes("at first")?;
    let used: BTreeSet<&String> = first.iter().collect();
    println!("32 addresses use {} backends", used.len());
    assert!(used.len() > 1, "{used:?}");
    let scheduler = weir.json(&["services"])?["services"][0]["scheduler"].clone();
    assert_eq!(scheduler, "source");

    weir.terminate()?;
    weir.launch()?;
    assert_eq!(homes("after a restart")?, first);
    // Another instance: new maps, another secret, no flows.
    weir.terminate()?;
    weir.succeed(&["detach"])?;
    weir.launch()?;
    assert_eq!(homes("on another instance")?, first);
    Ok(())
}

/// Connections that backends' servers have, by name.
fn connections(lab: &Lab, names: &[&str]) -> Result<BTreeMap<String, u32>> {
    let count = |name: &&str| {
        let sockets = lab.backend(name).exec("ss", &["-Htn", "state", "established", "sport", "=", ":80"])?;
        Ok(((*name).to_owned(), sockets.lines().count() as u32))
    };
    names.iter().map(count).collect()
}

/// How busy the busiest is, relative to its weight's share, on the mean of some seconds.
fn busiest(lab: &Lab, backends: &[(&str, u32)], during: Duration) -> Result<f64> {
    let names: Vec<&str> = backends.iter().map(|(name, _)| *name).collect();
    let (began, mut sums, mut samples) = (Instant::now(), BTreeMap::<String, u32>::new(), 0);
    while began.elapsed() < during {
        for (name, count) in connections(lab, &names)? {
            *sums.entry(name).or_default() += count;
        }
        samples += 1;
        thread::sleep(Duration::from_millis(100));
    }
    let share =
        f64::from(sums.values().sum::<u32>()) / f64::from(backends.iter().map(|(_, w)| w).sum::<u32>());
    let mut worst: f64 = 0.0;
    for (name, weight) in backends {
        let ratio = f64::from(sums[*name]) / (share * f64::from(*weight));
        let mean = f64::from(sums[*name]) / f64::from(samples);
        println!("  {name}, weight {weight}: {mean:.1} connections, {ratio:.2} of its share");
        worst = worst.max(ratio);
    }
    Ok(worst)
}

/// A load of downloads from servers of unequal speed.
fn unequal(scheduler: &str) -> Result<(f64, f64)> {
    const BACKENDS: [(&str, u32); 5] =
        [("direct-1", 100), ("direct-2", 100), ("direct-3", 200), ("direct-4", 100), ("direct-5", 100)];
    // nginx sends what a second has room for at once: 64 KiB take the fast servers one second, the others three and five.
    let web = Web {
        big_bytes: 64 << 10,
        big_rate: 40 << 10,
        big_rates: vec![("direct-2".to_owned(), 12 << 10), ("direct-3".to_owned(), 20 << 10)],
        ..Web::default()
    };
    let lab = Lab::builder().direct(5).clients(2).web(web).start()?;
    let weir = lab.weir(&config(&lab, scheduler, &BACKENDS[..4])?)?;
    let get = |family| Get::new(vip(&lab, family, 80)).path("/big").timeout(Duration::from_secs(20));
    let rate = |per_second| Rate { threads: 200, ..Rate::per_second(per_second) };
    let loads = [(0, Family::V4), (1, Family::V6)]
        .map(|(client, family)| Load::start(&lab.clients()[client], get(family), rate(60)));
    thread::sleep(Duration::from_secs(9));
    println!("{scheduler}, four backends:");
    let before = busiest(&lab, &BACKENDS[..4], Duration::from_secs(6))?;
    let reload = weir.reload(&config(&lab, scheduler, &BACKENDS)?)?;
    ensure!(reload.status.success(), "{reload:?}");
    thread::sleep(Duration::from_secs(7));
    println!("{scheduler}, one more:");
    let after = busiest(&lab, &BACKENDS, Duration::from_secs(6))?;
    let shots: Vec<_> = loads.into_iter().flat_map(Load::stop).collect();
    let failed = shots.iter().filter(|shot| shot.failed()).count();
    println!(
        "{} downloads, {failed} failed; the busiest: {before:.2} and {after:.2} of its share",
        shots.len()
    );
    assert!(shots.len() > 500, "the load was {} downloads", shots.len());
    assert_eq!(failed, 0);
    Ok((before, after))
}

#[test]
fn by_least_connections_the_busiest_server_has_at_most_its_share_and_three_tenths() -> Result<()> {
    let (before, after) = unequal("least-connections")?;
    assert!(before <= 1.3 && after <= 1.3, "{before}, then {after}");
    Ok(())
}

#[test]
fn by_the_table_alone_slow_servers_have_more_connections_than_their_share() -> Result<()> {
    let (before, _) = unequal("maglev")?;
    assert!(before > 1.3, "{before}: this load would show nothing");
    Ok(())
}
