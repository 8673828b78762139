//! Rehearsed failures under real traffic: what the timeline tells, and what a drill never does.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::{Lab, Limits, SynLoad, WeirProc, answer_without_memory, config, eventually};

fn health(weir: &WeirProc, backend: &str) -> Option<String> {
    let document = weir.json(&["backends"]).ok()?;
    let found = document["backends"].as_array()?.iter().find(|one| one["name"] == backend)?;
    Some(found["health"].as_str()?.to_owned())
}

fn all_up(weir: &WeirProc, count: u8) {
    let up = |number| health(weir, &format!("direct-{number}")).as_deref() == Some("up");
    eventually("every backend is up", || (1..=count).all(up));
}

/// Steps with their times, in their order.
fn steps(report: &Value) -> Result<Vec<(String, i64)>> {
    let timeline = report["timeline"].as_array().context("a timeline")?;
    let step = |step: &Value| Some((step["step"].as_str()?.to_owned(), step["after_us"].as_i64()?));
    Ok(timeline.iter().filter_map(step).collect())
}

#[test]
fn a_drill_tells_when_flows_stopped_and_came_back_and_traffic_bears_it_out() -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    lab.backends().iter().try_for_each(|backend| answer_without_memory(backend))?;
    let weir = lab.weir(&config(3, Limits { flows_v4: 65_536, ..Limits::default() }))?;
    all_up(&weir, 3);
    let _load = SynLoad::start(lab.client(), &["198.51.100.10:80".parse()?], 2_000)?;
    let backend = lab.backend("direct-1");
    eventually("it takes new connections", || backend.witness().is_ok_and(|witness| witness.syns > 20));

    for fail in ["crash", "silence"] {
        let watched = thread::scope(|scope| -> Result<(Value, u64)> {
            let drill = scope.spawn(|| weir.json(&["drill", "web/direct-1", "--fail", fail, "--for", "4s"]));
            // The middle of the drill, long after detection.
            thread::sleep(Duration::from_millis(2000));
            let before = backend.witness()?.syns;
            thread::sleep(Duration::from_millis(1000));
            let meanwhile = backend.witness()?.syns - before;
            Ok((drill.join().map_err(|_| anyhow::anyhow!("the drill panicked"))??, meanwhile))
        });
        let (report, meanwhile) = watched?;
        println!("{}", weir.succeed(&["events", "--kind", "drill", "--limit", "3"])?);
        println!("{report:#}");
        assert_eq!(meanwhile, 0, "new connections to a backend that is failing");
        let steps = steps(&report)?;
        let names: Vec<&str> = steps.iter().map(|(name, _)| name.as_str()).collect();
        let told: Vec<&str> = names.iter().copied().filter(|name| *name != "last new flow").collect();
        assert_eq!(
            told,
            ["injected", "suspect", "store", "down", "store", "restored", "up", "store"],
            "{fail}"
        );
        assert!(steps.is_sorted_by_key(|(_, after)| *after), "{steps:?}");
        let number = |name: &str| report[name].as_u64().with_context(|| format!("{name} of {report}"));
        let (stopped, down) = (number("new_flows_stopped_after_us")?, number("down_after_us")?);
        // A check every 50 ms with a timeout of a second.
        assert!(stopped <= down && down < 3_000_000, "{stopped} {down}");
        // The data plane's own word: nothing new was sent to it after the store, but for what the counter's reader saw late.
        // Flows come every 1.5 ms, so that only a failure found at once may have none.
        if let Some(last) = report["last_new_flow_after_us"].as_u64() {
            println!("{fail}: stored after {stopped} us, the last new flow after {last} us");
            assert!(last < stopped + 50_000, "{last} {stopped}");
            assert_eq!(names.len(), told.len() + 1, "{names:?}");
        } else {
            assert!(stopped < 20_000, "no new flow within {stopped} us: {names:?}");
        }
        assert!(number("readmitted_after_us")? < 2_000_000);
        assert_eq!(report["done"], true);
        all_up(&weir, 3);
        let syns = backend.witness()?.syns;
        eventually("it takes new connections again", || {
            backend.witness().is_ok_and(|witness| witness.syns > syns + 20)
        });
    }
    let told = || -> Result<Vec<String>> {
        let text = weir.succeed(&["events", "--kind", "drill", "-o", "jsonl"])?;
        let events: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        Ok(events.iter().filter_map(|event| Some(event["to"].as_str()?.to_owned())).collect())
    };
    let wanted = ["injected", "restored", "finished"].repeat(2);
    eventually("the events tell both drills", || told().is_ok_and(|told| told == wanted));
    Ok(())
}

#[test]
fn a_drill_goes_with_the_daemon_and_needs_no_client_to_end() -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    let mut weir = lab.weir(&config(3, Limits::default()))?;
    all_up(&weir, 3);
    let begin = |weir: &WeirProc, time: &str| {
        weir.host().spawn(weir.command(&["drill", "direct-1", "--fail", "crash", "--for", time]))
    };
    // The client is killed with its handle.
    let client = begin(&weir, "2s")?;
    eventually("it is down", || health(&weir, "direct-1").as_deref() == Some("down"));
    drop(client);
    let begun = Instant::now();
    assert_eq!(health(&weir, "direct-1").as_deref(), Some("down"), "it lasts without its client");
    all_up(&weir, 3);
    ensure!(begun.elapsed() < Duration::from_secs(20), "it ended by itself after {:?}", begun.elapsed());

    let _client = begin(&weir, "10m")?;
    eventually("it is down", || health(&weir, "direct-1").as_deref() == Some("down"));
    let status = weir.json(&["status"])?;
    assert!(status["notes"].to_string().contains("drill of web/direct-1 under way: crash"), "{status}");
    weir.kill();
    weir.launch()?;
    all_up(&weir, 3);
    Ok(())
}

#[test]
fn a_drill_that_the_pool_could_not_bear_is_refused() -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    let weir = lab.weir(&config(3, Limits::default()))?;
    all_up(&weir, 3);
    let refused = |arguments: &[&str], code: i32| -> Result<String> {
        let output = weir.cli(&[&["drill"], arguments, &["--for", "300ms"]].concat())?;
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {message}");
        Ok(message)
    };
    refused(&["direct-9", "--fail", "crash"], 4)?;
    refused(&["direct-*", "--fail", "crash"], 2)?;
    lab.backend("direct-3").kill();
    eventually("one is down", || health(&weir, "direct-3").as_deref() == Some("down"));
    let message = refused(&["direct-1", "--fail", "crash"], 5)?;
    assert!(
        message.contains("more than 50 % of pool web's weight would be out") && message.contains("--force")
    );
    let message = refused(&["direct-3", "--fail", "crash"], 5)?;
    assert!(message.contains("nothing could be measured"), "{message}");
    weir.succeed(&["backend", "drain", "direct-2"])?;
    let message = refused(&["direct-1", "--fail", "crash"], 5)?;
    assert!(message.contains("no other backend of pool web takes new flows"), "{message}");
    assert_eq!(health(&weir, "direct-1").as_deref(), Some("up"), "a refused drill changes nothing");
    let report = weir.json(&["drill", "direct-1", "--fail", "crash", "--for", "500ms", "--force"])?;
    assert!(report["down_after_us"].as_u64().is_some(), "{report}");
    Ok(())
}

#[test]
fn a_drill_reaches_tripwires_by_the_end_of_their_connections() -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    let text = config(3, Limits::default());
    let (head, rest) = text.split_once("[[pool.health]]").context("the checks")?;
    let backends = &rest[rest.find("[[pool.backend").context("backends")?..];
    let check = "[[pool.health]]\ntype = \"tripwire\"\ninterval = \"100ms\"\ntimeout = \"200ms\"\nfall = 1\n";
    let weir = lab.weir(&format!("{head}{check}{backends}"))?;
    all_up(&weir, 3);
    for (fail, time) in [("crash", "1s"), ("silence", "4s")] {
        let report = weir.json(&["drill", "web/direct-1", "--fail", fail, "--for", time])?;
        println!("{}", weir.log().lines().rev().take(6).collect::<Vec<_>>().join("\n"));
        let steps = steps(&report)?;
        let names: Vec<&str> = steps.iter().map(|(name, _)| name.as_str()).collect();
        // Refused connections follow at once: down may be decided while the first store is under way.
        assert_eq!(names[..2], ["injected", "suspect"], "{fail}: {report:#}");
        assert_eq!(names[5..], ["restored", "up", "store"], "{fail}: {report:#}");
        assert!(names[2..5].contains(&"down"), "{fail}: {report:#}");
        all_up(&weir, 3);
    }
    // An idle connection notices nothing of slowness.
    let report = weir.json(&["drill", "web/direct-1", "--fail", "slow=50ms", "--for", "500ms"])?;
    assert_eq!(steps(&report)?.len(), 2, "{report:#}");
    Ok(())
}
