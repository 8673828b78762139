//! Rows as they are published: summed up, written as JSON, added to what was measured before.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use weir_tests::Distribution;

use super::rows::{Goal, MATCHES, Match};
use super::trial::{Takes, Trial};
use crate::report::Machine;
use crate::statistics::median;

/// From this number of trials on a goal for the tail means the 99th percentile.
const MANY: usize = 300;

/// All rows, in the order of the table.
#[derive(Serialize)]
pub(super) struct Ledger {
    api: &'static str,
    bench: &'static str,
    machine: Machine,
    pub(super) rows: Vec<Row>,
}

/// The part of a written ledger that is read back.
#[derive(Deserialize)]
struct Written {
    rows: Vec<Row>,
}

/// One row. Times are milliseconds from the failure to the last new connection that the backend got.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Row {
    pub(super) id: String,
    pub(super) failure: String,
    pub(super) who: String,
    pub(super) signal: String,
    trials: usize,
    /// Trials that were done again because the sender was held up.
    repeated: usize,
    pub(super) p50_ms: f64,
    p90_ms: f64,
    p99_ms: f64,
    pub(super) worst_ms: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    goal_p50_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    goal_tail_ms: Option<f64>,
    /// From the failure until the kernel had closed the killed server's listening socket: it accepts till then. In the middle,
    /// and the worst.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    socket_closed_after_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    socket_closed_after_worst_ms: Option<f64>,
    /// From then to the last new connection, zero where that came before. In the middle, and the worst.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since_closed_ms: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since_closed_worst_ms: Option<f64>,
    /// New connections a second to each backend.
    new_per_second: f64,
    /// The longest gap of the sender within a trial.
    sender_gap_ms: f64,
    /// Downs without a failure.
    false_downs: usize,
    load_average: String,
    /// Every trial, ascending.
    pub(super) samples_ms: Vec<f64>,
}

impl Row {
    /// From the failure to the last new connection.
    ///
    /// # Errors
    /// Without /proc, and without trials.
    pub(super) fn new(
        id: &str,
        failure: &str,
        who: &str,
        signal: &str,
        goal: Option<Goal>,
        takes: &Takes,
    ) -> Result<Self> {
        let times = takes.kept.iter().map(|trial| trial.last_connection).collect();
        Self::of(id, [failure, who, signal], goal, takes, times)
    }

    /// From the decision to its effect.
    ///
    /// # Errors
    /// As for [`Row::new`]; and where the log tells of no decision.
    pub(super) fn of_decisions(id: &str, takes: &Takes) -> Result<Self> {
        let decisions: Vec<Duration> =
            takes.kept.iter().filter_map(|trial| Some(trial.decision?.effect())).collect();
        ensure!(
            decisions.len() == takes.kept.len(),
            "weir's log lacks decisions: {} of {}",
            decisions.len(),
            takes.kept.len()
        );
        let words = ["decision to effect on the next packet", "weir", "–"];
        let row = Self::of(id, words, Some(Goal { p50_ms: 0.02, tail_ms: 0.1 }), takes, decisions)?;
        // It counts from the decision.
        Ok(Self {
            socket_closed_after_ms: None,
            socket_closed_after_worst_ms: None,
            since_closed_ms: None,
            since_closed_worst_ms: None,
            ..row
        })
    }

    fn of(
        id: &str,
        [failure, who, signal]: [&str; 3],
        goal: Option<Goal>,
        takes: &Takes,
        mut times: Vec<Duration>,
    ) -> Result<Self> {
        ensure!(!times.is_empty(), "there was no trial");
        times.sort_unstable();
        let sums: Distribution = times.iter().copied().collect();
        let gap = takes.kept.iter().map(|trial| trial.sender_gap).max().unwrap_or_default();
        let closed = distribution(takes.kept.iter().filter_map(|trial| trial.socket_closed));
        let since = |trial: &Trial| Some(trial.last_connection.saturating_sub(trial.socket_closed?));
        let since_closed = distribution(takes.kept.iter().filter_map(since));
        let rates: Vec<f64> = takes.kept.iter().map(|trial| trial.per_second).collect();
        Ok(Self {
            id: id.to_owned(),
            failure: failure.to_owned(),
            who: who.to_owned(),
            signal: signal.to_owned(),
            trials: times.len(),
            repeated: takes.repeated,
            p50_ms: ms(sums.percentile(50)),
            p90_ms: ms(sums.percentile(90)),
            p99_ms: ms(sums.percentile(99)),
            worst_ms: ms(sums.worst()),
            goal_p50_ms: goal.map(|goal| goal.p50_ms),
            goal_tail_ms: goal.map(|goal| goal.tail_ms),
            socket_closed_after_ms: closed.as_ref().map(|closed| ms(closed.percentile(50))),
            socket_closed_after_worst_ms: closed.as_ref().map(|closed| ms(closed.worst())),
            since_closed_ms: since_closed.as_ref().map(|since| ms(since.percentile(50))),
            since_closed_worst_ms: since_closed.as_ref().map(|since| ms(since.worst())),
            new_per_second: median(&rates).round(),
            sender_gap_ms: ms(gap),
            false_downs: takes.kept.iter().map(|trial| trial.false_downs).sum(),
            load_average: Machine::this()?.load_average,
            samples_ms: times.into_iter().map(ms).collect(),
        })
    }

    /// What the goal for the tail is compared with.
    fn tail(&self) -> f64 {
        if self.trials >= MANY { self.p99_ms } else { self.worst_ms }
    }

    /// The goal and whether it was met.
    fn verdict(&self) -> Option<(String, &'static str)> {
        let (middle, tail) = (self.goal_p50_ms?, self.goal_tail_ms?);
        let met = self.p50_ms <= middle && self.tail() <= tail;
        Some((format!("≤ {middle} / {tail}"), if met { "met" } else { "missed" }))
    }

    /// A line for people.
    pub(super) fn line(&self) -> String {
        let Self { who, failure, signal, p50_ms, p90_ms, p99_ms, worst_ms, trials, repeated, .. } = self;
        let goal =
            self.verdict().map_or_else(String::new, |(goal, verdict)| format!("  (goal {goal}: {verdict})"));
        let closed = self.closed().map_or_else(String::new, |[closed, since]| {
            format!(", socket closed after {closed}, last connection {since} after that")
        });
        format!(
            "{who:8} {failure}; {signal}: p50 {p50_ms:.3} p90 {p90_ms:.3} p99 {p99_ms:.3} worst {worst_ms:.3} ms; \
             {trials} trials, {repeated} repeated, {:.0}/s, sender gap {}{closed}, false downs {}, load {}{goal}",
            self.new_per_second, self.sender_gap_ms, self.false_downs, self.load_average
        )
    }

    /// When the socket was closed, and how long after that the last connection came: in the middle, and the worst.
    fn closed(&self) -> Option<[String; 2]> {
        let closed = format!("{} / {}", self.socket_closed_after_ms?, self.socket_closed_after_worst_ms?);
        Some([closed, format!("{} / {}", self.since_closed_ms?, self.since_closed_worst_ms?)])
    }
}

impl Ledger {
    /// An empty one of this machine.
    ///
    /// # Errors
    /// Without /proc.
    pub(super) fn new() -> Result<Self> {
        Ok(Self { api: "weir/bench/v1", bench: "failover", machine: Machine::this()?, rows: Vec::new() })
    }

    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// These rows, and those of a written ledger that are not among them, in the order of the table. Rows of ids
    /// that are not measured any more are left out.
    ///
    /// # Errors
    /// Where the file is there and is no ledger.
    pub(super) fn merged(&self, path: &Path) -> Result<Self> {
        let mut rows = self.rows.clone();
        if path.exists() {
            let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
            let written: Written = serde_json::from_str(&text)
                .with_context(|| format!("read {} as a result", path.display()))?;
            rows.extend(written.rows.into_iter().filter(|row| self.rows.iter().all(|new| new.id != row.id)));
        }
        let order: Vec<&str> = MATCHES.iter().flat_map(Match::ids).collect();
        let place = |row: &Row| order.iter().position(|id| *id == row.id);
        rows.retain(|row| place(row).is_some());
        rows.sort_by_key(place);
        Ok(Self { rows, ..Self::new()? })
    }

    /// Writes it as JSON.
    ///
    /// # Errors
    /// Where the file cannot be written.
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        fs::write(path, text).with_context(|| format!("write {}", path.display()))
    }

    /// The lines for people.
    pub(super) fn table(&self) -> String {
        self.rows.iter().fold(String::new(), |text, row| text + &row.line() + "\n")
    }

    /// The table for `docs/failover.md`.
    pub(super) fn markdown(&self) -> String {
        let Machine { cpu, cpus, kernel, .. } = &self.machine;
        let mut text = format!(
            "{cpu} ({cpus} CPUs), Linux {kernel}. Milliseconds.\n\n\
             | failure | who | signal | p50 | p90 | p99 | worst | socket closed: p50 / worst | from there: p50 / worst | trials (repeated) | new/s | false downs | load | goal: p50 / tail | |\n\
             |---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|\n"
        );
        for row in &self.rows {
            let (goal, verdict) = row.verdict().unwrap_or_default();
            let [closed, since] = row.closed().unwrap_or_default();
            let _ = writeln!(
                text,
                "| {} | {} | {} (`{}`) | {} | {} | {} | {} | {closed} | {since} | {} ({}) | {} | {} | {} | {goal} | {verdict} |",
                row.failure,
                row.who,
                row.signal,
                row.id,
                row.p50_ms,
                row.p90_ms,
                row.p99_ms,
                row.worst_ms,
                row.trials,
                row.repeated,
                row.new_per_second,
                row.false_downs,
                row.load_average
            );
        }
        text
    }
}

/// `None` of nothing.
fn distribution(times: impl Iterator<Item = Duration>) -> Option<Distribution> {
    let mut times = times.peekable();
    times.peek().is_some().then(|| times.collect())
}

/// Milliseconds, to the microsecond.
fn ms(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(times_us: &[u64]) -> Takes {
        let trial = |us: &u64| Trial {
            last_connection: Duration::from_micros(*us),
            socket_closed: Some(Duration::from_micros(*us / 2)),
            decision: None,
            sender_gap: Duration::from_micros(100),
            per_second: 10_000.0,
            false_downs: 0,
        };
        Takes { kept: times_us.iter().map(trial).collect(), repeated: 1 }
    }

    fn row(id: &str, times_us: &[u64]) -> Row {
        let goal = Some(Goal { p50_ms: 2.0, tail_ms: 3.0 });
        Row::new(id, "process killed", "weir", "syn", goal, &takes(times_us)).unwrap()
    }

    #[test]
    fn a_goal_for_the_tail_is_the_worst_of_few_and_the_99th_percentile_of_many() {
        assert_eq!(row("x", &[1000, 2000, 3001]).verdict().unwrap().1, "missed");
        assert_eq!(row("x", &[1000, 2000, 3000]).verdict().unwrap().1, "met");
        let mut many = vec![1000; 299];
        many.push(9000);
        assert_eq!(row("x", &many).verdict().unwrap().1, "met");
    }

    #[test]
    fn what_follows_the_closing_of_the_socket_is_told_apart_from_what_comes_before() {
        let row = row("x", &[1000, 2000, 3000]);
        assert_eq!(row.closed(), Some(["1 / 1.5".to_owned(), "1 / 1.5".to_owned()]));
        let mut before = takes(&[1000]);
        before.kept[0].socket_closed = Some(Duration::from_millis(2));
        let row = Row::new("x", "process killed", "weir", "tripwire", None, &before).unwrap();
        assert_eq!(row.closed(), Some(["2 / 2".to_owned(), "0 / 0".to_owned()]));
    }

    #[test]
    fn rows_measured_anew_replace_those_written_and_the_others_stay_in_order() {
        let directory = std::env::temp_dir().join(format!("weir-ledger-{}", std::process::id()));
        let mut first = Ledger::new().unwrap();
        first.add(row("killed-syn-2ms", &[1]));
        first.add(row("killed-tripwire", &[2]));
        first.add(row("gone", &[3]));
        first.write(&directory).unwrap();
        let mut second = Ledger::new().unwrap();
        second.add(row("killed-syn-2ms", &[4000]));
        let merged = second.merged(&directory).unwrap();
        fs::remove_file(&directory).unwrap();
        let seen: Vec<_> = merged.rows.iter().map(|row| (row.id.as_str(), row.worst_ms)).collect();
        assert_eq!(seen, [("killed-tripwire", 0.002), ("killed-syn-2ms", 4.0)]);
    }
}
