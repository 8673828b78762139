//! `cargo xtask setup`: makes a fresh machine able to build and test weir.
//!
//! Each item is looked up first and installed only when it is missing, so that a second run takes no time and
//! touches no network. What cannot be installed from here is printed as commands.

use anyhow::Result;

mod fuzzer;
mod installer;
mod linker;
mod packages;
mod toolchain;

pub(crate) use toolchain::BpfToolchain;

use installer::Installer;
use toolchain::Preference;

/// Installs what building and testing need and this machine lacks (as root on Debian; elsewhere prints the
/// commands).
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Where the compiler for the packet program comes from.
    #[arg(long, value_enum, default_value_t = Preference::Auto)]
    bpf_toolchain: Preference,
}

pub(crate) fn run(args: Args) -> Result<()> {
    let mut installer = Installer::for_this_machine();
    packages::ensure(&mut installer)?;
    toolchain::ensure_host_components(&mut installer)?;
    let toolchain = toolchain::ensure(&mut installer, args.bpf_toolchain)?;
    linker::ensure(&mut installer, toolchain.llvm)?;
    fuzzer::ensure(&mut installer)?;
    installer.finish()?;
    toolchain.record()
}

/// What the tasks that need a set-up machine call first.
pub(crate) fn ensure() -> Result<()> {
    run(Args { bpf_toolchain: Preference::Auto })
}
