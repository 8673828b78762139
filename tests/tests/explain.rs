//! `weir explain` against a running instance, and against what it left pinned.

use std::process::{Command, Output};

use anyhow::{Result, ensure};
use serde_json::Value;
use weir_tests::{Family, Lab, Limits, WeirProc, config};

/// `weir explain` of a packet from a client to the VIP, against the instance.
fn explain(weir: &WeirProc, lab: &Lab, port: u16, rest: &[&str]) -> Result<Output> {
    let (client, vip) = (lab.client().address(Family::V4), lab.vip().of(Family::V4));
    let mut command = Command::new(WeirProc::binary()?);
    command.arg("--socket").arg(weir.socket()).arg("--bpffs").arg(weir.bpffs());
    command.args(["explain", "--from", &format!("{client}:{port}"), "--to", &format!("{vip}:80")]);
    lab.weir_host().output(command.args(rest).args(["-o", "jsonl"]))
}

fn told(output: &Output) -> Result<Value> {
    ensure!(output.status.success(), "{output:?}");
    Ok(serde_json::from_slice(&output.stdout)?)
}

#[test]
fn explain_tells_what_the_live_instance_would_do_and_changes_nothing() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let mut weir = lab.weir(&config(2, Limits::default()))?;
    let first = told(&explain(&weir, &lab, 51_000, &[])?)?;
    ensure!(first["verdict"] == "redirect" && first["reason"] == "flow_new", "{first}");
    ensure!(told(&explain(&weir, &lab, 51_000, &[])?)? == first, "the same question has the same answer");
    let flows = weir.json(&["flows"])?;
    ensure!(flows["total"] == 0, "{flows}");
    ensure!(
        weir.packets()? == 0 || weir.json(&["status"])?["counters"]["flow_new"] == 0,
        "nothing is counted"
    );

    let backend =
        format!("{}/{}", first["pool"].as_str().unwrap_or(""), first["backend"].as_str().unwrap_or(""));
    weir.succeed(&["backend", "drain", &backend])?;
    let drained = told(&explain(&weir, &lab, 51_000, &[])?)?;
    ensure!(drained["backend"] != first["backend"], "{drained}");
    ensure!(drained["steps"].to_string().contains("draining"), "{drained}");
    let late = told(&explain(&weir, &lab, 51_000, &["--flags", "ack"])?)?;
    ensure!(late["reason"] == "flow_resumed" && late["backend"] == first["backend"], "{late}");
    let tagged = told(&explain(&weir, &lab, 51_000, &["--vlan", "100", "--interface", "eth1"])?)?;
    ensure!(tagged["backend"] == drained["backend"], "{tagged}");

    let nowhere = explain(&weir, &lab, 51_000, &["--interface", "eth9"])?;
    ensure!(nowhere.status.code() == Some(4), "{nowhere:?}");
    weir.kill();
    ensure!(
        told(&explain(&weir, &lab, 51_000, &[])?)? == drained,
        "without the daemon the pinned program answers"
    );
    Ok(())
}
