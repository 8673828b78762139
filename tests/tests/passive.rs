//! A backend that clients' handshakes fail at takes fewer new flows, though its checks pass; a flood changes nothing.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use serde_json::Value;
use weir_tests::{Get, Lab, Load, Rate, SynLoad, WeirProc, eventually};

fn config(health: &str) -> String {
    let backends: String = (1..=3)
        .map(|number| {
            format!("[[pool.backend]]\nname = \"direct-{number}\"\naddress = \"10.0.1.{}\"\n", number + 10)
        })
        .collect();
    format!(
        r#"
interfaces = ["eth0", "eth1"]

[limits]
flows_v4 = 262_144
flows_v6 = 1024
maglev_slots = 65_536

[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
mode = "dsr-l2"
pool = "web"

[[pool]]
name = "web"
hold_down = "0s"
[[pool.health]]
{health}
{backends}
"#
    )
}

/// Passes whatever becomes of SYNs for the VIP: it asks the backend's own address.
const TCP: &str = "type = \"tcp\"\nport = 80\ninterval = \"100ms\"\ntimeout = \"1s\"";

fn vip() -> SocketAddr {
    SocketAddr::from(([198, 51, 100, 10], 80))
}

/// New connections that last, as far as the handshake matters.
fn load(lab: &Lab) -> Load {
    let get = Get::new(vip()).timeout(Duration::from_secs(4));
    Load::start(lab.client(), get, Rate { per_second: 200, threads: 64 })
}

fn backend(weir: &WeirProc, name: &str) -> Result<Value> {
    let list = weir.json(&["backends"])?;
    let found = list["backends"].as_array().into_iter().flatten().find(|one| one["name"] == name);
    Ok(found.cloned().unwrap_or_default())
}

fn admit(weir: &WeirProc, name: &str) -> u64 {
    backend(weir, name).ok().and_then(|one| one["admit_permille"].as_u64()).unwrap_or_default()
}

#[test]
fn backend_that_loses_a_third_of_its_handshakes_takes_fewer_new_flows_until_it_is_mended() -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    let weir = lab.weir(&config(TCP))?;
    let load = load(&lab);
    thread::sleep(Duration::from_secs(6));
    let before = backend(&weir, "direct-1")?;
    println!("ordinary: {}", before["handshakes"]);
    assert_eq!((&before["admit_permille"], &before["handshakes"]["outlier"]), (&1000.into(), &false.into()));
    assert!(before["handshakes"]["ratio"].as_f64().is_some_and(|ratio| ratio > 0.9), "{before}");

    let lossy = lab.backend("direct-1");
    lossy.lose_handshakes(30)?;
    let begin = Instant::now();
    eventually("its admit is lowered", || admit(&weir, "direct-1") < 1000);
    let after = begin.elapsed();
    println!("lowered after {after:?}: {}", backend(&weir, "direct-1")?["handshakes"]);
    assert!(after < Duration::from_secs(8), "{after:?}");
    // It goes on down, and its health stays: no check agrees.
    eventually("it takes a tenth", || admit(&weir, "direct-1") == 100);
    let lowered = backend(&weir, "direct-1")?;
    assert_eq!(lowered["health"], "up", "{lowered}");
    let (syns, others) = (lossy.witness()?.syns, lab.backend("direct-2").witness()?.syns);
    thread::sleep(Duration::from_secs(1));
    let (syns, others) = (lossy.witness()?.syns - syns, lab.backend("direct-2").witness()?.syns - others);
    println!("new connections in a second: {syns} to it, {others} to another");
    assert!(syns * 3 < others, "{syns} of {others}");
    for name in ["direct-2", "direct-3"] {
        assert_eq!(admit(&weir, name), 1000, "{name}");
    }

    lossy.lose_handshakes(0)?;
    let deadline = Instant::now() + Duration::from_secs(60);
    while admit(&weir, "direct-1") < 1000 {
        assert!(Instant::now() < deadline, "ramped back: {}", backend(&weir, "direct-1")?);
        thread::sleep(Duration::from_millis(100));
    }
    drop(load);
    let log = weir.log();
    assert!(log.contains("of its SYNs fail") && !log.contains("to=\"down\""), "{log}");
    Ok(())
}

#[test]
fn outlier_is_taken_out_softly_when_a_check_fails_too() -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    // Far from down by itself: a single failure among many.
    let weir =
        lab.weir(&config("type = \"http\"\npath = \"/healthz\"\ninterval = \"200ms\"\nfall = 1000"))?;
    let _load = load(&lab);
    thread::sleep(Duration::from_secs(2));
    let lossy = lab.backend("direct-1");
    lossy.sicken()?;
    thread::sleep(Duration::from_secs(2));
    assert_ne!(backend(&weir, "direct-1")?["health"], "down", "its check alone does not take it out");
    lossy.lose_handshakes(60)?;
    // A suspected backend takes no new flows, and so shows no handshakes: heal, then fail now and then.
    lossy.heal()?;
    eventually("it is down", || {
        // Failures among the last results, while the last one passed.
        let _ = lossy.sicken();
        thread::sleep(Duration::from_millis(250));
        let _ = lossy.heal();
        thread::sleep(Duration::from_millis(650));
        backend(&weir, "direct-1").is_ok_and(|one| one["health"] == "down")
    });
    let down = backend(&weir, "direct-1")?;
    println!("{down}");
    assert_eq!(down["failure_kind"], "soft");
    assert!(down["why"].as_str().is_some_and(|why| why.contains("a check fails too")), "{down}");
    lossy.lose_handshakes(0)?;
    eventually("it is back", || backend(&weir, "direct-1").is_ok_and(|one| one["health"] == "up"));
    Ok(())
}

#[test]
fn flood_of_syns_takes_nothing_from_anybody() -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    let weir = lab.weir(&config(TCP))?;
    let _load = load(&lab);
    let _flood = SynLoad::start(lab.client(), &[vip()], 3000)?;
    for _ in 0..10 {
        thread::sleep(Duration::from_secs(1));
        for name in ["direct-1", "direct-2", "direct-3"] {
            let one = backend(&weir, name)?;
            assert_eq!(one["handshakes"]["outlier"], false, "{one}");
            assert_eq!((&one["admit_permille"], &one["health"]), (&1000.into(), &"up".into()), "{one}");
        }
    }
    let one = backend(&weir, "direct-1")?;
    println!("under the flood: {}", one["handshakes"]);
    assert!(one["handshakes"]["ratio"].as_f64().is_some_and(|ratio| ratio < 0.5), "it is a flood: {one}");
    Ok(())
}
