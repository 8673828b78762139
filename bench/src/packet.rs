//! `cargo xtask bench packet`: what a packet costs, over several fresh processes.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::cases::{ALL, EMPTY};
use crate::publish::{self, Output};
use crate::worker::Measured;
use crate::{chart, report};

/// Measures what a packet costs. Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds over all cases in each process.
    #[arg(long, default_value_t = 7)]
    rounds: u32,
    /// Fresh processes: where pages lie differs between them.
    #[arg(long, default_value_t = 7)]
    processes: u32,
    /// Packets of a batch.
    #[arg(long, default_value_t = 1 << 20)]
    packets: u32,
    /// Only these cases, by id, separated by commas.
    #[arg(long, value_delimiter = ',')]
    cases: Vec<String>,
    /// Another build of the packet program's object with the same map layouts, measured beside over the same maps.
    #[arg(long)]
    against: Option<PathBuf>,
    /// Draws the result into this file; `--publish` draws it into `bench/packet.svg`.
    #[arg(long)]
    svg: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let processes = measure(args)?;
    let report = report::Report::new(&processes, args.rounds, args.packets)?;
    print!("{}", report.table());
    let published = args.output.publish.as_ref().map(|folder| folder.join("bench/packet.svg"));
    for path in args.svg.iter().chain(&published) {
        publish::write(path, &chart::draw(&report))?;
    }
    args.output.write("packet", &report)
}

fn measure(args: &Args) -> Result<Vec<Measured>> {
    let mut cases: Vec<&str> = args.cases.iter().map(String::as_str).collect();
    if cases.is_empty() {
        cases = ALL.iter().map(|case| case.id).collect();
    }
    if let Some(unknown) = cases.iter().find(|id| crate::cases::by_id(id).is_none()) {
        bail!(
            "no case `{unknown}`; the cases are {}",
            ALL.iter().map(|case| case.id).collect::<Vec<_>>().join(", ")
        );
    }
    if !cases.contains(&EMPTY) {
        cases.push(EMPTY);
    }
    (0..args.processes)
        .map(|number| {
            eprintln!("process {} of {}", number + 1, args.processes);
            worker(args, &cases.join(","))
        })
        .collect()
}

fn worker(args: &Args, cases: &str) -> Result<Measured> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["worker", "--cases", cases]);
    command.args(["--rounds", &args.rounds.to_string(), "--packets", &args.packets.to_string()]);
    if let Some(path) = &args.against {
        command.arg("--against").arg(path);
    }
    let output = command.stderr(Stdio::inherit()).output().context("start a process of the run")?;
    if !output.status.success() {
        bail!("a process of the run failed: {}", output.status);
    }
    serde_json::from_slice(&output.stdout).context("read the result of a process of the run")
}
