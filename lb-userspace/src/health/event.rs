//! What detection hands out: slots for the data plane, events for people.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::judge::ProbeRecord;
use super::machine::{FailureKind, Health};
use super::pool_view::{PoolView, Slot};
use super::time::Moment;

/// Names a backend of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BackendKey {
    /// The pool.
    pub pool: Arc<str>,
    /// The backend's name in it.
    pub backend: Arc<str>,
}

impl BackendKey {
    /// From both names.
    pub fn new(pool: impl Into<Arc<str>>, backend: impl Into<Arc<str>>) -> Self {
        Self { pool: pool.into(), backend: backend.into() }
    }
}

impl fmt::Display for BackendKey {
    /// As on the command line: `web/web-1`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.pool, self.backend)
    }
}

/// Writes to the data plane. Called on the probe thread: it must not block.
pub trait Applier: Send {
    /// Stores a backend's slot. Called once per backend that joins, then for each difference.
    fn apply(&mut self, backend: &BackendKey, slot: Slot);

    /// Takes a pool's changed list of usable backends, active tier or last resort; its slots are stored already.
    fn pool_changed(&mut self, pool: &str, view: &PoolView);
}

/// What a decision rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// Sending time of the first probe that failed, or of the last that passed.
    pub signal_at: Moment,
    /// When the decision fell.
    pub decided_at: Moment,
    /// The deciding check's last results, oldest first.
    pub probes: Vec<ProbeRecord>,
}

/// A change of a backend's health that the data plane has been told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthEvent {
    /// When the decision fell.
    pub time: SystemTime,
    /// Whose.
    pub backend: BackendKey,
    /// Before.
    pub from: Health,
    /// After; equal to `from` when a failure only changed its kind.
    pub to: Health,
    /// Kind of the failure, of a down backend.
    pub kind: Option<FailureKind>,
    /// In words.
    pub reason: String,
    /// What the decision rests on.
    pub evidence: Evidence,
    /// From the first signal to the decision.
    pub detected_after: Duration,
    /// From the decision until the slot was stored.
    pub applied_after: Duration,
}
