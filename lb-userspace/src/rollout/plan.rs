//! A rollout, and what comes next for it. Pure: time and verdicts are parameters.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::guard::{Guard, Measures, Verdict};
use crate::health::split::Split;
use crate::state::overlay::Note;

/// Where a rollout is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// The canaries take their share, guards watch.
    Running,
    /// The canaries take all new flows; nobody watches any more.
    Promoted,
    /// The canaries take no new flows.
    Aborted,
}

impl Stage {
    /// The name in tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Promoted => "promoted",
            Self::Aborted => "aborted",
        }
    }
}

/// How the share grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Steps {
    /// By so many points of a hundred.
    pub by: u8,
    /// After so many seconds each.
    pub every_s: u64,
}

/// A rollout of a pool.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Rollout {
    /// The pool.
    pub pool: String,
    /// Names of the canaries.
    pub canary: BTreeSet<String>,
    /// Where it is.
    pub stage: Stage,
    /// The canaries' share of the new flows while it runs, in percent.
    pub percent: u8,
    /// How the share grows; `None`: as the operator says.
    pub steps: Option<Steps>,
    /// What the canaries must meet.
    pub guards: Vec<Guard>,
    /// A command that must succeed.
    pub guard_exec: Option<String>,
    /// Since when it is where it is.
    pub since: Timestamp,
    /// Why it is there, where something went wrong.
    #[serde(default)]
    pub why: String,
    /// Who started it, when, why.
    pub note: Note,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing.
    Stay,
    /// A larger share, in percent.
    Step(u8),
    /// The share is taken away, for this reason.
    Abort(String),
}

/// What the external command says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum External {
    /// There is none, or it succeeded.
    Holds,
    /// It failed, in words.
    Failed(String),
    /// It has not been asked since the last step.
    Unknown,
}

impl Rollout {
    /// How the new flows are divided.
    #[must_use]
    pub fn split(&self) -> Split {
        let permille = match self.stage {
            Stage::Running => u16::from(self.percent) * 10,
            Stage::Promoted => 1000,
            Stage::Aborted => 0,
        };
        Split { canary: self.canary.clone(), permille }
    }

    /// Stage and share in words: `running 10%`.
    #[must_use]
    pub fn told(&self) -> String {
        match self.stage {
            Stage::Running => format!("running {}%", self.percent),
            stage => stage.name().to_owned(),
        }
    }

    /// When the share grows next, if guards hold.
    #[must_use]
    pub fn next_step(&self) -> Option<Timestamp> {
        let steps = self.steps.filter(|_| self.stage == Stage::Running && self.percent < 100)?;
        self.since.checked_add(Duration::from_secs(steps.every_s)).ok()
    }

    /// Decides. A guard that fails aborts at once; one that knows too little keeps the share from growing.
    #[must_use]
    pub fn next(&self, measures: &Measures, external: &External, now: Timestamp) -> Next {
        if self.stage != Stage::Running {
            return Next::Stay;
        }
        let failed = self.guards.iter().find(|guard| guard.judge(measures) == Verdict::Fails);
        if let Some(guard) = failed {
            let value = guard.value(measures).unwrap_or_default();
            return Next::Abort(format!("guard {guard} failed: {value:.4}"));
        }
        if let External::Failed(why) = external {
            return Next::Abort(format!("guard command failed: {why}"));
        }
        let known = self.guards.iter().all(|guard| guard.judge(measures) == Verdict::Holds);
        let due = self.next_step().is_some_and(|at| at <= now);
        match self.steps {
            Some(steps) if due && known && *external == External::Holds => {
                Next::Step(self.percent.saturating_add(steps.by).min(100))
            }
            _ => Next::Stay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::constant(1_795_000_000 + second, 0)
    }

    fn rollout() -> Rollout {
        Rollout {
            pool: "web".to_owned(),
            canary: BTreeSet::from(["web-1".to_owned()]),
            stage: Stage::Running,
            percent: 10,
            steps: Some(Steps { by: 25, every_s: 120 }),
            guards: Guard::list("handshake_ratio>=0.99,up_ratio>=1").expect("reads"),
            guard_exec: None,
            since: at(0),
            why: String::new(),
            note: Note { by: "root".to_owned(), since: at(0), reason: String::new() },
        }
    }

    const GOOD: Measures = Measures { handshake_ratio: Some(1.0), probe_p99_ms: None, up_ratio: Some(1.0) };

    #[test]
    fn the_share_grows_by_steps_to_the_whole_while_guards_hold() {
        let mut rollout = rollout();
        let mut seen = vec![rollout.percent];
        for second in 1..1000 {
            match rollout.next(&GOOD, &External::Holds, at(second)) {
                Next::Step(percent) => {
                    (rollout.percent, rollout.since) = (percent, at(second));
                    seen.push(percent);
                }
                next => assert_eq!(next, Next::Stay),
            }
        }
        assert_eq!(seen, [10, 35, 60, 85, 100]);
        assert_eq!((rollout.since, rollout.next_step()), (at(480), None));
    }

    #[test]
    fn a_guard_that_fails_aborts_at_once_and_one_without_knowledge_holds_the_share() {
        let bad = Measures { handshake_ratio: Some(0.5), ..GOOD };
        let aborted = rollout().next(&bad, &External::Holds, at(1));
        assert_eq!(aborted, Next::Abort("guard handshake_ratio>=0.99 failed: 0.5000".to_owned()));
        let unknown = Measures { handshake_ratio: None, ..GOOD };
        assert_eq!(rollout().next(&unknown, &External::Holds, at(500)), Next::Stay);
        assert_eq!(rollout().next(&GOOD, &External::Unknown, at(500)), Next::Stay);
        let failed = External::Failed("exit status: 1".to_owned());
        let aborted = rollout().next(&GOOD, &failed, at(1));
        assert_eq!(aborted, Next::Abort("guard command failed: exit status: 1".to_owned()));
    }

    #[test]
    fn nobody_watches_what_is_over() {
        let bad = Measures { handshake_ratio: Some(0.5), ..GOOD };
        for stage in [Stage::Promoted, Stage::Aborted] {
            let rollout = Rollout { stage, ..rollout() };
            assert_eq!(rollout.next(&bad, &External::Holds, at(500)), Next::Stay);
            assert_eq!(rollout.next_step(), None);
        }
    }

    #[test]
    fn the_split_follows_the_stage() {
        let permille = |stage| Rollout { stage, ..rollout() }.split().permille;
        assert_eq!([Stage::Running, Stage::Promoted, Stage::Aborted].map(permille), [100, 1000, 0]);
    }
}
