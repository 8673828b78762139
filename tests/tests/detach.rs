//! `weir detach`: everything goes, and only when asked for.

use std::{net::SocketAddr, thread, time::Duration};

use anyhow::{Result, ensure};
use weir_tests::{Family, Get, Lab, Limits, config, eventually};

#[test]
fn detach_removes_everything_and_a_new_start_begins_anew() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let mut weir = lab.weir(&config(2, Limits::default()))?;
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    let get = Get::new(vip).timeout(Duration::from_secs(2));
    lab.client().get(&get)?;
    let pins = weir.pins()?;
    ensure!(pins.contains(&"program".to_owned()) && pins.contains(&"links/eth0".to_owned()), "{pins:?}");

    let refused = weir.cli(&["detach"])?;
    ensure!(refused.status.code() == Some(5), "{refused:?}");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(told.contains("another weir (pid") && told.contains("--force"), "{told}");
    ensure!(weir.pins()? == pins, "a refused detach removed pins");
    lab.client().get(&get)?;

    weir.terminate()?;
    ensure!(lab.weir_host().xdp_program("eth0")?.is_some(), "stopping the daemon detaches nothing");
    lab.client().get(&get)?;
    let detached = weir.json(&["detach"])?;
    ensure!(detached["interfaces"] == serde_json::json!(["eth0", "eth1"]), "{detached}");
    ensure!(detached["unpinned"].as_array().map(Vec::len) == Some(pins.len()), "{detached}");
    ensure!(weir.pins()?.is_empty() && !weir.bpffs().exists());
    ensure!(lab.weir_host().xdp_program("eth0")?.is_none() && lab.weir_host().xdp_program("eth1")?.is_none());
    ensure!(lab.client().get(&get.clone().timeout(Duration::from_millis(300))).is_err(), "nobody forwards");

    let again = weir.cli(&["detach"])?;
    ensure!(again.status.success(), "{again:?}");
    ensure!(String::from_utf8_lossy(&again.stdout).contains("nothing was attached"), "{again:?}");
    let status = weir.cli(&["status"])?;
    ensure!(status.status.code() == Some(3), "{status:?}");

    weir.launch()?;
    ensure!(weir.pins()? == pins);
    lab.client().get(&get)?;
    Ok(())
}

#[test]
fn a_forced_detach_holds_against_the_daemon_that_still_runs() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let mut weir = lab.weir(&config(2, Limits::default()))?;
    weir.succeed(&["detach", "--force"])?;
    // Time to follow what the kernel tells of its interfaces.
    thread::sleep(Duration::from_millis(500));
    ensure!(lab.weir_host().xdp_program("eth0")?.is_none(), "attached again:\n{}", weir.log());
    ensure!(weir.pins()?.is_empty(), "{:?}", weir.pins()?);
    eventually("status says what happened", || {
        weir.cli(&["status"]).is_ok_and(|output| {
            String::from_utf8_lossy(&output.stdout).contains("restart weir to attach it again")
        })
    });
    weir.terminate()?;
    weir.launch()?;
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    lab.client().get(&Get::new(vip))?;
    Ok(())
}
