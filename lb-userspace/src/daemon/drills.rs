//! Drills under way: started where the pool can bear it, followed through the transitions that they cause.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use jiff::Timestamp;
use tokio::task::JoinHandle;
use tracing::{error, info};

use super::last_flow::{self, Watch};
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
/// How long new flows must have stayed away for the last one to be the last.
const LINGER: Duration = Duration::from_millis(100);

/// The drills of this daemon's life, by backend: the last of each.
#[derive(Default)]
pub(super) struct Drills {
    reports: Mutex<BTreeMap<BackendKey, Running>>,
}

struct Running {
    address: IpAddr,
    report: DrillReport,
    /// When the data plane first kept new flows away, and had the backend down.
    stopped_at: Option<SystemTime>,
    down_at: Option<SystemTime>,
    /// When the last new flow was sent to it.
    last_flow_at: Option<SystemTime>,
    restored_at: Option<SystemTime>,
    readmitted_at: Option<SystemTime>,
    /// Whether new flows stay away at present.
    away: bool,
    /// When they did first.
    left_at: Option<Instant>,
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

impl Running {
    fn push(&mut self, step: &str, at: SystemTime, detail: &str) {
        let at = Timestamp::try_from(at).unwrap_or_default();
        self.report.timeline.push(Step { step: step.to_owned(), at, after_us: 0, detail: detail.to_owned() });
        self.reckon();
    }

    /// Reckons the report's times anew from what is known.
    fn reckon(&mut self) {
        let Self { report, .. } = self;
        let injected_at = report.injected_at;
        for step in &mut report.timeline {
            let after = step.at.duration_since(injected_at).as_micros();
            step.after_us = i64::try_from(after).unwrap_or(i64::MAX);
        }
        // What it causes at once has the same time, give or take what reading two clocks makes of it, and stays in the
        // order in which it was told.
        report.timeline.sort_by_key(|step| (step.step != "injected", step.after_us));
        let since = |from: SystemTime, at: Option<SystemTime>| at.map(|at| micros_since(from, at));
        let injected_at = SystemTime::from(injected_at);
        report.new_flows_stopped_after_us = since(injected_at, self.stopped_at);
        report.last_new_flow_after_us = since(injected_at, self.last_flow_at);
        report.down_after_us = since(injected_at, self.down_at);
        report.readmitted_after_us =
            self.restored_at.and_then(|restored_at| since(restored_at, self.readmitted_at));
    }
}

impl Drills {
    /// Enters a drill that is about to begin; refuses where one is under way.
    fn enter(&self, key: &BackendKey, address: IpAddr, report: &DrillReport) -> Result<(), Failure> {
        let mut reports = self.lock();
        // A server fails in all of its pools.
        let of_it = |(other, running): &(&BackendKey, &Running)| {
            !running.report.done && (*other == key || running.address == address)
        };
        if let Some((other, _)) = reports.iter().find(of_it) {
            let message = format!("a drill of {other} ({address}) is under way; wait for its end");
            return Err(Failure::new(Code::Refused, message));
        }
        let running = Running {
            address,
            report: report.clone(),
            stopped_at: None,
            down_at: None,
            last_flow_at: None,
            restored_at: None,
            readmitted_at: None,
            away: false,
            left_at: None,
        };
        reports.insert(key.clone(), running);
        Ok(())
    }

    fn with(&self, key: &BackendKey, change: impl FnOnce(&mut Running)) {
        if let Some(running) = self.lock().get_mut(key) {
            change(running);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<BackendKey, Running>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets the backend fail, and sees to its return.
    pub(super) async fn start(
        self: &Arc<Self>,
        health: Health,
        recorder: Recorder,
        new_flows: impl FnMut() -> u64 + Send + 'static,
        target: &Backend,
        request: &DrillRequest,
        by: &str,
    ) -> Result<DrillReport, Failure> {
        let key = BackendKey::new(target.pool.as_str(), target.name.as_str());
        let span = Duration::from_millis(request.for_ms);
        let address = target.address;
        // Before it begins: its first transition may be told before the answer to the request for it.
        let mut report = DrillReport {
            api: Default::default(),
            pool: target.pool.clone(),
            backend: target.name.clone(),
            fail: request.fail,
            for_ms: request.for_ms,
            done: false,
            injected_at: Timestamp::now(),
            new_flows_stopped_after_us: None,
            last_new_flow_after_us: None,
            down_after_us: None,
            readmitted_after_us: None,
            timeline: Vec::new(),
        };
        self.enter(&key, address, &report)?;
        let injected = match health.set_drill(address, Some((request.fail, span))).await {
            Ok(injected) => injected,
            Err(error) => {
                self.lock().remove(&key);
                return Err(failed(error));
            }
        };
        report.injected_at = Timestamp::try_from(injected).unwrap_or(report.injected_at);
        let injected_at = report.injected_at;
        self.with(&key, |running| {
            running.report.injected_at = injected_at;
            running.push("injected", injected, &request.fail.to_string());
        });
        let last_flow = self.watch_flows(&key, new_flows);
        info!(backend = %key, by, "drill: {} for {} ms", request.fail, request.for_ms);
        let event = Event::new(Kind::Drill, injected_at).of_backend(&*key.pool, &*key.backend).asked_by(by);
        recorder.record(event.is("injected").because(format!("{} for {} ms", request.fail, request.for_ms)));
        let drills = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(span).await;
            let restored = match health.set_drill(address, None).await {
                // The probe thread keeps the time, too.
                Ok(asked) => asked.min(injected + span),
                Err(error) => {
                    error!(backend = %key, "end the drill: {error}");
                    SystemTime::now()
                }
            };
            drills.restored(&key, restored);
            let event = |to: &str| {
                Event::new(Kind::Drill, Timestamp::now()).of_backend(&*key.pool, &*key.backend).is(to)
            };
            recorder.record(event("restored"));
            drills.note_last_flow(&key, last_flow.await.ok().flatten());
            drills.wait_for_return(&key).await;
            if let Some(report) = drills.finish(&key) {
                let finished = event("finished")
                    .with("new_flows_stopped_after_us", report.new_flows_stopped_after_us)
                    .with("last_new_flow_after_us", report.last_new_flow_after_us)
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
        running.push(event.to.name(), event.time, &event.reason);
        let stored_at = event.time + event.applied_after;
        let stored = match event.to {
            State::Suspect => Some("new flows stay away"),
            State::Down => Some("known flows are selected anew"),
            State::Trial => Some("takes a part of its share"),
            State::Up => Some("takes new flows"),
            State::Unknown => None,
        };
        if let Some(stored) = stored {
            running.push("store", stored_at, stored);
        }
        match event.to {
            State::Suspect | State::Down => {
                running.away = true;
                running.left_at.get_or_insert_with(Instant::now);
                running.stopped_at.get_or_insert(stored_at);
                if running.restored_at.is_none() {
                    running.readmitted_at = None;
                }
                if event.to == State::Down {
                    running.down_at.get_or_insert(stored_at);
                }
            }
            State::Trial | State::Up => {
                running.away = event.to == State::Trial;
                // The probe thread ends the failure by its own clock, maybe before this side hears of it.
                running.readmitted_at.get_or_insert(stored_at);
            }
            State::Unknown => {}
        }
        running.reckon();
    }

    /// Watches a backend's new flows until they have stayed away for a moment, or the failure has ended.
    fn watch_flows(
        self: &Arc<Self>,
        key: &BackendKey,
        new_flows: impl FnMut() -> u64 + Send + 'static,
    ) -> JoinHandle<Option<SystemTime>> {
        let (drills, key) = (self.clone(), key.clone());
        let whether = move || {
            let left = |running: &Running| running.left_at.is_some_and(|at| at.elapsed() > LINGER);
            match drills.lock().get(&key) {
                Some(running) if running.restored_at.is_none() && !left(running) => Watch::On,
                _ => Watch::Over,
            }
        };
        tokio::task::spawn_blocking(move || last_flow::watch(new_flows, whether))
    }

    /// Notes when the last new flow went to the backend that fails.
    fn note_last_flow(&self, key: &BackendKey, at: Option<SystemTime>) {
        let Some(at) = at else { return };
        self.with(key, |running| {
            running.last_flow_at = Some(at);
            running.push("last new flow", at, "sent to it, by the data plane's counter");
        });
    }

    fn restored(&self, key: &BackendKey, at: SystemTime) {
        self.with(key, |running| {
            running.restored_at = Some(at);
            running.push("restored", at, "the failure ends");
        });
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
