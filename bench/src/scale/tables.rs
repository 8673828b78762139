//! Services and backends: from text to maps, and what a packet costs then.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use lb_common::layout::{BackendState, NextHopCopy};
use lb_userspace::apply::{Applier, Summary};
use lb_userspace::config::model::{Backend, Config, Pool};
use lb_userspace::config::{self, check_report};
use lb_userspace::desired::{BackendView, Desired, Egress, HopKey, HopRecord, Inputs};
use lb_userspace::filter::Lists;
use lb_userspace::flows::now_ns;

use super::config::{Checks, Size, text};
use super::packets::Packets;
use crate::instance::Instance;
use crate::sheet::{Goal, Sheet};

/// Interface that test runs arrive by: the loopback device.
const INGRESS: u32 = 1;
const FLOWS: u32 = 1 << 20;
const SIZES: [(u32, u32); 5] = [(10, 10), (10, 1_000), (10, 20_000), (1_000, 10_000), (4_096, 20_000)];
/// The size that goals are set for.
const GOAL: Size = Size { services: 1_000, backends: 10_000, flows_v4: FLOWS };

/// A directory that goes with the value.
pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("weir-bench-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.0.join(name);
        fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // A directory in /tmp that stays does no harm.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Reads a config file as the daemon does.
pub(super) fn load(file: &Path) -> Result<Config> {
    config::load(file).map(|loaded| loaded.config).map_err(|problems| anyhow!("{problems}"))
}

/// Runs `work` on the inputs that the daemon would have if every backend were up, behind one router.
fn with_inputs<T>(
    (config, lists): (&Config, &Lists),
    weight: &dyn Fn(&Pool, &Backend) -> u16,
    work: impl Fn(&Inputs<'_>) -> T,
) -> T {
    let hop = HopKey { ifindex: INGRESS, ip: IpAddr::from(Ipv4Addr::new(10, 0, 0, 1)), mac: None, mtu: 1500 };
    let source = IpAddr::from(Ipv4Addr::new(10, 0, 0, 2));
    let copy = NextHopCopy {
        port: INGRESS,
        mtu: 1500,
        macs: [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2],
        ..NextHopCopy::default()
    };
    work(&Inputs {
        config,
        lists,
        weight,
        limit: &|service| service.new_flow_limit,
        views: &BTreeMap::new(),
        client_mtu: 1500,
        egress: &|_, _| Some(Egress { next_hop: hop, source, entropy_bits: 0 }),
        next_hop: &|_| HopRecord { copy, resolved: true },
    })
}

/// The lists of prefixes, which the daemon makes when it takes a config.
fn lists(config: &Config) -> Lists {
    Lists::new(config, std::iter::empty(), &Lists::default())
}

fn everything(config: &Config) -> Arc<Desired> {
    let weight = |_: &Pool, backend: &Backend| backend.weight;
    Arc::new(with_inputs((config, &lists(config)), &weight, |inputs| Desired::new(inputs, &BTreeSet::new())))
}

/// Milliseconds that `work` takes, and what it gives.
pub(super) fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed().as_secs_f64() * 1e3, result)
}

/// An instance with a config applied.
pub(super) fn applied(name: &str, config: &Config) -> Result<(Instance, Applier, Summary)> {
    let instance = Instance::load(name, &config.limits)?;
    let mut applier = Applier::adopt(instance.set.clone(), now_ns());
    let summary = applier.apply(&everything(config), now_ns())?;
    Ok((instance, applier, summary))
}

/// All sizes.
pub(super) fn measure(sheet: &mut Sheet, rounds: u32) -> Result<()> {
    let mut packets = Packets::load()?;
    for (services, backends) in SIZES {
        size(sheet, rounds, Size { services, backends, flows_v4: FLOWS }, &mut packets)?;
    }
    Ok(())
}

fn size(sheet: &mut Sheet, rounds: u32, size: Size, packets: &mut Packets) -> Result<()> {
    let scratch = Scratch::new("tables")?;
    let file = scratch.write("weir.toml", &text(size, Checks::None, 100))?;
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for _ in 0..rounds.min(3) {
        full(&file, &mut times)?;
    }
    let config = load(&file)?;
    let (mut instance, mut applier, _) = applied("tables", &config)?;
    change_one(&mut applier, &config, &file, rounds, &mut times)?;
    for _ in 0..rounds {
        let cost = packets.cost(&instance.fd()?, size.services, 16)?;
        times.entry("packet").or_default().push(cost);
    }
    let id = format!("{}_{}", size.services, size.backends);
    let goal = |goal| (size == GOAL).then_some(Goal::AtMost(goal));
    for (key, what, unit, goal) in [
        ("parse", "read and validate", "ms", None),
        ("build", "build desired state", "ms", None),
        ("apply", "apply to empty maps", "ms", None),
        ("full", "config to maps, all together", "ms", goal(2000.0)),
        ("unchanged", "the same config again", "ms", goal(2000.0)),
        ("one", "one backend's weight", "ms", goal(5.0)),
        ("drain", "one backend's state", "ms", goal(5.0)),
        ("packet", "packet of 64K known flows over all services, over empty", "ns", None),
    ] {
        let values = times.get(key).map(Vec::as_slice).unwrap_or_default();
        sheet.row(&format!("{key}_{id}"), &format!("{}: {what}", size.title()), unit, values, goal);
    }
    let bytes = check_report(&config).total_bytes as f64;
    let title = format!("{}: memory of the maps, {FLOWS} flows", size.title());
    sheet.row(&format!("memory_{id}"), &title, "MiB", &[bytes / 1048576.0], None);
    Ok(())
}

/// A config into empty maps.
fn full(file: &Path, times: &mut BTreeMap<&str, Vec<f64>>) -> Result<()> {
    let (parse, config) = timed(|| load(file));
    let config = config?;
    let instance = Instance::load("tables", &config.limits)?;
    let mut applier = Applier::adopt(instance.set.clone(), now_ns());
    let (build, wanted) = timed(|| everything(&config));
    let (apply, summary) = timed(|| applier.apply(&wanted, now_ns()));
    let summary = summary?;
    ensure!(summary.backends_added > 0 && summary.tables_published > 0, "nothing was applied: {summary:?}");
    for (key, time) in [("parse", parse), ("build", build), ("apply", apply), ("full", parse + build + apply)]
    {
        times.entry(key).or_default().push(time);
    }
    Ok(())
}

/// Changes of one backend, and the config again as it was.
fn change_one(
    applier: &mut Applier,
    config: &Config,
    file: &Path,
    rounds: u32,
    times: &mut BTreeMap<&str, Vec<f64>>,
) -> Result<()> {
    for round in 0..rounds {
        let (time, again) =
            timed(|| Ok::<_, anyhow::Error>(applier.apply(&everything(&load(file)?), now_ns())?));
        match again? {
            Summary { writes: 0, .. } => times.entry("unchanged").or_default().push(time),
            summary if round == 0 => bail!("an unchanged config was written: {summary:?}"),
            // The runtime weight of the round before, taken back.
            _ => {}
        }
        let pool = format!("pool-{}", round % config.pools.len() as u32);
        let name = config.pools[&pool].backends.keys().next().context("the pool is empty")?.clone();
        let now = applier.applied().context("nothing is applied")?.clone();
        let weight = |of: &Pool, backend: &Backend| match of.name == pool && backend.name == name {
            true => 50,
            false => backend.weight,
        };
        let lists = lists(config);
        let (time, summary) = timed(|| {
            let next =
                with_inputs((config, &lists), &weight, |inputs| now.with_pools(inputs, [pool.as_str()]));
            applier.apply(&Arc::new(next), now_ns())
        });
        ensure!(summary?.tables_published == 1, "the pool was not published");
        times.entry("one").or_default().push(time);
        let slots = applier.slots();
        let view = BackendView { state: BackendState::Draining, ..BackendView::up() };
        let (time, _) = timed(|| slots.set_state(&pool, &name, &view));
        times.entry("drain").or_default().push(time);
        slots.set_state(&pool, &name, &BackendView::up());
        applier.apply(&everything(config), now_ns())?;
    }
    Ok(())
}
