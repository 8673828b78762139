//! What is asked of rollouts, and what it leads to. Pure: members, time and the pool's rollout in; the next one out.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::guard::Guard;
use super::plan::{Rollout, Stage, Steps};
use crate::failure::{Code, Failure};
use crate::state::change::{Member, NewFlows};
use crate::state::overlay::Note;
use crate::view::nearest::not_found;

/// Longest `--every`: a month.
const LONGEST_STEP_S: u64 = 31 * 86_400;
/// Longest `--reason` and `--guard-exec` in bytes.
const LONGEST_TEXT: usize = 2000;

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Begin.
    Start,
    /// Go to a share, or, without one, give the canaries all new flows.
    Promote,
    /// Take the share away.
    Abort,
    /// Forget a rollout that is over: everybody takes new flows by weight again.
    End,
}

/// `POST /v1/rollouts`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RolloutRequest {
    /// What to do.
    pub action: Action,
    /// To the rollout of which pool.
    pub pool: String,
    /// Names of the canaries, of `start`.
    #[serde(default)]
    pub canary: Vec<String>,
    /// The canaries' share in percent, of `start` and `promote`.
    #[serde(default)]
    pub percent: Option<u8>,
    /// Points by which it grows, of `start`.
    #[serde(default)]
    pub step: Option<u8>,
    /// Seconds after which it grows, of `start`.
    #[serde(default)]
    pub every_s: Option<u64>,
    /// Conditions separated by commas, of `start`.
    #[serde(default)]
    pub guard: Option<String>,
    /// A shell command that must succeed, of `start`; of root alone.
    #[serde(default)]
    pub guard_exec: Option<String>,
    /// Why, for the record.
    #[serde(default)]
    pub reason: String,
    /// Whether guards are overridden.
    #[serde(default)]
    pub force: bool,
    /// The user behind a root shell (`SUDO_USER`); believed of root alone.
    #[serde(default)]
    pub on_behalf_of: Option<String>,
}

impl RolloutRequest {
    /// A request with nothing but this.
    #[must_use]
    pub fn new(action: Action, pool: &str) -> Self {
        Self {
            action,
            pool: pool.to_owned(),
            canary: Vec::new(),
            percent: None,
            step: None,
            every_s: None,
            guard: None,
            guard_exec: None,
            reason: String::new(),
            force: false,
            on_behalf_of: None,
        }
    }

    /// The pool's rollout after the request; `None` is none. `members` are all backends of the config, of which
    /// `new_flows` tells who takes new flows, `existing` is
    /// the pool's rollout, `by` the user on record.
    ///
    /// # Errors
    /// Usage, not found, or refused where it would leave one side without anybody, or a rollout is in the way.
    pub fn apply(
        &self,
        members: &[Member<'_>],
        new_flows: &dyn Fn(&Member<'_>) -> NewFlows,
        existing: Option<&Rollout>,
        by: &str,
        now: Timestamp,
    ) -> Result<Option<Rollout>, Failure> {
        self.check()?;
        if !members.iter().any(|member| member.pool == self.pool) {
            let pools = members.iter().map(|member| member.pool);
            return Err(not_found("pool", &self.pool, pools));
        }
        match self.action {
            Action::Start => self.start(members, new_flows, existing, by, now).map(Some),
            _ => {
                let message = format!("no rollout of pool {:?}; `weir rollout start` begins one", self.pool);
                let rollout = existing.ok_or_else(|| Failure::new(Code::NotFound, message))?;
                self.go_on(rollout, by, now)
            }
        }
    }

    fn go_on(&self, rollout: &Rollout, by: &str, now: Timestamp) -> Result<Option<Rollout>, Failure> {
        let refused = |message: String| Err(Failure::new(Code::Refused, message));
        let pool = &self.pool;
        let next = |stage| Rollout { stage, since: now, why: String::new(), ..rollout.clone() };
        match (self.action, rollout.stage) {
            (Action::End, Stage::Running) if !self.force => refused(format!(
                "rollout of pool {pool} is running: promote or abort it first; --force ends it as it is"
            )),
            (Action::End, _) => Ok(None),
            (Action::Promote, Stage::Aborted) if !self.force => refused(format!(
                "rollout of pool {pool} was aborted ({}): start another; --force promotes it all the same",
                rollout.why
            )),
            (Action::Promote, _) => Ok(Some(match self.percent {
                Some(percent) => Rollout { percent, ..next(Stage::Running) },
                None => next(Stage::Promoted),
            })),
            (Action::Abort, Stage::Aborted) => Ok(Some(rollout.clone())),
            (Action::Abort, _) => {
                let reason = Some(self.reason.as_str()).filter(|reason| !reason.is_empty());
                let why = reason.map_or_else(|| format!("by {by}"), |reason| format!("by {by}: {reason}"));
                Ok(Some(Rollout { why, ..next(Stage::Aborted) }))
            }
            (Action::Start, _) => Err(Failure::new(Code::Usage, "start: a rollout cannot go on by it")),
        }
    }

    fn start(
        &self,
        members: &[Member<'_>],
        new_flows: &dyn Fn(&Member<'_>) -> NewFlows,
        existing: Option<&Rollout>,
        by: &str,
        now: Timestamp,
    ) -> Result<Rollout, Failure> {
        let refused = |message: String| Err(Failure::new(Code::Refused, message));
        let pool = &self.pool;
        if existing.is_some_and(|rollout| rollout.stage == Stage::Running) {
            return refused(format!("a rollout of pool {pool} is running: promote or abort it first"));
        }
        let in_pool = || members.iter().filter(|member| member.pool == pool);
        let mut canary = BTreeSet::new();
        for name in &self.canary {
            let name = name.strip_prefix(&format!("{pool}/")).unwrap_or(name);
            if !in_pool().any(|member| member.name == name) {
                return Err(not_found("backend", name, in_pool().map(|member| member.name)));
            }
            canary.insert(name.to_owned());
        }
        if canary.is_empty() {
            return Err(Failure::new(Code::Usage, "--canary: name at least one backend"));
        }
        if in_pool().all(|member| canary.contains(member.name)) {
            return refused(format!(
                "--canary: all backends of pool {pool} are canaries; leave at least one out"
            ));
        }
        let takes = |wanted: bool| {
            in_pool()
                .any(|member| new_flows(member) == NewFlows::Taken && canary.contains(member.name) == wanted)
        };
        if !self.force && !takes(true) {
            return refused(format!("no canary of pool {pool} takes new flows; --force starts all the same"));
        }
        if !self.force && !takes(false) {
            return refused(format!(
                "of pool {pool} only canaries take new flows, so that none could be kept from them; --force starts all the same"
            ));
        }
        let usage = |message: String| Failure::new(Code::Usage, message);
        let guards = match &self.guard {
            Some(text) => Guard::list(text).map_err(usage)?,
            None => vec![Guard::ALL_UP],
        };
        let steps = self.step.zip(self.every_s).map(|(by, every_s)| Steps { by, every_s });
        Ok(Rollout {
            pool: pool.clone(),
            canary,
            stage: Stage::Running,
            percent: self.percent.unwrap_or(10),
            steps,
            guards,
            guard_exec: self.guard_exec.clone(),
            since: now,
            why: String::new(),
            note: Note { by: by.to_owned(), since: now, reason: self.reason.clone() },
        })
    }

    fn check(&self) -> Result<(), Failure> {
        let usage = |message: &str| Err(Failure::new(Code::Usage, message));
        let start = self.action == Action::Start;
        let only_start = self.step.is_some() || self.every_s.is_some() || !self.canary.is_empty();
        if !start && (only_start || self.guard.is_some() || self.guard_exec.is_some()) {
            return usage("canaries, steps and guards are given at the start alone");
        }
        if self.percent.is_some() && matches!(self.action, Action::Abort | Action::End) {
            return usage("percent: an abort and an end have no share");
        }
        if self.percent.is_some_and(|percent| !(1..=100).contains(&percent)) {
            return usage("percent: allowed are 1 to 100");
        }
        if self.step.is_some() != self.every_s.is_some() {
            return usage("step and every belong together");
        }
        if self.step.is_some_and(|step| !(1..=100).contains(&step)) {
            return usage("step: allowed are 1 to 100");
        }
        if self.every_s.is_some_and(|every| !(1..=LONGEST_STEP_S).contains(&every)) {
            return usage("every: allowed are 1s to 31d");
        }
        let texts = [Some(&self.reason), self.guard.as_ref(), self.guard_exec.as_ref()];
        if texts.into_iter().flatten().any(|text| text.len() > LONGEST_TEXT) {
            return usage("reason and guards: at most 2000 bytes each");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_795_000_000, 0);

    fn members() -> [Member<'static>; 4] {
        let member = |pool, name| Member { pool, name, host: None, file_weight: 100 };
        [member("api", "api-1"), member("web", "web-1"), member("web", "web-2"), member("web", "web-3")]
    }

    /// All take new flows but `web-3`.
    fn new_flows(member: &Member<'_>) -> NewFlows {
        if member.name == "web-3" { NewFlows::Refused } else { NewFlows::Taken }
    }

    fn start(canary: &[&str]) -> RolloutRequest {
        let canary = canary.iter().map(|name| (*name).to_owned()).collect();
        RolloutRequest { canary, percent: Some(10), ..RolloutRequest::new(Action::Start, "web") }
    }

    fn run(request: &RolloutRequest, existing: Option<&Rollout>) -> Result<Option<Rollout>, Failure> {
        request.apply(&members(), &new_flows, existing, "alice", NOW)
    }

    fn running() -> Rollout {
        run(&start(&["web-1"]), None).expect("starts").expect("a rollout")
    }

    fn code(request: &RolloutRequest, existing: Option<&Rollout>) -> Code {
        run(request, existing).expect_err("refused").code
    }

    #[test]
    fn a_start_is_on_record_and_watches_that_canaries_are_up_unless_told_otherwise() {
        let rollout = running();
        assert_eq!((rollout.percent, rollout.stage, rollout.steps), (10, Stage::Running, None));
        assert_eq!(rollout.guards, [Guard::ALL_UP]);
        assert_eq!((rollout.note.by.as_str(), rollout.since), ("alice", NOW));
        let request = RolloutRequest {
            step: Some(25),
            every_s: Some(120),
            guard: Some("probe_p99_ms<50".to_owned()),
            ..start(&["web/web-1"])
        };
        let rollout = run(&request, None).expect("starts").expect("a rollout");
        assert_eq!(rollout.steps, Some(Steps { by: 25, every_s: 120 }));
        assert_eq!((rollout.guards[0].to_string().as_str(), rollout.canary.len()), ("probe_p99_ms<50", 1));
    }

    #[test]
    fn what_could_not_be_divided_is_refused() {
        assert_eq!(code(&start(&[]), None), Code::Usage);
        assert_eq!(code(&start(&["web-9"]), None), Code::NotFound);
        assert_eq!(code(&start(&["api-1"]), None), Code::NotFound);
        assert_eq!(
            code(&RolloutRequest { pool: "wab".to_owned(), ..start(&["web-1"]) }, None),
            Code::NotFound
        );
        assert_eq!(code(&start(&["web-1", "web-2", "web-3"]), None), Code::Refused);
        assert_eq!(code(&start(&["web-3"]), None), Code::Refused);
        assert_eq!(code(&start(&["web-1", "web-2"]), None), Code::Refused, "web-3 takes no new flows");
        run(&RolloutRequest { force: true, ..start(&["web-3"]) }, None).expect("forced");
        assert_eq!(code(&start(&["web-2"]), Some(&running())), Code::Refused, "one is running");
        let aborted = Rollout { stage: Stage::Aborted, ..running() };
        run(&start(&["web-2"]), Some(&aborted)).expect("another");
    }

    #[test]
    fn requests_that_make_no_sense_are_usage_errors() {
        for wrong in [
            RolloutRequest { percent: Some(0), ..start(&["web-1"]) },
            RolloutRequest { percent: Some(101), ..start(&["web-1"]) },
            RolloutRequest { step: Some(5), ..start(&["web-1"]) },
            RolloutRequest { step: Some(0), every_s: Some(5), ..start(&["web-1"]) },
            RolloutRequest { step: Some(5), every_s: Some(0), ..start(&["web-1"]) },
            RolloutRequest { guard: Some("good".to_owned()), ..start(&["web-1"]) },
            RolloutRequest { action: Action::Abort, ..start(&["web-1"]) },
            RolloutRequest { percent: Some(5), ..RolloutRequest::new(Action::End, "web") },
        ] {
            assert_eq!(
                code(&wrong, Some(&Rollout { stage: Stage::Aborted, ..running() })),
                Code::Usage,
                "{wrong:?}"
            );
        }
    }

    #[test]
    fn a_rollout_is_promoted_aborted_and_ended() {
        let ask = |action| RolloutRequest::new(action, "web");
        let next = |request: &RolloutRequest, from: &Rollout| run(request, Some(from)).expect("goes on");
        let to_half = RolloutRequest { percent: Some(50), ..ask(Action::Promote) };
        let half = next(&to_half, &running()).expect("a rollout");
        assert_eq!((half.stage, half.percent), (Stage::Running, 50));
        let promoted = next(&ask(Action::Promote), &half).expect("a rollout");
        assert_eq!((promoted.stage, promoted.split().permille), (Stage::Promoted, 1000));
        let because = RolloutRequest { reason: "slow".to_owned(), ..ask(Action::Abort) };
        let aborted = next(&because, &promoted).expect("a rollout");
        assert_eq!((aborted.stage, aborted.why.as_str()), (Stage::Aborted, "by alice: slow"));
        assert_eq!(code(&ask(Action::Promote), Some(&aborted)), Code::Refused);
        assert_eq!(code(&ask(Action::End), Some(&running())), Code::Refused);
        assert_eq!(next(&ask(Action::End), &aborted), None);
        for action in [Action::Promote, Action::Abort, Action::End] {
            assert_eq!(code(&ask(action), None), Code::NotFound);
        }
    }
}
