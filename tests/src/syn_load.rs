//! New TCP connections at a steady pace: SYNs from addresses that nobody has, so that no client's port
//! numbers, time-outs or retransmissions blur when a backend was last sent one.
#![forbid(unsafe_code)]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    frame::{self, PacketSocket},
    gate::monotonic,
    host::Host,
    plan::Family,
};

/// The first source port; each source address uses those from here to the last.
const FIRST_PORT: u16 = 1024;

/// A running load; stopped when dropped.
///
/// The answers go to the edge, which drops them. A connection stays half-open at its backend, so that
/// backends should run with [`answer_without_memory`].
#[derive(Debug)]
pub struct SynLoad {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    /// Times of sending, by [`monotonic`], ascending.
    sent: Mutex<Vec<Duration>>,
}

impl Shared {
    fn sent(&self) -> MutexGuard<'_, Vec<Duration>> {
        self.sent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lets a backend answer SYNs without keeping them: half-open connections would fill its queue.
pub fn answer_without_memory(backend: &Host) -> Result<()> {
    backend.sysctl("ipv4/tcp_syncookies", "2")
}

impl SynLoad {
    /// Starts sending SYNs from a host to targets in turn; each opens a connection that was never seen.
    ///
    /// # Panics
    /// Panics when there is no target.
    pub fn start(client: &Host, targets: &[SocketAddr], per_second: u32) -> Result<Self> {
        assert!(!targets.is_empty(), "a load has a target");
        let open = |family| client.run(|| PacketSocket::open(family));
        let sockets = [open(Family::V4)?, open(Family::V6)?];
        let shared = Arc::new(Shared::default());
        let (thread_shared, targets) = (shared.clone(), targets.to_vec());
        let run = move || {
            hurry();
            send(&thread_shared, &sockets, &targets, Duration::from_secs(1) / per_second);
        };
        let thread = thread::Builder::new().name("syn-load".into()).spawn(run).context("start the load")?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// The number of SYNs sent so far.
    pub fn count(&self) -> usize {
        self.shared.sent().len()
    }

    /// SYNs a second, over the whole time so far.
    pub fn rate(&self) -> f64 {
        let sent = self.shared.sent();
        let (Some(first), Some(last)) = (sent.first(), sent.last()) else { return 0.0 };
        sent.len() as f64 / last.saturating_sub(*first).as_secs_f64().max(f64::MIN_POSITIVE)
    }

    /// The longest time without a SYN between two moments: what is measured by them is known to this.
    pub fn worst_gap(&self, from: Duration, to: Duration) -> Duration {
        let sent = self.shared.sent();
        let first = sent.partition_point(|at| *at < from);
        let last = sent.partition_point(|at| *at <= to);
        let within = sent[first..last].iter().copied();
        let edges = [from].into_iter().chain(within.clone());
        edges
            .zip(within.chain([to]))
            .map(|(before, after)| after.saturating_sub(before))
            .max()
            .unwrap_or_default()
    }
}

impl Drop for SynLoad {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic of the sender has been printed.
            let _ = thread.join();
        }
    }
}

/// Puts the calling thread before all ordinary ones: what it does at a certain moment is done then, on a busy
/// machine too. Threads and processes that it starts later are like that as well.
///
/// Where that is refused it says so; [`SynLoad::worst_gap`] shows what that did to a load.
pub fn hurry() {
    let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
    let status = Command::new("chrt").args(["--fifo", "--pid", "1", &thread]).status();
    if !status.as_ref().is_ok_and(|status| status.success()) {
        eprintln!("no real-time priority: chrt: {status:?}");
    }
}

fn send(shared: &Shared, sockets: &[PacketSocket; 2], targets: &[SocketAddr], pace: Duration) {
    let mut due = monotonic();
    for number in 0.. {
        let now = monotonic();
        thread::sleep(due.saturating_sub(now));
        if shared.stop.load(Ordering::Relaxed) {
            return;
        }
        let target = targets[number as usize % targets.len()];
        let packet = frame::tcp(source(number, target), target, number, frame::SYN);
        let socket = if target.is_ipv4() { &sockets[0] } else { &sockets[1] };
        // A full queue loses a SYN as a network does; the gap shows it.
        if socket.send(target.ip(), &packet).is_ok() {
            shared.sent().push(monotonic());
        }
        // What was missed is not made up for: a burst would hide a gap.
        due = (due + pace).max(monotonic());
    }
}

/// A source that no earlier SYN had: 192.0.2.0/24 and 2001:db8:bad::/64 are on no segment.
fn source(number: u32, target: SocketAddr) -> SocketAddr {
    let ports = u32::from(u16::MAX - FIRST_PORT);
    let port = FIRST_PORT + (number % ports) as u16;
    let host = (number / ports) as u16;
    let address = match target {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(192, 0, 2, host as u8)),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, host)),
    };
    SocketAddr::new(address, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(sent: &[u64]) -> SynLoad {
        let sent = sent.iter().map(|ms| Duration::from_millis(*ms)).collect();
        let shared = Shared { sent: Mutex::new(sent), ..Shared::default() };
        SynLoad { shared: Arc::new(shared), thread: None }
    }

    #[test]
    fn the_worst_gap_counts_both_ends_of_the_window() {
        let ms = Duration::from_millis;
        let load = load(&[1, 2, 5, 6, 20]);
        assert_eq!(load.worst_gap(ms(1), ms(6)), ms(3));
        assert_eq!(load.worst_gap(ms(2), ms(12)), ms(6));
        assert_eq!(load.worst_gap(ms(7), ms(15)), ms(8));
    }

    #[test]
    fn no_two_connections_share_a_source() {
        let target: SocketAddr = "198.51.100.10:80".parse().expect("an address");
        let mut sources: Vec<_> = (0..200_000).map(|number| source(number, target)).collect();
        sources.sort();
        sources.dedup();
        assert_eq!(sources.len(), 200_000);
    }
}
