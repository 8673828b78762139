//! `cargo xtask bench`: measures what a packet costs, and guards it.

use std::{ffi::OsString, process::Command};

use anyhow::{Context as _, Result, bail};

use crate::{process, setup};

/// Measures what a packet costs: `packet` prints the table, `gate` checks ceilings; each has `--help`.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// For the bench.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    arguments: Vec<OsString>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    setup::ensure()?;
    let mut command = command(&args.arguments);
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
