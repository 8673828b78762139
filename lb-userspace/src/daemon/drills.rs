//! Drills under way: started where the pool can bear it, followed through the transitions that they cause.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use tracing::{error, info};

use crate::config::model::{CheckKind, Config};
use crate::events::{Event, Kind, Recorder};
use crate::failure::{Code, Failure};
use crate::health::machine::Health as State;
use crate::health::{BackendKey, Health, HealthEvent};
use crate::view::backends::{Admin, Backend, Health as Seen};
use crate::view::drill::{DrillReport, DrillRequest, Step};
use crate::view::filter::Pattern;

/// Longest failure.
const LONGEST: Duration = Duration::from_secs(600);
/// How long the return of a backend is waited for.
const RETURN: Duration = Duration::from_secs(120);

/// The drills of this daemon's life, by backend: the last of each.
#[derive(Default)]
pub(super) struct Drills {
    reports: Mutex<BTreeMap<BackendKey, Running>>,
}

struct Running {
    report: DrillReport,
    restored_at: Option<SystemTime>,
    /// Whether new flows stay away at present.
    away: bool,
}

/// The backend that a request means, and refuses to let fail what its pools could not bear.
pub(super) fn target<'a>(
    config: &Config,
    all: &'a [Backend],
    request: &DrillRequest,
) -> Result<&'a Backend, Failure> {
    let usage = |message: String| Err(Failure::new(Code::Usage, message));
    if request.for_ms == 0 || request.for_ms > LONGEST.as_millis() as u64 {
        return usage("--for: allowed are 1ms to 10m".to_owned());
    }
    let pattern = Pattern::new(&request.backend);
    pattern.must_match(all.iter().map(|backend| (backend.pool.as_str(), backend.name.as_str())))?;
    let named: Vec<&Backend> =
        all.iter().filter(|backend| pattern.matches(&backend.pool, &backend.name)).collect();
    let [target] = named.as_slice() else {
        let names: Vec<String> = named.iter().map(|backend| backend.full_name()).collect();
        return usage(format!("{:?} is several backends: name one of {}", request.backend, names.join(", ")));
    };
    let checks = config.pools.get(&target.pool).map(|pool| pool.checks.as_slice()).unwrap_or_default();
    if checks.iter().all(|check| check.kind == CheckKind::None) {
        let message = format!("pool {} has no checks: nothing would notice a failure", target.pool);
        return Err(Failure::new(Code::Refused, message));
    }
    if !request.force {
        bearable(config, all, target)?;
    }
    Ok(target)
}

/// Refuses where the pools of the backend's address would be left with too little.
fn bearable(config: &Config, all: &[Backend], target: &Backend) -> Result<(), Failure> {
    let refused = |why: String| {
        Err(Failure::new(Code::Refused, format!("drill of {}: {why}; --force overrides", target.full_name())))
    };
    if target.health != Seen::Up || target.admin != Admin::Active {
        return refused(format!("it is {}, so that nothing could be measured", target.state()));
    }
    let affected = all.iter().filter(|backend| backend.address == target.address);
    for pool in affected.map(|backend| backend.pool.as_str()) {
        let wanted = || {
            all.iter().filter(|other| other.pool == pool && other.admin == Admin::Active && other.weight > 0)
        };
        let fails = |backend: &&Backend| backend.address == target.address;
        let left = |backend: &&Backend| !fails(backend) && backend.takes_new_flows();
        if !wanted().any(|backend| left(&backend)) {
            return refused(format!("no other backend of pool {pool} takes new flows"));
        }
        let weight = |of: &dyn Fn(&&Backend) -> bool| -> f64 {
            wanted().filter(|backend| of(backend)).map(|backend| f64::from(backend.weight)).sum()
        };
        let out_already = weight(&|backend| !fails(backend) && backend.health == Seen::Down);
        let out = out_already + weight(&fails);
        let share = config.pools.get(pool).map_or(1.0, |pool| pool.max_ejected);
        if out_already > 0.0 && out > share * weight(&|_| true) {
            return refused(format!(
                "with the backends that are down already, more than {:.0} % of pool {pool}'s weight would be out",
                share * 100.0
            ));
        }
    }
    Ok(())
}

impl Drills {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<BackendKey, Running>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the backend fail, and sees to its return.
    pub(super) async fn start(
        self: &Arc<Self>,
        health: Health,
        recorder: Recorder,
        target: &Backend,
        request: &DrillRequest,
        by: &str,
    ) -> Result<DrillReport, Failure> {
        let key = BackendKey::new(target.pool.as_str(), target.name.as_str());
        let span = Duration::from_millis(request.for_ms);
        let address = target.address;
        let injected = {
            if self.lock().get(&key).is_some_and(|running| !running.report.done) {
                let message = format!("a drill of {key} is under way; wait for its end");
                return Err(Failure::new(Code::Refused, message));
            }
            health.set_drill(address, Some((request.fail, span))).await.map_err(failed)?
        };
        let injected_at = Timestamp::try_from(injected).unwrap_or_default();
        let mut report = DrillReport {
            api: Default::default(),
            pool: target.pool.clone(),
            backend: target.name.clone(),
            fail: request.fail,
            for_ms: request.for_ms,
            done: false,
            injected_at,
            new_flows_stopped_after_us: None,
            down_after_us: None,
            readmitted_after_us: None,
            timeline: Vec::new(),
        };
        push(&mut report, "injected", injected, &request.fail.to_string());
        let running = Running { report: report.clone(), restored_at: None, away: false };
        self.lock().insert(key.clone(), running);
        info!(backend = %key, by, "drill: {} for {} ms", request.fail, request.for_ms);
        let event = Event::new(Kind::Drill, injected_at).of_backend(&*key.pool, &*key.backend).asked_by(by);
        recorder.record(event.is("injected").because(format!("{} for {} ms", request.fail, request.for_ms)));
        let drills = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(span).await;
            let restored = match health.set_drill(address, None).await {
                Ok(restored) => restored,
                Err(error) => {
                    // It has ended by itself: the probe thread keeps the time, too.
                    error!(backend = %key, "end the drill: {error}");
                    SystemTime::now()
                }
            };
            drills.restored(&key, restored);
            let event = |to: &str| {
                Event::new(Kind::Drill, Timestamp::now()).of_backend(&*key.pool, &*key.backend).is(to)
            };
            recorder.record(event("restored"));
            drills.wait_for_return(&key).await;
            if let Some(report) = drills.finish(&key) {
                let finished = event("finished")
                    .with("new_flows_stopped_after_us", report.new_flows_stopped_after_us)
                    .with("down_after_us", report.down_after_us)
                    .with("readmitted_after_us", report.readmitted_after_us);
                recorder.record(finished);
                info!(
                    backend = %key,
                    stopped_after_us = report.new_flows_stopped_after_us,
                    down_after_us = report.down_after_us,
                    readmitted_after_us = report.readmitted_after_us,
                    "drill finished"
                );
            }
        });
        Ok(report)
    }

    /// Notes a transition of a backend.
    pub(super) fn note(&self, event: &HealthEvent) {
        let mut reports = self.lock();
        let Some(running) = reports.get_mut(&event.backend).filter(|running| !running.report.done) else {
            return;
        };
        let Running { report, restored_at, away } = running;
        push(report, event.to.name(), event.time, &event.reason);
        let stored_at = event.time + event.applied_after;
        let since_injected = micros_since(SystemTime::from(report.injected_at), stored_at);
        let stored = match event.to {
            State::Suspect => Some("new flows stay away"),
            State::Down => Some("known flows are selected anew"),
            State::Trial => Some("takes a part of its share"),
            State::Up => Some("takes new flows"),
            State::Unknown => None,
        };
        if let Some(stored) = stored {
            push(report, "store", stored_at, stored);
        }
        match event.to {
            State::Suspect | State::Down => {
                *away = true;
                report.new_flows_stopped_after_us.get_or_insert(since_injected);
                if event.to == State::Down {
                    report.down_after_us.get_or_insert(since_injected);
                }
            }
            State::Trial | State::Up => {
                *away = event.to == State::Trial;
                if let Some(restored_at) = restored_at {
                    report.readmitted_after_us.get_or_insert(micros_since(*restored_at, stored_at));
                }
            }
            State::Unknown => {}
        }
    }

    fn restored(&self, key: &BackendKey, at: SystemTime) {
        if let Some(running) = self.lock().get_mut(key) {
            running.restored_at = Some(at);
            push(&mut running.report, "restored", at, "the failure ends");
        }
    }

    /// Waits until the backend serves as before, for a bounded time.
    async fn wait_for_return(&self, key: &BackendKey) {
        let begin = tokio::time::Instant::now();
        while begin.elapsed() < RETURN && self.lock().get(key).is_some_and(|running| running.away) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn finish(&self, key: &BackendKey) -> Option<DrillReport> {
        let mut reports = self.lock();
        let running = reports.get_mut(key)?;
        running.report.done = true;
        running.report.timeline.sort_by_key(|step| step.at);
        Some(running.report.clone())
    }

    /// The last drill of a backend, `pool/name`.
    pub(super) fn report(&self, name: &str) -> Result<DrillReport, Failure> {
        let found = name.split_once('/').map(|(pool, name)| BackendKey::new(pool, name));
        let report = found.and_then(|key| Some(self.lock().get(&key)?.report.clone()));
        report.ok_or_else(|| {
            Failure::new(Code::NotFound, format!("no drill of {name} since the daemon started"))
        })
    }

    /// Notes for `status`.
    pub(super) fn notes(&self) -> Vec<String> {
        let reports = self.lock();
        let lasting =
            reports.values().filter(|running| running.restored_at.is_none() && !running.report.done);
        let told = |running: &Running| {
            let DrillReport { pool, backend, fail, .. } = &running.report;
            format!("drill of {pool}/{backend} under way: {fail}")
        };
        lasting.map(told).collect()
    }
}

fn failed(error: crate::health::HealthError) -> Failure {
    Failure::new(Code::Failed, error.to_string())
}

fn micros_since(from: SystemTime, to: SystemTime) -> u64 {
    crate::events::event::micros(to.duration_since(from).unwrap_or_default())
}

fn push(report: &mut DrillReport, step: &str, at: SystemTime, detail: &str) {
    let at = Timestamp::try_from(at).unwrap_or_default();
    let after = at.duration_since(report.injected_at);
    let after_us = i64::try_from(after.as_micros()).unwrap_or(i64::MAX);
    report.timeline.push(Step { step: step.to_owned(), at, after_us, detail: detail.to_owned() });
}
