//! `cargo xtask lint`: what can be told without running a test.

use std::process::Command;

use anyhow::Result;

use crate::{
    bpf_object, process,
    setup::{self, BpfToolchain},
    steps::Steps,
};

/// Checks format, lints and the packet program's object.
#[derive(clap::Args)]
pub(crate) struct Args {}

pub(crate) fn run(_: Args) -> Result<()> {
    setup::ensure()?;
    let mut steps = Steps::default();
    add(&mut steps)?;
    steps.finish()
}

/// The static checks. They need no root.
pub(crate) fn add(steps: &mut Steps) -> Result<()> {
    steps.run("format", process::cargo().args(["fmt", "--all", "--check"]))?;
    steps.run("clippy", process::cargo().args(["clippy", "--all-targets", "--", "--deny", "warnings"]))?;
    steps.run("clippy for BPF", &mut bpf_clippy(&BpfToolchain::recorded()))?;
    for program in bpf_object::PROGRAMS {
        steps.check(program, || bpf_object::check(&std::fs::read(bpf_object::build()?.join(program))?));
    }
    Ok(())
}

/// Clippy for `lb-ebpf`, which only compiles for BPF.
fn bpf_clippy(toolchain: &str) -> Command {
    let mut command = match process::find("rustup") {
        Some(rustup) => {
            let mut command = process::command(rustup);
            command.args(["run", toolchain, "cargo"]);
            command
        }
        None => process::cargo(),
    };
    command.args(["clippy", "--package", "lb-ebpf", "--target", "bpfel-unknown-none"]);
    command
        .args(BpfToolchain::core_args(toolchain))
        .arg("--target-dir")
        .arg(process::target_dir().join("bpf"));
    command.args(["--", "--deny", "warnings"]);
    command
}
