//! The result of a run: costs over the empty program, ratios, goals.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::fs;

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

use crate::cases::{self, BARE, EMPTY, PARSE};
use crate::statistics::{median, range};
use crate::worker::Measured;

/// A run.
#[derive(Serialize, Deserialize)]
pub(crate) struct Report {
    api: Cow<'static, str>,
    machine: Machine,
    processes: usize,
    rounds: u32,
    packets_per_batch: u32,
    /// What the runner and the empty program cost together; all other numbers are over it.
    empty_ns: f64,
    pub(crate) cases: Vec<Line>,
}

/// What it ran on.
#[derive(Serialize, Deserialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) kernel: String,
    pub(crate) load_average: String,
}

/// One case: nanoseconds per packet over the empty program.
#[derive(Serialize, Deserialize)]
pub(crate) struct Line {
    pub(crate) id: String,
    pub(crate) title: String,
    /// Median over the processes of each one's median over the rounds.
    pub(crate) ns: f64,
    /// The processes' smallest and largest median.
    pub(crate) lowest_ns: f64,
    pub(crate) highest_ns: f64,
    /// Medians of the processes' ratios.
    to_parse: Option<f64>,
    to_bare: Option<f64>,
    goals: Vec<Reached>,
}

/// A goal and what was reached.
#[derive(Serialize, Deserialize)]
struct Reached {
    of: Cow<'static, str>,
    at_most: f64,
    reached: f64,
    #[serde(default)]
    compared: Compared,
}

/// How a case was compared with another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Compared {
    /// How many times its cost.
    #[default]
    Times,
    /// How many nanoseconds more.
    More,
}

impl Report {
    /// Sums up what the processes measured.
    ///
    /// # Errors
    /// When the empty program was not measured.
    pub(crate) fn new(processes: &[Measured], rounds: u32, packets: u32) -> Result<Self> {
        let over: Vec<_> = processes.iter().map(over_empty).collect::<Result<_>>()?;
        let empty: Vec<f64> =
            processes.iter().filter_map(|one| one.get(EMPTY)).map(|all| median(all)).collect();
        let mut keys: Vec<String> = Vec::new();
        for case in cases::ALL {
            keys.extend([case.id.to_owned(), format!("{}_other", case.id)]);
        }
        let lines = keys.iter().filter(|key| *key != EMPTY).filter_map(|key| line(key, &over)).collect();
        Ok(Self {
            api: "weir/bench/v1".into(),
            machine: Machine::this()?,
            processes: processes.len(),
            rounds,
            packets_per_batch: packets,
            empty_ns: round(median(&empty)),
            cases: lines,
        })
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let mut text = format!(
            "{} ({} CPUs), Linux {}, load {}; {} processes x {} rounds x {} packets\n\
             ns per packet over the empty program ({} ns with the runner)\n\n",
            self.machine.cpu,
            self.machine.cpus,
            self.machine.kernel,
            self.machine.load_average,
            self.processes,
            self.rounds,
            self.packets_per_batch,
            self.empty_ns
        );
        let _ = writeln!(
            text,
            "{:48} {:>7} {:>15} {:>8} {:>7}  goals",
            "case", "ns", "spread", "x parse", "x bare"
        );
        for line in &self.cases {
            let ratio = |ratio: Option<f64>| ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let goals: Vec<String> = line.goals.iter().map(Reached::text).collect();
            let _ = writeln!(
                text,
                "{:48} {:>7.1} {:>15} {:>8} {:>7}  {}",
                line.title,
                line.ns,
                format!("{:.1}-{:.1}", line.lowest_ns, line.highest_ns),
                ratio(line.to_parse),
                ratio(line.to_bare),
                goals.join("; ")
            );
        }
        text
    }

    /// The table for `docs/performance.md`.
    pub(crate) fn markdown(&self) -> String {
        let mut text = format!(
            "{} ({} CPUs), Linux {}, load average {}; {} processes × {} rounds × {} packets. \
             Runner and empty program: {} ns.\n\n\
             | case | ns | spread | × parse | × bare | goal | reached |\n|---|---|---|---|---|---|---|\n",
            self.machine.cpu,
            self.machine.cpus,
            self.machine.kernel,
            self.machine.load_average,
            self.processes,
            self.rounds,
            self.packets_per_batch,
            self.empty_ns
        );
        for line in &self.cases {
            let ratio = |ratio: Option<f64>| ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let goals: Vec<String> = line.goals.iter().map(Reached::goal).collect();
            let reached: Vec<String> = line.goals.iter().map(|goal| format!("{:.2}", goal.reached)).collect();
            let _ = writeln!(
                text,
                "| {} (`{}`) | {:.1} | {:.1}–{:.1} | {} | {} | {} | {} |",
                line.title.trim(),
                line.id,
                line.ns,
                line.lowest_ns,
                line.highest_ns,
                ratio(line.to_parse),
                ratio(line.to_bare),
                goals.join(", "),
                reached.join(", ")
            );
        }
        text
    }
}

impl Reached {
    fn goal(&self) -> String {
        match self.compared {
            Compared::Times => format!("≤ {} × `{}`", self.at_most, self.of),
            Compared::More => format!("≤ `{}` + {} ns", self.of, self.at_most),
        }
    }

    fn text(&self) -> String {
        let verdict = if self.reached <= self.at_most { "met" } else { "missed" };
        match self.compared {
            Compared::Times => {
                format!("{:.2} of {} (goal {}: {verdict})", self.reached, self.of, self.at_most)
            }
            Compared::More => {
                format!("{:+.1} ns to {} (goal {}: {verdict})", self.reached, self.of, self.at_most)
            }
        }
    }
}

impl Machine {
    /// The machine that this runs on.
    ///
    /// # Errors
    /// Without /proc.
    pub(crate) fn this() -> Result<Self> {
        let cpus = fs::read_to_string("/proc/cpuinfo").context("read /proc/cpuinfo")?;
        let model = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("");
        let trimmed = |path: &str| fs::read_to_string(path).map(|text| text.trim().to_owned());
        Ok(Self {
            cpu: model.trim_start_matches([' ', '\t', ':']).to_owned(),
            cpus: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel: trimmed("/proc/sys/kernel/osrelease")?,
            load_average: trimmed("/proc/loadavg")?.split(' ').next().unwrap_or("").to_owned(),
        })
    }
}

/// Costs of one process, each the median of its differences to the empty program in the same round.
fn over_empty(measured: &Measured) -> Result<std::collections::BTreeMap<String, f64>> {
    let empty = measured.get(EMPTY).context("the empty program was not measured")?;
    Ok(measured
        .iter()
        .map(|(key, costs)| {
            let over: Vec<f64> = costs.iter().zip(empty).map(|(cost, empty)| cost - empty).collect();
            (key.clone(), median(&over))
        })
        .collect())
}

fn line(key: &str, over: &[std::collections::BTreeMap<String, f64>]) -> Option<Line> {
    let all: Vec<f64> = over.iter().filter_map(|one| one.get(key).copied()).collect();
    if all.is_empty() {
        return None;
    }
    let ratio = |of: &str| {
        let ratios: Vec<f64> = over.iter().filter_map(|one| Some(one.get(key)? / one.get(of)?)).collect();
        (!ratios.is_empty()).then(|| round(median(&ratios)))
    };
    let id = key.trim_end_matches("_other");
    let case = cases::by_id(id)?;
    let title = if id == key { case.title.to_owned() } else { format!("  {key}") };
    let goals = case.goals.iter().filter_map(|goal| {
        let compared = Compared::Times;
        Some(Reached { of: goal.of.into(), at_most: goal.ratio, reached: ratio(goal.of)?, compared })
    });
    let more = case.more.and_then(|more| {
        let differences: Vec<f64> =
            over.iter().filter_map(|one| Some(one.get(key)? - one.get(more.than)?)).collect();
        let reached = (!differences.is_empty()).then(|| round(median(&differences)))?;
        Some(Reached { of: more.than.into(), at_most: more.ns, reached, compared: Compared::More })
    });
    let (lowest, highest) = range(&all);
    Some(Line {
        id: key.to_owned(),
        title,
        ns: round(median(&all)),
        lowest_ns: round(lowest),
        highest_ns: round(highest),
        to_parse: ratio(PARSE),
        to_bare: ratio(BARE),
        goals: goals.chain(more).collect(),
    })
}

fn round(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn costs_are_medians_of_medians_over_the_empty_program_of_the_same_round() {
        let process = |parse: [f64; 3]| {
            Measured::from([(EMPTY.to_owned(), vec![10.0, 20.0, 10.0]), (PARSE.to_owned(), parse.to_vec())])
        };
        let processes =
            [process([14.0, 24.0, 99.0]), process([16.0, 26.0, 16.0]), process([15.0, 25.0, 15.0])];
        let report = Report::new(&processes, 3, 1).unwrap();
        let parse = &report.cases[0];
        assert_eq!((parse.ns, parse.lowest_ns, parse.highest_ns), (5.0, 4.0, 6.0));
    }
}
