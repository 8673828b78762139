//! One host of the lab: a namespace and its addresses.
#![forbid(unsafe_code)]

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    process::{Command, Output},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::Signal;

use crate::{
    netns::Netns,
    ping,
    plan::{Addresses, Family},
    process::{Process, Spawner},
};

/// A host: a network namespace with addresses. Clones are the same host.
#[derive(Clone, Debug)]
pub struct Host {
    name: Arc<str>,
    netns: Netns,
    addresses: Arc<[Addresses]>,
    spawner: Arc<Spawner>,
}

impl Host {
    pub(crate) fn new(name: &str, netns: Netns, addresses: Vec<Addresses>, spawner: Arc<Spawner>) -> Self {
        Self { name: name.into(), netns, addresses: addresses.into(), spawner }
    }

    /// The name in the lab: `client-1`, `edge`, `weir`, `router`, `direct-1`, `routed-1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// All addresses, the first one preferred as source.
    pub fn addresses(&self) -> &[Addresses] {
        &self.addresses
    }

    /// The first address of a family.
    pub fn address(&self, family: Family) -> IpAddr {
        self.addresses[0].of(family)
    }

    /// The first address of a family, with a port.
    pub fn socket(&self, family: Family, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(family), port)
    }

    /// Runs a closure on the host: sockets it opens and programs it runs are the host's.
    ///
    /// # Panics
    /// Panics when the closure does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.netns.run(work)
    }

    /// Starts a program on the host; it is killed when the handle or the lab goes.
    pub fn spawn(&self, command: Command) -> Result<Process> {
        self.spawner.spawn(&self.netns, command, Signal::KILL)
    }

    pub(crate) fn spawn_with(&self, command: Command, on_orphaned: Signal) -> Result<Process> {
        self.spawner.spawn(&self.netns, command, on_orphaned)
    }

    /// Runs a program to its end and hands back what it printed, whatever its exit code.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        let program = command.get_program().to_string_lossy().into_owned();
        self.run(|| command.output()).with_context(|| format!("run {program} on {}", self.name))
    }

    /// Runs a program that must succeed and hands back its standard output.
    pub fn exec(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = self.output(Command::new(program).args(arguments))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            bail!("{program} {} on {}: {}", arguments.join(" "), self.name, stderr.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Runs `ip` with words separated by blanks: `host.ip("route replace default via 10.0.1.1")`.
    pub fn ip(&self, words: &str) -> Result<String> {
        self.exec("ip", &words.split_whitespace().collect::<Vec<_>>())
    }

    /// Runs curl with at most five seconds, quietly; further arguments come last and win.
    pub fn curl(&self, arguments: &[&str]) -> Result<Output> {
        self.output(
            Command::new("curl").args(["--silent", "--show-error", "--max-time", "5"]).args(arguments),
        )
    }

    /// Writes a network setting: `host.sysctl("ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = format!("/proc/sys/net/{key}");
        self.run(|| fs::write(&path, value)).with_context(|| format!("write {path} on {}", self.name))
    }

    /// Sends an ICMP echo request and waits for its reply; the time it took, or what went wrong.
    pub fn ping(&self, target: IpAddr, timeout: Duration) -> Result<Duration> {
        self.run(|| ping::echo(target, timeout)).with_context(|| format!("ping {target} from {}", self.name))
    }
}
