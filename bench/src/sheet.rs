//! A result as rows: medians with their spread, and goals.

use std::borrow::Cow;
use std::fmt::Write as _;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::publish::Output;
use crate::report::Machine;
use crate::statistics::{median, range};

/// The rows of a run.
#[derive(Serialize, Deserialize)]
pub(crate) struct Sheet {
    api: Cow<'static, str>,
    bench: Cow<'static, str>,
    machine: Machine,
    rounds: u32,
    rows: Vec<Row>,
}

/// One number.
#[derive(Serialize, Deserialize)]
pub(crate) struct Row {
    id: String,
    title: String,
    unit: Cow<'static, str>,
    median: f64,
    lowest: f64,
    highest: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    goal: Option<Goal>,
}

/// What a number should be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Goal {
    AtLeast(f64),
    AtMost(f64),
}

impl Goal {
    fn met(self, value: f64) -> bool {
        match self {
            Self::AtLeast(goal) => value >= goal,
            Self::AtMost(goal) => value <= goal,
        }
    }

    fn text(self, value: f64) -> String {
        let verdict = if self.met(value) { "met" } else { "missed" };
        match self {
            Self::AtLeast(goal) => format!("at least {goal}: {verdict}"),
            Self::AtMost(goal) => format!("at most {goal}: {verdict}"),
        }
    }
}

impl Sheet {
    /// An empty sheet of this machine.
    ///
    /// # Errors
    /// Without /proc.
    pub(crate) fn new(bench: &'static str, rounds: u32) -> Result<Self> {
        let api = "weir/bench/v1".into();
        Ok(Self { api, bench: bench.into(), machine: Machine::this()?, rounds, rows: Vec::new() })
    }

    /// Adds a number that was measured `values.len()` times.
    pub(crate) fn row(
        &mut self,
        id: &str,
        title: &str,
        unit: &'static str,
        values: &[f64],
        goal: Option<Goal>,
    ) {
        let (lowest, highest) = range(values);
        self.rows.push(Row {
            id: id.to_owned(),
            title: title.to_owned(),
            unit: unit.into(),
            median: round(median(values)),
            lowest: round(lowest),
            highest: round(highest),
            goal,
        });
    }

    /// The table for people.
    pub(crate) fn table(&self) -> String {
        let Machine { cpu, cpus, kernel, load_average } = &self.machine;
        let mut text =
            format!("{cpu} ({cpus} CPUs), Linux {kernel}, load {load_average}; {} rounds\n\n", self.rounds);
        let width = self.rows.iter().map(|row| row.title.chars().count()).max().unwrap_or(0);
        let _ = writeln!(text, "{:width$}  {:>10} {:>21}  unit", "", "median", "lowest .. highest");
        for row in &self.rows {
            let spread = format!("{} .. {}", row.lowest, row.highest);
            let goal = row.goal.map_or(String::new(), |goal| format!("  ({})", goal.text(row.median)));
            let _ =
                writeln!(text, "{:width$}  {:>10} {spread:>21}  {}{goal}", row.title, row.median, row.unit);
        }
        text
    }

    /// The table for `docs/performance-scale.md`.
    pub(crate) fn markdown(&self) -> String {
        let Machine { cpu, cpus, kernel, load_average } = &self.machine;
        let mut text = format!(
            "{cpu} ({cpus} CPUs), Linux {kernel}, load average {load_average}; {} rounds.\n\n\
             | what | median | spread | unit | goal |\n|---|---|---|---|---|\n",
            self.rounds
        );
        for Row { title, unit, median, lowest, highest, goal, .. } in &self.rows {
            let goal = goal.map_or(String::new(), |goal| goal.text(*median));
            let _ = writeln!(text, "| {title} | {median} | {lowest}–{highest} | {unit} | {goal} |");
        }
        text
    }

    /// Prints the table, and writes the whole where asked to.
    ///
    /// # Errors
    /// As for [`Output::write`].
    pub(crate) fn finish(&self, output: &Output) -> Result<()> {
        print!("{}", self.table());
        output.write(&self.bench, self)
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_met_by_the_median_and_at_its_very_value() {
        assert_eq!(Goal::AtLeast(0.85).text(0.85), "at least 0.85: met");
        assert_eq!(Goal::AtLeast(0.85).text(0.84), "at least 0.85: missed");
        assert_eq!(Goal::AtMost(5.0).text(5.1), "at most 5: missed");
    }
}
