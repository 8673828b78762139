//! Starts detection and talks to it.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::board::Board;
use super::command::{Command, HealthError, Targets, Waker, Which, Wish};
use super::drill::Fail;
use super::event::{Applier, BackendKey, HealthEvent};
use super::guard_status::GuardStatus;
use super::passive::Handshakes;
use super::probe::prober::Prober;
use super::probe::trust::{self, TlsSettings};
use super::snapshot::{Adopted, BackendHealth};
use super::split::Split;
use super::time::Moment;

/// Talks to the probe thread, which ends with the last handle.
#[derive(Clone, Debug)]
pub struct Health {
    thread: Arc<ProbeThread>,
}

#[derive(Debug)]
struct ProbeThread {
    commands: Sender<Command>,
    waker: Arc<Waker>,
    join: Mutex<Option<JoinHandle<()>>>,
    /// Of the `https` checks in force.
    tls: Mutex<TlsSettings>,
}

/// A set of pools all of whose checks can be run: sockets are open, certificates read.
#[derive(Debug)]
pub struct Prepared {
    targets: Arc<Targets>,
    tls: TlsSettings,
}

/// Detection that is ready to start; nothing is stored and nothing checked yet.
pub struct Opened {
    prober: Prober,
    targets: Targets,
    tls: TlsSettings,
    commands: Sender<Command>,
    waker: Arc<Waker>,
}

impl Opened {
    /// Stores every backend's slot, then starts checking. Backends begin with the health that is adopted, else unknown.
    ///
    /// # Errors
    /// The thread was refused.
    pub fn start(self, adopted: HashMap<BackendKey, Adopted>) -> Result<Health, HealthError> {
        let Self { mut prober, targets, tls, commands, waker } = self;
        let (targets, now) = (Targets { adopted, ..targets }, Moment::now());
        prober.forget_received(now);
        prober.update(&targets, tls.clone(), now);
        let thread = std::thread::Builder::new().name("weir-probe".to_owned());
        let join = thread.spawn(move || prober.run()).map_err(HealthError::Start)?;
        let thread = ProbeThread { commands, waker, join: Mutex::new(Some(join)), tls: Mutex::new(tls) };
        Ok(Health { thread: Arc::new(thread) })
    }
}

impl Health {
    /// Opens what checking needs; sockets and thread belong to the caller's network namespace. `http` checks run on
    /// `runtime`.
    ///
    /// # Errors
    /// Sockets, or a check that cannot be run.
    pub fn open(
        targets: Targets,
        applier: Box<dyn Applier>,
        events: UnboundedSender<HealthEvent>,
        runtime: tokio::runtime::Handle,
    ) -> Result<Opened, HealthError> {
        let (commands, receiver) = channel();
        let waker = Arc::new(Waker::open().map_err(HealthError::Start)?);
        let board = Board::new(applier, events);
        let mut prober = Prober::new(board, receiver, waker.clone(), runtime).map_err(HealthError::Start)?;
        let tls = trust::prepare(targets.trusts(), &TlsSettings::new()).map_err(HealthError::Tls)?;
        prober.prepare(&targets)?;
        Ok(Opened { prober, targets, tls, commands, waker })
    }

    /// Opens what another set of pools needs, while those in force are checked on.
    ///
    /// # Errors
    /// As for [`Health::open`].
    pub async fn prepare(&self, targets: Targets) -> Result<Prepared, HealthError> {
        let (trusts, known) = (targets.trusts(), self.tls().clone());
        let tls = match trusts.is_empty() {
            true => TlsSettings::new(),
            // Certificates are read from files.
            false => {
                let work = tokio::task::spawn_blocking(move || trust::prepare(trusts, &known));
                work.await.map_err(|error| HealthError::Tls(error.to_string()))?.map_err(HealthError::Tls)?
            }
        };
        let targets = Arc::new(targets);
        self.ask(|reply| Command::Prepare(targets.clone(), reply)).await??;
        Ok(Prepared { targets, tls })
    }

    /// Replaces the set of pools. Health and counters stay where backend, address and check stay equal; removed
    /// backends vanish without a store, new ones start from adopted health or unknown. When this returns every slot
    /// that differs has been stored.
    ///
    /// # Errors
    /// The thread has ended.
    pub async fn update(&self, Prepared { targets, tls }: Prepared) -> Result<(), HealthError> {
        self.ask(|reply| Command::Update(targets, tls.clone(), reply)).await?;
        *self.tls() = tls;
        Ok(())
    }

    /// Sets what the operator wants of a backend; it is stored when this returns.
    ///
    /// # Errors
    /// No such backend, or the thread has ended.
    pub async fn set_wish(&self, backend: BackendKey, wish: Wish) -> Result<(), HealthError> {
        self.ask(|reply| Command::SetWish(backend, wish, reply)).await?
    }

    /// Divides a pool's new flows, or no longer; it is stored when this returns.
    ///
    /// # Errors
    /// No such pool, or the thread has ended.
    pub async fn set_split(&self, pool: &str, split: Option<Split>) -> Result<(), HealthError> {
        self.ask(|reply| Command::SetSplit(pool.to_owned(), split, reply)).await?
    }

    /// Lets whoever has this address fail for a time, or no longer; returns when that began. It is kept in memory
    /// alone and ends by itself.
    ///
    /// # Errors
    /// The thread has ended.
    pub async fn set_drill(
        &self,
        address: IpAddr,
        drill: Option<(Fail, Duration)>,
    ) -> Result<SystemTime, HealthError> {
        self.ask(|reply| Command::SetDrill(address, drill, reply)).await
    }

    /// How long the probes of a divided pool's canaries took in the last minute; one that failed counts with its
    /// check's timeout.
    ///
    /// # Errors
    /// The thread has ended.
    pub async fn timings(&self, pool: &str) -> Result<Vec<Duration>, HealthError> {
        self.ask(|reply| Command::Timings(pool.to_owned(), reply)).await
    }

    /// The backends of these pools, by pool and name.
    ///
    /// # Errors
    /// The thread has ended.
    pub async fn snapshot(&self, which: Which) -> Result<Vec<BackendHealth>, HealthError> {
        self.ask(|reply| Command::Snapshot(which, reply)).await
    }

    /// Tells which interfaces towards backends have no carrier.
    pub fn set_lost_carriers(&self, interfaces: Vec<String>) {
        // Nobody listens any more when the thread has ended.
        let _ = self.thread.commands.send(Command::SetLostCarriers(interfaces));
        self.thread.waker.wake();
    }

    /// Tells which backends' neighbours (their routers or they themselves) the kernel has just asked in vain.
    pub fn doubt_neighbours(&self, silent: Vec<(IpAddr, IpAddr)>) {
        // Nobody listens any more when the thread has ended.
        let _ = self.thread.commands.send(Command::SilentNeighbours(silent));
        self.thread.waker.wake();
    }

    /// Hands over the totals of backends' handshakes, to be compared.
    pub fn compare_handshakes(&self, totals: Vec<(BackendKey, Handshakes)>) {
        // Nobody listens any more when the thread has ended.
        let _ = self.thread.commands.send(Command::Handshakes(totals));
        self.thread.waker.wake();
    }

    /// What the guard against weir's own trouble is at.
    ///
    /// # Errors
    /// The thread has ended.
    pub async fn guard(&self) -> Result<GuardStatus, HealthError> {
        self.ask(Command::GuardStatus).await
    }

    fn tls(&self) -> MutexGuard<'_, TlsSettings> {
        self.thread.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, HealthError> {
        let (reply, answer) = oneshot::channel();
        self.thread.commands.send(command(reply)).map_err(|_| HealthError::Ended)?;
        self.thread.waker.wake();
        answer.await.map_err(|_| HealthError::Ended)
    }
}

impl Drop for ProbeThread {
    fn drop(&mut self) {
        // Fails only if the thread has ended by itself.
        let _ = self.commands.send(Command::Stop);
        self.waker.wake();
        let join = self.join.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if join.is_some_and(|join| join.join().is_err()) {
            tracing::error!("the probe thread panicked");
        }
    }
}
