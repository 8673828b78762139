//! Reloads by SIGHUP and by `weir reload`: all or nothing, and nothing where nothing changed.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use rustix::process::Signal;
use weir_tests::{Family, Get, Lab, Limits, WeirProc, config, eventually};

#[test]
fn sighup_and_the_verb_take_a_changed_config() -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    let weir = lab.weir(&config(1, Limits::default()))?;
    ensure!(served(&lab)? == BTreeSet::from(["direct-1".to_owned()]));

    weir.write_config(&config(2, Limits::default()))?;
    weir.signal(Signal::HUP)?;
    eventually("the log tells the change", || {
        weir.log().contains("reload: pool web: backend direct-2 added")
    });
    up(&weir, 2);
    ensure!(served(&lab)?.len() == 2);

    let output = weir.reload(&config(3, Limits::default()))?;
    ensure!(
        String::from_utf8_lossy(&output.stdout).contains("pool web: backend direct-3 added"),
        "{output:?}"
    );
    up(&weir, 3);
    ensure!(served(&lab)?.len() == 3);

    weir.write_config(&config(1, Limits::default()))?;
    let reloaded = weir.json(&["reload"])?;
    ensure!(
        reloaded["changes"]
            == serde_json::json!([
                "pool web: backend direct-2 removed",
                "pool web: backend direct-3 removed"
            ]),
        "{reloaded}"
    );
    ensure!(served(&lab)? == BTreeSet::from(["direct-1".to_owned()]));
    Ok(())
}

#[test]
fn a_reload_without_a_change_writes_nothing_and_says_so() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let weir = lab.weir(&config(2, Limits::default()))?;
    up(&weir, 2);
    weir.succeed(&["backend", "weight", "direct-1", "--to", "10"])?;
    let before = weir.tables()?;
    let logged = weir.log().len();
    for number in 1..=5 {
        weir.signal(Signal::HUP)?;
        let said = || weir.log()[logged..].matches("config read again, nothing changed").count();
        eventually("the log says that nothing changed", || said() == number);
    }
    let output = weir.cli(&["reload"])?;
    ensure!(output.status.success());
    ensure!(weir.json(&["reload"])?["changes"] == serde_json::json!([]));
    ensure!(!weir.log()[logged..].contains("applied"), "{}", &weir.log()[logged..]);
    ensure!(weir.tables()? == before, "maps were written");
    Ok(())
}

#[test]
fn a_sighup_with_a_mistake_keeps_everything() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let weir = lab.weir(&config(2, Limits::default()))?;
    up(&weir, 2);
    let before = weir.tables()?;
    weir.write_config(&config(1, Limits::default()).replace("protocol = \"tcp\"", "protocol = \"icmp\""))?;
    weir.signal(Signal::HUP)?;
    eventually("the log names the line", || {
        weir.log().contains("ERROR") && weir.log().contains("weir.toml:14")
    });
    ensure!(weir.tables()? == before);
    ensure!(served(&lab)?.len() == 2);
    ensure!(weir.cli(&["ready"])?.status.success());
    Ok(())
}

#[test]
fn an_interface_joins_and_leaves_by_reload() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let both = config(1, Limits::default());
    let front = both.replace("[\"eth0\", \"eth1\"]", "[\"eth0\"]");
    let weir = lab.weir(&front)?;
    let host = lab.weir_host();
    ensure!(host.xdp_program("eth1")?.is_none());
    weir.write_config(&both)?;
    weir.succeed(&["reload"])?;
    ensure!(host.xdp_program("eth1")? == host.xdp_program("eth0")?);
    weir.write_config(&front)?;
    weir.succeed(&["reload"])?;
    // The kernel takes it off after the link is gone.
    eventually("eth1 is left", || host.xdp_program("eth1").is_ok_and(|program| program.is_none()));
    ensure!(host.xdp_program("eth0")?.is_some());
    let interfaces = weir.json(&["status"])?["interfaces"].clone();
    ensure!(interfaces.as_array().map(Vec::len) == Some(1), "{interfaces}");
    Ok(())
}

fn up(weir: &WeirProc, backends: u64) {
    eventually("all backends are up", || {
        weir.json(&["status"]).is_ok_and(|status| status["backends_up"] == backends)
    });
}

/// The backends that answer.
fn served(lab: &Lab) -> Result<BTreeSet<String>> {
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    let get = Get::new(vip).timeout(Duration::from_secs(2));
    (0..40).map(|_| Ok(lab.client().get(&get)?.backend)).collect()
}
