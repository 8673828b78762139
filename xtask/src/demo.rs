//! `cargo xtask demo`: sets the machine up, builds, and hands the terminal to the tour.

use std::{os::unix::process::CommandExt as _, process::Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::{
    process::{self, is_root},
    setup,
    steps::Steps,
};

/// Sets the machine up, builds, and shows weir at work in network namespaces. It needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Options of the tour itself, such as `--plain` or `--rate 300`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    options: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    ensure!(is_root(), "the demo makes network namespaces: run it as root, or with `sudo -E`");
    setup::ensure()?;
    let mut steps = Steps::default();
    steps.run(
        "build",
        process::cargo().args(["build", "--package", "lb-userspace", "--package", "weir-demo"]),
    )?;
    steps.finish()?;
    let program = process::target_dir().join("debug/weir-demo");
    // In place of this process, so that the terminal and Ctrl-C are the tour's alone.
    let error = process::command(&program).args(args.options).stdin(Stdio::inherit()).exec();
    Err(error).with_context(|| format!("run {}", program.display()))
}
