//! What a configuration costs and promises: the memory of its maps, and how long a failure can go
//! unnoticed.

use std::time::Duration;

use serde::Serialize;

use super::model::{Check, CheckKind, Config, Limits, Pool};
use crate::maps::schema::{self, Kind, MapSpec};
use crate::maps::sizes::Sizes;

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
    /// A server that hangs while its host answers, its kernel still taking connections: the fastest check that the
    /// server itself must answer. What a program of the operator's finds, nobody knows.
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
pub fn check_report(config: &Config) -> Report {
    let maps = memory(&config.limits);
    let total_bytes = maps.iter().map(|map| map.bytes).sum();
    Report { maps, total_bytes, pools: config.pools.values().map(pool).collect() }
}

/// Every map of the program; per-CPU values count once a CPU.
fn memory(limits: &Limits) -> Vec<MapMemory> {
    let cpus = aya::util::nr_cpus().unwrap_or(1) as u64;
    let bytes = |spec: &MapSpec| {
        let values = u64::from(spec.value_size) * u64::from(spec.entries);
        if spec.kind == Kind::PerCpu { values * cpus } else { values }
    };
    schema::maps(&Sizes::of(limits))
        .iter()
        .map(|spec| MapMemory { map: spec.pin, bytes: bytes(spec) })
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
        silent_server_ms: fastest(&|check| check.kind.asks_server()),
    }
}

/// The longest time from a failure that nothing answers to the verdict *down*; refusals and resets
/// are noticed sooner.
///
/// The failure strikes just after a probe was answered, so the first probe that fails leaves up to one
/// interval later.
/// - `tcp`, `http`: the `fall`-th failing probe leaves `fall - 1` intervals after the first and takes
///   the timeout: `interval + interval × (fall − 1) + timeout`.
/// - `tripwire`: a server that hangs or a host that is silent keeps its connection; the kernel's keepalive, which
///   notices the latter in the end, is no bound to rely on.
/// - `bfd`: `fall` packets are missed, of a neighbour that sends as often as it is asked to: `interval × fall`.
/// - `ping`, `syn`: the oldest unanswered probe must be older than the timeout and `fall` unanswered;
///   both are judged once an interval: `max(timeout, fall × interval) + interval`.
#[must_use]
pub fn detection_bound(check: &Check) -> Option<Duration> {
    let Check { interval, timeout, .. } = *check;
    match check.kind {
        CheckKind::None | CheckKind::Tripwire => None,
        CheckKind::Bfd => Some(interval * check.fall),
        CheckKind::Tcp | CheckKind::Http(_) | CheckKind::Https(..) | CheckKind::Exec(_) => {
            Some(interval * check.fall + timeout)
        }
        CheckKind::Ping | CheckKind::Syn | CheckKind::Udp(_) | CheckKind::Dns(_) => {
            Some(timeout.max(interval * check.fall) + interval)
        }
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
