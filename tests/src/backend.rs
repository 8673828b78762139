//! A backend: a host with VIPs on `lo`, a web server, the decap program, and a switch port that can
//! cut it off.
#![forbid(unsafe_code)]

use std::{
    fs,
    ops::Deref,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result};
use aya::{
    Ebpf, Pod,
    maps::{HashMap, MapData, PerCpuArray},
    programs::{Xdp, XdpMode},
};
use rustix::process::{Pid, Signal, kill_process};

use crate::{
    gate::{Gate, Passage, Witness, monotonic},
    host::Host,
    nginx::{Access, Nginx},
    plan::Addresses,
    process::Process,
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
    nginx: Nginx,
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
        nginx: Nginx,
        gate: Gate,
        vips: &[Addresses],
    ) -> Result<Self> {
        let decap = Decap::attach(&host, vips)?;
        Ok(Self { host, attachment, nginx, process: Mutex::new(None), gate, decap })
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
            *process = Some(self.nginx.start(&self.host)?);
        }
        Ok(())
    }

    pub(crate) fn wait_ready(&self) -> Result<()> {
        let mut process = self.process();
        let process = process.as_mut().with_context(|| format!("{} was not started", self.name()))?;
        self.nginx.wait_ready(&self.host, process)
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

    /// Ends the freeze.
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
        self.nginx.sicken()
    }

    /// Ends the sickness.
    pub fn heal(&self) -> Result<()> {
        self.nginx.heal()
    }

    /// What its switch port sent to it for a VIP, also while frozen.
    pub fn witness(&self) -> Result<Witness> {
        self.gate.witness()
    }

    /// Packets that lost an outer header here.
    pub fn decapsulated(&self) -> Result<u64> {
        self.decap.count()
    }

    /// The requests answered so far. Entries are written when the answer is complete.
    pub fn access_log(&self) -> Result<Vec<Access>> {
        self.nginx.log()
    }
}

/// The decap program on a backend's interface.
struct Decap {
    /// Holds the program and its link.
    _object: Ebpf,
    count: PerCpuArray<MapData, u64>,
}

impl Decap {
    fn attach(host: &Host, vips: &[Addresses]) -> Result<Self> {
        let mut object = Ebpf::load(lb_userspace::objects::DECAP).context("load the decap program")?;
        fill(&mut object, "VIPS_V4", vips.iter().map(|vip| u32::from_ne_bytes(vip.v4.octets())))?;
        fill(&mut object, "VIPS_V6", vips.iter().map(|vip| words(vip.v6.octets())))?;
        let program: &mut Xdp = object.program_mut("decap").context("find program decap")?.try_into()?;
        program.load()?;
        host.run(|| program.attach("eth0", XdpMode::Driver))
            .with_context(|| format!("attach decap to eth0 of {} (native mode)", host.name()))?;
        let count = PerCpuArray::try_from(object.take_map("DECAPSULATED").context("find map DECAPSULATED")?)?;
        Ok(Self { _object: object, count })
    }

    fn count(&self) -> Result<u64> {
        Ok(self.count.get(&0, 0).context("read map DECAPSULATED")?.iter().sum())
    }
}

fn fill<K: Pod>(object: &mut Ebpf, map: &str, keys: impl Iterator<Item = K>) -> Result<()> {
    let mut map: HashMap<_, K, u32> =
        HashMap::try_from(object.map_mut(map).with_context(|| format!("find map {map}"))?)?;
    for key in keys {
        map.insert(key, 0, 0)?;
    }
    Ok(())
}

/// An address as the two words, in memory order, that the program compares.
fn words(octets: [u8; 16]) -> [u64; 2] {
    let word = |at: usize| u64::from_ne_bytes(std::array::from_fn(|byte| octets[at + byte]));
    [word(0), word(8)]
}
