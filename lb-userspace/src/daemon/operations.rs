//! The admin API's view of the daemon.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::{Mutex, MutexGuard};

use super::drills::{self, Drills};
use super::engine::Engine;
use super::overlay::file_weight;
use super::process::{counters, explain_frames, flow_rows};
use crate::admin::answers::{DrainProgress, Readiness, Reloaded};
use crate::admin::operations::Operations;
use crate::cli::args::Global;
use crate::events::{EventFilter, History};
use crate::explain::{ExplainedFrames, Frames};
use crate::failure::Failure;
use crate::health::passive::{self, Sight};
use crate::health::{BackendHealth, BackendKey, HandshakeStatus, Which};
use crate::maps::set::MapSet;
use crate::rollout::request::RolloutRequest;
use crate::state::denied::DenyRequest;
use crate::state::limited::LimitRequest;
use crate::state::overlay::{BackendName, Note};
use crate::state::request::{BackendRequest, Changed, ChangedBackend};
use crate::view::backends::{Answers, Backend, Backends, Handshakes, LastProbe};
use crate::view::deny::{Denied, DenyFilter};
use crate::view::drill::{DrillReport, DrillRequest};
use crate::view::events::{Events, StateAt};
use crate::view::filter::{BackendFilter, FlowFilter, ServiceFilter};
use crate::view::flows::Flows;
use crate::view::from_maps::{self, Counters, FlowCounts};
use crate::view::limits::Limits;
use crate::view::rollouts::{Grade, Rollouts};
use crate::view::services::Services;
use crate::view::status;

/// The running daemon, shared by the main loop and the admin API.
pub(super) struct Daemon {
    engine: Mutex<Engine>,
    started: Timestamp,
    config: PathBuf,
    history: History,
    drills: Arc<Drills>,
}

impl Daemon {
    pub(super) fn new(engine: Engine, paths: &Global) -> Self {
        let (history, config) = (engine.history(), paths.config_file().to_owned());
        Self {
            engine: Mutex::new(engine),
            started: Timestamp::now(),
            config,
            history,
            drills: Arc::default(),
        }
    }

    pub(super) async fn engine(&self) -> MutexGuard<'_, Engine> {
        self.engine.lock().await
    }

    /// Drills under way.
    pub(super) fn drills(&self) -> &Drills {
        &self.drills
    }

    pub(super) async fn reload_config(&self, by: &str) -> Result<Reloaded, Failure> {
        tracing::info!("reload asked for by {by}");
        let mut engine = self.engine().await;
        let reloaded = engine.reload().await;
        engine.journal().reloaded(&reloaded, by);
        reloaded
    }

    /// Maps and sums of the counters, read without holding the engine.
    async fn maps(&self) -> Result<(Arc<MapSet>, Counters), Failure> {
        let (maps, counter_maps) = {
            let engine = self.engine().await;
            (engine.maps(), engine.counters())
        };
        Ok((maps, tokio::task::block_in_place(|| counters(&counter_maps))))
    }
}

fn count(maps: &MapSet) -> FlowCounts {
    tokio::task::block_in_place(|| FlowCounts::of(maps, flow_rows(maps)))
}

/// What detection knows and the maps do not. Nobody checks what left the config, though another may have its name.
fn with_probes(backends: &mut [Backend], health: &[BackendHealth]) {
    let by_name: HashMap<(&str, &str), &BackendHealth> =
        health.iter().map(|health| ((&*health.key.pool, &*health.key.backend), health)).collect();
    for backend in backends.iter_mut().filter(|backend| !backend.removed) {
        let found = by_name.get(&(backend.pool.as_str(), backend.name.as_str())).copied();
        backend.handshakes = found.map(|health| {
            let HandshakeStatus { window, sight, outlier, admit } = health.handshakes;
            let answers = (sight == Sight::Both).then(|| Answers {
                answered: window.answered,
                refused: window.refused,
                unanswered: window.unanswered(),
                reset: window.reset,
            });
            Handshakes {
                window_s: passive::WINDOW.as_secs(),
                opened: window.opened,
                repeated: window.repeated,
                completed: window.completed,
                answers,
                ratio: window.ratio(sight),
                outlier,
                admit_permille: admit,
            }
        });
        backend.last_probe = found.and_then(BackendHealth::last_probe).map(|probe| LastProbe {
            check: probe.kind.to_owned(),
            at: Timestamp::try_from(probe.at).unwrap_or_default(),
            passed: probe.error.is_none(),
            latency_us: probe.error.is_none().then_some(probe.round_trip.as_micros() as u64),
            detail: probe.error.clone().unwrap_or_default(),
        });
    }
}

/// The checks that this host cannot run at present: nobody looks after their backends.
fn not_tried(health: &[BackendHealth]) -> Vec<String> {
    let mut found: BTreeMap<(&str, &str), Vec<&BackendKey>> = BTreeMap::new();
    for backend in health {
        for check in &backend.checks {
            if let Some(why) = &check.not_tried {
                found.entry((check.kind, why)).or_default().push(&backend.key);
            }
        }
    }
    let told = |((kind, why), backends): ((&str, &str), Vec<&BackendKey>)| {
        let others = match backends.len() {
            1 => String::new(),
            all => format!(" and {} more", all - 1),
        };
        format!("{kind} checks of {}{others} cannot be run: {why}", backends[0])
    };
    found.into_iter().map(told).collect()
}

impl Operations for Daemon {
    async fn explain(&self, request: Frames) -> Result<ExplainedFrames, Failure> {
        let (pins, next_program) = {
            let engine = self.engine().await;
            (engine.pins(), engine.config.next_program.clone())
        };
        let mut frames = tokio::task::block_in_place(|| explain_frames(&pins, &request))?;
        frames.explained.iter_mut().for_each(|explained| explained.hand_on(next_program.as_deref()));
        Ok(frames)
    }

    async fn status(&self) -> Result<status::Status, Failure> {
        let (maps, counters) = self.maps().await?;
        let flows = count(&maps);
        let engine = self.engine().await;
        let health = engine.snapshot(Which::All).await?;
        let (interfaces, mut problems, mut notes) = (engine.interfaces(), engine.problems(), engine.notes());
        problems.extend(engine.rollouts.sentences(Grade::Problem));
        notes.extend(engine.rollouts.sentences(Grade::Note));
        let changes = engine.overlay.changes(Timestamp::now(), |name| file_weight(&engine.config, name));
        let (config_loaded, guard) = (engine.config_loaded, engine.guard().await?);
        // Changes need not wait for what the maps are read for.
        drop(engine);
        let read = || from_maps::status(&maps, &counters, &flows, interfaces);
        let mut status = tokio::task::block_in_place(read);
        with_probes(&mut status.backends, &health);
        status.problems.extend(problems);
        status.problems.extend(not_tried(&health));
        if let Some(frozen) = &guard.frozen {
            status.problems.insert(0, frozen.to_string());
        }
        status.guard = Some(status::Guard {
            frozen: guard.frozen.map(|frozen| status::Frozen {
                since: Timestamp::try_from(frozen.since).unwrap_or_default(),
                until: Timestamp::try_from(frozen.until).unwrap_or_default(),
                cause: frozen.cause,
            }),
            silent: guard.silent as u64,
            counted: guard.counted as u64,
        });
        (status.notes, status.changes) = (notes, changes);
        status.notes.extend(self.drills.notes());
        status.daemon = status::Daemon {
            running: true,
            pid: Some(std::process::id()),
            version: Some(env!("CARGO_PKG_VERSION").to_owned()),
            started: Some(self.started),
            config: Some(self.config.display().to_string()),
            config_loaded: Some(config_loaded),
        };
        Ok(status)
    }

    async fn services(&self, filter: ServiceFilter) -> Result<Services, Failure> {
        let (maps, counters) = self.maps().await?;
        filter.apply(from_maps::services(&maps, &counters, &count(&maps)))
    }

    async fn backends(&self, filter: BackendFilter) -> Result<Backends, Failure> {
        let (maps, counters) = self.maps().await?;
        let mut backends = from_maps::backends(&maps, &counters, &count(&maps));
        let health = self.engine().await.snapshot(Which::All).await?;
        with_probes(&mut backends.backends, &health);
        filter.apply(backends)
    }

    async fn flows(&self, filter: FlowFilter) -> Result<Flows, Failure> {
        let maps = self.engine().await.maps();
        tokio::task::block_in_place(|| from_maps::flows(&maps, flow_rows(&maps), &filter))
    }

    async fn events(&self, filter: EventFilter) -> Result<Events, Failure> {
        self.history.events(&filter).await
    }

    async fn state_at(&self, at: Timestamp) -> Result<StateAt, Failure> {
        self.history.state_at(at).await
    }

    async fn drill(&self, request: DrillRequest, by: String) -> Result<DrillReport, Failure> {
        let engine = self.engine().await;
        let maps = engine.maps();
        let mut all = from_maps::backends(&maps, &Counters::default(), &FlowCounts::default()).backends;
        all.retain(|backend| !backend.removed);
        let target = drills::target(&engine.config, &all, &request)?;
        let (health, recorder) = (engine.health.clone(), engine.journal().recorder.clone());
        let new_flows = engine.new_flow_counter(&target.pool, &target.name);
        drop(engine);
        self.drills.start(health, recorder, new_flows, target, &request, &by).await
    }

    async fn drill_report(&self, backend: String) -> Result<DrillReport, Failure> {
        self.drills.report(&backend)
    }

    async fn rollouts(&self) -> Result<Rollouts, Failure> {
        Ok(Rollouts { rollouts: self.engine().await.rollouts.rows(None), ..Rollouts::default() })
    }

    async fn rollout(&self, request: RolloutRequest, by: String) -> Result<Rollouts, Failure> {
        let mut engine = self.engine().await;
        let rollouts = engine.change_rollout(&request, &by).await?;
        Ok(Rollouts { rollouts, ..Rollouts::default() })
    }

    async fn limits(&self) -> Result<Limits, Failure> {
        Ok(self.engine().await.limits())
    }

    async fn limit(&self, request: LimitRequest, by: String) -> Result<Limits, Failure> {
        self.engine().await.limit(&request, &by).await
    }

    async fn denied(&self, filter: DenyFilter) -> Result<Denied, Failure> {
        self.engine().await.denied(&filter)
    }

    async fn deny(&self, request: DenyRequest, by: String) -> Result<Denied, Failure> {
        self.engine().await.deny(&request, &by).await
    }

    async fn ready(&self) -> Result<Readiness, Failure> {
        let engine = self.engine().await;
        let interfaces = engine.interfaces().into_iter().filter(|interface| !interface.attached);
        let mut reasons: Vec<String> =
            interfaces.map(|interface| format!("{}: not attached", interface.name)).collect();
        let waiting = engine.snapshot(Which::All).await?;
        let waiting = waiting.iter().filter(|health| !health.has_verdict());
        reasons.extend(waiting.map(|health| format!("{}: no verdict yet", health.key)));
        Ok(Readiness { ready: reasons.is_empty(), reasons, ..Readiness::default() })
    }

    async fn drain_progress(&self, backends: Vec<BackendName>) -> Result<DrainProgress, Failure> {
        let (maps, counters) = self.maps().await?;
        let all = from_maps::backends(&maps, &counters, &count(&maps)).backends;
        let asked = all.into_iter().filter(|backend| {
            backends.iter().any(|name| name.pool == backend.pool && name.name == backend.name)
        });
        let backends: Vec<ChangedBackend> = asked
            .map(|backend| ChangedBackend {
                pool: backend.pool,
                name: backend.name,
                admin: backend.admin.name().to_owned(),
                weight: backend.weight,
                flows: backend.flows,
            })
            .collect();
        let flows = backends.iter().map(|backend| backend.flows).sum();
        Ok(DrainProgress { backends, flows, ..DrainProgress::default() })
    }

    async fn reload(&self, by: String) -> Result<Reloaded, Failure> {
        let reloaded = self.reload_config(&by).await;
        match &reloaded {
            Ok(reloaded) => super::report::reloaded(reloaded),
            Err(failure) => tracing::error!("reload: {}", failure.message),
        }
        reloaded
    }

    /// Puts the change in force, then counts the flows that the answer tells of: that takes longer.
    async fn change(&self, request: BackendRequest, by: String) -> Result<Changed, Failure> {
        let mut engine = self.engine().await;
        let change = engine.plan(&request, &by)?;
        if change.is_allowed() {
            let before = engine.overlay.clone();
            engine.save(&change.overlay)?;
            let asked = Note { by: by.clone(), since: Timestamp::now(), reason: request.reason.clone() };
            if let Err(failure) = engine.set_overlay(change.overlay.clone(), Some(asked)).await {
                engine.take_back(before).await;
                return Err(failure);
            }
        }
        let (maps, slots) = (engine.maps(), engine.slots());
        drop(engine);
        let counts = count(&maps).backends;
        let flows = |name: BackendName| {
            let id = slots.id(&name.pool, &name.name);
            id.and_then(|id| counts.get(usize::from(id)).copied()).unwrap_or_default()
        };
        let flows: Vec<u64> = change.backends().map(flows).collect();
        change.told(&flows)
    }
}
