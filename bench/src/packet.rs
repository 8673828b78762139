//! `cargo xtask bench packet`: what a packet costs, over several fresh processes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::cases::{ALL, EMPTY};
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
    /// Writes the result to this file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Draws the result into this file.
    #[arg(long)]
    svg: Option<PathBuf>,
    /// Writes `bench/packet.json` and `bench/packet.svg` into this folder, and the table into its `performance.md`.
    #[arg(long)]
    publish: Option<PathBuf>,
}

/// What the table stands between in `performance.md`.
const MARKS: (&str, &str) = ("<!-- packet: written by cargo xtask bench -->\n", "<!-- /packet -->");

pub(crate) fn run(args: &Args) -> Result<()> {
    let processes = measure(args)?;
    let report = report::Report::new(&processes, args.rounds, args.packets)?;
    print!("{}", report.table());
    if let Some(path) = &args.json {
        write(path, &json(&report)?)?;
    }
    if let Some(path) = &args.svg {
        write(path, &chart::draw(&report))?;
    }
    if let Some(folder) = &args.publish {
        write(&folder.join("bench/packet.json"), &json(&report)?)?;
        write(&folder.join("bench/packet.svg"), &chart::draw(&report))?;
        let page = folder.join("performance.md");
        let text = fs::read_to_string(&page).with_context(|| format!("read {}", page.display()))?;
        let text = replace_table(&text, &report.markdown())
            .with_context(|| format!("{} has no place for the table ({})", page.display(), MARKS.0.trim()))?;
        write(&page, &text)?;
    }
    Ok(())
}

fn json(report: &report::Report) -> Result<String> {
    Ok(serde_json::to_string_pretty(report)? + "\n")
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("write {}", path.display()))
}

/// The page with what stands between the marks replaced by `table`.
fn replace_table(page: &str, table: &str) -> Option<String> {
    let (before, rest) = page.split_once(MARKS.0)?;
    let (_, after) = rest.split_once(MARKS.1)?;
    Some([before, MARKS.0, table, MARKS.1, after].concat())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stands_between_the_marks_is_replaced() {
        let page = ["before\n", MARKS.0, "old\n", MARKS.1, "\nafter"].concat();
        let expected = ["before\n", MARKS.0, "new\n", MARKS.1, "\nafter"].concat();
        assert_eq!(replace_table(&page, "new\n"), Some(expected));
        assert_eq!(replace_table("no marks", "new\n"), None);
    }
}
