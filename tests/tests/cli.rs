//! Every verb of the command line against a running instance: tables, documents, filters, exit codes.

use std::{net::SocketAddr, process::Output, thread, time::Duration};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::{Downloads, Family, Get, Lab, Limits, WeirProc, config, eventually};

fn start(backends: u8) -> Result<(Lab, WeirProc)> {
    let lab = Lab::builder().direct(backends).start()?;
    let weir = lab.weir(&config(backends, Limits::default()))?;
    eventually("all backends are up", || {
        weir.json(&["status"]).is_ok_and(|status| status["backends_up"] == u64::from(backends))
    });
    Ok((lab, weir))
}

fn vip(lab: &Lab) -> SocketAddr {
    (lab.vip().of(Family::V4), 80).into()
}

fn code(weir: &WeirProc, arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let Output { status, stdout, stderr } = weir.cli(arguments)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((status.code(), text(stdout), text(stderr)))
}

/// Checks that a document has every field, and the version mark.
fn has(document: &Value, fields: &[&str]) -> Result<()> {
    for field in fields {
        ensure!(document.get(field).is_some(), "no {field} in {document:#}");
    }
    Ok(())
}

#[test]
fn lists_print_tables_and_documents_with_the_fields_that_scripts_rely_on() -> Result<()> {
    let (lab, weir) = start(2)?;
    for _ in 0..20 {
        lab.client().get(&Get::new(vip(&lab)))?;
    }
    let status = weir.json(&["status"])?;
    has(
        &status,
        &["daemon", "interfaces", "services_total", "backends_total", "backends_up", "flows", "counters"],
    )?;
    has(&status["interfaces"][0], &["name", "mode", "attached"])?;
    has(&status["flows"], &["v4", "v6", "capacity_v4", "capacity_v6"])?;
    has(&status["daemon"], &["running", "pid", "version", "started", "config", "config_loaded"])?;
    ensure!(status["problems"] == serde_json::json!([]), "{status:#}");
    ensure!(status["interfaces"][0]["mode"] == "native", "{status:#}");
    ensure!(status["flows"]["capacity_v4"] == 4096);
    ensure!(status["counters"]["flow_new"].as_u64() >= Some(20), "{status:#}");

    let services = weir.json(&["services"])?;
    let service = &services["services"][0];
    has(service, &["name", "vip", "port", "protocol", "mode", "scheduler", "pool", "active_tier"])?;
    has(service, &["backends_up", "backends_total", "flows", "packets", "bytes"])?;
    ensure!(service["mode"] == "dsr-l2" && service["backends_up"] == 2, "{service:#}");

    let backends = weir.json(&["backends"])?;
    let all = backends["backends"].as_array().context("a list")?;
    let fields = ["name", "pool", "services", "address", "host", "admin", "health", "failure_kind", "weight"];
    has(&all[0], &fields)?;
    has(&all[0], &["admit_permille", "flows", "packets", "bytes", "since", "why", "last_probe"])?;
    ensure!(all.len() == 2 && all[0]["admin"] == "active" && all[0]["host"] == "host-1", "{backends:#}");
    ensure!(all[0]["last_probe"]["passed"] == true, "{backends:#}");
    let sum = |field: &str| all.iter().filter_map(|backend| backend[field].as_u64()).sum::<u64>();
    ensure!(
        sum("packets") == service["packets"].as_u64().unwrap_or(0) && sum("packets") > 20,
        "{backends:#}"
    );

    let flows = weir.json(&["flows"])?;
    ensure!(flows["total"].as_u64() >= Some(20), "{flows:#}");
    has(&flows["flows"][0], &["client", "client_port", "vip", "port", "protocol", "service", "backend"])?;
    has(&flows["flows"][0], &["state", "idle_s"])?;

    for (verb, words) in [
        ("status", &["daemon", "running", "eth0 (native)", "REASON", "flow_new", "NOTES"][..]),
        ("services", &["SERVICE", "web", "198.51.100.10", "dsr-l2"]),
        ("backends", &["BACKEND", "web/direct-1", "10.0.1.11", "up"]),
        ("flows", &["CLIENT", "203.0.113.10:", "web/direct-"]),
        ("ready", &["ready"]),
    ] {
        let (exit, out, err) = code(&weir, &[verb])?;
        ensure!(exit == Some(0) && err.is_empty(), "{verb}: {exit:?} {err}");
        ensure!(words.iter().all(|word| out.contains(word)), "{verb}: {out}");
        ensure!(!out.contains('\x1b'), "{verb}: colours are for terminals: {out:?}");
        let document = weir.json(&[verb])?;
        ensure!(document["api"] == "weir/v1", "{verb}: {document}");
    }
    Ok(())
}

#[test]
fn filters_choose_rows() -> Result<()> {
    let (lab, weir) = start(3)?;
    for _ in 0..30 {
        lab.client().get(&Get::new(vip(&lab)))?;
    }
    weir.succeed(&["backend", "drain", "web/direct-3"])?;
    let names = |arguments: &[&str]| -> Result<Vec<String>> {
        let shown = weir.json(&[&["backends"], arguments].concat())?;
        let rows = shown["backends"].as_array().context("a list")?;
        Ok(rows.iter().filter_map(|row| row["name"].as_str().map(str::to_owned)).collect())
    };
    ensure!(names(&["--backend", "direct-2"])? == ["direct-2"]);
    ensure!(names(&["--backend", "web/direct-*"])?.len() == 3);
    ensure!(names(&["--host", "host-1"])? == ["direct-1"]);
    ensure!(names(&["--state", "draining"])? == ["direct-3"]);
    ensure!(names(&["--state", "down"])?.is_empty());
    ensure!(names(&["--pool", "web", "--service", "web"])?.len() == 3);
    let total = |arguments: &[&str]| -> Result<u64> {
        weir.json(&[&["flows", "--count"], arguments].concat())?["total"].as_u64().context("a total")
    };
    let (all, one) = (total(&[])?, total(&["--backend", "web/direct-1"])?);
    ensure!(one > 0 && one < all, "{one} of {all}");
    ensure!(total(&["--client", "203.0.113.0/24", "--service", "web"])? == all);
    ensure!(total(&["--client", "192.0.2.1"])? == 0);
    ensure!(weir.succeed(&["flows", "--count"])?.trim() == all.to_string());
    let limited = weir.json(&["flows", "--limit", "2"])?;
    ensure!(limited["flows"].as_array().map(Vec::len) == Some(2) && limited["total"] == all, "{limited}");
    Ok(())
}

#[test]
fn runtime_changes_are_guarded_told_and_end_by_themselves() -> Result<()> {
    let (lab, weir) = start(2)?;
    let (exit, out, _) =
        code(&weir, &["backend", "drain", "web/direct-1", "--reason", "kernel", "--for", "2s"])?;
    ensure!(exit == Some(0) && out.contains("drains 1 of 2 backends of pool web"), "{out}");
    let change = weir.json(&["status"])?["changes"][0].clone();
    has(&change, &["pool", "backend", "kind", "by", "since", "reason", "until", "configured"])?;
    ensure!(
        change["kind"] == "draining" && change["reason"] == "kernel" && change["by"] == "root",
        "{change}"
    );
    for _ in 0..20 {
        ensure!(
            lab.client().get(&Get::new(vip(&lab)))?.backend == "direct-2",
            "a drained backend took a flow"
        );
    }

    let (exit, out, err) = code(&weir, &["backend", "drain", "web/direct-2"])?;
    ensure!(exit == Some(5) && out.is_empty() && err.contains("--force"), "{exit:?} {out} {err}");
    let (exit, _, err) = code(&weir, &["backend", "weight", "direct-2", "--to", "0"])?;
    ensure!(exit == Some(5) && err.contains("--force"), "{exit:?} {err}");
    ensure!(weir.backend("direct-2")?["admin"] == "active");

    eventually("the drain ends after two seconds", || {
        weir.backend("direct-1").is_ok_and(|found| found["admin"] == "active")
    });
    ensure!(weir.json(&["status"])?["changes"] == serde_json::json!([]));

    weir.succeed(&["backend", "maintenance", "--host", "host-1"])?;
    ensure!(weir.backend("direct-1")?["admin"] == "maintenance");
    weir.succeed(&["backend", "drain", "direct-2", "--force"])?;
    ensure!(weir.backend("direct-2")?["admin"] == "draining");
    let (exit, out, _) = code(&weir, &["status", "--check"])?;
    ensure!(exit == Some(1) && out.contains("none of 2 backends takes new flows"), "{out}");
    weir.succeed(&["backend", "ready", "direct-1", "direct-2"])?;
    weir.succeed(&["backend", "weight", "web/direct-1", "--to", "0"])?;
    for _ in 0..20 {
        ensure!(lab.client().get(&Get::new(vip(&lab)))?.backend == "direct-2", "weight 0 takes no new flows");
    }
    weir.succeed(&["backend", "weight", "web/direct-1", "--to", "config"])?;
    ensure!(weir.backend("direct-1")?["weight"] == 100);
    ensure!(code(&weir, &["status", "--check"])?.0 == Some(0), "{}", weir.succeed(&["status"])?);
    Ok(())
}

#[test]
fn waiting_for_a_drain_ends_with_the_flows_or_at_the_deadline() -> Result<()> {
    let (lab, weir) = start(2)?;
    let downloads = Downloads::start(lab.client(), vec![Get::new(vip(&lab)).path("/big"); 10]);
    downloads.wait_started(Duration::from_secs(5))?;
    let drain = ["backend", "drain", "direct-1", "--wait", "--deadline", "1s"];
    let (exit, out, err) = code(&weir, &drain)?;
    ensure!(exit == Some(6), "{exit:?} {out} {err}");
    ensure!(err.contains("live flows left after 1s") && err.contains("the drain goes on"), "{err}");
    ensure!(weir.backend("direct-1")?["admin"] == "draining");
    let lines = weir.cli(&[&drain[..], &["-o", "jsonl"]].concat())?;
    let lines = String::from_utf8(lines.stdout)?;
    let last: Value = serde_json::from_str(lines.lines().last().context("a line a look")?)?;
    has(&last, &["api", "backends", "flows"])?;
    ensure!(last["flows"].as_u64() > Some(0), "{last}");
    // Without flows there is nothing to wait for.
    weir.succeed(&["backend", "ready", "direct-1"])?;
    drop(downloads);
    Ok(())
}

#[test]
fn errors_have_their_exit_code_and_are_documents_under_json() -> Result<()> {
    let (_lab, mut weir) = start(1)?;
    let to = ["explain", "--from", "203.0.113.9:1", "--to", "198.51.100.10:80"];
    let cases: [(&[&str], i32, &str, &str); 13] = [
        (&["frobnicate"], 2, "usage", "frobnicate"),
        (&["backend", "weight", "direct-1", "--to", "1001"], 2, "usage", "1000"),
        (&["backend", "drain", "direct-1", "--for", "soon"], 2, "usage", "soon"),
        (&["backend", "drain", "direkt-1"], 4, "not_found", "direct-1"),
        (&["backends", "--pool", "wed"], 4, "not_found", "web"),
        (&["flows", "--service", "wep"], 4, "not_found", "web"),
        (&["backend", "drain", "direct-1"], 5, "refused", "--force"),
        (&["detach"], 5, "refused", "--force"),
        (&["backends", "--state", "sideways"], 2, "usage", "sideways"),
        (&["rollout", "status", "wed"], 4, "not_found", "web"),
        (&[&to[..], &["--protocol", "udp", "--flags", "rst"]].concat(), 2, "usage", "--flags"),
        (&["explain", "--packet", "00", "--protocol", "udp"], 2, "usage", "--protocol"),
        (&["backend", "ready", "direkt-1", "--reason", "done"], 4, "not_found", "direct-1"),
    ];
    for (arguments, exit, code_name, word) in cases {
        let (code_found, out, err) = code(&weir, arguments)?;
        ensure!(code_found == Some(exit), "{arguments:?}: {code_found:?}: {err}");
        ensure!(out.is_empty() && err.contains(word), "{arguments:?}: {out}: {err}");
        let (code_found, out, err) = code(&weir, &[arguments, &["-o", "json"]].concat())?;
        ensure!(code_found == Some(exit) && out.is_empty(), "{arguments:?}: {code_found:?}: {out}");
        let document: Value = serde_json::from_str(&err).with_context(|| format!("{arguments:?}: {err}"))?;
        ensure!(
            document["api"] == "weir/v1" && document["error"]["code"] == code_name,
            "{arguments:?}: {err}"
        );
        ensure!(document["error"]["message"].as_str().is_some_and(|text| text.contains(word)), "{err}");
    }
    weir.terminate()?;
    for verb in ["reload", "ready"] {
        ensure!(code(&weir, &[verb])?.0 == Some(3), "{verb}");
    }
    ensure!(code(&weir, &["backend", "ready", "direct-1"])?.0 == Some(3));
    let several = ["explain", "--packet", "00", "--packet", "00", "-o", "json"];
    let (exit, _, err) = code(&weir, &several)?;
    ensure!(exit == Some(2) && err.contains("jsonl"), "{exit:?} {err}");
    let (exit, out, err) = code(&weir, &["backends"])?;
    ensure!(
        exit == Some(0) && out.contains("direct-1") && err.contains("pinned maps"),
        "{exit:?} {out} {err}"
    );
    Ok(())
}

#[test]
fn status_tells_of_a_check_that_cannot_be_run_and_events_who_ended_a_drain() -> Result<()> {
    let (lab, weir) = start(1)?;
    let script = lab.directory().join("check");
    let with = |command: &str| {
        let exec = format!(
            "type = \"exec\"\ncommand = [\"{command}\"]\ninterval = \"200ms\"\ntimeout = \"200ms\"\n"
        );
        let config = config(1, Limits::default());
        config.replace("[[pool.backend]]", &format!("[[pool.health]]\n{exec}[[pool.backend]]"))
    };
    let absent = script.display().to_string();
    let reloaded = weir.reload(&with(&absent))?;
    ensure!(reloaded.status.success(), "{reloaded:?}");
    let told =
        String::from_utf8_lossy(&reloaded.stderr).into_owned() + &String::from_utf8_lossy(&reloaded.stdout);
    ensure!(told.contains("which is not here"), "{told}");
    let problem = format!("exec checks of web/direct-1 cannot be run: start {absent}: No such file");
    eventually("status tells of it", || weir.succeed(&["status"]).is_ok_and(|page| page.contains(&problem)));
    ensure!(code(&weir, &["status", "--check"])?.0 == Some(1));
    let reloaded = weir.reload(&with("/bin/true"))?;
    ensure!(reloaded.status.success(), "{reloaded:?}");
    eventually("status is content", || {
        code(&weir, &["status", "--check"]).is_ok_and(|found| found.0 == Some(0))
    });

    weir.succeed(&["backend", "drain", "direct-1", "--reason", "disk", "--force"])?;
    weir.succeed(&["backend", "ready", "direct-1", "--reason", "disk is new"])?;
    let events = weir.succeed(&["events", "--kind", "admin", "-o", "jsonl"])?;
    let last: Value = serde_json::from_str(events.lines().last().context("no event")?)?;
    ensure!(last["to"] == "active" && last["reason"] == "disk is new" && last["by"] != Value::Null, "{last}");
    Ok(())
}

#[test]
fn check_prints_what_a_config_takes_and_promises() -> Result<()> {
    let (_lab, weir) = start(1)?;
    let checked = weir.json(&["check"])?;
    has(&checked, &["api", "file", "valid", "problems", "maps", "total_bytes", "pools"])?;
    ensure!(checked["valid"] == true && checked["total_bytes"].as_u64() > Some(0), "{checked}");
    let table = weir.succeed(&["check"])?;
    ensure!(
        table.contains("valid") && table.contains("flows_v4") && table.contains("DOWN WITHIN"),
        "{table}"
    );
    Ok(())
}

#[test]
fn status_finds_a_backend_that_is_down_and_is_content_when_it_is_back() -> Result<()> {
    let (lab, weir) = start(2)?;
    lab.backend("direct-2").kill();
    eventually("status --check fails", || {
        code(&weir, &["status", "--check"]).is_ok_and(|found| found.0 == Some(1))
    });
    let status = weir.succeed(&["status"])?;
    ensure!(status.starts_with("PROBLEMS\n  backend web/direct-2 is down (hard)"), "{status}");
    lab.backend("direct-2").start()?;
    eventually("status --check is content", || {
        code(&weir, &["status", "--check"]).is_ok_and(|found| found.0 == Some(0))
    });
    thread::sleep(Duration::from_millis(10));
    ensure!(weir.json(&["status"])?["notes"].to_string().contains("not an address of this host"));
    Ok(())
}
