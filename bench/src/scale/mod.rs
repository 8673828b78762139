//! `cargo xtask bench scale`: what many services, backends and flows cost.
//!
//! The config goes the daemon's way: text, validated config, desired state, apply to the kernel's maps. The parts that
//! need no daemon run in this process; reloads and runtime changes go to a real daemon (module `daemon`).

mod bare;
mod checks;
mod config;
mod daemon;
mod flows;
mod packets;
mod tables;

use std::path::PathBuf;
use std::thread;

use anyhow::{Result, bail, ensure};

use crate::publish::Output;
use crate::sheet::Sheet;

/// Measures apply times, memory and packet costs at size. Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds of everything that is cheap to repeat.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Tables, Part::Flows, Part::Daemon, Part::Checks])]
    parts: Vec<Part>,
    /// The binary of the daemon; default: `weir` beside this one.
    #[arg(long)]
    weir: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Services and backends: parse, build, apply, one packet.
    Tables,
    /// Flows: one packet, lists.
    Flows,
    /// The daemon: start, reload, runtime changes.
    Daemon,
    /// Checks: what asking 1,000 backends every 100 ms costs.
    Checks,
}

/// Measures and prints.
pub(crate) fn run(args: &Args) -> Result<()> {
    let all =
        [Part::Tables, Part::Flows, Part::Daemon, Part::Checks].iter().all(|part| args.parts.contains(part));
    ensure!(all || args.output.publish.is_none(), "--publish takes all parts");
    let mut sheet = Sheet::new("scale", args.rounds)?;
    for part in &args.parts {
        eprintln!("part {part:?}");
        match part {
            Part::Tables => tables::measure(&mut sheet, args.rounds)?,
            Part::Flows => flows::measure(&mut sheet, args.rounds)?,
            Part::Daemon => apart(|| daemon::measure(&mut sheet, args.rounds, &binary(args)?))?,
            Part::Checks => apart(|| checks::measure(&mut sheet, args.rounds, &binary(args)?))?,
        }
    }
    sheet.finish(&args.output)
}

/// Runs on a thread of its own, which enters namespaces.
fn apart(measure: impl FnOnce() -> Result<()> + Send) -> Result<()> {
    thread::scope(|scope| {
        scope.spawn(measure).join().unwrap_or_else(|_| bail!("the measuring thread panicked"))
    })
}

/// The daemon that is measured.
fn binary(args: &Args) -> Result<PathBuf> {
    match &args.weir {
        Some(path) => Ok(path.clone()),
        None => Ok(std::env::current_exe()?.with_file_name("weir")),
    }
}
