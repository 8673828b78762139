//! In mode `nat` a backend's refusals and silence are seen directly, and what clients leave half open is not held against it.

use std::{
    fmt::Write as _,
    net::{SocketAddr, TcpListener},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::Value;
use weir_tests::{
    ConnectLoad, Family, Get, Host, Lab, Load, Rate, SynLoad, WeirProc, answer_without_memory, any_port,
    eventually, plan,
};

/// Where the checks ask: another program than the one that serves.
const CHECKED: u16 = 7000;

/// A pool of the lab's backends behind a service in mode `nat`, and maybe more services.
fn config(lab: &Lab, scheduler: &str, more: &str) -> String {
    let snat = lab.weir_host().addresses()[1].v4;
    let mut text = format!(
        r#"
interfaces = ["eth0", "eth1"]

[limits]
flows_v4 = 4096
flows_v6 = 1024
maglev_slots = 65_536

[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
mode = "nat"
snat = [{{ address = "{snat}", ports = "1024-32767" }}]
scheduler = "{scheduler}"
timeouts = {{ tcp_embryonic = "5s", tcp_closing = "1s" }}
pool = "web"
{more}
[[pool]]
name = "web"
[[pool.health]]
type = "tcp"
port = {CHECKED}
interval = "100ms"
timeout = "1s"
"#
    );
    for backend in lab.backends() {
        let (name, address) = (backend.name(), backend.address(Family::V4));
        // Writing to a string does not fail.
        let _ = write!(text, "[[pool.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    }
    text
}

fn vip() -> SocketAddr {
    SocketAddr::new(plan::vip(0).of(Family::V4), 80)
}

/// Lets every backend's checks pass, and a flood of SYNs fill no queue.
fn prepare(lab: &Lab) -> Result<()> {
    for backend in lab.backends() {
        answer_without_memory(backend)?;
        let listener = backend.run(|| TcpListener::bind(backend.socket(Family::V4, CHECKED)))?;
        thread::spawn(move || listener.incoming().for_each(drop));
    }
    Ok(())
}

fn all_up(weir: &WeirProc) {
    eventually("all backends are up", || {
        weir.json(&["status"]).is_ok_and(|status| status["backends_up"] == status["backends_total"])
    });
}

fn backends(weir: &WeirProc) -> Result<Vec<Value>> {
    Ok(weir.json(&["backends"])?["backends"].as_array().cloned().unwrap_or_default())
}

/// Has the host send nothing from its port 80: what comes there is heard and never answered.
fn mute(host: &Host, change: &str) -> Result<()> {
    host.ip(&format!("rule {change} priority 10 ipproto tcp sport 80 blackhole")).map(drop)
}

#[test]
fn backends_that_refuse_and_that_are_silent_are_lowered_while_one_that_is_flooded_is_not() -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    prepare(&lab)?;
    let weir = lab.weir(&config(&lab, "maglev", ""))?;
    all_up(&weir);
    let _load = ConnectLoad::start(lab.client(), vip(), 300)?;
    let _flood = SynLoad::start(lab.client(), &[vip()], 1000)?;
    thread::sleep(Duration::from_secs(6));
    for one in backends(&weir)? {
        let seen = &one["handshakes"];
        println!("ordinary: {}: {seen}", one["name"]);
        ensure!(one["admit_permille"] == 1000 && seen["outlier"] == false, "{one}");
        let (opened, completed) = (seen["opened"].as_u64(), seen["completed"].as_u64());
        ensure!(
            completed.zip(opened).is_some_and(|(completed, opened)| completed * 2 < opened),
            "a flood: {one}"
        );
        ensure!(seen["ratio"].as_f64().is_some_and(|ratio| ratio > 0.9), "all are answered: {one}");
        ensure!(seen["answers"]["refused"] == 0, "{one}");
    }

    let [refuses, silent, healthy] = ["direct-1", "direct-2", "direct-3"];
    mute(lab.backend(silent), "add")?;
    lab.backend(refuses).kill();
    let begin = Instant::now();
    let mut lowered = [None; 2];
    while lowered.contains(&None) {
        for one in backends(&weir)? {
            let name = one["name"].as_str().unwrap_or_default();
            let low = one["admit_permille"].as_u64() < Some(1000);
            ensure!(!(low && name == healthy), "it answers: {one}");
            if let Some(place) = [refuses, silent].iter().position(|bad| *bad == name)
                && low
                && lowered[place].is_none()
            {
                lowered[place] = Some(begin.elapsed());
                println!("{name} lowered after {:?}: {}", begin.elapsed(), one["why"]);
            }
        }
        ensure!(begin.elapsed() < Duration::from_secs(30), "{:?}", backends(&weir)?);
        thread::sleep(Duration::from_millis(20));
    }
    ensure!(lowered.iter().flatten().all(|after| *after < Duration::from_secs(8)), "{lowered:?}");
    eventually("both take a tenth", || {
        [refuses, silent].iter().all(|name| weir.backend(name).is_ok_and(|one| one["admit_permille"] == 100))
    });
    for one in backends(&weir)? {
        println!("{}: {} {}", one["name"], one["handshakes"], one["why"]);
        ensure!(one["health"] == "up", "no check agrees: {one}");
    }
    let why = |name: &str| -> Result<String> { Ok(weir.backend(name)?["why"].to_string()) };
    ensure!(why(refuses)?.contains("SYNs were refused (RST)"), "{}", why(refuses)?);
    ensure!(why(silent)?.contains("SYNs got no answer"), "{}", why(silent)?);
    ensure!(weir.backend(healthy)?["admit_permille"] == 1000);

    mute(lab.backend(silent), "del")?;
    lab.backend(refuses).start()?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while backends(&weir)?.iter().any(|one| one["admit_permille"] != 1000) {
        ensure!(Instant::now() < deadline, "ramped back: {:?}", backends(&weir)?);
        thread::sleep(Duration::from_millis(100));
    }
    let log = weir.log();
    ensure!(!log.contains("to=\"down\""), "{log}");
    Ok(())
}

#[test]
fn a_flood_that_meets_one_backend_alone_takes_nothing_from_it_where_its_answers_are_seen() -> Result<()> {
    let lab = Lab::builder().direct(3).client_addresses(32).start()?;
    prepare(&lab)?;
    let weir = lab.weir(&config(&lab, "source", ""))?;
    all_up(&weir);
    let get = |source| Get::new(vip()).from(any_port(source, vip())).timeout(Duration::from_secs(4));
    let gets = lab.client().addresses().iter().copied().map(get).collect();
    let _load = Load::start_each(lab.client(), gets, Rate { per_second: 150, threads: 32 });
    // Of one source: of one backend.
    let _flood = SynLoad::start(lab.client(), &[vip()], 500)?;
    thread::sleep(Duration::from_secs(6));
    let mut flooded = Value::Null;
    for _ in 0..8 {
        thread::sleep(Duration::from_secs(1));
        for one in backends(&weir)? {
            let seen = &one["handshakes"];
            ensure!(seen["opened"].as_u64() >= Some(20), "it is judged: {one}");
            ensure!(one["admit_permille"] == 1000 && seen["outlier"] == false, "{one}");
            if seen["opened"].as_u64() > flooded["handshakes"]["opened"].as_u64() {
                flooded = one;
            }
        }
    }
    println!("flooded: {}: {}", flooded["name"], flooded["handshakes"]);
    // Judged by its clients, as where a service of the pool is in another mode, it would be lowered.
    let other = "[[service]]\nname = \"other\"\nvip = \"198.51.100.10\"\nport = 81\nprotocol = \"tcp\"\n\
                 mode = \"dsr-l2\"\npool = \"web\"\n";
    let reloaded = weir.reload(&config(&lab, "source", other))?;
    ensure!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
    let name = flooded["name"].as_str().unwrap_or_default();
    eventually("one direction lowers it", || {
        weir.backend(name).is_ok_and(|one| one["admit_permille"].as_u64() < Some(1000))
    });
    let one = weir.backend(name)?;
    println!("by its clients: {} {}", one["handshakes"], one["why"]);
    ensure!(one["handshakes"]["answers"].is_null(), "{one}");
    Ok(())
}
