//! `cargo xtask fuzz`: libFuzzer over the packet logic.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context as _, Result};

use crate::{process, setup, steps::Steps};

/// Fuzzes the packet logic, from the frames of the fixtures on. What fails is kept in `fuzz/crashers`, where the tests
/// replay it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to fuzz; without it everything, one after the other.
    target: Option<Target>,
    /// How long, each.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
}

/// What is fuzzed: a file of `fuzz/fuzz_targets`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Target {
    /// What weir's program does with a frame.
    Pipeline,
    /// What `weir decap` does with one.
    Decap,
}

/// The tests whose frames are seeds. `replay` is none of them: its frames are random.
const FIXTURES: [&str; 9] =
    ["decap", "filters", "fixtures", "fragments", "icmp", "last_resort", "limits", "nat", "quic"];

pub(crate) fn run(args: Args) -> Result<()> {
    setup::ensure()?;
    let mut steps = Steps::default();
    add(&mut steps, Duration::from_secs(args.seconds), args.target)?;
    steps.finish()
}

/// Adds the steps that fuzz a target, or all, for this long each.
pub(crate) fn add(steps: &mut Steps, time: Duration, only: Option<Target>) -> Result<()> {
    let seeds = process::target_dir().join("fuzz-seeds");
    let mut fixtures = process::cargo();
    fixtures.args(["test", "--quiet", "--package", "lb-common"]).env("WEIR_FUZZ_SEEDS", &seeds);
    fixtures.args(FIXTURES.iter().flat_map(|test| ["--test", test]));
    steps.run("seeds for the fuzzer", &mut fixtures)?;
    let targets = [(Target::Pipeline, "pipeline", "fuzz pipeline"), (Target::Decap, "decap", "fuzz decap")];
    for (target, name, step) in targets {
        if only.is_none_or(|only| only == target) {
            steps.run(step, &mut fuzz(name, time, &seeds)?)?;
        }
    }
    Ok(())
}

/// Any compiler does without a sanitizer, and what runs has no unsafe code.
fn fuzz(name: &str, time: Duration, seeds: &Path) -> Result<Command> {
    let folder = process::root().join("fuzz");
    let corpus = folder.join("corpus").join(name);
    fs::create_dir_all(&corpus).with_context(|| format!("make {}", corpus.display()))?;
    let mut cargo = process::command("cargo");
    cargo.args(["fuzz", "run", "--sanitizer", "none", "--fuzz-dir"]).arg(&folder).arg(name);
    cargo.arg(corpus).arg(seeds.join(name)).arg("--");
    cargo.arg(format!("-max_total_time={}", time.as_secs()));
    cargo.arg(format!("-artifact_prefix={}/", folder.join("crashers").display()));
    cargo.args(["-print_final_stats=1", "-verbosity=0"]);
    Ok(cargo)
}
