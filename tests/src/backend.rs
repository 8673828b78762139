//! A backend: a host with VIPs on `lo`, a web server, `weir decap`, and a switch port that can
//! cut it off.
#![forbid(unsafe_code)]

use std::{
    fs,
    ops::Deref,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use lb_userspace::{config::model::XdpMode, decap};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    gate::{Gate, Passage, Witness, monotonic},
    host::Host,
    plan::{Addresses, Family},
    process::Process,
    web::{Access, WebServer},
    weir::WeirProc,
};

/// How a backend is reached from weir.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// On the segment of weir's `eth1`: fit for `dsr-l2` and for `ipip`.
    Direct,
    /// Behind the router, through `eth0` and the edge: fit for `ipip`.
    Routed,
}

/// A backend of the lab; also a [`Host`].
pub struct Backend {
    host: Host,
    attachment: Attachment,
    web: WebServer,
    process: Mutex<Option<Process>>,
    gate: Gate,
    decap: Decap,
}

impl Deref for Backend {
    type Target = Host;

    fn deref(&self) -> &Host {
        &self.host
    }
}

impl Backend {
    pub(crate) fn new(
        host: Host,
        attachment: Attachment,
        web: WebServer,
        gate: Gate,
        bpffs: PathBuf,
        vips: &[Addresses],
    ) -> Result<Self> {
        let decap = Decap::new(&host, bpffs, vips)?;
        Ok(Self { host, attachment, web, process: Mutex::new(None), gate, decap })
    }

    /// How weir reaches it.
    pub fn attachment(&self) -> Attachment {
        self.attachment
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts the web server and waits until it answers; one that runs already is left alone.
    pub fn start(&self) -> Result<()> {
        self.launch()?;
        self.wait_ready()
    }

    /// Starts the web server without waiting for it.
    pub(crate) fn launch(&self) -> Result<()> {
        let mut process = self.process();
        if process.is_none() {
            *process = Some(self.web.start(&self.host)?);
        }
        Ok(())
    }

    pub(crate) fn wait_ready(&self) -> Result<()> {
        let mut process = self.process();
        let process = process.as_mut().with_context(|| format!("{} was not started", self.name()))?;
        self.web.wait_ready(&self.host, process)
    }

    /// Kills the web server's processes at once (SIGKILL): the host lives on and refuses connections.
    /// Returns the moment just before, by [`monotonic`].
    pub fn kill(&self) -> Duration {
        let process = self.process().take();
        let now = monotonic();
        drop(process);
        now
    }

    /// Has the web server read its configuration again: new workers take over from the old ones.
    pub fn reload(&self) -> Result<()> {
        self.process().as_ref().context("the web server does not run")?.signal(Signal::HUP)
    }

    /// Kills the oldest worker of the web server (SIGKILL), which starts another in its place.
    pub fn kill_oldest_worker(&self) -> Result<()> {
        let workers = self.workers()?;
        kill_process(*workers.first().context("find a worker")?, Signal::KILL).context("kill a worker")
    }

    /// The web server's worker processes, in the order of their start.
    pub fn workers(&self) -> Result<Vec<Pid>> {
        let master = self.process().as_ref().context("the web server does not run")?.pid().as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
        Ok(children.split_whitespace().filter_map(|id| Pid::from_raw(id.parse().ok()?)).collect())
    }

    /// Stops the web server's processes (SIGSTOP): the host goes on accepting, nobody answers. Returns the moment just
    /// before, by [`monotonic`].
    pub fn hang(&self) -> Result<Duration> {
        let process = self.process();
        let process = process.as_ref().context("the web server does not run")?;
        let now = monotonic();
        process.signal_all(Signal::STOP)?;
        Ok(now)
    }

    /// Ends the hang.
    pub fn go_on(&self) -> Result<()> {
        self.process().as_ref().context("the web server does not run")?.signal_all(Signal::CONT)
    }

    /// Freezes the host: no frame reaches it and none leaves it, ARP and ICMP included; no link
    /// goes down. Returns the moment just before, by [`monotonic`].
    pub fn freeze(&self) -> Result<Duration> {
        let now = monotonic();
        self.gate.set(Passage::Closed)?;
        Ok(now)
    }

    /// Has its switch port lose all that is for a VIP, tunnelled or not: the way of traffic is broken, its host and server
    /// live on. Returns the moment just before, by [`monotonic`].
    pub fn sever(&self) -> Result<Duration> {
        let now = monotonic();
        self.gate.set(Passage::ClosedToVips)?;
        Ok(now)
    }

    /// Ends the freeze, or the severance.
    pub fn thaw(&self) -> Result<()> {
        self.gate.set(Passage::Open)
    }

    /// Has its switch port lose so many in a hundred TCP SYNs for a VIP; what is for its own address gets through.
    /// The port's witness sees them all the same.
    pub fn lose_handshakes(&self, percent: u32) -> Result<()> {
        self.gate.lose_syns(percent)
    }

    /// Lets `/healthz` answer with status 500 from the next request on; all else is served as before.
    pub fn sicken(&self) -> Result<()> {
        self.web.sicken()
    }

    /// Ends the sickness.
    pub fn heal(&self) -> Result<()> {
        self.web.heal()
    }

    /// What its switch port sent to it for a VIP, also while frozen.
    pub fn witness(&self) -> Result<Witness> {
        self.gate.witness()
    }

    /// Has nobody take packets out of tunnels; the host lives on. Returns the moment just before, by [`monotonic`].
    pub fn break_tunnel(&self) -> Result<Duration> {
        let now = monotonic();
        self.decap.detach()?;
        Ok(now)
    }

    /// Ends that.
    pub fn mend_tunnel(&self) -> Result<()> {
        self.decap.apply(&self.decap.settings()).map(drop)
    }

    /// Packets that lost an outer header here.
    pub fn decapsulated(&self) -> Result<u64> {
        let counters = self.decap.status()?.counters;
        Ok(["opened_ipip", "opened_gue"].iter().filter_map(|name| counters.get(*name)).sum())
    }

    /// `weir decap`, which runs from the beginning.
    pub fn decap(&self) -> &Decap {
        &self.decap
    }

    /// The requests answered so far. Entries are written when the answer is complete.
    pub fn access_log(&self) -> Result<Vec<Access>> {
        self.web.log()
    }
}

/// `weir decap` on a backend.
pub struct Decap {
    host: Host,
    bpffs: PathBuf,
    vips: Vec<Addresses>,
}

impl Decap {
    fn new(host: &Host, bpffs: PathBuf, vips: &[Addresses]) -> Result<Self> {
        let decap = Self { host: host.clone(), bpffs, vips: vips.to_vec() };
        decap.apply(&decap.settings())?;
        Ok(decap)
    }

    /// What backends run with: every VIP, any source, an MSS that fits.
    pub fn settings(&self) -> decap::Settings {
        decap::Settings {
            interfaces: vec!["eth0".to_owned()],
            vips: self.vips.iter().flat_map(|vip| Family::BOTH.map(|family| vip.of(family))).collect(),
            sources: Vec::new(),
            gue_port: 6080,
            mss: decap::Mss::Auto,
            mode: XdpMode::Native,
        }
    }

    /// Takes the programs off, as `weir decap detach` does.
    pub fn detach(&self) -> Result<()> {
        let detached = self.host.run(|| decap::detach(&self.bpffs));
        detached.with_context(|| format!("weir decap detach on {}", self.host.name())).map(drop)
    }

    /// Attaches, or takes new settings over, as the verb does.
    pub fn apply(&self, settings: &decap::Settings) -> Result<decap::Status> {
        let applied = self.host.run(|| decap::apply(&self.bpffs, settings));
        applied.with_context(|| format!("weir decap on {}", self.host.name()))
    }

    /// What was pinned and counted.
    pub fn status(&self) -> Result<decap::Status> {
        let status = self.host.run(|| decap::status(&self.bpffs));
        status.with_context(|| format!("weir decap status on {}", self.host.name()))
    }

    /// Frames that left for a reason, or SYN-ACKs of a finding.
    pub fn counted(&self, name: &str) -> Result<u64> {
        self.status()?.counters.get(name).copied().with_context(|| format!("find counter {name}"))
    }

    /// Runs the verb: `decap.cli(&["status", "-o", "json"])`.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(WeirProc::binary()?);
        command.arg("decap").args(arguments).arg("--bpffs").arg(&self.bpffs);
        self.host.output(&mut command)
    }

    /// Where it pins.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }
}
