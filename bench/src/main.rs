//! What a packet costs, measured in the kernel. Run as `cargo xtask bench packet | gate | live | scale | flood | failover | tables`.
//!
//! Nothing that is measured runs in this process: it loads programs, fills maps, starts batches and reads clocks.
#![forbid(unsafe_code)]

mod cases;
mod chart;
mod engine;
mod failover;
mod flood;
mod frame;
mod gate;
mod instance;
mod live;
mod packet;
mod publish;
mod report;
mod scale;
mod sheet;
mod statistics;
mod veth;
mod worker;
mod world;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use lb_userspace::maps::bpffs;

/// Measures what a packet costs.
#[derive(Parser)]
#[command(name = "cargo xtask bench", bin_name = "cargo xtask bench")]
struct Bench {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Packet(packet::Args),
    Gate(gate::Args),
    Live(live::Args),
    Scale(scale::Args),
    Flood(flood::Args),
    Failover(failover::Args),
    Tables(publish::Args),
    #[command(hide = true)]
    Worker(worker::Args),
}

fn main() -> ExitCode {
    let task = Bench::parse().task;
    if let Err(error) = bpffs::ensure(Path::new(bpffs::BPFFS)) {
        eprintln!("error: mount bpffs at {}: {error}; run as root", bpffs::BPFFS);
        return ExitCode::FAILURE;
    }
    let result = match task {
        Task::Packet(args) => packet::run(&args),
        Task::Gate(args) => gate::run(&args),
        Task::Live(args) => live::run(&args),
        Task::Scale(args) => scale::run(&args),
        Task::Flood(args) => flood::run(&args),
        Task::Failover(args) => failover::run(&args),
        Task::Tables(args) => publish::run(&args),
        Task::Worker(args) => worker::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
