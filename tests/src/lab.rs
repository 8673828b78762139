//! A running lab: hands out its hosts, and removes everything in the end.
#![forbid(unsafe_code)]

use std::{
    fs,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use crate::{
    backend::Backend,
    builder::LabBuilder,
    claim::{self, Claim},
    gate::Gates,
    host::Host,
    plan::Addresses,
    weir::{WeirOptions, WeirProc},
};

/// A running lab. Dropping it ends its processes and removes all it made, also when a test panics.
pub struct Lab {
    pub(crate) backends: Vec<Backend>,
    pub(crate) clients: Vec<Host>,
    pub(crate) weir: Host,
    pub(crate) edge: Host,
    pub(crate) router: Host,
    pub(crate) vips: Vec<Addresses>,
    /// Hold the switches' programs.
    pub(crate) _gates: [Gates; 2],
    /// Last: deletes what the others were in.
    pub(crate) claim: Claim,
}

impl Lab {
    /// Starts describing a lab: two direct backends, one client, one VIP.
    pub fn builder() -> LabBuilder {
        LabBuilder::default()
    }

    /// Removes what labs of dead processes left behind; returns their names. Every start does it first.
    pub fn sweep_stale() -> Result<Vec<String>> {
        claim::sweep().context("sweep stale labs")
    }

    /// The unique name; namespaces are named `<name>-<host>`.
    pub fn name(&self) -> &str {
        self.claim.name()
    }

    /// The directory of configurations and logs; it goes with the lab.
    pub fn directory(&self) -> &Path {
        self.claim.directory()
    }

    /// Its bpffs, under which each instance of weir has a directory.
    pub fn bpffs(&self) -> std::path::PathBuf {
        self.claim.bpffs()
    }

    /// Weir's host: `eth0` to the edge, `eth1` to the direct backends.
    pub fn weir_host(&self) -> &Host {
        &self.weir
    }

    /// The router between everything, which routes VIPs to weir's host.
    pub fn edge(&self) -> &Host {
        &self.edge
    }

    /// The router in front of the routed backends.
    pub fn router(&self) -> &Host {
        &self.router
    }

    /// The first client.
    pub fn client(&self) -> &Host {
        &self.clients[0]
    }

    /// All clients.
    pub fn clients(&self) -> &[Host] {
        &self.clients
    }

    /// All backends, the direct ones first.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// The backend with a name.
    ///
    /// # Panics
    /// Panics when the lab has no such backend.
    pub fn backend(&self, name: &str) -> &Backend {
        let found = self.backends.iter().find(|backend| backend.name() == name);
        found.unwrap_or_else(|| panic!("the lab has no backend {name}"))
    }

    /// The VIPs.
    pub fn vips(&self) -> &[Addresses] {
        &self.vips
    }

    /// The first VIP.
    pub fn vip(&self) -> Addresses {
        self.vips[0]
    }

    /// Starts weir on its host with a configuration, and waits until `weir ready` says so.
    pub fn weir(&self, config: &str) -> Result<WeirProc> {
        self.weir_with(config, WeirOptions::default())
    }

    /// Starts weir with a configuration and options.
    pub fn weir_with(&self, config: &str, options: WeirOptions) -> Result<WeirProc> {
        let directory = self.directory().join(&options.name);
        fs::create_dir_all(&directory).with_context(|| format!("create {}", directory.display()))?;
        WeirProc::start(self.weir.clone(), directory, self.claim.bpffs(), config, options)
    }
}

/// How long a single step of a test may take at most, unless it says otherwise.
pub const STEP_LIMIT: Duration = Duration::from_secs(10);

/// Asks again and again until a condition holds, or panics with a description after [`STEP_LIMIT`].
///
/// # Panics
/// Panics when the condition does not hold in time.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + STEP_LIMIT;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {STEP_LIMIT:?}: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
