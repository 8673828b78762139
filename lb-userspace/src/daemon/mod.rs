//! The daemon: brings maps, routes, detection and the admin API together, and keeps them together.
//!
//! ```text
//! config + runtime changes + health + routes → desired → apply → maps
//! ```
//! Everything that changes what is desired goes through [`engine::Engine`], one change at a time. Lists read the maps
//! and wait for nobody. When the daemon ends, maps, program and links stay.

mod attachments;
mod changes;
mod drills;
mod engine;
mod filters;
mod handshakes;
mod host;
mod in_force;
mod instance;
mod journal;
mod last_flow;
mod limits;
mod loads;
mod network;
mod operations;
mod overlay;
#[cfg(feature = "packet-log")]
mod packet_log;
mod place;
mod privileges;
pub mod process;
mod report;
mod rollouts;
mod slots;
mod stored;
mod views;
mod wanted;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use crate::admin::{self, server::Server};
use crate::cli::args::Global;
use crate::events::Event;
use crate::failure::{Code, Failure};
use crate::net::{NetEvent, Observed};
use engine::Engine;
use operations::Daemon;

/// How often ids and regions are taken back, and timed runtime changes end.
const TICK: Duration = Duration::from_secs(1);
/// How long routes may keep changing before backends are resolved again.
const SETTLE: Duration = Duration::from_millis(20);

/// Files that may be open at a time.
const OPEN_FILES: u64 = 65_536;
/// How long work that nobody waits for may hold up the end.
const ENDING: Duration = Duration::from_secs(2);

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// Why it could not start; then nothing that was there before has changed.
pub fn run(paths: &Global) -> Result<(), Failure> {
    end_on_panic();
    raise_file_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Failed, format!("start the runtime: {error}")))?;
    let ended = runtime.block_on(serve(paths));
    // What the end cuts off may panic, and is over anyway.
    drop(std::panic::take_hook());
    runtime.shutdown_timeout(ENDING);
    ended
}

/// Lets a panic end the process wherever nobody is told of it: a daemon without one of its threads looks alive and checks
/// nobody, while packets do without it until it is started again. A request's caller is told.
fn end_on_panic() {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        told(panic);
        if !admin::answering() {
            std::process::abort();
        }
    }));
}

/// Takes the file descriptors that thousands of checks need: each probe that waits has a socket. No more, since programs that
/// checks run inherit the limit.
fn raise_file_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.unwrap_or(OPEN_FILES).min(OPEN_FILES);
    if current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum })
    {
        warn!("raise the limit of open files from {current:?} to {wanted}: {error}");
    }
}

async fn serve(paths: &Global) -> Result<(), Failure> {
    privileges::check()?;
    // Before the engine, as it changes nothing; requests wait until the engine runs.
    let server = Server::bind(&paths.socket)?;
    let (engine, mut feeds) = Engine::start(paths).await?;
    let recorder = engine.journal().recorder.clone();
    loads::start(engine.maps())
        .map_err(|error| Failure::new(Code::Failed, format!("start counting flows: {error}")))?;
    let daemon = Arc::new(Daemon::new(engine, paths));
    let api = tokio::spawn(server.serve(daemon.clone()));
    tokio::spawn(handshakes::compare(daemon.clone()));
    let stop =
        |kind| signal(kind).map_err(|error| Failure::new(Code::Failed, format!("watch signals: {error}")));
    let (mut term, mut interrupt) = (stop(SignalKind::terminate())?, stop(SignalKind::interrupt())?);
    let mut hangup = stop(SignalKind::hangup())?;
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    tell_manager(&sd_notify::NotifyState::Ready);
    info!("ready");
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = interrupt.recv() => break,
            _ = hangup.recv() => match daemon.reload_config("SIGHUP").await {
                Ok(reloaded) => report::reloaded(&reloaded),
                Err(failure) => error!("reload: {}", failure.message),
            },
            Some(observed) = feeds.net.recv() => network_changed(&daemon, observed, &mut feeds.net).await,
            Some(said) = feeds.paths.recv() => {
                tokio::time::sleep(SETTLE).await;
                let more = std::iter::from_fn(|| feeds.paths.try_recv().ok());
                let said: Vec<_> = std::iter::once(said).chain(more).collect();
                daemon.engine().await.paths_told(said).await;
            }
            Some(event) = feeds.health.recv() => {
                report::transition(&event);
                daemon.drills().note(&event);
                recorder.record(Event::from(&event));
            }
            Some(event) = feeds.guard.recv() => {
                report::guard(&event);
                recorder.record(Event::from(&event));
            }
            Some(pool) = feeds.tiers.recv() => {
                let mut pools = BTreeSet::from([pool]);
                while let Ok(pool) = feeds.tiers.try_recv() {
                    pools.insert(pool);
                }
                daemon.engine().await.tiers_changed(pools).await;
            }
            _ = tick.tick() => {
                let mut engine = daemon.engine().await;
                engine.tick().await;
                engine.tick_rollouts().await;
            }
        }
    }
    tell_manager(&sd_notify::NotifyState::Stopping);
    daemon.engine().await.journal().finish();
    info!("stopping; the program stays attached, `weir detach` takes it off");
    api.abort();
    Ok(())
}

/// Takes one network event and those that follow closely, then acts once.
async fn network_changed(daemon: &Daemon, first: Observed, more: &mut mpsc::Receiver<Observed>) {
    let mut routes = changes_routes(&first);
    daemon.engine().await.neighbours_changed();
    if routes {
        tokio::time::sleep(SETTLE).await;
    }
    while let Ok(next) = more.try_recv() {
        routes |= changes_routes(&next);
    }
    let mut engine = daemon.engine().await;
    match routes {
        true => engine.routes_changed().await,
        false => engine.neighbours_changed(),
    }
}

/// Whether attachments or ways out may differ after the event; else only neighbours and links do.
fn changes_routes(observed: &Observed) -> bool {
    !matches!(observed.event, NetEvent::NeighbourChanged { .. })
}

fn tell_manager(state: &sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        warn!("tell the service manager: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_files_may_be_open_as_thousands_of_checks_need_and_no_more() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        for current in [1024, 4096] {
            setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum }).expect("lower the limit");
            raise_file_limit();
            let expected = maximum.unwrap_or(OPEN_FILES).min(OPEN_FILES);
            assert_eq!(getrlimit(Resource::Nofile), Rlimit { current: Some(expected), maximum });
        }
    }
}
