//! What happened is on record: in order, with evidence, after a crash, and for hooks that hold up nobody.

use std::{
    fs,
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::{Lab, Limits, WeirProc, config, eventually};

/// What `weir events -o jsonl` prints.
fn events(weir: &WeirProc, options: &[&str]) -> Result<Vec<Value>> {
    let text = weir.succeed(&[&["events", "-o", "jsonl", "--limit", "0"], options].concat())?;
    text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// `health web/direct-1 up down` and the like.
fn told(event: &Value) -> String {
    let word = |name: &str| event[name].as_str().unwrap_or("-").to_owned();
    format!("{} {}/{} {} {}", word("kind"), word("pool"), word("backend"), word("from"), word("to"))
}

fn health(weir: &WeirProc, backend: &str) -> Option<String> {
    let document = weir.json(&["backends"]).ok()?;
    let found = document["backends"].as_array()?.iter().find(|one| one["name"] == backend)?;
    Some(found["health"].as_str()?.to_owned())
}

fn until(weir: &WeirProc, backend: &str, wanted: &str) {
    eventually(&format!("{backend} is {wanted}"), || health(weir, backend).as_deref() == Some(wanted));
}

#[test]
fn what_happens_is_listed_followed_handed_to_hooks_and_reconstructed() -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    let hooked = lab.directory().join("hooked");
    let hook = format!(
        "[[hook]]\nname = \"file\"\nexec = [\"/bin/sh\", \"-c\", \"cat >> {}\"]\n[[service]]",
        hooked.display()
    );
    let base = config(3, Limits::default());
    let with_hook = base.replacen("[[service]]", &hook, 1);
    let mut weir = lab.weir(&with_hook)?;
    (1..=3).for_each(|number| until(&weir, &format!("direct-{number}"), "up"));

    let followed = lab.directory().join("followed");
    let mut follow = weir.command(&["events", "-f", "-o", "jsonl"]);
    follow.stdout(fs::File::create(&followed)?).stderr(Stdio::null());
    let _follower = weir.host().spawn(follow)?;
    eventually("the follower has what was", || !lines(&followed).is_empty());

    lab.backend("direct-1").kill();
    until(&weir, "direct-1", "down");
    // Both sides of a moment at which it is down.
    thread::sleep(Duration::from_millis(20));
    let while_down = now()?;
    thread::sleep(Duration::from_millis(20));
    lab.backend("direct-1").start()?;
    until(&weir, "direct-1", "up");
    weir.succeed(&["backend", "drain", "direct-2", "--reason", "new kernel"])?;
    weir.succeed(&["backend", "weight", "direct-3", "--to", "7"])?;
    weir.succeed(&["backend", "ready", "direct-2"])?;
    let smaller = with_hook.replace("interval = \"50ms\"", "interval = \"60ms\"");
    ensure!(weir.reload(&smaller)?.status.success(), "reload");
    ensure!(!weir.reload("nonsense = 1")?.status.success(), "a config that is refused");
    let wanted = [
        "health web/direct-1 up suspect",
        "health web/direct-1 suspect down",
        "health web/direct-1 down up",
        "admin web/direct-2 active draining",
        "weight web/direct-3 100 7",
        "admin web/direct-2 draining active",
        "reload -/- - applied",
        "reload -/- - refused",
    ];
    let has_all = |all: &[Value]| {
        let mut rest = all.iter().map(told);
        wanted.iter().all(|wanted| rest.any(|told| told == *wanted))
    };
    eventually("the ring has it in order", || events(&weir, &[]).is_ok_and(|all| has_all(&all)));
    eventually("the hook has it in order", || has_all(&lines(&hooked)));
    eventually("the follower has it in order", || has_all(&lines(&followed)));

    let downs = events(&weir, &["--kind", "health", "--backend", "web/direct-1"])?;
    let down = downs.iter().find(|event| event["to"] == "down").context("a down")?;
    println!("{down:#}");
    let evidence = &down["evidence"];
    assert_eq!((&evidence["failure_kind"], &down["api"]), (&"hard".into(), &"weir/v1".into()));
    assert!(evidence["probes"].as_array().is_some_and(|probes| !probes.is_empty()));
    let times =
        ["signal_at", "decided_at", "applied_at"].map(|name| evidence[name].as_str().unwrap_or_default());
    assert!(times.is_sorted() && !times[0].is_empty(), "{times:?}");
    assert!(down["detected_after_us"].as_u64().is_some() && down["applied_after_us"].as_u64().is_some());
    let admin = events(&weir, &["--kind", "admin"])?;
    assert!(!admin.is_empty() && admin.iter().all(|event| event["applied_after_us"].is_u64()), "{admin:#?}");
    let drained = events(&weir, &["--kind", "admin"])?;
    assert_eq!((&drained[0]["reason"], &drained[0]["by"]), (&"new kernel".into(), &"root".into()));

    let at = |weir: &WeirProc| weir.json(&["events", "--at", &while_down]);
    let state = at(&weir)?;
    let backends = &state["pools"]["web"]["backends"];
    assert_eq!(backends["direct-1"]["health"], "down", "{state:#}");
    assert_eq!(
        (&backends["direct-2"]["health"], &backends["direct-2"]["admin"]),
        (&"up".into(), &"active".into())
    );
    assert!(state["interfaces"]["eth1"].is_string(), "{state:#}");

    let before = events(&weir, &[])?;
    weir.terminate()?;
    let after = events(&weir, &[])?;
    assert_eq!(after[..before.len()], before, "the same without the daemon");
    assert_eq!(told(after.last().context("events")?), "daemon -/- - stopping");
    assert_eq!(at(&weir)?, state);
    weir.write_config(&smaller)?;
    weir.launch()?;
    eventually("the follower goes on", || {
        lines(&followed).iter().filter(|event| event["to"] == "started").count() >= 1
    });
    Ok(())
}

/// The present, as `--at` takes it.
fn now() -> Result<String> {
    let output = std::process::Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%S.%NZ"]).output()?;
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

#[test]
fn a_daemon_killed_while_it_writes_leaves_a_record_that_can_be_read() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let mut weir = lab.weir(&config(2, Limits::default()))?;
    let mut seen = 0;
    for round in 0..8 {
        let stop = AtomicBool::new(false);
        thread::scope(|scope| -> Result<()> {
            let writer = scope.spawn(|| {
                let mut changes = 0_u16;
                while !stop.load(Ordering::Relaxed) {
                    changes += 1;
                    let weight = (changes % 900 + 1).to_string();
                    // Fails from the kill on.
                    let _ = weir.cli(&["backend", "weight", "direct-1", "--to", &weight]);
                }
                changes
            });
            thread::sleep(Duration::from_millis(150 + 37 * round));
            weir.signal(rustix::process::Signal::KILL)?;
            stop.store(true, Ordering::Relaxed);
            let changes = writer.join().map_err(|_| anyhow::anyhow!("the writer panicked"))?;
            println!("round {round}: killed after {changes} changes");
            Ok(())
        })?;
        weir.kill();
        let all = events(&weir, &[])?;
        let numbers: Vec<u64> = all.iter().filter_map(|event| event["seq"].as_u64()).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "numbers grow: {numbers:?}");
        assert!(numbers.len() > seen, "round {round} left something");
        seen = numbers.len();
        weir.launch()?;
    }
    println!("{seen} events over 9 daemons");
    assert_eq!(events(&weir, &["--kind", "daemon"])?.len(), 9);
    Ok(())
}

#[test]
fn a_hook_that_hangs_delays_no_failover_and_its_drops_are_counted() -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    let hooks = "[[hook]]\nname = \"stuck\"\nexec = [\"/bin/sleep\", \"1000\"]\ntimeout = \"5m\"\nqueue = 2\n\
         [[hook]]\nname = \"void\"\nurl = \"http://10.0.1.250:9\"\ntimeout = \"5m\"\nqueue = 2\n[[service]]";
    let weir = lab.weir(&config(3, Limits::default()).replacen("[[service]]", hooks, 1))?;
    (1..=3).for_each(|number| until(&weir, &format!("direct-{number}"), "up"));
    let mut times = Vec::new();
    for _ in 0..4 {
        let killed = Instant::now();
        lab.backend("direct-1").kill();
        until(&weir, "direct-1", "down");
        times.push(killed.elapsed());
        lab.backend("direct-1").start()?;
        until(&weir, "direct-1", "up");
    }
    println!("seen down after {times:?}");
    // A check every 50 ms with three failures; a hook in the way would take minutes.
    assert!(times.iter().all(|time| *time < Duration::from_secs(3)), "{times:?}");
    let status = weir.json(&["status"])?;
    let problems = status["problems"].to_string();
    for hook in ["stuck", "void"] {
        assert!(
            problems.contains(&format!("hook {hook}: ")) && problems.contains("events dropped"),
            "{problems}"
        );
    }
    let log = weir.log();
    assert!(log.contains("events dropped, the oldest of a queue of 2"), "{log}");
    assert!(events(&weir, &["--kind", "health"])?.len() >= 12, "the ring has them all");
    Ok(())
}
