//! Interfaces that vanish and come back while weir runs.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use weir_tests::{Family, Get, Interface, Lab, Limits, Wait, WeirProc, config, eventually};

#[test]
fn the_interface_to_the_clients_is_attached_anew_when_it_comes_back() -> Result<()> {
    comes_back(Interface::Front, "eth0")
}

#[test]
fn the_interface_to_the_backends_is_attached_anew_when_it_comes_back() -> Result<()> {
    comes_back(Interface::Direct, "eth1")
}

fn comes_back(interface: Interface, name: &str) -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let weir = lab.weir(&config(2, Limits::default()))?;
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    let get = Get::new(vip).timeout(Duration::from_millis(500));
    lab.client().get(&get)?;
    let before = weir.attachment(name)?;
    lab.unplug(interface)?;
    eventually("status says that the interface is gone", || !attached(&weir, name));
    let status = weir.json(&["status"])?;
    ensure!(status["problems"].to_string().contains(&format!("interface {name}")), "{status}");
    ensure!(weir.cli(&["status", "--check"])?.status.code() == Some(1));
    ensure!(weir.cli(&["ready"])?.status.code() == Some(1), "an instance without {name} is not ready");

    let _passing = lab.plug(interface)?;
    eventually("weir is attached to the new interface", || attached(&weir, name));
    let after = weir.attachment(name)?;
    ensure!(after.program == before.program, "the program and its maps are the same");
    ensure!(after.link != before.link, "{after:?} was {before:?}");
    ensure!(weir.log().contains(&format!("{name}: attached anew (native mode)")), "{}", weir.log());
    eventually("traffic flows again", || lab.client().get(&get).is_ok());
    eventually("both backends are up, and nothing is wrong", || {
        let fine = |status: &Value| status["backends_up"] == 2 && status["problems"] == json!([]);
        weir.json(&["status"]).is_ok_and(|status| fine(&status))
    });
    for _ in 0..20 {
        lab.client().get(&get)?;
    }
    ensure!(weir.cli(&["status", "--check"])?.status.code() == Some(0), "{}", weir.succeed(&["status"])?);
    ensure!(!weir.log().contains("another XDP program"), "weir met itself: {}", weir.log());
    Ok(())
}

#[test]
fn an_interface_that_was_recreated_while_the_daemon_was_dead_is_attached_at_its_start() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let mut weir = lab.weir(&config(2, Limits::default()))?;
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    weir.kill();
    lab.unplug(Interface::Front)?;
    let _passing = lab.plug(Interface::Front)?;
    ensure!(lab.weir_host().xdp_program("eth0")?.is_none());
    weir.launch()?;
    ensure!(weir.log().contains("eth0: attached anew (native mode)"), "{}", weir.log());
    eventually("traffic flows again", || lab.client().get(&Get::new(vip)).is_ok());
    Ok(())
}

#[test]
fn a_program_that_somebody_detached_is_attached_anew() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let weir = lab.weir(&config(2, Limits::default()))?;
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    let get = Get::new(vip).timeout(Duration::from_millis(500));
    let before = weir.attachment("eth0")?;
    let pin = weir.bpffs().join("links/eth0").display().to_string();
    lab.weir_host().exec("bpftool", &["link", "detach", "pinned", &pin])?;
    ensure!(lab.weir_host().xdp_program("eth0")?.is_none());
    eventually("weir is attached again", || lab.weir_host().xdp_program("eth0").is_ok_and(|id| id.is_some()));
    eventually("the new link is pinned", || weir.attachment("eth0").is_ok_and(|now| now.link != before.link));
    ensure!(weir.log().contains("eth0: attached anew (native mode)"), "{}", weir.log());
    lab.client().get(&get)?;
    Ok(())
}

#[test]
fn a_start_with_a_missing_interface_attaches_nothing() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let text = config(2, Limits::default()).replace("[\"eth0\", \"eth1\"]", "[\"eth0\", \"eth7\"]");
    let options = weir_tests::WeirOptions { wait: Wait::Nothing, ..Default::default() };
    let mut weir = lab.weir_with(&text, options)?;
    ensure!(weir.exit_code()? == Some(1));
    ensure!(weir.log().contains("interface eth7: no such interface"), "{}", weir.log());
    ensure!(weir.pins()?.is_empty() && lab.weir_host().xdp_program("eth0")?.is_none());
    Ok(())
}

fn attached(weir: &WeirProc, name: &str) -> bool {
    let Ok(status) = weir.json(&["status"]) else { return false };
    let interfaces = status["interfaces"].as_array().cloned().unwrap_or_default();
    interfaces.iter().any(|interface| interface["name"] == name && interface["attached"] == true)
}
