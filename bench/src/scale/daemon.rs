//! A real daemon with 1,000 services and 10,000 backends: start, reload, runtime changes, lists.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use lb_common::layout::{BackendState, HotWord};
use lb_userspace::admin::client::Client;
use lb_userspace::failure::Failure;
use lb_userspace::maps::load;
use lb_userspace::maps::mapping::Access;
use lb_userspace::maps::pins::Pins;
use lb_userspace::maps::set::MapSet;
use lb_userspace::state::request::{Action, BackendRequest, Force, Targets};
use lb_userspace::view::backends::Health;
use lb_userspace::view::filter::{BackendFilter, FlowFilter, ServiceFilter};
use tokio::runtime::Runtime;

use super::config::{Checks, Size, text};
use super::tables::Scratch;
use crate::sheet::{Goal, Sheet};
use crate::veth::Veth;

const SIZE: Size = Size { services: 1_000, backends: 10_000, flows_v4: 1 << 20 };
/// Pools that are pinged: 100 backends.
const CHECKS: Checks = Checks::Ping { pools: 10 };
const LIMIT: Duration = Duration::from_secs(30);

/// Measures; leaves the calling thread in a namespace.
pub(super) fn measure(sheet: &mut Sheet, rounds: u32, binary: &Path) -> Result<()> {
    let _veth = Veth::enter()?.with_router()?;
    let scratch = Scratch::new("daemon")?;
    scratch.write("weir.toml", &text(SIZE, CHECKS, 100))?;
    let (start, daemon) = Daemon::start(binary, scratch)?;
    let title = |what: &str| format!("daemon, {}: {what}", SIZE.title());
    sheet.row("daemon_start", &title("start until every check has a verdict"), "ms", &[start], None);
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    let mut add = |key, time| times.entry(key).or_default().push(time);
    let before = daemon.checked()?;
    ensure!(
        before.values().filter(|(health, _)| *health == Health::Up).count() == 100,
        "not all are up: {before:?}"
    );
    for round in 0..rounds {
        let applies = daemon.applies()?;
        add("reload_unchanged", daemon.timed(|client| async move { client.reload().await })?);
        ensure!(daemon.applies()? == applies, "an unchanged reload wrote:\n{}", daemon.log()?);
        daemon.scratch.write("weir.toml", &text(SIZE, CHECKS, 101 + round))?;
        add("reload_changed", daemon.timed(|client| async move { client.reload().await })?);
        ensure!(daemon.applies()? == applies + 1, "a changed reload did not write:\n{}", daemon.log()?);
        let (in_force, answered) = daemon.change(round, Action::Weight { weight: Some(50) })?;
        add("weight_in_force", in_force);
        add("weight_answered", answered);
        let (in_force, answered) = daemon.change(round, Action::Drain)?;
        add("drain_in_force", in_force);
        add("drain_answered", answered);
        add(
            "backends",
            daemon.timed(|client| async move { client.backends(&BackendFilter::default()).await })?,
        );
        add(
            "services",
            daemon.timed(|client| async move { client.services(&ServiceFilter::default()).await })?,
        );
        add("status", daemon.timed(|client| async move { client.status().await })?);
        let filter = FlowFilter { count: true, ..FlowFilter::default() };
        add("flows", daemon.timed(|client| async move { client.flows(&filter).await })?);
    }
    let after = daemon.checked()?;
    let lost = before.iter().filter(|(name, state)| after.get(*name) != Some(state)).count();
    for (key, what, goal) in [
        ("reload_unchanged", "reload, nothing changed, nothing written", Some(2000.0)),
        ("reload_changed", "reload, every weight changed", Some(2000.0)),
        ("weight_in_force", "one backend's weight, request to table in force", Some(5.0)),
        ("weight_answered", "one backend's weight, answered", None),
        ("drain_in_force", "one backend's drain, request to slot", Some(5.0)),
        ("drain_answered", "one backend's drain, answered", None),
        ("backends", "list of all backends", None),
        ("services", "list of all services", None),
        ("status", "status", None),
        ("flows", "count of flows, empty table", None),
    ] {
        let values = times.get(key).map(Vec::as_slice).unwrap_or_default();
        sheet.row(key, &title(what), "ms", values, goal.map(Goal::AtMost));
    }
    let what = title("pinged backends of 100 that lost their state in the reloads");
    sheet.row("state_lost", &what, "backends", &[lost as f64], Some(Goal::AtMost(0.0)));
    sheet.row(
        "daemon_memory",
        &title("memory of the process, maps not counted"),
        "MiB",
        &[daemon.memory()?],
        None,
    );
    Ok(())
}

/// A running daemon; ends, and takes its pins along, when it goes.
pub(super) struct Daemon {
    child: Child,
    scratch: Scratch,
    pins: Pins,
    client: Client,
    runtime: Runtime,
}

impl Daemon {
    /// Starts it in this thread's namespace; gives the milliseconds until it is ready.
    pub(super) fn start(binary: &Path, scratch: Scratch) -> Result<(f64, Self)> {
        let bpffs = PathBuf::from(format!("/sys/fs/bpf/weir-bench-{}-daemon", std::process::id()));
        let socket = scratch.0.join("weir.sock");
        let log = fs::File::create(scratch.0.join("weir.log"))?;
        let mut command = Command::new(binary);
        command.arg("--config").arg(scratch.0.join("weir.toml")).arg("--socket").arg(&socket);
        command.arg("--state-dir").arg(scratch.0.join("state")).arg("--bpffs").arg(&bpffs).arg("run");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let begin = Instant::now();
        let child = command.spawn().with_context(|| {
            format!("run {}; `cargo build --release -p lb-userspace` builds it", binary.display())
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut daemon =
            Self { child, scratch, pins: Pins::new(&bpffs), client: Client::new(&socket), runtime };
        loop {
            if let Ok(answer) = daemon.runtime.block_on(daemon.client.ready())
                && answer.ready
            {
                return Ok((begin.elapsed().as_secs_f64() * 1e3, daemon));
            }
            if daemon.child.try_wait()?.is_some() || begin.elapsed() > LIMIT {
                bail!("the daemon is not ready after {:?}:\n{}", begin.elapsed(), daemon.log()?);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Its process.
    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The number of backends that are up.
    pub(super) fn up(&self) -> Result<usize> {
        let all = self.runtime.block_on(self.client.backends(&BackendFilter::default()));
        let all = all.map_err(|failure| anyhow!("{}", failure.message))?.backends;
        Ok(all.iter().filter(|backend| backend.health == Health::Up).count())
    }

    /// What it printed.
    pub(super) fn log(&self) -> Result<String> {
        Ok(fs::read_to_string(self.scratch.0.join("weir.log"))?)
    }

    /// How often it wrote maps, by its log.
    fn applies(&self) -> Result<usize> {
        Ok(self.log()?.matches("applied: ").count())
    }

    /// Milliseconds of a request.
    fn timed<T, F>(&self, ask: impl FnOnce(Client) -> F) -> Result<f64>
    where
        F: Future<Output = Result<T, Failure>>,
    {
        let begin = Instant::now();
        self.runtime.block_on(ask(self.client.clone())).map_err(|failure| anyhow!("{}", failure.message))?;
        Ok(begin.elapsed().as_secs_f64() * 1e3)
    }

    /// Health of the pinged backends, and since when.
    fn checked(&self) -> Result<BTreeMap<String, (Health, String)>> {
        let all = self.runtime.block_on(self.client.backends(&BackendFilter::default()));
        let all = all.map_err(|failure| anyhow!("{}", failure.message))?.backends;
        let Checks::Ping { pools } = CHECKS else { bail!("nothing is pinged") };
        let pinged = |pool: &str| {
            pool.strip_prefix("pool-").and_then(|n| n.parse().ok()).is_some_and(|n: u32| n < pools)
        };
        let checked = all.into_iter().filter(|backend| pinged(&backend.pool));
        Ok(checked.map(|backend| (backend.name, (backend.health, format!("{:?}", backend.since)))).collect())
    }

    /// Changes a backend of the round's own pool; milliseconds until the maps say so, and until the answer.
    fn change(&self, round: u32, action: Action) -> Result<(f64, f64)> {
        let (_, maps) = load::open(&self.pins, Access::ReadOnly).map_err(|error| anyhow!("{error}"))?;
        // Pools that are not pinged, a backend of the round's own.
        let (pool, name) = (format!("pool-{}", 500 + round), format!("backend-{}", 500 + round));
        let watch = Watched::of(Arc::new(maps), &pool, &name, action)?;
        let request = BackendRequest {
            action,
            targets: Targets { names: vec![format!("{pool}/{name}")], ..Targets::default() },
            reason: "bench".to_owned(),
            for_s: None,
            force: Force::Unforced,
            on_behalf_of: None,
        };
        let begin = Instant::now();
        let in_force = thread::spawn(move || {
            while !watch.changed() && begin.elapsed() < LIMIT {
                thread::sleep(Duration::from_micros(50));
            }
            begin.elapsed().as_secs_f64() * 1e3
        });
        let answered = self.timed(|client| async move { client.change(&request).await })?;
        let in_force = in_force.join().map_err(|_| anyhow!("the watching thread panicked"))?;
        Ok((in_force, answered))
    }

    /// MiB of anonymous memory.
    fn memory(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).context("find RssAnon")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended by itself, and its pins with a failed start.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = self.pins.remove_all();
    }
}

/// What a change shows in.
struct Watched {
    maps: Arc<MapSet>,
    backend: usize,
    pool: usize,
    before: u64,
    action: Action,
}

impl Watched {
    fn of(maps: Arc<MapSet>, pool: &str, backend: &str, action: Action) -> Result<Self> {
        let pool =
            maps.pool_info.iter().position(|info| info.name.as_str() == pool).context("find the pool")?;
        let of_pool = |info: &lb_common::layout::BackendInfo| {
            usize::from(info.pool) == pool && info.name.as_str() == backend
        };
        let backend = maps.backend_info.iter().position(of_pool).context("find the backend")?;
        let before = maps.pools[pool].current.get();
        Ok(Self { maps, backend, pool, before, action })
    }

    fn changed(&self) -> bool {
        match self.action {
            Action::Weight { .. } => self.maps.pools[self.pool].current.get() != self.before,
            _ => HotWord(self.maps.backends[self.backend].hot.get()).state() == BackendState::Draining,
        }
    }
}
