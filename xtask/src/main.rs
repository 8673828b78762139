//! Tasks of weir's developers: `cargo xtask setup | build | demo | fuzz | lint | test | bench`.
//!
//! One module per subcommand, each with its `Args` and a `run`. The crate does not depend on the workspace's
//! other members, so that it compiles in seconds on a machine that cannot build them yet.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod bpf_object;
mod build;
mod demo;
mod fuzz;
mod lint;
mod process;
mod setup;
mod steps;
mod test;

/// Builds, tests and sets up weir.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Xtask {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    Setup(setup::Args),
    Build(build::Args),
    Demo(demo::Args),
    Fuzz(fuzz::Args),
    Lint(lint::Args),
    Test(test::Args),
    Bench(bench::Args),
}

fn main() -> ExitCode {
    let result = match Xtask::parse().task {
        Task::Setup(args) => setup::run(args),
        Task::Build(args) => build::run(args),
        Task::Demo(args) => demo::run(args),
        Task::Fuzz(args) => fuzz::run(args),
        Task::Lint(args) => lint::run(args),
        Task::Test(args) => test::run(args),
        Task::Bench(args) => bench::run(args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
