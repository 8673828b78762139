//! What a configuration costs and promises: the memory of its maps, and how long a failure can go
//! unnoticed.

use std::time::Duration;

use serde::Serialize;

use super::model::{Check, CheckKind, Config, Limits, Pool};

/// Bytes that map entries take. The defaults are estimates to the cache line; whoever knows the real
/// layout gives its sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSizes {
    /// One way of the IPv4 flow table.
    pub flow_v4: u64,
    /// One way of the IPv6 flow table.
    pub flow_v6: u64,
    /// One Maglev slot.
    pub slot: u64,
    /// What one service takes in the service tables, ports included.
    pub service: u64,
    /// A backend's record: slot word, outer header.
    pub backend: u64,
    /// A next hop's two copies; one next hop per backend is assumed.
    pub next_hop: u64,
    /// Counters of one service or backend on one CPU.
    pub counters: u64,
    /// CPUs that per-CPU maps have a copy for.
    pub cpus: u64,
}

impl Default for MapSizes {
    fn default() -> Self {
        Self {
            flow_v4: 16,
            flow_v6: 32,
            slot: 2,
            service: 4 * 64,
            backend: 128,
            next_hop: 128,
            counters: 16,
            cpus: std::thread::available_parallelism().map_or(1, |n| u64::try_from(n.get()).unwrap_or(1)),
        }
    }
}

/// What `weir check` prints about a valid configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Memory by map, from the limits alone.
    pub maps: Vec<MapMemory>,
    /// Their sum.
    pub total_bytes: u64,
    /// Detection times, by pool name.
    pub pools: Vec<PoolDetection>,
}

/// The memory of one map.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MapMemory {
    /// The map.
    pub map: &'static str,
    /// Bytes, fixed when the program is loaded.
    pub bytes: u64,
}

/// How long a pool's checks can miss a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PoolDetection {
    /// The pool.
    pub pool: String,
    /// Each check.
    pub checks: Vec<CheckDetection>,
    /// A host that answers nothing: the fastest check; `None` where nothing is checked.
    pub silent_host_ms: Option<u64>,
    /// A server that hangs while its host answers pings: the fastest check of a port.
    pub silent_server_ms: Option<u64>,
}

/// How long one check can miss a failure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct CheckDetection {
    /// `tcp`, `ping`, ….
    pub check: &'static str,
    /// Its port.
    pub port: Option<u16>,
    /// The bound; `None` for `none`.
    pub worst_ms: Option<u64>,
}

/// Computes the report.
#[must_use]
pub fn check_report(config: &Config, sizes: &MapSizes) -> Report {
    let maps = memory(&config.limits, sizes);
    let total_bytes = maps.iter().map(|map| map.bytes).sum();
    Report { maps, total_bytes, pools: config.pools.values().map(pool).collect() }
}

/// Every map whose size follows from `[limits]`. A flow table has at least two ways per flow, in a
/// power of two.
fn memory(limits: &Limits, sizes: &MapSizes) -> Vec<MapMemory> {
    let ways = |flows: u32| (2 * u64::from(flows)).next_power_of_two();
    let [services, backends] = [limits.services, limits.backends].map(u64::from);
    [
        ("flows_v4", ways(limits.flows_v4) * sizes.flow_v4),
        ("flows_v6", ways(limits.flows_v6) * sizes.flow_v6),
        ("maglev", u64::from(limits.maglev_slots) * sizes.slot),
        ("services", services * sizes.service),
        ("backends", backends * sizes.backend),
        ("next_hops", backends * sizes.next_hop),
        ("counters", (services + backends) * sizes.counters * sizes.cpus),
    ]
    .into_iter()
    .map(|(map, bytes)| MapMemory { map, bytes })
    .collect()
}

fn pool(pool: &Pool) -> PoolDetection {
    let fastest = |wanted: &dyn Fn(&Check) -> bool| {
        pool.checks.iter().filter(|check| wanted(check)).filter_map(detection_bound).map(ms).min()
    };
    let check = |check: &Check| CheckDetection {
        check: check.kind.name(),
        port: check.port,
        worst_ms: detection_bound(check).map(ms),
    };
    PoolDetection {
        pool: pool.name.clone(),
        checks: pool.checks.iter().map(check).collect(),
        silent_host_ms: fastest(&|_| true),
        silent_server_ms: fastest(&|check| check.kind.has_port()),
    }
}

/// The longest time from a failure that nothing answers to the verdict *down*; refusals and resets
/// are noticed sooner.
///
/// The failure strikes just after a probe was answered, so the first probe that fails leaves up to one
/// interval later.
/// - `tcp`, `http`: the `fall`-th failing probe leaves `fall - 1` intervals after the first and takes
///   the timeout: `interval + interval × (fall − 1) + timeout`.
/// - `ping`, `syn`: the oldest unanswered probe must be older than the timeout and `fall` unanswered;
///   both are judged once an interval: `max(timeout, fall × interval) + interval`.
#[must_use]
pub fn detection_bound(check: &Check) -> Option<Duration> {
    let Check { interval, timeout, .. } = *check;
    match check.kind {
        CheckKind::None => None,
        CheckKind::Tcp | CheckKind::Http(_) => Some(interval * check.fall + timeout),
        CheckKind::Ping | CheckKind::Syn => Some(timeout.max(interval * check.fall) + interval),
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
