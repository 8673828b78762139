//! HAProxy on weir's host, tuned by hand.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use weir_tests::{Backend, Family, Lab, Process, RELAYED_PORT};

use super::rows::Haproxy;

/// A running HAProxy.
pub(super) struct Relay {
    process: Process,
    log: PathBuf,
    address: SocketAddr,
}

impl Relay {
    /// Starts it with the scheduling of weir's probe thread.
    pub(super) fn start(lab: &Lab, row: &Haproxy) -> Result<Self> {
        let directory = lab.directory().join("haproxy");
        fs::create_dir_all(&directory)?;
        let address = lab.weir_host().socket(Family::V4, RELAYED_PORT);
        let file = directory.join("haproxy.cfg");
        fs::write(&file, configuration(row, address, lab.backends()))?;
        let log = directory.join("log");
        let mut command = Command::new("chrt");
        command.args(["--fifo", "10", "haproxy", "-db", "-f"]).arg(&file);
        command.stdout(fs::File::create(directory.join("out"))?).stderr(fs::File::create(&log)?);
        let process =
            lab.weir_host().spawn(command).context("is haproxy installed? `cargo xtask setup` does it")?;
        Ok(Self { process, log, address })
    }

    /// Where clients connect.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops its process, or lets it go on.
    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// How often it has called a backend down so far.
    pub(super) fn downs(&self) -> usize {
        self.log().matches(" is DOWN").count()
    }

    /// What it printed.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// Everything that makes a failed server leave sooner: one failed check is enough, refused connections are tried
/// elsewhere at once, and nothing lingers that could run the host out of ports.
fn configuration(row: &Haproxy, address: SocketAddr, backends: &[Backend]) -> String {
    let Haproxy { interval_ms, lines, words, .. } = row;
    let servers: String = backends
        .iter()
        .map(|backend| {
            let address = backend.address(Family::V4);
            format!("    server {} {address}:{RELAYED_PORT}\n", backend.name())
        })
        .collect();
    format!(
        "global\n    nbthread 1\n    maxconn 4000\n    spread-checks 0\n\
         defaults\n    mode tcp\n    maxconn 4000\n    timeout connect 1s\n    timeout client 10s\n    timeout server 10s\n\
         \x20   timeout check {interval_ms}ms\n    option nolinger\n    option redispatch 1\n    retries 3\n\
         listen web\n    bind {address}\n    balance roundrobin\n{lines}\
         \x20   default-server check port 80 inter {interval_ms}ms fastinter {interval_ms}ms downinter {interval_ms}ms \
         fall 1 rise 2 {words}\n{servers}"
    )
}
