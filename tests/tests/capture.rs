//! `weir capture` shows frames as they come and as they leave, costs no request, and leaves the program as it was.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::{Context as _, Result, ensure};
use weir_tests::{Family, Get, Lab, Limits, Load, Rate, config};

#[test]
fn a_capture_has_verdict_and_reason_of_every_frame_and_costs_no_request() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let weir = lab.weir(&config(2, Limits::default()))?;
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    let before = (weir.attachment("eth0")?, weir.pins()?);
    let request = Get::new(vip).timeout(Duration::from_secs(2));
    let load = Load::start(lab.client(), request, Rate::per_second(100));

    let file = lab.directory().join("seen.pcapng");
    let name = file.display().to_string();
    let mut capture = weir.command(&["capture", "-w", &name, "--count", "1000", "--for", "60s"]);
    let host = lab.weir_host().clone();
    let running = std::thread::spawn(move || host.output(&mut capture));
    weir_tests::eventually("the sampling program runs", || {
        weir.attachment("eth0").is_ok_and(|now| now.program != before.0.program && now.link == before.0.link)
    });
    let second = weir.cli(&["capture", "-w", "/dev/null", "--for", "1s"])?;
    ensure!(second.status.code() == Some(5), "a second capture: {second:?}");
    let ended = running.join().expect("the thread runs a command")?;
    let told = String::from_utf8_lossy(&ended.stderr).into_owned();
    ensure!(ended.status.success() && told.contains("frames written"), "{ended:?}");
    let frames: u64 = told.split(' ').find_map(|word| word.parse().ok()).unwrap_or(0);
    ensure!(frames >= 1000, "{told}");

    ensure!(weir.attachment("eth0")? == before.0, "the program is put back");
    ensure!(weir.pins()? == before.1, "{:?}", weir.pins()?);
    let shots = load.stop();
    let failed = shots.iter().filter(|shot| shot.failed()).count();
    ensure!(failed == 0, "{failed} of {} requests failed", shots.len());

    let fields = ["frame.interface_name", "frame.comment", "ip.proto"];
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(&file).args(["-n", "-T", "fields"]);
    for field in fields {
        tshark.args(["-e", field]);
    }
    let read = tshark.output().context("run tshark")?;
    let text = String::from_utf8_lossy(&read.stdout).into_owned();
    ensure!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    for expected in [
        "eth0\tweir: redirect (flow_new), as it arrived\t6",
        "eth1\tweir: redirect (flow_new), as it left\t6",
        "weir: redirect (flow_known), as it arrived",
        "weir: redirect (flow_known), as it left",
    ] {
        ensure!(text.contains(expected), "no {expected:?} in\n{}", &text[..text.len().min(2000)]);
    }
    println!("{} lines, {} requests, {told}", text.lines().count(), shots.len());
    Ok(())
}

#[test]
fn a_capture_of_hosts_has_only_theirs_and_a_killed_one_is_cleaned_up() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let weir = lab.weir(&config(1, Limits::default()))?;
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    let before = weir.attachment("eth0")?;
    let request = Get::new(vip).timeout(Duration::from_secs(2));
    let load = Load::start(lab.client(), request, Rate::per_second(100));

    let (backend, nobody) = (lab.backends()[0].address(Family::V4).to_string(), "192.0.2.77");
    let none = weir.cli(&["capture", "-w", "/dev/null", "--host", nobody, "--for", "1s"])?;
    ensure!(none.status.code() == Some(1), "{none:?}");
    ensure!(String::from_utf8_lossy(&none.stderr).contains("no frame came by"), "{none:?}");
    let file = lab.directory().join("probes.pcapng");
    let name = file.display().to_string();
    let wrong = weir.cli(&["capture", "-w", &name, "--host", "10.0.0.1/8"])?;
    ensure!(wrong.status.code() == Some(2) && !file.exists(), "{wrong:?}");
    std::fs::write(&file, "an earlier capture")?;
    let running = weir.command(&["capture", "-w", "/dev/null", "--for", "3s"]);
    let mut running = lab.weir_host().spawn(running)?;
    weir_tests::eventually("the sampling program runs", || {
        weir.attachment("eth0").is_ok_and(|now| now.program != before.program)
    });
    let refused = weir.cli(&["capture", "-w", &name])?;
    ensure!(refused.status.code() == Some(5), "{refused:?}");
    ensure!(std::fs::read_to_string(&file)? == "an earlier capture", "a refused capture keeps its file");
    running.wait(Duration::from_secs(20))?;
    let probes = weir.cli(&["capture", "-w", &name, "--host", &backend, "--count", "20", "--for", "20s"])?;
    ensure!(probes.status.success(), "{probes:?}");
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(&file).args(["-n", "-T", "fields", "-e", "ip.src", "-e", "ip.dst"]);
    let read = tshark.output().context("run tshark")?;
    let text = String::from_utf8_lossy(&read.stdout).into_owned();
    ensure!(text.lines().count() >= 20, "{text}");
    ensure!(text.lines().all(|line| line.contains(&backend)), "other hosts' frames in\n{text}");

    let command = weir.command(&["capture", "-w", "/dev/null"]);
    let mut killed = lab.weir_host().spawn(command)?;
    weir_tests::eventually("the sampling program runs", || {
        weir.attachment("eth0").is_ok_and(|now| now.program != before.program)
    });
    killed.kill();
    weir_tests::eventually("the daemon puts the ordinary program back", || {
        weir.attachment("eth0").is_ok_and(|now| now == before)
    });
    let shots = load.stop();
    let failed = shots.iter().filter(|shot| shot.failed()).count();
    ensure!(failed == 0, "{failed} of {} requests failed", shots.len());
    Ok(())
}
