//! `cargo xtask build`: sets the machine up, builds weir, says where it is.

use anyhow::Result;

use crate::{process, setup, steps::Steps};

/// Sets the machine up and builds the `weir` binary, with the packet program inside.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Optimises, as for an installed binary.
    #[arg(long)]
    release: bool,
}

pub(crate) fn run(args: Args) -> Result<()> {
    setup::ensure()?;
    let mut steps = Steps::default();
    let mut cargo = process::cargo();
    cargo.args(["build", "--package", "lb-userspace"]);
    let profile = if args.release {
        cargo.arg("--release");
        "release"
    } else {
        "debug"
    };
    steps.run("build", &mut cargo)?;
    steps.finish()?;
    println!("{}", process::target_dir().join(profile).join("weir").display());
    Ok(())
}
