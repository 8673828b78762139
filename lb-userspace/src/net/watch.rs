//! Follows the kernel: subscribes, takes a full dump, applies notifications, and dumps again from time to time.
//!
//! Guarantees that [`NetWatch::read`] includes every event before it is told, and that lost notifications are
//! noticed (the kernel says so, ENOBUFS) or repaired and counted by the next full dump.
#![forbid(unsafe_code)]

use std::collections::HashSet;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use rustix::net::sockopt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval_at, sleep_until};

use super::decode;
use super::requests::{Requests, parse};
use super::snapshot::{Change, NetEvent, NetState, Subject};

const GROUPS: [MulticastGroup; 9] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Nexthop,
];
/// Receive buffer for notifications: a routing daemon's full table comes in bursts.
const RECEIVE_BUFFER: usize = 8 * 1024 * 1024;
const DATAGRAM: usize = 64 * 1024;
/// Events that may wait for the reader; a slower reader makes the kernel's buffer fill, which is noticed.
const QUEUE: usize = 4096;
/// Route changes within this time are told as one.
const ROUTES_SETTLE: Duration = Duration::from_millis(20);
/// Next-hop objects have message types 104 and 105, which the message crate does not know.
const NEXT_HOP_OBJECT: std::ops::RangeInclusive<u16> = 104..=105;

/// An event and when the kernel's message was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// When it was read.
    pub at: Instant,
    /// What changed.
    pub event: NetEvent,
}

/// What the watch did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WatchStats {
    /// Notifications applied.
    pub notifications: u64,
    /// Times that the kernel dropped notifications because weir read too slowly.
    pub overruns: u64,
    /// Full dumps compared with the state.
    pub resyncs: u64,
    /// Objects that a full dump found to differ.
    pub repaired: u64,
    /// Messages that could not be read.
    pub unread: u64,
}

#[derive(Default)]
struct Counters {
    notifications: AtomicU64,
    overruns: AtomicU64,
    resyncs: AtomicU64,
    repaired: AtomicU64,
    unread: AtomicU64,
}

/// A running watch; ends when dropped.
pub struct NetWatch {
    state: Arc<RwLock<NetState>>,
    counters: Arc<Counters>,
    task: JoinHandle<()>,
}

impl NetWatch {
    /// Subscribes in the namespace of the calling thread and returns once the first dump is in the state.
    /// A full dump is compared every `resync`. Must run on a tokio runtime.
    ///
    /// The events must be read: the state waits for a reader that is 4,096 events behind. They end when the
    /// netlink socket fails; start a new watch then.
    ///
    /// # Errors
    /// When the socket cannot be opened or the first dump fails.
    pub async fn start(resync: Duration) -> io::Result<(Self, mpsc::Receiver<Observed>)> {
        let socket = subscribe().map_err(|error| about("subscribe to netlink notifications", &error))?;
        let requests = Requests::open().map_err(|error| about("open netlink socket", &error))?;
        let (requests, dump) = full_dump(requests).await;
        let dump = dump.map_err(|error| about("read links, addresses and neighbours by netlink", &error))?;
        let mut state = NetState::default();
        state.reconcile(dump, &HashSet::new());
        let state = Arc::new(RwLock::new(state));
        let counters = Arc::new(Counters::default());
        let (events, receiver) = mpsc::channel(QUEUE);
        let follower = Follower {
            socket,
            state: Arc::clone(&state),
            counters: Arc::clone(&counters),
            events,
            newer: None,
            routes: Routes::Quiet,
        };
        let task = tokio::spawn(async move {
            match follower.run(requests, resync).await {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
                    tracing::error!(%error, "netlink watch ended: routes and neighbours are not followed");
                }
                _ => {}
            }
        });
        Ok((Self { state, counters, task }, receiver))
    }

    /// The state now. Hold the guard shortly: notifications wait for it.
    pub fn read(&self) -> RwLockReadGuard<'_, NetState> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the watch did so far.
    #[must_use]
    pub fn stats(&self) -> WatchStats {
        let Counters { notifications, overruns, resyncs, repaired, unread } = &*self.counters;
        WatchStats {
            notifications: notifications.load(Relaxed),
            overruns: overruns.load(Relaxed),
            resyncs: resyncs.load(Relaxed),
            repaired: repaired.load(Relaxed),
            unread: unread.load(Relaxed),
        }
    }
}

impl Drop for NetWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn about(operation: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{operation}: {error}"))
}

fn subscribe() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let inner = socket.socket_mut();
    inner.bind(&SocketAddr::new(0, 0))?;
    for group in GROUPS {
        inner.add_membership(group as u32)?;
    }
    // Forcing past the system's limit needs CAP_NET_ADMIN; less room only means more resyncs.
    if sockopt::set_socket_recv_buffer_size_force(inner.as_fd(), RECEIVE_BUFFER).is_err() {
        sockopt::set_socket_recv_buffer_size(inner.as_fd(), RECEIVE_BUFFER)?;
    }
    Ok(socket)
}

/// Takes the socket along and hands it back: the dump runs beside the runtime, in the namespace of the socket.
async fn full_dump(mut requests: Requests) -> (Requests, io::Result<Vec<Change>>) {
    let work = tokio::task::spawn_blocking(move || {
        let questions = [
            RouteNetlinkMessage::GetLink(Default::default()),
            RouteNetlinkMessage::GetAddress(Default::default()),
            RouteNetlinkMessage::GetNeighbour(Default::default()),
        ];
        let dumps: io::Result<Vec<_>> = questions.iter().map(|question| requests.dump(question)).collect();
        (requests, dumps.map(|dumps| dumps.into_iter().flatten().filter_map(decode::change).collect()))
    });
    match work.await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only the end of the runtime cancels it.
            Err(_) => std::future::pending().await,
        },
    }
}

/// Whether a route change waits to be told.
#[derive(Clone, Copy)]
enum Routes {
    /// None was told recently.
    Quiet,
    /// One was told; further ones before this time wait for it.
    Told { until: tokio::time::Instant },
    /// One waits.
    Waiting { until: tokio::time::Instant },
}

struct Follower {
    socket: TokioSocket,
    state: Arc<RwLock<NetState>>,
    counters: Arc<Counters>,
    events: mpsc::Sender<Observed>,
    /// Subjects with a notification since the running dump was asked for; `None` while none runs.
    newer: Option<HashSet<Subject>>,
    routes: Routes,
}

impl Follower {
    /// Runs until the socket fails or nobody reads the events.
    async fn run(mut self, requests: Requests, resync: Duration) -> io::Result<()> {
        let mut datagram = Vec::with_capacity(DATAGRAM);
        let mut ticks = interval_at(tokio::time::Instant::now() + resync, resync);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut idle = Some(requests);
        let mut dumping = None;
        let mut wanted = false;
        loop {
            if wanted && let Some(requests) = idle.take() {
                wanted = false;
                self.newer = Some(HashSet::new());
                dumping = Some(Box::pin(full_dump(requests)));
            }
            datagram.clear();
            tokio::select! {
                // Notifications first: what was sent before a dump must be applied before it.
                biased;
                read = self.socket.recv(&mut datagram) => wanted |= self.received(read, &datagram).await?,
                (requests, dump) = finished(&mut dumping) => {
                    dumping = None;
                    idle = Some(requests);
                    wanted |= self.catch_up(&mut datagram).await?;
                    self.resynced(dump).await?;
                }
                _ = ticks.tick() => wanted = true,
                () = routes_settled(self.routes) => {
                    if let Routes::Waiting { .. } = std::mem::replace(&mut self.routes, Routes::Quiet) {
                        self.tell(Instant::now(), vec![NetEvent::RoutesChanged]).await?;
                    }
                }
            }
        }
    }

    /// Applies the notifications that arrived while a dump was read: the runtime may have seen the dump's last part
    /// before it looked at this socket again. Whether some were lost.
    async fn catch_up(&mut self, datagram: &mut Vec<u8>) -> io::Result<bool> {
        // The runtime asks the kernel which sockets are readable.
        tokio::task::yield_now().await;
        let mut lost = false;
        loop {
            datagram.clear();
            tokio::select! {
                biased;
                read = self.socket.recv(datagram) => lost |= self.received(read, datagram).await?,
                () = std::future::ready(()) => return Ok(lost),
            }
        }
    }

    /// Takes what a read of the socket gave; whether notifications were lost, so that a dump has to tell.
    async fn received(&mut self, read: io::Result<()>, datagram: &[u8]) -> io::Result<bool> {
        match read {
            Ok(()) => self.notified(datagram).await.map(|()| false),
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                self.counters.overruns.fetch_add(1, Relaxed);
                // Route notifications may be among those that were lost.
                self.tell(Instant::now(), vec![NetEvent::RoutesChanged]).await?;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    async fn notified(&mut self, datagram: &[u8]) -> io::Result<()> {
        let at = Instant::now();
        let (messages, unread) = parse(datagram);
        let mut events = Vec::new();
        // Other types of message than the message crate knows fail to parse; of them only next-hop objects matter.
        if unread > 0 && next_hop_object(datagram) {
            events.push(NetEvent::RoutesChanged);
        } else {
            self.counters.unread.fetch_add(unread as u64, Relaxed);
        }
        {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            for message in messages {
                let NetlinkPayload::InnerMessage(message) = message.payload else { continue };
                let Some(change) = decode::change(message) else { continue };
                self.counters.notifications.fetch_add(1, Relaxed);
                if let Some(newer) = &mut self.newer {
                    newer.insert(change.subject());
                }
                events.extend(state.apply(change));
            }
        }
        self.tell(at, events).await
    }

    async fn resynced(&mut self, dump: io::Result<Vec<Change>>) -> io::Result<()> {
        let at = Instant::now();
        let newer = self.newer.take().unwrap_or_default();
        let dump = match dump {
            Ok(dump) => dump,
            Err(error) => {
                tracing::warn!(%error, "netlink resync failed; the next one is tried");
                return Ok(());
            }
        };
        let (mut events, repaired) = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            state.reconcile(dump, &newer)
        };
        self.counters.resyncs.fetch_add(1, Relaxed);
        let objects = repaired.len();
        self.counters.repaired.fetch_add(objects as u64, Relaxed);
        if objects > 0 {
            tracing::warn!(
                objects,
                ?repaired,
                "netlink resync: state differed from the kernel's and was repaired"
            );
            // So may notifications about routes.
            events.extend([NetEvent::Repaired { objects }, NetEvent::RoutesChanged]);
        }
        self.tell(at, events).await
    }

    /// Sends events; route changes at once, then at most one per [`ROUTES_SETTLE`].
    async fn tell(&mut self, at: Instant, events: Vec<NetEvent>) -> io::Result<()> {
        for event in events {
            if event == NetEvent::RoutesChanged {
                match self.routes {
                    Routes::Quiet => {
                        self.routes = Routes::Told { until: tokio::time::Instant::now() + ROUTES_SETTLE };
                    }
                    Routes::Told { until } | Routes::Waiting { until } => {
                        self.routes = Routes::Waiting { until };
                        continue;
                    }
                }
            }
            let sent = self.events.send(Observed { at, event }).await;
            sent.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads the events"))?;
        }
        Ok(())
    }
}

/// Waits for the running dump; for ever when none runs.
async fn finished<F: Future + Unpin>(running: &mut Option<F>) -> F::Output {
    match running {
        Some(running) => running.await,
        None => std::future::pending().await,
    }
}

async fn routes_settled(routes: Routes) {
    match routes {
        Routes::Quiet => std::future::pending().await,
        Routes::Told { until } | Routes::Waiting { until } => sleep_until(until).await,
    }
}

fn next_hop_object(datagram: &[u8]) -> bool {
    let kind = datagram.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    kind.is_some_and(|kind| NEXT_HOP_OBJECT.contains(&kind))
}
