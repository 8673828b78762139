//! `cargo xtask test`: everything that has to hold, or, with a filter, a few tests in seconds.

use std::{process::Command, time::Duration};

use anyhow::Result;

use crate::{bench, fuzz, lint, process, setup, steps::Steps};

/// Checks and tests everything, or the tests asked for.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Only tests whose name contains this, without the slow documentation and loom tests and the fuzzer.
    filter: Option<String>,
    /// Only tests that need neither root nor a network: unit, documentation and loom tests, fuzzer.
    #[arg(long, conflicts_with = "lab")]
    unit: bool,
    /// Only tests in network namespaces. They need root.
    #[arg(long)]
    lab: bool,
}

/// The packages whose tests need no root.
const UNIT_PACKAGES: [&str; 12] = [
    "--package",
    "lb-common",
    "--package",
    "lb-userspace",
    "--package",
    "weir-model",
    "--package",
    "weir-bench",
    "--package",
    "weir-demo",
    "--package",
    "xtask",
];

pub(crate) fn run(args: Args) -> Result<()> {
    setup::ensure()?;
    let mut steps = Steps::default();
    let filter = args.filter.as_deref();
    if filter.is_none() && !args.unit && !args.lab {
        lint::add(&mut steps)?;
    }
    if !args.lab {
        unit(&mut steps, filter)?;
    }
    if !args.unit {
        lab(&mut steps, filter)?;
    }
    if let Some(filter) = filter {
        steps.expect_tests(filter);
    }
    steps.finish_with_sum()
}

fn unit(steps: &mut Steps, filter: Option<&str>) -> Result<()> {
    let tests = |kinds: &[&str]| {
        let mut cargo = cargo_test();
        cargo.args(UNIT_PACKAGES).args(kinds).args(filter).args(["--", "--show-output"]);
        cargo
    };
    steps.run("unit tests", &mut tests(&["--lib", "--bins", "--tests"]))?;
    if filter.is_none() {
        steps.run(
            "documentation tests",
            cargo_test().args(["--package", "lb-common", "--package", "lb-userspace", "--doc"]),
        )?;
        if process::root().join("lb-common/tests/loom.rs").exists() {
            steps.run("loom tests", &mut loom())?;
        }
        fuzz::add(steps, Duration::from_secs(30), None)?;
    }
    Ok(())
}

/// The models of what several CPUs do to one flow entry. Another `cfg`, so a target folder of its own: the
/// ordinary one would be rebuilt back and forth.
fn loom() -> Command {
    let mut cargo = cargo_test();
    cargo.env("RUSTFLAGS", "--cfg loom").args(["--package", "lb-common", "--test", "loom", "--release"]);
    cargo.arg("--target-dir").arg(process::target_dir().join("loom"));
    cargo.args(["--", "--show-output"]);
    cargo
}

fn lab(steps: &mut Steps, filter: Option<&str>) -> Result<()> {
    if !process::is_root() {
        steps.skip("root (all tests in network namespaces)");
        return Ok(());
    }
    steps.run("build", process::cargo().args(["build", "--package", "lb-userspace"]))?;
    // One at a time: they share the machine's cores, and some measure milliseconds.
    let tests = |filter: Option<&str>, names: &[String]| {
        let mut cargo = cargo_test();
        cargo.args(["--package", "weir-tests"]).args(filter).args([
            "--",
            "--test-threads=1",
            "--show-output",
        ]);
        if !names.is_empty() {
            cargo.arg("--exact").args(names);
        }
        cargo
    };
    steps.run_repeating("lab tests", &mut tests(filter, &[]), |names| tests(None, names))?;
    if filter.is_none() {
        steps.run("regression gate", &mut bench::command(&["gate".into()]))?;
    }
    Ok(())
}

fn cargo_test() -> Command {
    let mut cargo = process::cargo();
    cargo.args(["test", "--no-fail-fast"]);
    cargo
}
