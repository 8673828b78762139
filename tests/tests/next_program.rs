//! weir beside another XDP program: what weir passes goes there, and traffic to VIPs does not.

use std::{fs, net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use weir_tests::{Foreign, Get, Lab, Limits, WeirProc, config, pin_program};

fn served(lab: &Lab) -> bool {
    let vip = SocketAddr::new(lab.vip().v4.into(), 80);
    lab.client().get(&Get::new(vip).timeout(Duration::from_secs(2))).is_ok()
}

/// Whether weir's host answers an echo request to an address of its own.
fn host_answers(lab: &Lab) -> bool {
    let address = lab.weir_host().addresses()[0].v4;
    lab.client().ping(address.into(), Duration::from_millis(700)).is_ok()
}

/// Whether weir answers one to the VIP.
fn vip_answers(lab: &Lab) -> bool {
    lab.client().ping(lab.vip().v4.into(), Duration::from_millis(700)).is_ok()
}

fn refused(weir: &WeirProc, text: &str) -> Result<String> {
    let output = weir.reload(text)?;
    ensure!(!output.status.success(), "the reload is refused");
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_filter_behind_weir_keeps_working_through_reloads_and_daemons() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let text = config(1, Limits::default());
    let mut weir = lab.weir(&text)?;
    ensure!(host_answers(&lab) && vip_answers(&lab) && served(&lab), "everything answers");
    let filter = lab.bpffs().join("echo-filter");
    let with = |path: &str| format!("next_program = \"{path}\"\n{text}");
    let next = with(&filter.display().to_string());

    let message = refused(&weir, &next)?;
    ensure!(message.contains("nothing is pinned there"), "{message}");
    let own = weir.bpffs().join("program");
    let message = refused(&weir, &with(&own.display().to_string()))?;
    ensure!(message.contains("weir's own"), "{message}");
    for (program, why) in
        [(Foreign::Tc, "a program of type sched_cls, not xdp"), (Foreign::Frags, "multi-buffer")]
    {
        let unfit = lab.bpffs().join(format!("{program:?}"));
        pin_program(program, &unfit)?;
        let message = refused(&weir, &with(&unfit.display().to_string()))?;
        ensure!(message.contains(why), "{program:?}: {message}");
        fs::remove_file(&unfit)?;
    }
    assert!(host_answers(&lab) && served(&lab), "refusals change nothing");

    pin_program(Foreign::EchoFilter, &filter)?;
    let output = weir.reload(&next)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let all = |lab: &Lab| (host_answers(lab), vip_answers(lab), served(lab));
    assert_eq!(all(&lab), (false, true, true), "the filter drops what weir passes, weir does the rest");
    let own_ports = text.replace(
        "mode = \"dsr-l2\"",
        "mode = \"nat\"\nsnat = [{ address = \"10.0.0.2\", ports = \"32768-40000\" }]",
    );
    ensure!(own_ports != text, "the config has a service to change");
    let message = refused(&weir, &own_ports)?;
    ensure!(message.contains("nothing was changed"), "{message}");
    assert_eq!(
        all(&lab),
        (false, true, true),
        "a reload that is refused for something else leaves the filter"
    );
    weir.reload(&next)?;
    weir.kill();
    assert_eq!(all(&lab), (false, true, true), "without a daemon");
    weir.launch()?;
    assert_eq!(all(&lab), (false, true, true), "with the next daemon");
    let own = SocketAddr::new(lab.weir_host().addresses()[0].v4.into(), 22);
    let from = SocketAddr::new(lab.client().addresses()[0].v4.into(), 51_000);
    let explained = weir.explain(from, own)?;
    ensure!(explained.contains("would be called"), "{explained}");

    weir.reload(&text)?;
    assert_eq!(all(&lab), (true, true, true), "taken out again");
    fs::remove_file(&filter)?;
    Ok(())
}
