//! Whatever ends a lab, nothing of it stays.

use std::{
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::mpsc,
};

use anyhow::{Context, Result};
use weir_tests::{Family, Get, Lab, Wait, WeirOptions, eventually};

#[test]
fn a_daemon_that_ends_before_it_is_ready_is_reported() -> Result<()> {
    let lab = Lab::builder().direct(0).start()?;
    let options = WeirOptions { wait: Wait::Socket, ..WeirOptions::default() };
    let error = lab.weir_with("no such key", options).err().context("weir must not be ready")?;
    assert!(error.to_string().contains("weir ended"), "{error:#}");
    Ok(())
}

/// Makes the test below act as the process that dies.
const DIE: &str = "WEIR_LAB_DIE";

#[test]
fn a_killed_process_leaves_no_server_and_a_sweep_removes_the_rest() -> Result<()> {
    if std::env::var_os(DIE).is_some() {
        let lab = Lab::builder().direct(1).start()?;
        println!("lab={}", lab.name());
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    }
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args([
        "--exact",
        "--nocapture",
        "removal::a_killed_process_leaves_no_server_and_a_sweep_removes_the_rest",
    ]);
    let output = command.env(DIE, "1").output()?;
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    let name =
        text.split("lab=").nth(1).and_then(|rest| rest.lines().next()).context("find the lab's name")?;
    eventually("nginx ends with the process", || {
        let found = std::process::Command::new("pgrep").args(["-f", name]).output();
        found.is_ok_and(|found| found.stdout.is_empty())
    });
    // Another test's start may have swept before.
    Lab::sweep_stale()?;
    assert_eq!(namespaces_of(name)?, [""; 0]);
    assert!(!Path::new("/run/weir-lab").join(name).exists());
    Ok(())
}

/// Names of the namespaces of a lab.
fn namespaces_of(lab: &str) -> Result<Vec<String>> {
    let entries = std::fs::read_dir("/run/netns")?.map(|entry| entry.map(|entry| entry.file_name()));
    let names = entries.map(|entry| entry.map(|name| name.to_string_lossy().into_owned()));
    let names = names.collect::<Result<Vec<String>, _>>()?;
    Ok(names.into_iter().filter(|entry| entry.starts_with(&format!("{lab}-"))).collect())
}

#[test]
fn labs_coexist_and_a_panic_leaves_nothing_behind() -> Result<()> {
    let (names, name_of_the_other) = mpsc::channel();
    let other = Lab::builder().direct(1).start()?;
    let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::builder().direct(1).routed(1).start().expect("root and the tools are there");
        names.send(lab.name().to_owned()).expect("the receiver is alive");
        panic!("as a failing test does");
    }));
    assert!(panicked.is_err());
    let name = name_of_the_other.recv()?;
    assert_eq!(namespaces_of(&name)?, [""; 0]);
    assert!(!Path::new("/run/weir-lab").join(&name).exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    assert!(!mounts.contains(&name), "a mount is left:\n{mounts}");
    let commands = std::process::Command::new("pgrep").args(["-f", &name]).output()?;
    assert!(commands.stdout.is_empty(), "processes are left: {}", String::from_utf8_lossy(&commands.stdout));

    assert_eq!(
        namespaces_of(other.name())?.len(),
        5,
        "client, edge, weir, router and backend of the other lab"
    );
    assert!(Lab::sweep_stale()?.is_empty(), "a sweep leaves living labs alone");
    lab_answers(&other)
}

fn lab_answers(lab: &Lab) -> Result<()> {
    lab.client().get(&Get::new(lab.backend("direct-1").socket(Family::V4, 80))).map(drop)
}
