//! `cargo xtask bench`: measures what a packet costs, and guards it.

use std::{ffi::OsString, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{process, setup};

/// Measures what weir costs: `packet`, `live`, `scale`, `flood` and `failover` print tables and publish them, `tables` writes the
/// published ones again, `gate` checks ceilings; each has `--help`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// For the bench.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    setup::ensure()?;
    let mut command = match args.arguments.first().and_then(|name| name.to_str()) {
        Some("scale" | "flood" | "failover") => beside_weir(&args.arguments)?,
        _ => command(&args.arguments),
    };
    let status = command.status().with_context(|| format!("run {}", process::shell_line(&command)))?;
    if !status.success() {
        bail!("the bench failed");
    }
    Ok(())
}

/// The bench, in a crate of its own so that this one stays quick to compile. Not optimised: nothing that is measured
/// runs in its process.
pub(crate) fn command(arguments: &[OsString]) -> Command {
    let mut cargo = process::cargo();
    cargo.args(["run", "--quiet", "--package", "weir-bench", "--"]).args(arguments);
    cargo
}

/// The bench optimised, and weir built beside it: what is measured runs in their processes.
fn beside_weir(arguments: &[OsString]) -> Result<Command> {
    let mut build = process::cargo();
    build.args(["build", "--quiet", "--release", "--package", "lb-userspace"]);
    if !build.status().with_context(|| format!("run {}", process::shell_line(&build)))?.success() {
        bail!("weir does not build");
    }
    let mut cargo = process::cargo();
    cargo.args(["run", "--quiet", "--release", "--package", "weir-bench", "--"]).args(arguments);
    Ok(cargo)
}
