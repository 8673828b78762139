//! Rollouts at work: measured every second, stepped or taken back, kept over a restart.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tracing::{error, info, warn};

use super::engine::Engine;
use crate::command;
use crate::events::{Event, Kind};
use crate::failure::{Code, Failure};
use crate::health::machine::Health;
use crate::health::passive::Sight;
use crate::health::split::Split;
use crate::health::timings::percentile_99;
use crate::health::{BackendHealth, Which};
use crate::rollout::guard::Measures;
use crate::rollout::plan::{External, Next, Rollout, Stage};
use crate::rollout::request::RolloutRequest;
use crate::rollout::store;
use crate::state::change::Member;
use crate::view::rollouts::{Grade, RolloutRow, sentence};

/// How often the external command is asked, and how long it may take.
const ASK_EVERY: Duration = Duration::from_secs(10);
const ASK_LIMIT: Duration = Duration::from_secs(30);

/// All rollouts of the instance.
pub(super) struct Rollouts {
    directory: PathBuf,
    current: BTreeMap<String, Active>,
    set_aside: Option<store::SetAside>,
    /// Something happened to one that could not be written.
    unsaved: bool,
}

/// A rollout with what watches it.
struct Active {
    rollout: Rollout,
    external: Option<Asked>,
    handshakes: Handshakes,
    measures: Measures,
}

impl Active {
    fn new(rollout: Rollout) -> Self {
        let external = (rollout.stage == Stage::Running).then(|| Asked::start(&rollout)).flatten();
        Self { rollout, external, handshakes: Handshakes::default(), measures: Measures::default() }
    }
}

/// The external command, asked again and again.
struct Asked {
    says: Arc<Mutex<External>>,
    task: JoinHandle<()>,
}

impl Asked {
    fn start(rollout: &Rollout) -> Option<Self> {
        let words = ["/bin/sh", "-c", rollout.guard_exec.as_deref()?].map(str::to_owned);
        let canaries: Vec<&str> = rollout.canary.iter().map(String::as_str).collect();
        let environment = [
            ("WEIR_POOL", rollout.pool.clone()),
            ("WEIR_CANARY", canaries.join(" ")),
            ("WEIR_PERCENT", rollout.percent.to_string()),
        ];
        let says = Arc::new(Mutex::new(External::Unknown));
        let told = says.clone();
        let task = tokio::spawn(async move {
            loop {
                let says = match command::run(&words, &environment, b"", ASK_LIMIT).await {
                    Ok(()) => External::Holds,
                    Err(why) => External::Failed(why),
                };
                *told.lock().unwrap_or_else(PoisonError::into_inner) = says;
                tokio::time::sleep(ASK_EVERY).await;
            }
        });
        Some(Self { says, task })
    }

    fn says(&self) -> External {
        self.says.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Openings of flows of the canaries over the last minute: the data plane's counts, read once a second.
#[derive(Debug, Default)]
struct Handshakes {
    /// What makes a flow one that succeeded.
    sight: Sight,
    /// Flows opened and those of them that succeeded, since the maps were made.
    counts: VecDeque<(u64, u64)>,
}

impl Handshakes {
    /// A minute, and the lag.
    const SECONDS: usize = 60 + Self::LAG;
    /// A handshake succeeds within this many seconds of its opening.
    const LAG: usize = 2;
    /// Flows that a ratio needs.
    const FEWEST: u64 = 20;

    fn note(&mut self, sight: Sight, opened: u64, succeeded: u64) {
        if self.sight != sight {
            *self = Self { sight, ..Self::default() };
        }
        if self.counts.len() > Self::SECONDS {
            self.counts.pop_front();
        }
        self.counts.push_back((opened, succeeded));
    }

    /// The share of opened flows that succeeded: by now, of what was opened a little earlier.
    fn ratio(&self) -> Option<f64> {
        let (opened_from, _) = self.counts.front()?;
        let (_, succeeded_from) = self.counts.get(Self::LAG)?;
        let (opened_to, _) = self.counts.get(self.counts.len().checked_sub(1 + Self::LAG)?)?;
        let (_, succeeded_to) = self.counts.back()?;
        let opened = opened_to.saturating_sub(*opened_from);
        let succeeded = succeeded_to.saturating_sub(*succeeded_from);
        #[expect(clippy::cast_precision_loss, reason = "flows of a minute stay far below 2^53")]
        let ratio = succeeded as f64 / opened as f64;
        (opened >= Self::FEWEST).then(|| ratio.min(1.0))
    }
}

impl Rollouts {
    /// Those of a state directory. The time of a step begins anew: nothing was measured meanwhile.
    pub(super) fn load(directory: &Path, now: Timestamp) -> Self {
        let (rollouts, set_aside) = store::load_or_set_aside(directory);
        let begun = |rollout: Rollout| match rollout.stage {
            Stage::Running => Rollout { since: now, ..rollout },
            _ => rollout,
        };
        let current =
            rollouts.into_iter().map(|(pool, rollout)| (pool, Active::new(begun(rollout)))).collect();
        Self { directory: directory.to_owned(), current, set_aside, unsaved: false }
    }

    /// How new flows are divided, by pool.
    pub(super) fn splits(&self) -> BTreeMap<String, Split> {
        self.current.iter().map(|(pool, active)| (pool.clone(), active.rollout.split())).collect()
    }

    /// What the state of the events says of a pool.
    pub(super) fn told(&self, pool: &str) -> Option<String> {
        self.current.get(pool).map(|active| active.rollout.told())
    }

    /// All, or one pool's.
    pub(super) fn rows(&self, pool: Option<&str>) -> Vec<RolloutRow> {
        let wanted = self.current.iter().filter(|(name, _)| pool.is_none_or(|pool| pool == *name));
        wanted.map(|(_, active)| RolloutRow::new(&active.rollout, &active.measures)).collect()
    }

    /// Sentences for `status` of one grade.
    pub(super) fn sentences(&self, grade: Grade) -> Vec<String> {
        let now = Timestamp::now();
        let all = self.current.values().map(|active| sentence(&active.rollout, now));
        let aside = self.set_aside.as_ref().filter(|_| grade == Grade::Problem);
        let aside = aside.and_then(store::SetAside::problem);
        all.filter(|(of, _)| *of == grade).map(|(_, text)| text).chain(aside).collect()
    }

    /// Writes all, where what happened to one could not be written before.
    fn save_again(&mut self) {
        let all = self.current.values().map(|active| &active.rollout);
        self.unsaved = self.unsaved && store::save(&self.directory, all).is_err();
    }

    /// Writes all, with one pool's replaced or taken out.
    fn save(&self, pool: &str, next: Option<&Rollout>) -> Result<(), Failure> {
        let others = self.current.iter().filter(|(name, _)| *name != pool).map(|(_, active)| &active.rollout);
        store::save(&self.directory, others.chain(next))
    }
}

impl Engine {
    /// Does what is asked of a pool's rollout.
    pub(super) async fn change_rollout(
        &mut self,
        request: &RolloutRequest,
        by: &str,
    ) -> Result<Vec<RolloutRow>, Failure> {
        let pool = request.pool.as_str();
        let existing = self.rollouts.current.get(pool).map(|active| active.rollout.clone());
        let (slots, now) = (self.slots(), Timestamp::now());
        let new_flows = |member: &Member<'_>| self.new_flows(&slots, member, now);
        let next = request.apply(&self.members(), &new_flows, existing.as_ref(), by, now)?;
        self.rollouts.save(pool, next.as_ref())?;
        self.put_in_force(pool, next, &request.reason, Some(by)).await?;
        Ok(self.rollouts.rows(Some(pool)))
    }

    /// Measures, then steps or aborts what runs; ends rollouts of pools that left the config.
    pub(super) async fn tick_rollouts(&mut self) {
        self.rollouts.save_again();
        if self.rollouts.current.is_empty() {
            return;
        }
        let pools: BTreeSet<String> = self.rollouts.current.keys().cloned().collect();
        let health = match self.snapshot(Which::Pools(pools.clone())).await {
            Ok(health) => health,
            Err(failure) => return error!("rollouts: {}", failure.message),
        };
        for pool in pools {
            let Some(rollout) = self.rollouts.current.get(&pool).map(|active| active.rollout.clone()) else {
                continue;
            };
            let next = match self.leftover(&rollout) {
                Some(why) => Some((None, why)),
                None => {
                    let measures = self.measure(&rollout, &health).await;
                    let Some(active) = self.rollouts.current.get_mut(&pool) else { continue };
                    active.measures = measures;
                    let external = active.external.as_ref().map_or(External::Holds, Asked::says);
                    let (now, guards) = (Timestamp::now(), "guards hold".to_owned());
                    match rollout.next(&measures, &external, now) {
                        Next::Stay => None,
                        Next::Step(percent) => {
                            Some((Some(Rollout { percent, since: now, ..rollout }), guards))
                        }
                        Next::Abort(why) => {
                            let stage = Stage::Aborted;
                            Some((Some(Rollout { stage, since: now, why: why.clone(), ..rollout }), why))
                        }
                    }
                }
            };
            let Some((next, why)) = next else { continue };
            // In force first: flows that go astray cost more than a file.
            if let Err(failure) = self.put_in_force(&pool, next.clone(), &why, None).await {
                error!("rollout of pool {pool}: {}", failure.message);
            }
            if let Err(failure) = self.rollouts.save(&pool, next.as_ref()) {
                error!("keep the rollout of pool {pool}: {}", failure.message);
                self.rollouts.unsaved = true;
            }
        }
    }

    /// Why a rollout has nothing left to divide.
    fn leftover(&self, rollout: &Rollout) -> Option<String> {
        let Some(pool) = self.config.pools.get(&rollout.pool) else {
            return Some("its pool left the config".to_owned());
        };
        let canary = |name: &String| rollout.canary.contains(name);
        match (pool.backends.keys().any(canary), pool.backends.keys().all(canary)) {
            (false, _) => Some("its canaries left the config".to_owned()),
            (_, true) => Some("only its canaries are left in the config".to_owned()),
            _ => None,
        }
    }

    /// Divides the pool, then records and logs it.
    async fn put_in_force(
        &mut self,
        pool: &str,
        next: Option<Rollout>,
        reason: &str,
        by: Option<&str>,
    ) -> Result<(), Failure> {
        let begin = std::time::Instant::now();
        let divided = self.health.set_split(pool, next.as_ref().map(Rollout::split)).await;
        let applied_after = begin.elapsed();
        let before = self.rollouts.current.remove(pool);
        let event = Event::new(Kind::Rollout, Timestamp::now()).of_pool(pool).because(reason);
        let to = next.as_ref().map_or_else(|| "ended".to_owned(), Rollout::told);
        let canaries = next.as_ref().or(before.as_ref().map(|active| &active.rollout));
        let canaries: Vec<String> =
            canaries.map(|of| of.canary.iter().cloned().collect()).unwrap_or_default();
        let measures = before.as_ref().map(|active| active.measures).unwrap_or_default();
        let event = Event {
            from: before.as_ref().map(|active| active.rollout.told()),
            by: by.map(str::to_owned),
            applied_after_us: Some(crate::events::event::micros(applied_after)),
            ..event.is(to.as_str())
        };
        let event = event
            .with("canary", canaries)
            .with("handshake_ratio", measures.handshake_ratio)
            .with("probe_p99_ms", measures.probe_p99_ms)
            .with("up_ratio", measures.up_ratio);
        match next.as_ref().map(|next| next.stage) {
            Some(Stage::Aborted) => warn!(pool, "rollout aborted: {reason}"),
            _ => info!(pool, "rollout {}: {reason}", event.change()),
        }
        self.journal().recorder.record(event);
        if let Some(next) = next {
            self.rollouts.current.insert(pool.to_owned(), Active::new(next));
        }
        match divided {
            // A pool that left the config has nothing to divide.
            Err(error) if self.config.pools.contains_key(pool) => {
                Err(Failure::new(Code::Failed, error.to_string()))
            }
            _ => Ok(()),
        }
    }

    /// What is known of a rollout's canaries.
    async fn measure(&mut self, rollout: &Rollout, health: &[BackendHealth]) -> Measures {
        let times = self.health.timings(&rollout.pool).await.unwrap_or_default();
        let of_canaries = health.iter().filter(|backend| {
            *backend.key.pool == *rollout.pool && rollout.canary.contains(&*backend.key.backend)
        });
        let states: Vec<Health> = of_canaries.map(|backend| backend.health).collect();
        let sight = self.sight_of(&rollout.pool);
        let (opened, succeeded) = self.handshakes(rollout, sight);
        let handshake_ratio = self.rollouts.current.get_mut(&rollout.pool).and_then(|active| {
            active.handshakes.note(sight, opened, succeeded);
            active.handshakes.ratio()
        });
        Measures {
            handshake_ratio,
            probe_p99_ms: percentile_99(times).map(|time| time.as_secs_f64() * 1e3),
            up_ratio: up_ratio(&states),
        }
    }
}

impl Engine {
    /// TCP flows of a rollout's canaries that were opened, and those whose handshake succeeded, since the maps were made.
    fn handshakes(&self, rollout: &Rollout, sight: Sight) -> (u64, u64) {
        let canaries = rollout.canary.iter().filter_map(|name| self.handshakes_of(&rollout.pool, name));
        canaries
            .fold((0, 0), |(opened, succeeded), one| (opened + one.opened, succeeded + one.succeeded(sight)))
    }
}

/// The share of backends that are not down; `None` while one is unknown.
fn up_ratio(states: &[Health]) -> Option<f64> {
    if states.is_empty() || states.contains(&Health::Unknown) {
        return None;
    }
    let up = states.iter().filter(|state| **state != Health::Down).count();
    #[expect(clippy::cast_precision_loss, reason = "backends of a pool are few")]
    let ratio = up as f64 / states.len() as f64;
    Some(ratio)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_are_compared_with_flows_opened_a_little_earlier() {
        let mut handshakes = Handshakes::default();
        assert_eq!(handshakes.ratio(), None);
        // A hundred flows a second, each completed within the next.
        for second in 0..200 {
            handshakes.note(Sight::Clients, 1000 + second * 100, 700 + second.saturating_sub(1) * 100);
            if second == 1 {
                assert_eq!(handshakes.ratio(), None, "too short");
            }
        }
        assert_eq!(handshakes.ratio(), Some(1.0));
        let (opened, completed) = *handshakes.counts.back().expect("counts");
        (1..=60).for_each(|second| {
            handshakes.note(Sight::Clients, opened + second * 100, completed + second * 30);
        });
        let ratio = handshakes.ratio().expect("enough");
        assert!((0.29..0.36).contains(&ratio), "{ratio}");
        (0..200).for_each(|_| handshakes.note(Sight::Clients, 1 << 40, 1 << 40));
        assert_eq!(handshakes.ratio(), None, "no flow is no ratio");
        // Another count, which is no continuation of the one before.
        (0..60).for_each(|second| handshakes.note(Sight::Both, (2 << 40) + second * 100, second * 100));
        assert_eq!(handshakes.ratio(), Some(1.0));
    }

    #[test]
    fn a_suspicion_is_not_down_and_unknown_is_not_known() {
        assert_eq!(up_ratio(&[Health::Up, Health::Suspect]), Some(1.0));
        assert_eq!(up_ratio(&[Health::Up, Health::Down]), Some(0.5));
        assert_eq!(up_ratio(&[Health::Up, Health::Unknown]), None);
        assert_eq!(up_ratio(&[]), None);
    }
}
