//! When a killed server's listening socket was closed, as the kernel's tracepoint `sock:inet_sock_set_state` tells.
//!
//! A host goes on accepting until its kernel has closed the socket: what a check finds before is no failure yet.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::mount::{MountFlags, mount};

/// Where the kernel's traces belong.
const TRACING: &str = "/sys/kernel/tracing";
/// Where they are, each in a folder of its own.
const INSTANCES: &str = "/sys/kernel/tracing/instances";
/// IPv4, from LISTEN to CLOSE.
const CLOSED: &str = "family==2 && oldstate==10 && newstate==7";

/// A trace of listening sockets that close; it ends when this is dropped.
pub(super) struct Closings {
    folder: PathBuf,
}

impl Closings {
    /// Starts the trace for a port; `None`, and a word about it, where the kernel offers none.
    pub(super) fn watch(port: u16) -> Option<Self> {
        if !Path::new(INSTANCES).exists() {
            // What stays wrong is told below.
            let _ = mount("tracefs", TRACING, "tracefs", MountFlags::empty(), None);
        }
        let folder = Path::new(INSTANCES).join(format!("weir-bench-{}", std::process::id()));
        let event = folder.join("events/sock/inet_sock_set_state");
        let started = fs::create_dir(&folder)
            .and_then(|()| fs::write(folder.join("trace_clock"), "mono"))
            .and_then(|()| fs::write(event.join("filter"), format!("{CLOSED} && sport=={port}")))
            .and_then(|()| fs::write(event.join("enable"), "1"));
        let trace = Self { folder };
        match started {
            Ok(()) => Some(trace),
            Err(error) => {
                eprintln!("no trace of sockets that close: {INSTANCES}: {error}");
                None
            }
        }
    }

    /// The first since a moment, by [`weir_tests::monotonic`].
    pub(super) fn first_since(&self, moment: Duration) -> Option<Duration> {
        let text = fs::read_to_string(self.folder.join("trace")).ok()?;
        // Read once, so that it stays short.
        let _ = fs::write(self.folder.join("trace"), "");
        text.lines().filter_map(time).find(|at| *at >= moment)
    }
}

impl Drop for Closings {
    fn drop(&mut self) {
        // What stays is an idle trace of a name that no later process uses.
        let _ = fs::remove_dir(&self.folder);
    }
}

/// The time of a line: `nginx-3781 [000] ..... 50696.250484: inet_sock_set_state: …`, to the microsecond.
fn time(line: &str) -> Option<Duration> {
    let (before, _) = line.split_once(": inet_sock_set_state:")?;
    let (seconds, micros) = before.rsplit(' ').next()?.split_once('.')?;
    Some(Duration::from_secs(seconds.parse().ok()?) + Duration::from_micros(micros.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_trace_has_its_time() {
        let line =
            "           nginx-3781    [000] ..... 50696.250484: inet_sock_set_state: family=AF_INET sport=80";
        assert_eq!(time(line), Some(Duration::from_micros(50_696_250_484)));
        assert_eq!(time("# tracer: nop"), None);
    }
}
