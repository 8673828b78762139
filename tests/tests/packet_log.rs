//! The build with debug messages in the packet program: it loads, and the daemon relays what the program tells.

use std::{
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use weir_tests::{Family, Get, Lab, Limits, WeirOptions, config, eventually};

#[test]
fn a_build_with_packet_log_tells_each_decision() -> Result<()> {
    let binary = build()?;
    let lab = Lab::builder().direct(1).start()?;
    let options = WeirOptions {
        binary: Some(binary),
        environment: vec![("WEIR_LOG".to_owned(), "debug".to_owned())],
        ..WeirOptions::default()
    };
    let mut weir = lab.weir_with(&config(1, Limits::default()), options)?;
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    lab.client().get(&Get::new(vip))?;
    eventually("the log tells of new and known flows", || {
        weir.log().contains(": flow_new") && weir.log().contains(": flow_known")
    });
    ensure!(!weir.log().contains("not_vip"), "{}", weir.log());
    // An adopted program is read from its maps.
    weir.kill();
    weir.launch()?;
    let told = weir.log().matches(": flow_new").count();
    lab.client().get(&Get::new(vip))?;
    eventually("an adopted program's messages are told", || weir.log().matches(": flow_new").count() > told);
    Ok(())
}

/// Builds `weir` with the feature and puts it aside. In the usual target directory, where all it is made of is
/// built already; the usual `weir` takes its place there again.
fn build() -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the workspace")?;
    let cargo = |features: &[&str]| -> Result<()> {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--quiet", "--package", "lb-userspace"]).args(features).current_dir(root);
        let built = cargo.output().context("run cargo")?;
        ensure!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        Ok(())
    };
    let target = env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), |target| root.join(target));
    let (usual, logging) = (target.join("debug/weir"), target.join("packet-log/weir"));
    fs::create_dir_all(logging.parent().context("a folder")?)?;
    let built = cargo(&["--features", "packet-log"])
        .and_then(|()| fs::copy(&usual, &logging).context("copy the build aside"));
    cargo(&[])?;
    built?;
    Ok(logging)
}
