//! What `weir backend drain|maintenance|ready|weight` does to live traffic, and how long it lasts.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::{Downloads, Family, Get, Lab, Web, WeirProc, eventually, source_port};

const CONFIG: &str = r#"
interfaces = ["eth0", "eth1"]
[limits]
flows_v4 = 16_384
flows_v6 = 1024
maglev_slots = 65_536
[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
mode = "dsr-l2"
[[service.health]]
type = "tcp"
interval = "100ms"
timeout = "2s"
[[service.backend]]
name = "direct-1"
address = "10.0.1.11"
[[service.backend]]
name = "direct-2"
address = "10.0.1.12"
weight = 101
[[service.backend]]
name = "direct-3"
address = "10.0.1.13"
"#;

/// More than the slow client reads in 45 s.
const BYTES: u64 = 768 << 10;
const DOWNLOADS: u16 = 60;

fn lab() -> Result<(Lab, SocketAddr)> {
    let web = Web { big_bytes: BYTES, big_rate: 0, ..Web::default() };
    let lab = Lab::builder().direct(3).web(web).start()?;
    let vip = SocketAddr::new(lab.vip().of(Family::V4), 80);
    Ok((lab, vip))
}

/// Downloads in progress on all backends, with a port each that the kernel does not give out.
fn downloads(lab: &Lab, vip: SocketAddr) -> Result<Downloads> {
    let get = |index| Get::new(vip).path("/big").from(source_port(vip, 20_000 + index));
    let gets = (0..DOWNLOADS).map(|index| get(index).timeout(Duration::from_secs(10)));
    let downloads = Downloads::start_slow(lab.client(), gets.collect());
    downloads.wait_started(Duration::from_secs(10))?;
    Ok(downloads)
}

/// How many requests each backend answers.
fn spread(lab: &Lab, vip: SocketAddr, requests: u32) -> Result<BTreeMap<String, u32>> {
    let mut seen = BTreeMap::new();
    for _ in 0..requests {
        *seen.entry(lab.client().get(&Get::new(vip))?.backend).or_default() += 1;
    }
    Ok(seen)
}

/// What `weir backends` says of a backend.
fn backend(weir: &WeirProc, name: &str) -> Result<Value> {
    let document = weir.json(&["backends"])?;
    let found = document["backends"].as_array().and_then(|all| all.iter().find(|one| one["name"] == name));
    found.cloned().with_context(|| format!("no {name} in {document}"))
}

/// Kills the daemon and starts it again.
fn restart(weir: &mut WeirProc) -> Result<()> {
    weir.kill();
    weir.launch()
}

fn reload(weir: &WeirProc, config: &str) -> Result<()> {
    let output = weir.reload(config)?;
    ensure!(output.status.success(), "reload: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// The config with another check, so that a reload has something to do.
fn changed_config() -> String {
    CONFIG.replace("interval = \"100ms\"", "interval = \"110ms\"")
}

#[test]
fn draining_backend_keeps_its_downloads_and_gets_nothing_new_until_ready() -> Result<()> {
    let (lab, vip) = lab()?;
    let mut weir = lab.weir(CONFIG)?;
    let downloads = downloads(&lab, vip)?;
    weir.succeed(&["backend", "drain", "web/direct-1", "--reason", "new kernel"])?;
    let syns = lab.backend("direct-1").witness()?.syns;
    for step in ["drained", "reloaded", "daemon killed and restarted"] {
        match step {
            "reloaded" => reload(&weir, &changed_config())?,
            "daemon killed and restarted" => restart(&mut weir)?,
            _ => {}
        }
        let seen = spread(&lab, vip, 40)?;
        println!("{step}: {seen:?}");
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["direct-2", "direct-3"], "{step}");
        assert_eq!(backend(&weir, "direct-1")?["admin"], "draining", "{step}");
        assert!(downloads.states().iter().all(|download| download.in_progress()), "{step}");
    }
    let status = weir.succeed(&["status"])?;
    assert!(status.contains("new kernel"), "status lists the change with its reason:\n{status}");
    assert_eq!(lab.backend("direct-1").witness()?.syns, syns, "SYNs to the draining backend");
    weir.succeed(&["backend", "ready", "direct-1"])?;
    assert_eq!(spread(&lab, vip, 40)?.len(), 3, "back in service at once");
    downloads.hurry();
    let ended = downloads.finish(Duration::from_secs(20))?;
    let whole = ended.iter().filter(|d| matches!(d.end, Some(Ok(()))) && d.received == BYTES).count();
    assert_eq!(whole, usize::from(DOWNLOADS));
    Ok(())
}

#[test]
fn what_is_left_at_the_deadline_of_a_drain_is_reset_where_that_is_asked_for() -> Result<()> {
    let (lab, vip) = lab()?;
    let mut weir = lab.weir(CONFIG)?;
    let downloads = downloads(&lab, vip)?;
    let drain = ["backend", "drain", "direct-1", "--reason", "new kernel", "--wait", "--deadline", "1s"];
    let told = weir.succeed(&[&drain[..], &["--then", "reset"]].concat())?;
    assert!(told.contains("resets what is left on 1 of 3 backends of pool web"), "{told}");
    let status = weir.succeed(&["status"])?;
    assert!(status.contains("draining, its flows are reset,") && status.contains("new kernel"), "{status}");
    assert_eq!(backend(&weir, "direct-1")?["admin"], "draining");
    // The clients read on, and so acknowledge.
    thread::sleep(Duration::from_secs(2));
    let witness = lab.backend("direct-1").witness()?;
    restart(&mut weir)?;
    let status = weir.succeed(&["status"])?;
    assert!(status.contains("draining, its flows are reset,"), "the next daemon goes on with it:\n{status}");
    downloads.hurry();
    let ended = downloads.finish(Duration::from_secs(30))?;
    let (its, others): (Vec<_>, Vec<_>) =
        ended.iter().partition(|download| download.backend.as_deref() == Some("direct-1"));
    let broken = its.iter().filter(|download| download.broken()).count();
    println!("{broken} of its {} downloads ended, {} others went on", its.len(), others.len());
    assert!(!its.is_empty() && broken == its.len() && others.len() > 20);
    assert!(others.iter().all(|d| matches!(d.end, Some(Ok(()))) && d.received == BYTES));
    let counters = &weir.json(&["status"])?["counters"];
    assert!(counters["flow_reset"].as_u64() >= Some(its.len() as u64), "{counters}");
    assert_eq!(counters["flow_rehomed"], 0, "no connection went to another server first");
    assert_eq!(lab.backend("direct-1").witness()?.packets, witness.packets, "packets after the reset");
    let events = weir.succeed(&["events", "--kind", "admin"])?;
    assert!(events.contains("active → draining") && events.contains("draining → resetting"), "{events}");
    weir.succeed(&["backend", "ready", "direct-1"])?;
    assert_eq!(spread(&lab, vip, 40)?.len(), 3, "back in service at once");
    Ok(())
}

#[test]
fn backend_in_maintenance_gets_no_packet_and_the_others_keep_their_downloads() -> Result<()> {
    let (lab, vip) = lab()?;
    let mut weir = lab.weir(CONFIG)?;
    let downloads = downloads(&lab, vip)?;
    let begin = Instant::now();
    weir.succeed(&["backend", "maintenance", "direct-2"])?;
    // Frames under way when the slot was stored.
    thread::sleep(Duration::from_millis(50));
    let witness = lab.backend("direct-2").witness()?;
    for step in ["in maintenance", "reloaded", "daemon killed and restarted"] {
        match step {
            "reloaded" => reload(&weir, &changed_config())?,
            "daemon killed and restarted" => restart(&mut weir)?,
            _ => {}
        }
        let seen = spread(&lab, vip, 40)?;
        println!("{step}: {seen:?}");
        assert_eq!(seen.keys().collect::<Vec<_>>(), ["direct-1", "direct-3"], "{step}");
        assert_eq!(backend(&weir, "direct-2")?["admin"], "maintenance", "{step}");
    }
    println!("all steps took {:?}", begin.elapsed());
    downloads.hurry();
    let ended = downloads.finish(Duration::from_secs(30))?;
    assert_eq!(lab.backend("direct-2").witness()?.packets, witness.packets, "packets in maintenance");
    let (its, others): (Vec<_>, Vec<_>) =
        ended.iter().partition(|download| download.backend.as_deref() == Some("direct-2"));
    assert!(!its.is_empty() && others.len() > 20);
    // Its flows went to servers that do not know them, which reset them: the clients learn it at once.
    let broken = its.iter().filter(|download| download.broken()).count();
    println!("{broken} of its {} downloads ended, {} others went on", its.len(), others.len());
    assert_eq!(broken, its.len(), "maintenance ends flows");
    assert!(others.iter().all(|d| matches!(d.end, Some(Ok(()))) && d.received == BYTES));
    let checked = backend(&weir, "direct-2")?["health"].clone();
    assert_eq!(checked, "up", "checks go on in maintenance");
    weir.succeed(&["backend", "ready", "direct-2"])?;
    assert_eq!(spread(&lab, vip, 40)?.len(), 3);
    Ok(())
}

#[test]
fn runtime_weight_holds_until_the_files_value_changes() -> Result<()> {
    let (lab, vip) = lab()?;
    let mut weir = lab.weir(CONFIG)?;
    let downloads = downloads(&lab, vip)?;
    weir.succeed(&["backend", "weight", "direct-2", "--to", "0"])?;
    assert_eq!(spread(&lab, vip, 40)?.keys().collect::<Vec<_>>(), ["direct-1", "direct-3"], "weight 0");
    weir.succeed(&["backend", "weight", "direct-2", "--to", "1000"])?;
    for step in ["weight 1000", "reloaded", "daemon killed and restarted"] {
        match step {
            "reloaded" => reload(&weir, &changed_config())?,
            "daemon killed and restarted" => restart(&mut weir)?,
            _ => {}
        }
        let seen = spread(&lab, vip, 120)?;
        println!("{step}: {seen:?}");
        // 100 of 120 expected, with a deviation of 4.
        assert!(seen["direct-2"] >= 78, "{step}: {seen:?}");
        assert_eq!(backend(&weir, "direct-2")?["weight"], 1000, "{step}");
    }
    reload(&weir, &CONFIG.replace("weight = 101", "weight = 99"))?;
    assert_eq!(backend(&weir, "direct-2")?["weight"], 99, "the file's new value takes over");
    let seen = spread(&lab, vip, 120)?;
    println!("the file's weight: {seen:?}");
    // 40 of 120 expected, with a deviation of 5.
    assert!((12..70).contains(&seen["direct-2"]), "{seen:?}");
    reload(&weir, CONFIG)?;
    assert_eq!(
        backend(&weir, "direct-2")?["weight"],
        101,
        "what was overtaken stays so, also when the value is back"
    );
    restart(&mut weir)?;
    assert_eq!(backend(&weir, "direct-2")?["weight"], 101, "and for the next daemon");
    weir.succeed(&["backend", "weight", "direct-1", "--to", "7"])?;
    weir.succeed(&["backend", "weight", "direct-1", "--to", "config"])?;
    assert_eq!(backend(&weir, "direct-1")?["weight"], 100);
    downloads.hurry();
    let ended = downloads.finish(Duration::from_secs(20))?;
    assert!(
        ended.iter().all(|d| matches!(d.end, Some(Ok(()))) && d.received == BYTES),
        "weights move no flow"
    );
    Ok(())
}

#[test]
fn timed_drain_ends_by_itself_and_the_last_backends_are_guarded() -> Result<()> {
    let (lab, vip) = lab()?;
    let mut weir = lab.weir(CONFIG)?;
    weir.succeed(&["backend", "drain", "direct-1", "direct-2"])?;
    let refused = weir.cli(&["backend", "drain", "direct-3"])?;
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(5), "{message}");
    assert!(message.contains("--force"), "names the remedy: {message}");
    assert_eq!(backend(&weir, "direct-3")?["admin"], "active", "a refused request changes nothing");
    let unknown = weir.cli(&["backend", "drain", "direct-9"])?;
    assert_eq!(unknown.status.code(), Some(4), "{}", String::from_utf8_lossy(&unknown.stderr));

    weir.succeed(&["backend", "ready", "direct-1", "direct-2"])?;
    let begin = Instant::now();
    weir.succeed(&["backend", "drain", "direct-1", "--for", "3s"])?;
    restart(&mut weir)?;
    assert_eq!(backend(&weir, "direct-1")?["admin"], "draining");
    assert_eq!(spread(&lab, vip, 30)?.len(), 2);
    eventually("the drain ends by itself", || {
        backend(&weir, "direct-1").is_ok_and(|backend| backend["admin"] == "active")
    });
    println!("a drain for 3 s ended after {:?}", begin.elapsed());
    assert!(begin.elapsed() >= Duration::from_secs(3), "not before its time: {:?}", begin.elapsed());
    assert_eq!(spread(&lab, vip, 40)?.len(), 3);
    Ok(())
}
