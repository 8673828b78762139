//! The systemd unit: what it promises about readiness, reload and stop, with the privileges that it leaves.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, net::UnixDatagram},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use weir_tests::{Family, Get, Lab, Limits, Wait, WeirOptions, WeirProc, config, eventually};

fn unit() -> Result<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/weir.service");
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

/// A stand-in for the binary that leaves it the unit's capabilities only.
fn confined(lab: &Lab) -> Result<PathBuf> {
    let unit = unit()?;
    let capabilities = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let capabilities = capabilities.context("the unit bounds capabilities")?.split_whitespace();
    let kept: String = capabilities
        .filter_map(|name| name.strip_prefix("CAP_"))
        .map(|name| format!(",+{}", name.to_lowercase()))
        .collect();
    let script = lab.directory().join("confined-weir");
    let weir = WeirProc::binary()?;
    let text = format!(
        "#!/bin/sh\nexec setpriv --no-new-privs --bounding-set=-all{kept} {} \"$@\"\n",
        weir.display()
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

#[test]
fn the_daemon_tells_the_service_manager_when_it_is_ready_and_runs_with_the_capabilities_left_to_it()
-> Result<()> {
    let unit = unit()?;
    for line in ["Type=notify", "ExecReload=/bin/kill -HUP $MAINPID", "ReadWritePaths=/sys/fs/bpf"] {
        ensure!(unit.lines().any(|found| found == line), "the unit lacks {line}");
    }
    ensure!(!unit.contains("ExecStop"), "stopping must not detach");

    let lab = Lab::builder().direct(2).start()?;
    let path = lab.directory().join("notify");
    let manager = UnixDatagram::bind(&path)?;
    manager.set_read_timeout(Some(Duration::from_secs(10)))?;
    let told = || -> Result<String> {
        let mut buffer = [0; 256];
        let length = manager.recv(&mut buffer).context("nothing is told")?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let options = WeirOptions {
        wait: Wait::Nothing,
        binary: Some(confined(&lab)?),
        environment: vec![("NOTIFY_SOCKET".to_owned(), path.display().to_string())],
        ..WeirOptions::default()
    };
    // Every kind of check needs its sockets.
    let text = config(2, Limits::default()).replace(
        "[[pool.backend]]\nname = \"direct-1\"",
        "[[pool.health]]\ntype = \"ping\"\ninterval = \"50ms\"\n[[pool.health]]\ntype = \"syn\"\nport = \
         80\ninterval = \"5ms\"\ntimeout = \"1s\"\n[[pool.backend]]\nname = \"direct-1\"",
    );
    let mut weir = lab.weir_with(&text, options)?;
    ensure!(told()?.contains("READY=1"));
    eventually("both backends are up", || {
        weir.json(&["status"]).is_ok_and(|status| status["backends_up"] == 2)
    });
    let vip = (lab.vip().of(Family::V4), 80).into();
    lab.client().get(&Get::new(vip))?;
    weir.signal(Signal::HUP)?;
    eventually("SIGHUP reloads", || weir.log().contains("nothing changed"));
    weir.terminate()?;
    ensure!(told()?.contains("STOPPING=1"));
    lab.client().get(&Get::new(vip))?;
    Ok(())
}
