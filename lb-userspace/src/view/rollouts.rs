//! Rollouts as lists show them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::backends::age;
use super::table::{Align, Cell, Table, Tone};
use super::{Api, Render};
use crate::rollout::guard::{Measures, Verdict};
use crate::rollout::plan::{Rollout, Stage};

/// The document of `weir rollout`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rollouts {
    /// Version mark.
    pub api: Api,
    /// By pool.
    pub rollouts: Vec<RolloutRow>,
}

/// A rollout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RolloutRow {
    /// The pool.
    pub pool: String,
    /// Names of the canaries.
    pub canary: Vec<String>,
    /// `running`, `promoted` or `aborted`.
    pub stage: String,
    /// The canaries' share of the new flows in percent.
    pub percent: u8,
    /// Points by which it grows.
    pub step: Option<u8>,
    /// Seconds after which it grows.
    pub every_s: Option<u64>,
    /// What the canaries must meet.
    pub guards: Vec<GuardRow>,
    /// A command that must succeed.
    pub guard_exec: Option<String>,
    /// Since when it is at this stage and share.
    pub since: Timestamp,
    /// When the share grows next, if the guards hold.
    pub next_step: Option<Timestamp>,
    /// Why it is where it is, where something went wrong.
    pub why: String,
    /// When it was started.
    pub started: Timestamp,
    /// By whom.
    pub by: String,
    /// Why; empty where nobody said.
    pub reason: String,
}

/// A condition and what it says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardRow {
    /// As written.
    pub guard: String,
    /// What was measured; `null` for too little to say.
    pub value: Option<f64>,
    /// Whether it holds; `null` for too little to say.
    pub holds: Option<bool>,
}

impl RolloutRow {
    /// From a rollout and what is known of its canaries.
    #[must_use]
    pub fn new(rollout: &Rollout, measures: &Measures) -> Self {
        let split = rollout.split().permille;
        let guard = |guard: &crate::rollout::guard::Guard| GuardRow {
            guard: guard.to_string(),
            value: guard.value(measures),
            holds: match guard.judge(measures) {
                Verdict::Holds => Some(true),
                Verdict::Fails => Some(false),
                Verdict::Unknown => None,
            },
        };
        Self {
            pool: rollout.pool.clone(),
            canary: rollout.canary.iter().cloned().collect(),
            stage: rollout.stage.name().to_owned(),
            percent: u8::try_from(split / 10).unwrap_or(100),
            step: rollout.steps.map(|steps| steps.by),
            every_s: rollout.steps.map(|steps| steps.every_s),
            guards: rollout.guards.iter().map(guard).collect(),
            guard_exec: rollout.guard_exec.clone(),
            since: rollout.since,
            next_step: rollout.next_step(),
            why: rollout.why.clone(),
            started: rollout.note.since,
            by: rollout.note.by.clone(),
            reason: rollout.note.reason.clone(),
        }
    }

    fn guards(&self) -> String {
        let row = |row: &GuardRow| match row.value {
            Some(value) => format!("{} ({value:.3})", row.guard),
            None => format!("{} (not known yet)", row.guard),
        };
        let mut guards: Vec<String> = self.guards.iter().map(row).collect();
        guards.extend(self.guard_exec.as_ref().map(|command| format!("exec {command}")));
        guards.join(", ")
    }
}

/// One sentence for `status`, and whether it is a problem.
#[must_use]
pub fn sentence(rollout: &Rollout, now: Timestamp) -> (Grade, String) {
    let (pool, canaries) =
        (&rollout.pool, rollout.canary.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
    match rollout.stage {
        Stage::Running => {
            let next = match rollout.next_step() {
                Some(at) if at > now => format!(", next step in {}", age(now, at)),
                Some(_) => ", next step when all guards hold".to_owned(),
                None => String::new(),
            };
            let percent = rollout.percent;
            (Grade::Note, format!("rollout of pool {pool}: {percent} % of new flows to {canaries}{next}"))
        }
        Stage::Promoted => (
            Grade::Note,
            format!(
                "rollout of pool {pool} is promoted: all new flows to {canaries}; `weir rollout end {pool}` goes back to weights"
            ),
        ),
        Stage::Aborted => (
            Grade::Problem,
            format!(
                "rollout of pool {pool} was aborted: no new flows to {canaries}: {}; `weir rollout end {pool}` goes back to weights",
                rollout.why
            ),
        ),
    }
}

/// Whether something is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grade {
    /// Good to know.
    Note,
    /// Wrong.
    Problem,
}

impl Render for Rollouts {
    fn render(&self, now: Timestamp) -> String {
        if self.rollouts.is_empty() {
            return "no rollouts\n".to_owned();
        }
        let mut table = Table::new(&[
            ("POOL", Align::Left),
            ("CANARY", Align::Left),
            ("STAGE", Align::Left),
            ("SHARE", Align::Right),
            ("FOR", Align::Right),
            ("NEXT", Align::Left),
            ("GUARDS", Align::Left),
            ("WHY", Align::Left),
        ]);
        for row in &self.rollouts {
            let tone = if row.stage == Stage::Aborted.name() { Tone::Bad } else { Tone::Plain };
            let step = row.step.unwrap_or_default();
            let next = match row.next_step {
                Some(at) if at > now => format!("+{step} % in {}", age(now, at)),
                Some(_) => format!("+{step} % when guards hold"),
                None => String::new(),
            };
            table.row([
                row.pool.as_str().into(),
                row.canary.join(",").into(),
                Cell::toned(row.stage.as_str(), tone),
                format!("{} %", row.percent).into(),
                age(row.since, now).into(),
                next.into(),
                row.guards().into(),
                row.why.as_str().into(),
            ]);
        }
        table.render()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rollout::guard::Guard;
    use crate::rollout::plan::Steps;
    use crate::state::overlay::Note;

    const NOW: Timestamp = Timestamp::constant(1_795_000_000, 0);

    fn rollout(stage: Stage, why: &str) -> Rollout {
        Rollout {
            pool: "web".to_owned(),
            canary: ["web-1".to_owned(), "web-2".to_owned()].into(),
            stage,
            percent: 35,
            steps: Some(Steps { by: 25, every_s: 120 }),
            guards: Guard::list("handshake_ratio>=0.99,probe_p99_ms<50").expect("reads"),
            guard_exec: None,
            since: Timestamp::constant(1_794_999_970, 0),
            why: why.to_owned(),
            note: Note { by: "root".to_owned(), since: NOW, reason: String::new() },
        }
    }

    #[test]
    fn rollouts_are_a_table_for_people() {
        let measures = Measures { probe_p99_ms: Some(1.25), ..Measures::default() };
        let rows = [rollout(Stage::Running, ""), rollout(Stage::Aborted, "guard up_ratio>=1 failed: 0.5000")];
        let rollouts = rows.iter().map(|rollout| RolloutRow::new(rollout, &measures)).collect();
        let text = Rollouts { api: Api, rollouts }.render(NOW);
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string(), @r"
        POOL  CANARY       STAGE    SHARE  FOR  NEXT             GUARDS                                                          WHY
        web   web-1,web-2  running   35 %  30s  +25 % in 1m 30s  handshake_ratio>=0.99 (not known yet), probe_p99_ms<50 (1.250)
        web   web-1,web-2  aborted    0 %  30s                   handshake_ratio>=0.99 (not known yet), probe_p99_ms<50 (1.250)  guard up_ratio>=1 failed: 0.5000
        ");
    }

    #[test]
    fn an_aborted_rollout_is_a_problem_and_others_are_notes() {
        let told = |stage| sentence(&rollout(stage, "guard up_ratio>=1 failed: 0.5000"), NOW);
        let (grade, text) = told(Stage::Running);
        assert_eq!(grade, Grade::Note);
        assert_eq!(text, "rollout of pool web: 35 % of new flows to web-1, web-2, next step in 1m 30s");
        assert_eq!(told(Stage::Promoted).0, Grade::Note);
        let (grade, text) = told(Stage::Aborted);
        assert_eq!(grade, Grade::Problem);
        assert!(text.contains("guard up_ratio>=1 failed") && text.contains("weir rollout end web"), "{text}");
    }
}
