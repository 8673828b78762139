//! What the daemon asks of the probe thread.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustix::event::{EventfdFlags, eventfd};
use tokio::sync::oneshot;

use super::board::Tunnelled;
use super::drill::Fail;
use super::event::BackendKey;
use super::guard_status::GuardStatus;
use super::passive::Handshakes;
use super::pool_view::Admin;
use super::probe::trust::TlsSettings;
use super::snapshot::{Adopted, BackendHealth, kind_name};
use super::split::Split;
use crate::config::model::{self as config, Check, CheckKind, Pool, Trust};

/// Everything that is to be checked.
#[derive(Clone, Debug, Default)]
pub struct Targets {
    /// Pools whose new flows are divided, by name.
    pub splits: BTreeMap<String, Split>,
    /// Pools by name, weights as they apply at run time.
    pub pools: BTreeMap<String, Pool>,
    /// Admin states; a backend that is not named keeps its own, a new one is active.
    pub admin: HashMap<BackendKey, Admin>,
    /// Health kept over a restart; counts only for backends that are new to detection.
    pub adopted: HashMap<BackendKey, Adopted>,
    /// Limits of believing in silence.
    pub guard: config::Guard,
    /// Neighbours that vouch for weir's own link; backends among them do not count.
    pub witnesses: Vec<IpAddr>,
    /// The link that the route to a backend's address names, where it is known: without a carrier there nothing
    /// reaches it.
    pub ways: HashMap<IpAddr, u32>,
    /// What is sent to a backend's address inside tunnels.
    pub tunnels: HashMap<IpAddr, Tunnelled>,
    /// Pools whose backends' answers pass weir.
    pub answering: BTreeSet<String>,
}

/// What the operator wants of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    /// Admin state.
    pub admin: Admin,
    /// Weight in force, 0 being the only one that the slot shows.
    pub weight: u16,
}

/// Which pools are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    /// Every one.
    All,
    /// Those of these names; names of no pool mean nothing.
    Pools(BTreeSet<String>),
}

/// Why detection cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// A socket was refused.
    #[error("open raw socket for {kind} checks: {source}; run as root or grant CAP_NET_RAW")]
    RawSocket {
        /// The check's type.
        kind: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
    /// The port for control packets was refused.
    #[error(
        "open UDP port 3784 for bfd checks: {0}; only one BFD daemon of a host can have it: stop the other"
    )]
    BfdPort(#[source] io::Error),
    /// The thread or its event loop could not be made.
    #[error("start the probe thread: {0}")]
    Start(#[source] io::Error),
    /// A check needs a port.
    #[error("check {kind} of pool {pool}: no port; give the check a port")]
    NoPort {
        /// The pool.
        pool: String,
        /// The check's type.
        kind: &'static str,
    },
    /// Certificates that cannot be used.
    #[error("tls of https checks: {0}")]
    Tls(String),
    /// Nobody has that name.
    #[error("no backend {0}")]
    NoSuchBackend(BackendKey),
    /// No pool has that name.
    #[error("no pool {0}")]
    NoSuchPool(String),
    /// The probe thread has ended.
    #[error("the probe thread has ended; restart weir")]
    Ended,
}

impl HealthError {
    /// A raw socket for `kind` was refused.
    pub(super) fn open(kind: &CheckKind, source: io::Error) -> Self {
        Self::RawSocket { kind: kind_name(kind), source }
    }
}

impl Targets {
    /// Whose certificates the `https` checks believe.
    pub(super) fn trusts(&self) -> HashSet<Trust> {
        let checks = self.pools.values().flat_map(|pool| pool.checks.iter());
        let trust = |check: &Check| match &check.kind {
            CheckKind::Https(_, tls) => Some(tls.trust.clone()),
            _ => None,
        };
        checks.filter_map(trust).collect()
    }

    /// Refuses checks that cannot be run.
    pub(super) fn validate(&self) -> Result<(), HealthError> {
        for pool in self.pools.values() {
            for check in &pool.checks {
                let (name, kind) = (pool.name.clone(), kind_name(&check.kind));
                let does_without = matches!(check.kind, CheckKind::Exec(_)) || !check.kind.has_port();
                if check.port.is_none() && !does_without {
                    return Err(HealthError::NoPort { pool: name, kind });
                }
            }
        }
        Ok(())
    }
}

/// One request to the probe thread, with the way back.
#[derive(Debug)]
pub(super) enum Command {
    Prepare(Arc<Targets>, oneshot::Sender<Result<(), HealthError>>),
    Update(Arc<Targets>, TlsSettings, oneshot::Sender<()>),
    SetWish(BackendKey, Wish, oneshot::Sender<Result<(), HealthError>>),
    Handshakes(Vec<(BackendKey, Handshakes)>),
    SetLostCarriers(Vec<String>),
    SilentNeighbours(Vec<(IpAddr, IpAddr)>),
    GuardStatus(oneshot::Sender<GuardStatus>),
    SetSplit(String, Option<Split>, oneshot::Sender<Result<(), HealthError>>),
    SetDrill(IpAddr, Option<(Fail, Duration)>, oneshot::Sender<SystemTime>),
    Timings(String, oneshot::Sender<Vec<Duration>>),
    Snapshot(Which, oneshot::Sender<Vec<BackendHealth>>),
    Stop,
}

/// Wakes the probe thread.
#[derive(Debug)]
pub(super) struct Waker(OwnedFd);

impl Waker {
    /// Opens the event counter.
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?))
    }

    /// Wakes; a counter that is full wakes already.
    pub(super) fn wake(&self) {
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }

    /// Takes the wake-ups so far; none is fine.
    pub(super) fn clear(&self) {
        let _ = rustix::io::read(&self.0, &mut [0; 8]);
    }

    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
