//! What `weir check` prints: problems of a config, or what it costs and promises.

use std::path::PathBuf;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::table::{Align, Table, Tone};
use super::{Api, Render, bytes};
use crate::config::show as exact;

/// The document of `weir check`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checked {
    /// Version mark.
    pub api: Api,
    /// The config file.
    pub file: PathBuf,
    /// Whether the daemon would take it.
    pub valid: bool,
    /// Every problem, warnings included, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// Memory by map; empty for an invalid config.
    pub maps: Vec<MapMemory>,
    /// Their sum.
    pub total_bytes: u64,
    /// Detection times by pool; empty for an invalid config.
    pub pools: Vec<PoolDetection>,
}

/// One problem of a config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// `error` or `warning`.
    pub severity: String,
    /// The file that it is in.
    pub file: PathBuf,
    /// Line from 1; null where the whole file is meant.
    pub line: Option<u32>,
    /// Column from 1, in characters.
    pub column: Option<u32>,
    /// What is wrong, and what is allowed.
    pub message: String,
    /// The line as written.
    pub source_line: Option<String>,
}

/// The memory of one map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MapMemory {
    /// Its name.
    pub map: String,
    /// Bytes, fixed when the program is loaded.
    pub bytes: u64,
}

/// How long a pool's checks can miss a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolDetection {
    /// The pool.
    pub pool: String,
    /// A host that answers nothing; null where nothing is checked.
    pub silent_host_ms: Option<u64>,
    /// A server that hangs on a host that answers, its kernel still taking connections; null where no check asks the
    /// server itself.
    pub silent_server_ms: Option<u64>,
    /// The types of its checks, those of the default checks included.
    #[serde(default)]
    pub checks: Vec<String>,
}

impl Render for Checked {
    fn render(&self, _now: Timestamp) -> String {
        let mut text = String::new();
        for problem in &self.problems {
            let tone = if problem.severity == "error" { Tone::Bad } else { Tone::Notice };
            let line = problem.line.map(|line| format!("{line}:")).unwrap_or_default();
            let severity = tone.paint(&problem.severity);
            text.push_str(&format!("{}:{line} {severity}: {}\n", problem.file.display(), problem.message));
            if let (Some(line), Some(source)) = (problem.line, &problem.source_line) {
                text.push_str(&format!("  {line:>4} | {}\n", source.trim_end()));
            }
        }
        if !self.valid {
            return text;
        }
        text.push_str(&format!("{}: valid\n\n", self.file.display()));
        let mut maps = Table::new(&[("MAP", Align::Left), ("MEMORY", Align::Right)]);
        self.maps.iter().for_each(|map| maps.row([map.map.as_str().into(), bytes(map.bytes).into()]));
        maps.row(["total".into(), bytes(self.total_bytes).into()]);
        text.push_str(&maps.render());
        let mut pools = Table::new(&[
            ("POOL", Align::Left),
            ("SILENT HOST DOWN WITHIN", Align::Right),
            ("HUNG SERVER DOWN WITHIN", Align::Right),
            ("CHECKS", Align::Left),
        ]);
        let bound = |ms: Option<u64>, none: &str| match ms {
            Some(ms) => exact(Duration::from_millis(ms)),
            None => none.to_owned(),
        };
        for pool in &self.pools {
            let checked = pool.checks.iter().any(|check| check != "none");
            let mut checks = pool.checks.clone();
            checks.dedup();
            pools.row([
                pool.pool.as_str().into(),
                bound(pool.silent_host_ms, if checked { "no bound" } else { "not checked" }).into(),
                bound(pool.silent_server_ms, "not checked").into(),
                checks.join(", ").into(),
            ]);
        }
        format!("{text}\n{}", pools.render())
    }
}
