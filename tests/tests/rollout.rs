//! Canaries under real traffic: the share they get, what guards take away, and what a restart keeps.

use std::{fs, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::{Lab, Limits, SynLoad, WeirProc, answer_without_memory, config, eventually};

struct Canaries {
    lab: Lab,
    weir: WeirProc,
    _load: SynLoad,
}

/// Three backends under steady new connections.
fn start() -> Result<Canaries> {
    let lab = Lab::builder().direct(3).start()?;
    lab.backends().iter().try_for_each(|backend| answer_without_memory(backend))?;
    let limits = Limits { flows_v4: 65_536, ..Limits::default() };
    let weir = lab.weir(&config(3, limits))?;
    let load = SynLoad::start(lab.client(), &["198.51.100.10:80".parse()?], 2_000)?;
    let canaries = Canaries { lab, weir, _load: load };
    eventually("every backend is up", || canaries.up() == 3);
    Ok(canaries)
}

impl Canaries {
    fn up(&self) -> usize {
        let Ok(document) = self.weir.json(&["backends"]) else { return 0 };
        document["backends"]
            .as_array()
            .map_or(0, |all| all.iter().filter(|one| one["health"] == "up").count())
    }

    /// The share of new connections that `direct-1` gets over three seconds, in percent.
    fn share(&self) -> Result<f64> {
        let syns = || -> Result<Vec<u64>> {
            self.lab.backends().iter().map(|backend| Ok(backend.witness()?.syns)).collect()
        };
        // Frames under way.
        thread::sleep(Duration::from_millis(50));
        let before = syns()?;
        thread::sleep(Duration::from_secs(3));
        let got: Vec<u64> = syns()?.iter().zip(&before).map(|(after, before)| after - before).collect();
        let total: u64 = got.iter().sum();
        ensure!(total > 2_000, "too few new connections to tell a share: {got:?}");
        let share = 100.0 * got[0] as f64 / total as f64;
        println!("{got:?}: {share:.1} % to direct-1");
        Ok(share)
    }

    fn rollout(&self) -> Result<Value> {
        let document = self.weir.json(&["rollout", "status"])?;
        document["rollouts"].get(0).cloned().context("a rollout")
    }

    fn stage(&self) -> String {
        self.rollout()
            .ok()
            .and_then(|rollout| Some(rollout["stage"].as_str()?.to_owned()))
            .unwrap_or_default()
    }

    fn refused(&self, arguments: &[&str], code: i32) -> Result<String> {
        let output = self.weir.cli(&[&["rollout"], arguments].concat())?;
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        Ok(message)
    }
}

#[test]
fn canaries_get_their_share_through_steps_restarts_promotion_and_the_end() -> Result<()> {
    let mut canaries = start()?;
    canaries.refused(&["start", "web", "--canary", "direct-9"], 4)?;
    canaries.refused(&["start", "wab", "--canary", "direct-1"], 4)?;
    canaries.refused(&["start", "web", "--canary", "direct-1,direct-2,direct-3"], 5)?;
    canaries.refused(&["start", "web", "--canary", "direct-1", "--guard", "speed>9"], 2)?;
    canaries.refused(&["promote", "web"], 4)?;
    let natural = canaries.share()?;
    assert!((28.0..39.0).contains(&natural), "by weight: {natural}");

    canaries.weir.succeed(&[
        "rollout",
        "start",
        "web",
        "--canary",
        "direct-1",
        "--percent",
        "10",
        "--reason",
        "new build",
    ])?;
    let share = canaries.share()?;
    assert!((7.0..13.0).contains(&share), "{share}");
    canaries.refused(&["start", "web", "--canary", "direct-2"], 5)?;
    let status = canaries.weir.json(&["status"])?;
    assert!(
        status["notes"].to_string().contains("rollout of pool web: 10 % of new flows to direct-1"),
        "{status}"
    );

    canaries.weir.kill();
    let share = canaries.share()?;
    assert!((7.0..13.0).contains(&share), "without the daemon: {share}");
    canaries.weir.launch()?;
    let share = canaries.share()?;
    assert!((7.0..13.0).contains(&share), "after a restart: {share}");
    assert_eq!(canaries.rollout()?["reason"], "new build");
    let other = config(3, Limits { flows_v4: 65_536, ..Limits::default() }).replace("\"50ms\"", "\"60ms\"");
    ensure!(canaries.weir.reload(&other)?.status.success(), "reload");
    let share = canaries.share()?;
    assert!((7.0..13.0).contains(&share), "after a reload: {share}");

    canaries.weir.succeed(&["rollout", "promote", "web", "--to", "60"])?;
    let share = canaries.share()?;
    assert!((55.0..65.0).contains(&share), "{share}");
    canaries.weir.succeed(&["rollout", "promote", "web"])?;
    assert_eq!(canaries.share()?, 100.0);
    canaries.weir.succeed(&["rollout", "end", "web"])?;
    let natural = canaries.share()?;
    assert!((28.0..39.0).contains(&natural), "by weight again: {natural}");

    canaries.weir.succeed(&[
        "rollout",
        "start",
        "web",
        "--canary",
        "direct-1",
        "--percent",
        "10",
        "--step",
        "45",
        "--every",
        "2s",
    ])?;
    eventually("two steps lead to all", || canaries.rollout().is_ok_and(|rollout| rollout["percent"] == 100));
    let text = canaries.weir.succeed(&["events", "--kind", "rollout", "-o", "jsonl"])?;
    let steps: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let to: Vec<&str> = steps.iter().filter_map(|event| event["to"].as_str()).collect();
    println!("{to:?}");
    let wanted =
        ["running 10%", "running 60%", "promoted", "ended", "running 10%", "running 55%", "running 100%"];
    assert_eq!(to, wanted);
    Ok(())
}

#[test]
fn a_rollout_takes_itself_back_when_a_guard_fails() -> Result<()> {
    let canaries = start()?;
    let start = |guard: &[&str]| {
        let base = ["rollout", "start", "web", "--canary", "direct-1", "--percent", "50"];
        canaries.weir.succeed(&[&base[..], guard].concat())
    };
    let gone_and_back = |why: &str| -> Result<()> {
        eventually("it aborts itself", || canaries.stage() == "aborted");
        let rollout = canaries.rollout()?;
        assert!(rollout["why"].as_str().is_some_and(|told| told.contains(why)), "{rollout}");
        let status = canaries.weir.json(&["status"])?;
        assert!(status["problems"].to_string().contains("rollout of pool web was aborted"), "{status}");
        assert_eq!(canaries.weir.cli(&["status", "--check"])?.status.code(), Some(1));
        Ok(())
    };

    start(&["--guard", "probe_p99_ms<50,up_ratio>=1"])?;
    eventually("the guards are measured", || {
        canaries.rollout().is_ok_and(|rollout| rollout["guards"][0]["holds"] == true)
    });
    assert_eq!(canaries.stage(), "running");
    canaries.lab.backend("direct-1").kill();
    gone_and_back("guard ")?;
    canaries.lab.backend("direct-1").start()?;
    eventually("it is up again", || canaries.up() == 3);
    assert_eq!(canaries.share()?, 0.0, "a canary that failed gets nothing, also when it is up again");
    canaries.refused(&["promote", "web"], 5)?;

    let healthy = canaries.lab.directory().join("healthy");
    fs::write(&healthy, "")?;
    let command = format!("test -e {} && test \"$WEIR_CANARY\" = direct-1", healthy.display());
    start(&["--guard-exec", &command])?;
    let share = canaries.share()?;
    assert!((45.0..55.0).contains(&share), "{share}");
    assert_eq!(canaries.stage(), "running");
    fs::remove_file(&healthy)?;
    gone_and_back("guard command failed: /bin/sh: exit status: 1")?;
    assert_eq!(canaries.share()?, 0.0);
    canaries.weir.succeed(&["rollout", "end", "web"])?;
    let natural = canaries.share()?;
    assert!((28.0..39.0).contains(&natural), "by weight again: {natural}");
    Ok(())
}
