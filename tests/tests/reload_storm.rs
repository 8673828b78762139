//! Everything about a service changes while its connections go on.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use weir_tests::{Downloads, Family, Get, Lab, Web, WeirProc, any_port, source_port, url};

const DOWNLOADS: usize = 200;
/// More than the slow client reads in a minute.
const BYTES: u64 = 1 << 20;

/// A service of backends with weights; flows of ended connections are forgotten after one tick.
fn config(vip: SocketAddr, backends: &[(u8, u16)]) -> String {
    let mut text = format!(
        r#"
interfaces = ["eth0", "eth1"]
[limits]
flows_v4 = 16_384
flows_v6 = 16_384
maglev_slots = 262_144
[[service]]
name = "web"
vip = "{vip}"
port = 80
protocol = "tcp"
mode = "dsr-l2"
[service.timeouts]
tcp_embryonic = "4s"
tcp_closing = "1s"
[[service.health]]
type = "tcp"
interval = "200ms"
timeout = "2s"
"#,
        vip = vip.ip()
    );
    for (number, weight) in backends {
        let _ = write!(
            text,
            "[[service.backend]]\nname = \"direct-{number}\"\naddress = \"10.0.1.{}\"\nweight = {weight}\n",
            10 + number
        );
    }
    text
}

/// Reloads a config, which must work.
fn reload(weir: &WeirProc, config: &str) -> Result<()> {
    let output = weir.reload(config)?;
    ensure!(output.status.success(), "reload: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Connects with curl from the same ports again and again; gives the backends that answered.
fn from_known_ports(
    lab: &Lab,
    vip: SocketAddr,
    ports: &BTreeMap<u16, String>,
) -> Result<BTreeMap<u16, String>> {
    let mut seen = BTreeMap::new();
    for port in ports.keys() {
        let range = port.to_string();
        let output = lab.client().curl(&["--local-port", &range, &url(vip, "/")])?;
        let name = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        ensure!(!name.is_empty(), "curl from port {port}: {}", String::from_utf8_lossy(&output.stderr));
        seen.insert(*port, name);
    }
    Ok(seen)
}

#[test]
fn no_download_breaks_and_nothing_new_reaches_a_drained_backend_while_everything_changes() -> Result<()> {
    let lab = Lab::builder()
        .direct(7)
        .client_addresses(4)
        .web(Web { big_bytes: BYTES, big_rate: 0, ..Web::default() })
        .start()?;
    let vip = SocketAddr::new(lab.vip().of(Family::V4), 80);
    let all = [(1, 100), (2, 100), (3, 100), (4, 100), (5, 100)];
    let weir = lab.weir(&config(vip, &all))?;

    // curl closes first, and its ports must not stay in TIME_WAIT.
    lab.client().sysctl("ipv4/tcp_max_tw_buckets", "0")?;
    // Clients whose ports (none that the kernel gives out) come back: some of them were on the backend that is about to be drained.
    let ports: BTreeMap<u16, String> = (20_000..20_030).map(|port| (port, String::new())).collect();
    let known = from_known_ports(&lab, vip, &ports)?;
    let returning = known.values().filter(|backend| *backend == "direct-1").count();
    assert!(returning > 0, "{known:?}");

    let get = |index: usize| {
        let source = any_port(lab.client().addresses()[index % 4], vip);
        Get::new(vip).path("/big").from(source).timeout(Duration::from_secs(8))
    };
    let begin = Instant::now();
    let downloads = Downloads::start_slow(lab.client(), (0..DOWNLOADS).map(get).collect());
    downloads.wait_started(Duration::from_secs(10))?;
    let spread = downloads.states().iter().fold(BTreeMap::new(), |mut spread, download| {
        *spread.entry(download.backend.clone().unwrap_or_default()).or_insert(0) += 1;
        spread
    });
    println!("{DOWNLOADS} downloads in progress after {:?}: {spread:?}", begin.elapsed());
    assert_eq!(spread.len(), 5, "{spread:?}");

    // The storm.
    let drained = Instant::now();
    weir.succeed(&["backend", "drain", "direct-1", "--reason", "the storm"])?;
    let syns = lab.backend("direct-1").witness()?.syns;
    weir.succeed(&["backend", "weight", "direct-2", "--to", "10"])?;
    let added = [&all[..], &[(6, 100), (7, 100)]].concat();
    reload(&weir, &config(vip, &added))?;
    let removed: Vec<(u8, u16)> = added.into_iter().filter(|(number, _)| *number != 3).collect();
    reload(&weir, &config(vip, &removed))?;
    let mut answered = BTreeSet::new();
    for round in 0..10_u16 {
        // Each time another weight, so that each reload builds another table.
        let weighed: Vec<_> =
            removed.iter().map(|(n, weight)| (*n, weight + round * 7 * u16::from(*n))).collect();
        reload(&weir, &config(vip, &weighed))?;
        // The added backends become known to be up meanwhile.
        thread::sleep(Duration::from_millis(150));
        for _ in 0..10 {
            answered.insert(lab.client().get(&Get::new(vip))?.backend);
        }
    }
    let reused = from_known_ports(&lab, vip, &ports)?;
    answered.extend(reused.into_values());
    println!("changed everything within {:?}; new connections went to {answered:?}", drained.elapsed());
    let expected: BTreeSet<String> = [2, 4, 5, 6, 7].map(|number| format!("direct-{number}")).into();
    assert!(answered.is_subset(&expected), "{answered:?}");
    assert!(answered.contains("direct-6") && answered.contains("direct-7"), "{answered:?}");
    let left = downloads.states().iter().filter(|download| download.in_progress()).count();
    assert_eq!(left, DOWNLOADS, "all downloads were in progress while everything changed");

    downloads.hurry();
    let ended = downloads.finish(Duration::from_secs(40))?;
    let broken = ended.iter().filter(|download| download.broken()).count();
    let short = ended.iter().filter(|download| download.received != BYTES).count();
    println!("{broken} of {DOWNLOADS} downloads broke, {short} are short, {:?}", begin.elapsed());
    assert_eq!((broken, short), (0, 0));
    for (download, name) in ended.iter().map(|download| (download, download.backend.as_deref())) {
        assert!(name.is_some(), "{download:?}");
    }
    assert_eq!(lab.backend("direct-1").witness()?.syns, syns, "SYNs to the drained backend");
    assert_eq!(lab.backend("direct-1").access_log()?.len(), spread["direct-1"] + returning);

    // Its flows are closing and then over, and so is the drain.
    let waiting = Instant::now();
    let output = weir.cli(&["backend", "drain", "direct-1", "--wait", "--deadline", "20s"])?;
    ensure!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    println!("the drain ended {:?} after the downloads", waiting.elapsed());
    let total = weir.json(&["flows", "--backend", "web/direct-1", "--count"])?;
    assert_eq!(total["total"], 0);
    Ok(())
}

#[test]
fn a_drain_waits_for_the_downloads_and_says_so_when_its_deadline_passes() -> Result<()> {
    let lab = Lab::builder()
        .direct(2)
        .web(Web { big_bytes: 60 << 10, big_rate: 12 << 10, ..Web::default() })
        .start()?;
    let vip = SocketAddr::new(lab.vip().of(Family::V4), 80);
    let weir = lab.weir(&config(vip, &[(1, 100), (2, 100)]))?;
    let requests = (0..20).map(|n| Get::new(vip).path("/big").from(source_port(vip, 21_000 + n)));
    let downloads = Downloads::start(lab.client(), requests.collect());
    downloads.wait_started(Duration::from_secs(5))?;
    let on_drained =
        downloads.states().iter().filter(|download| download.backend.as_deref() == Some("direct-1")).count();
    let early = weir.cli(&["backend", "drain", "direct-1", "--wait", "--deadline", "1s"])?;
    let message = String::from_utf8_lossy(&early.stderr).into_owned();
    assert_eq!(early.status.code(), Some(6), "the deadline passes first: {message}");
    assert!(message.contains("live flow"), "{message}");

    let output = weir.cli(&["backend", "drain", "direct-1", "--wait", "-o", "json"])?;
    let states = downloads.states();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let ended = |name: &str| {
        let of = states.iter().filter(|download| download.backend.as_deref() == Some(name));
        of.filter(|download| matches!(download.end, Some(Ok(())))).count()
    };
    assert_eq!(ended("direct-1"), on_drained, "the wait ended after the downloads");
    let answer: serde_json::Value = serde_json::from_slice(&output.stdout).context("the answer is JSON")?;
    println!("{answer}");
    Ok(())
}
