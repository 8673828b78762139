//! Brings the board up to date, ten times a second: requests, backends, transitions.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::Value;
use weir_tests::{Host, Load, WeirProc, monotonic};

use crate::{
    board::{Board, Tone},
    journal,
};

/// How often `weir backends` is asked.
const ASK: Duration = Duration::from_millis(300);
/// Over which time rates are taken.
const WINDOW: Duration = Duration::from_secs(1);

/// Reads from outside, as an operator would: the command line, the log, the clients' results.
pub(crate) struct Sampler<'a> {
    board: &'a Board,
    load: &'a Load,
    host: Host,
    backends: Command,
    log: PathBuf,
    asked: Option<Instant>,
    known: usize,
    transitions: usize,
    /// Ends of requests within the window, and who answered.
    recent: VecDeque<(Duration, Option<String>)>,
}

impl<'a> Sampler<'a> {
    pub(crate) fn new(board: &'a Board, load: &'a Load, weir: &WeirProc) -> Self {
        Self {
            board,
            load,
            host: weir.host().clone(),
            backends: weir.command(&["backends", "-o", "json"]),
            log: weir.config_path().with_file_name("weir.log"),
            asked: None,
            known: 0,
            transitions: journal::transitions(&weir.log()).len(),
            recent: VecDeque::new(),
        }
    }

    /// Looks once.
    pub(crate) fn look(&mut self) -> Result<()> {
        self.requests();
        self.transitions();
        if self.asked.is_none_or(|asked| asked.elapsed() >= ASK) {
            self.backends()?;
            self.asked = Some(Instant::now());
        }
        Ok(())
    }

    fn requests(&mut self) {
        let shots = self.load.shots_after(self.known);
        self.known += shots.len();
        let mut picture = self.board.lock();
        for shot in &shots {
            picture.sent += 1;
            match shot.backend() {
                None => picture.failed += 1,
                Some(name) => {
                    picture.rows.iter_mut().filter(|row| row.name == name).for_each(|row| row.answered += 1);
                }
            }
            self.recent.push_back((shot.sent + shot.took, shot.backend().map(str::to_owned)));
        }
        let from = monotonic().saturating_sub(WINDOW);
        while self.recent.front().is_some_and(|(end, _)| *end < from) {
            self.recent.pop_front();
        }
        let mut rates: BTreeMap<&str, usize> = BTreeMap::new();
        for name in self.recent.iter().filter_map(|(_, name)| name.as_deref()) {
            *rates.entry(name).or_default() += 1;
        }
        for row in &mut picture.rows {
            row.rate = rates.get(row.name.as_str()).copied().unwrap_or(0);
        }
        picture.rate = self.recent.len();
    }

    fn transitions(&mut self) {
        let all = journal::transitions(&fs::read_to_string(&self.log).unwrap_or_default());
        for transition in all.iter().skip(self.transitions) {
            let tone = if transition.takes_out() { Tone::Bad } else { Tone::Good };
            self.board
                .tell(tone, format!("{} is {}: {}", transition.backend, transition.to, transition.reason));
        }
        self.transitions = all.len();
    }

    fn backends(&mut self) -> Result<()> {
        let output = self.host.output(&mut self.backends)?;
        let answer: Value = serde_json::from_slice(&output.stdout).context("read weir backends")?;
        let mut picture = self.board.lock();
        for backend in answer["backends"].as_array().into_iter().flatten() {
            let name = backend["name"].as_str().unwrap_or_default();
            let Some(row) = picture.rows.iter_mut().find(|row| row.name == name) else { continue };
            let (health, admin) = (
                backend["health"].as_str().unwrap_or_default(),
                backend["admin"].as_str().unwrap_or_default(),
            );
            (row.state, row.tone) = match (admin, health) {
                ("active", "up") => ("up".to_owned(), Tone::Good),
                ("active", health) => (health.to_owned(), Tone::Bad),
                (admin, "up") => (admin.to_owned(), Tone::Act),
                (admin, health) => (format!("{admin}, {health}"), Tone::Bad),
            };
            row.flows = backend["flows"].as_u64().unwrap_or(0);
        }
        Ok(())
    }
}
