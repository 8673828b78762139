//! The daemon dies under load: nobody notices, and the next one goes on where it was.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::json;
use weir_tests::{
    Downloads, Family, Get, Lab, Limits, Load, Rate, Wait, WeirOptions, WeirProc, config, eventually,
};

#[test]
fn a_killed_daemon_costs_no_request_and_no_state() -> Result<()> {
    survives(Signal::KILL)
}

#[test]
fn a_stopped_daemon_costs_no_request_and_no_state() -> Result<()> {
    survives(Signal::TERM)
}

fn survives(signal: Signal) -> Result<()> {
    let lab = Lab::builder().direct(5).start()?;
    let mut weir = lab.weir(&config(5, Limits::default()))?;
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    // Before there are flows: maintenance sends known flows elsewhere.
    weir.succeed(&["backend", "maintenance", "web/direct-3", "--reason", "new disks"])?;
    let big = Get::new(vip).path("/big").timeout(Duration::from_secs(5));
    let downloads = Downloads::start(lab.client(), vec![big; 20]);
    downloads.wait_started(Duration::from_secs(5))?;
    weir.succeed(&["backend", "drain", "web/direct-2", "--reason", "kernel update"])?;
    weir.succeed(&["backend", "weight", "web/direct-1", "--to", "30", "--reason", "canary"])?;
    let load = Load::start(
        lab.client(),
        Get::new(vip).timeout(Duration::from_secs(5)),
        Rate { per_second: 200, threads: 32 },
    );
    eventually("the load runs", || load.count() > 50);

    let before = Remembered::of(&weir)?;
    match signal {
        Signal::KILL => weir.kill(),
        _ => weir.terminate()?,
    }
    let dead = Instant::now();
    let (packets, sent) = (weir.packets()?, load.count());
    lists_work_without_the_daemon(&weir)?;
    thread::sleep(Duration::from_secs(3).saturating_sub(dead.elapsed()));
    ensure!(load.count() > sent + 300, "traffic flows while the daemon is dead");
    ensure!(weir.packets()? > packets, "counters go on while the daemon is dead");
    ensure!(Remembered::of(&weir)?.attached == before.attached);

    let packets = weir.packets()?;
    weir.launch()?;
    ensure!(weir.packets()? >= packets, "counters went back");
    let after = Remembered::of(&weir)?;
    ensure!(after.attached == before.attached, "attached again: {after:?} was {before:?}");
    ensure!(after.states == before.states, "{:?} was {:?}", after.states, before.states);
    let status = weir.json(&["status"])?;
    let reasons: BTreeSet<_> =
        status["changes"].as_array().context("changes")?.iter().map(|c| c["reason"].as_str()).collect();
    ensure!(reasons == BTreeSet::from([Some("kernel update"), Some("new disks"), Some("canary")]));
    let flows = weir.flow_backends(&[])?;
    for (client, backend) in &before.flows {
        let now = flows.get(client).with_context(|| format!("the flow of {client} is gone"))?;
        ensure!(now == backend, "{client}: {now} was {backend}");
    }

    let ended = downloads.finish(Duration::from_secs(30))?;
    ensure!(ended.iter().all(|download| !download.broken()), "{ended:?}");
    let shots = load.stop();
    let failed: Vec<_> = shots.iter().filter(|shot| shot.failed()).collect();
    ensure!(failed.is_empty(), "{} of {} requests failed: {:?}", failed.len(), shots.len(), failed.first());
    let served: BTreeSet<_> = shots.iter().filter_map(|shot| shot.backend()).collect();
    ensure!(served == BTreeSet::from(["direct-1", "direct-4", "direct-5"]), "{served:?}");
    Ok(())
}

#[test]
fn a_start_that_is_killed_leaves_nothing_that_keeps_the_next_one_from_starting() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let options = WeirOptions { wait: Wait::Nothing, ..WeirOptions::default() };
    let mut weir = lab.weir_with(&config(1, Limits::default()), options)?;
    let unfinished = || weir.bpffs().join("maps/meta").exists() && !weir.bpffs().join("program").exists();
    // Maps are pinned while the kernel looks at the program.
    let begun = Instant::now();
    while !unfinished() {
        ensure!(begun.elapsed() < Duration::from_secs(30), "{}", weir.log());
        thread::sleep(Duration::from_millis(1));
    }
    weir.kill();
    println!("killed {:?} after its start", begun.elapsed());
    // At any other moment, too.
    for after in [20, 150, 600, 1500] {
        weir.launch()?;
        thread::sleep(Duration::from_millis(after));
        weir.kill();
    }
    weir.launch()?;
    eventually("a whole start", || weir.cli(&["ready"]).is_ok_and(|output| output.status.success()));
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    ensure!(lab.client().get(&Get::new(vip))?.status == 200);
    Ok(())
}

#[test]
fn a_backend_that_was_up_is_not_believed_at_another_address() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let before = config(2, Limits::default());
    let mut weir = lab.weir(&before)?;
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    let request = Get::new(vip).timeout(Duration::from_millis(500));
    let load = Load::start(lab.client(), request, Rate { per_second: 200, threads: 128 });
    eventually("the load runs", || load.count() > 50);
    weir.kill();
    // Nobody has this one.
    let address = lab.backend("direct-2").address(Family::V4);
    let config = before.replace(&format!("\"{address}\""), &format!("\"{address}1\""));
    ensure!(config != before);
    weir.write_config(&config)?;
    weir.launch()?;
    // The old address is listed until its flows are over, without what is found of the new one.
    let listed = weir.json(&["backends", "--backend", "direct-2"])?;
    let states: BTreeSet<_> = listed["backends"]
        .as_array()
        .context("backends")?
        .iter()
        .map(|one| (one["removed"] == true, one["health"] == "up", one["last_probe"].is_null()))
        .collect();
    ensure!(states == BTreeSet::from([(true, true, true), (false, false, false)]), "{listed}");
    let shots = load.stop();
    let failed = shots.iter().filter(|shot| shot.failed()).count();
    ensure!(failed == 0, "{failed} of {} requests went where nobody is", shots.len());
    Ok(())
}

#[test]
fn a_down_backend_stays_down_without_a_burst() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let mut weir = lab.weir(&config(2, Limits::default()))?;
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    lab.backend("direct-2").kill();
    eventually("direct-2 is down", || weir.backend("direct-2").is_ok_and(|found| found["health"] == "down"));
    let down = weir.backend("direct-2")?;
    let load = Load::start(lab.client(), Get::new(vip), Rate::per_second(200));
    eventually("the load runs", || load.count() > 50);
    let syns = lab.backend("direct-2").witness()?.syns;
    for _ in 0..3 {
        weir.kill();
        weir.launch()?;
        let found = weir.backend("direct-2")?;
        ensure!(found["health"] == "down" && found["why"] == down["why"], "{found}");
        // To the second: both clocks are read when it is told.
        ensure!(second(&found["since"]) == second(&down["since"]), "{found}");
    }
    ensure!(lab.backend("direct-2").witness()?.syns == syns, "new connections went to a down backend");
    ensure!(load.stop().iter().all(|shot| !shot.failed()));
    lab.backend("direct-2").start()?;
    eventually("direct-2 is up again", || {
        weir.backend("direct-2").is_ok_and(|found| found["health"] == "up")
    });
    Ok(())
}

/// A timestamp without its fraction.
fn second(timestamp: &serde_json::Value) -> Option<&str> {
    timestamp.as_str()?.split(['.', 'Z']).next()
}

/// What must be the same after a restart.
#[derive(Debug)]
struct Remembered {
    attached: Vec<weir_tests::PinnedLink>,
    /// Admin state, weight and health by backend.
    states: Vec<serde_json::Value>,
    /// Backends of the flows that exist already and last.
    flows: std::collections::BTreeMap<SocketAddr, String>,
}

impl Remembered {
    fn of(weir: &WeirProc) -> Result<Self> {
        let backends = weir.json(&["backends"])?;
        let state = |backend: &serde_json::Value| {
            json!([backend["name"], backend["admin"], backend["weight"], backend["health"], backend["why"]])
        };
        Ok(Self {
            attached: vec![weir.attachment("eth0")?, weir.attachment("eth1")?],
            states: backends["backends"].as_array().context("backends")?.iter().map(state).collect(),
            flows: weir.flow_backends(&["--state", "proven"])?,
        })
    }
}

fn lists_work_without_the_daemon(weir: &WeirProc) -> Result<()> {
    let status = weir.json(&["status"])?;
    ensure!(status["daemon"]["running"] == false, "{status}");
    ensure!(status["problems"][0].as_str().is_some_and(|problem| problem.contains("daemon")), "{status}");
    ensure!(status["backends_total"] == 5 && status["services_total"] == 1);
    let backends = weir.json(&["backends", "--state", "draining"])?;
    ensure!(backends["backends"][0]["name"] == "direct-2", "{backends}");
    ensure!(weir.json(&["services"])?["services"][0]["name"] == "web");
    ensure!(weir.json(&["flows", "--count"])?["total"].as_u64() > Some(0));
    ensure!(weir.cli(&["ready"])?.status.code() == Some(3));
    Ok(())
}
