//! Most backends fall silent at once: if weir's own uplink is cut, nobody is taken down; if they are, they are.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use weir_tests::{Get, Host, Lab, WeirProc, eventually};

const BACKENDS: u8 = 4;

/// Pings every 20 ms; the gateway of the backends' segment is the witness.
fn config(freeze_max: &str) -> String {
    let backends: String = (1..=BACKENDS)
        .map(|number| {
            format!("[[pool.backend]]\nname = \"direct-{number}\"\naddress = \"10.0.1.{}\"\n", number + 10)
        })
        .collect();
    format!(
        r#"
interfaces = ["eth0", "eth1"]

[limits]
flows_v4 = 4096
flows_v6 = 1024
maglev_slots = 65_536

[guard]
freeze_max = "{freeze_max}"
gateway = ["10.0.1.1"]

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
last_resort = "drop"
[[pool.health]]
type = "ping"
interval = "20ms"
timeout = "200ms"
[[pool.health]]
type = "tcp"
interval = "50ms"
timeout = "400ms"
{backends}
"#
    )
}

/// How many backends have this health.
fn with_health(weir: &WeirProc, wanted: &str) -> Result<usize> {
    let list = weir.json(&["backends"])?;
    let backends = list["backends"].as_array().into_iter().flatten();
    Ok(backends.filter(|backend| backend["health"] == wanted).count())
}

/// Waits until all backends are up, and the gateway has been heard: one that never answered cannot vouch.
fn settle(weir: &WeirProc) {
    all_are(weir, "up");
    thread::sleep(Duration::from_secs(1));
}

fn all_are(weir: &WeirProc, wanted: &str) {
    eventually(&format!("all backends are {wanted}"), || {
        with_health(weir, wanted).is_ok_and(|count| count == usize::from(BACKENDS))
    });
}

fn is_frozen(weir: &WeirProc) -> Result<bool> {
    Ok(!weir.json(&["status"])?["guard"]["frozen"].is_null())
}

/// Whether the switch port of weir's link to the backends forwards; the link keeps its carrier.
fn uplink(edge: &Host, forwards: bool) -> Result<()> {
    let state = if forwards { "3" } else { "0" };
    edge.exec("bridge", &["link", "set", "dev", "weir-direct", "state", state]).map(drop)
}

#[test]
fn cut_uplink_freezes_detection_until_it_is_back_and_no_backend_goes_down() -> Result<()> {
    let lab = Lab::builder().direct(BACKENDS).start()?;
    let weir = lab.weir(&config("30s"))?;
    settle(&weir);
    let get = Get::new("198.51.100.10:80".parse()?).timeout(Duration::from_secs(1));
    for round in 0..3 {
        let cut = Instant::now();
        uplink(lab.edge(), false)?;
        eventually("detection is frozen", || is_frozen(&weir).unwrap_or(false));
        println!("round {round}: frozen {:?} after the cut", cut.elapsed());
        // Much longer than any check takes to take a backend down.
        thread::sleep(Duration::from_millis(1500));
        let status = weir.json(&["status"])?;
        let first = status["problems"][0].as_str().unwrap_or_default().to_owned();
        // On a machine that is busy otherwise the thread may wake late first.
        let cause = first.contains("gateway 10.0.1.1 is silent") || first.contains("the probe thread woke");
        assert!(first.contains("detection is frozen") && cause, "{first}");
        assert_eq!(with_health(&weir, "up")?, usize::from(BACKENDS), "{}", weir.succeed(&["backends"])?);
        uplink(lab.edge(), true)?;
        eventually("detection is thawed", || is_frozen(&weir).is_ok_and(|frozen| !frozen));
        // The way to the backends was never taken away: requests are served at once.
        eventually("requests are served", || lab.client().get(&get).is_ok());
        thread::sleep(Duration::from_millis(500));
        assert_eq!(with_health(&weir, "up")?, usize::from(BACKENDS), "{}", weir.succeed(&["backends"])?);
    }
    let log = weir.log();
    assert!(log.contains("detection frozen for at most 30.0s") && log.contains("detection thawed"), "{log}");
    // Whoever was down for a moment before most were silent was pardoned by the freeze.
    let (downs, pardons) =
        (log.matches("to=\"down\"").count(), log.matches("from=\"down\" to=\"up\"").count());
    assert_eq!(downs, pardons, "{log}");
    Ok(())
}

#[test]
fn one_silent_backend_and_all_of_them_are_down_while_the_gateway_answers() -> Result<()> {
    let lab = Lab::builder().direct(BACKENDS).start()?;
    let weir = lab.weir(&config("30s"))?;
    settle(&weir);
    lab.backend("direct-1").freeze()?;
    eventually("one is down", || with_health(&weir, "down").is_ok_and(|count| count == 1));
    lab.backend("direct-1").thaw()?;
    all_are(&weir, "up");
    let cut = Instant::now();
    lab.backends().iter().try_for_each(|backend| backend.freeze().map(drop))?;
    all_are(&weir, "down");
    println!("all down {:?} after the cut", cut.elapsed());
    let status = weir.json(&["services"])?;
    assert_eq!(status["services"][0]["backends_up"], 0, "{status}");
    // A machine that holds the probe thread up is another reason, and over soon.
    let log = weir.log();
    let freezes = log.lines().filter(|line| line.contains("detection frozen"));
    assert_eq!(freezes.filter(|line| !line.contains("the probe thread woke")).collect::<Vec<_>>(), [""; 0]);
    lab.backends().iter().try_for_each(|backend| backend.thaw())?;
    all_are(&weir, "up");
    Ok(())
}

#[test]
fn freeze_is_over_after_its_longest_time_and_refusals_act_during_it() -> Result<()> {
    let lab = Lab::builder().direct(BACKENDS).start()?;
    let weir = lab.weir(&config("4s"))?;
    settle(&weir);
    // Three are silent, and so is the gateway; the fourth answers.
    let silent = ["direct-1", "direct-2", "direct-3"].map(|name| lab.backend(name));
    lab.edge().sysctl("ipv4/icmp_echo_ignore_all", "1")?;
    silent.iter().try_for_each(|backend| backend.freeze().map(drop))?;
    eventually("detection is frozen", || is_frozen(&weir).unwrap_or(false));
    let frozen = Instant::now();
    lab.backend("direct-4").kill();
    eventually("the refusing one is down", || with_health(&weir, "down").is_ok_and(|count| count == 1));
    assert!(is_frozen(&weir)?, "after {:?}", frozen.elapsed());
    assert_eq!(with_health(&weir, "up")?, 3, "{}", weir.succeed(&["backends"])?);
    all_are(&weir, "down");
    println!("all down {:?} after the freeze began", frozen.elapsed());
    assert!(!is_frozen(&weir)?);
    assert!(weir.log().contains("the longest freeze is over"), "{}", weir.log());
    Ok(())
}
