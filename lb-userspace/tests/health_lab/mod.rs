//! Two network namespaces joined by a veth pair: weir's side and the backends' side. Removed on drop.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lb_userspace::config::model::{
    Backend, Check, CheckKind, Guard, Inside, LastResort, Pool, PortOf, Through,
};
use lb_userspace::health::machine::Health;
use lb_userspace::health::pool_view::{PoolView, Slot, SlotState};
use lb_userspace::health::{Applier, BackendKey, GuardEvent, HealthEvent, NoWay, Targets, Wrapped};
use rustix::fd::AsFd;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

/// The backends' side.
pub(crate) const SERVER_V4: &str = "10.9.0.2";
/// The backends' side.
pub(crate) const SERVER_V6: &str = "fd09::2";
static COUNT: AtomicU32 = AtomicU32::new(0);
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The two namespaces.
pub(crate) struct Lab {
    weir: String,
    server: String,
    _alone: std::sync::MutexGuard<'static, ()>,
}

impl Lab {
    /// Builds the namespaces; timings need the machine, so only one exists at a time.
    pub(crate) fn new() -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let tag = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let lab = Self { weir: format!("weir-hw-{tag}"), server: format!("weir-hs-{tag}"), _alone: alone };
        let (weir, server) = (lab.weir.as_str(), lab.server.as_str());
        ip(&format!("netns add {weir}"));
        ip(&format!("netns add {server}"));
        ip(&format!("-n {weir} link add up0 type veth peer name up0 netns {server}"));
        for (ns, host) in [(weir, 1), (server, 2)] {
            ip(&format!("-n {ns} link set lo up"));
            ip(&format!("-n {ns} addr add 10.9.0.{host}/24 dev up0"));
            ip(&format!("-n {ns} addr add fd09::{host}/64 dev up0 nodad"));
            ip(&format!("-n {ns} link set up0 up"));
        }
        inside(weir, wait_for_ipv6).join().expect("IPv6 works");
        lab
    }

    /// Runs an `ip` command on the backends' side.
    pub(crate) fn ip_server(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.server));
    }

    /// Runs an `ip` command on weir's side.
    pub(crate) fn ip_weir(&self, arguments: &str) {
        ip(&format!("-n {} {arguments}", self.weir));
    }

    /// Runs a closure in a thread on the backends' side.
    pub(crate) fn on_server<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        inside(&self.server, run)
    }

    /// Starts a program on the backends' side, as a direct child.
    pub(crate) fn spawn_on_server(&self, program: &str, arguments: &[String]) -> Child {
        let (program, arguments) = (program.to_owned(), arguments.to_vec());
        let spawn = move || Command::new(program).args(arguments).stderr(Stdio::null()).spawn();
        self.on_server(spawn).join().expect("thread").expect("start a program")
    }

    /// The number of weir's link to the backends.
    pub(crate) fn link(&self) -> u32 {
        let index = || {
            let socket = std::net::UdpSocket::bind("0.0.0.0:0").expect("a socket");
            rustix::net::netdevice::name_to_index(socket, "up0").expect("the link")
        };
        inside(&self.weir, index).join().expect("the link's number")
    }

    /// Runs a closure in a thread on weir's side.
    pub(crate) fn on_weir<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<T> {
        inside(&self.weir, run)
    }

    /// Starts detection on weir's side.
    pub(crate) fn detect(&self, pools: Vec<Pool>) -> Detection {
        self.detect_knowing(pools, |_| {})
    }

    /// Starts detection on weir's side, which knows more of the network than the pools.
    pub(crate) fn detect_knowing(
        &self,
        pools: Vec<Pool>,
        know: impl FnOnce(&mut Targets) + Send + 'static,
    ) -> Detection {
        let pools: BTreeMap<String, Pool> = pools.into_iter().map(|pool| (pool.name.clone(), pool)).collect();
        let start = move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .expect("a runtime");
            let (sender, events) = unbounded_channel();
            let slots = Slots::default();
            // A busy machine must not make these tests wait: there is no witness to ask.
            let guard = Guard { freeze_max: Duration::ZERO, ..Guard::default() };
            let mut targets = Targets { pools, guard, ..Targets::default() };
            know(&mut targets);
            let (applier, adopted) = (Box::new(slots.clone()), std::mem::take(&mut targets.adopted));
            let opened =
                lb_userspace::health::Health::open(targets, applier, sender, runtime.handle().clone());
            let health = opened.and_then(|opened| opened.start(adopted)).expect("detection starts");
            Detection { health: Some(health), slots, events, runtime: Some(runtime) }
        };
        inside(&self.weir, start).join().expect("detection starts")
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in [&self.weir, &self.server] {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

/// Running detection, and what it said.
pub(crate) struct Detection {
    health: Option<lb_userspace::health::Health>,
    pub(crate) slots: Slots,
    pub(crate) events: UnboundedReceiver<HealthEvent>,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Detection {
    /// Waits until every backend has that health and its slot is stored; panics after ten seconds.
    pub(crate) fn wait_for_health(&self, health: Health) {
        let until = Instant::now() + Duration::from_secs(10);
        while !self.snapshot().iter().all(|one| one.health == health) {
            assert!(Instant::now() < until, "not all {health:?}: {:?}", self.snapshot());
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until the first slot is not active; returns when it was stored.
    pub(crate) fn wait_for_loss(&self) -> Instant {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            if let Some(at) = self.slots.first_loss() {
                return at;
            }
            assert!(Instant::now() < until, "still active: {:?}", self.snapshot());
            std::thread::sleep(Duration::from_micros(200));
        }
    }

    /// What a view would show.
    pub(crate) fn snapshot(&self) -> Vec<lb_userspace::health::BackendHealth> {
        let (Some(health), Some(runtime)) = (&self.health, &self.runtime) else { return Vec::new() };
        runtime.block_on(health.snapshot(lb_userspace::health::Which::All)).expect("a snapshot")
    }

    /// The events so far.
    pub(crate) fn take_events(&mut self) -> Vec<HealthEvent> {
        std::iter::from_fn(|| self.events.try_recv().ok()).collect()
    }
}

impl Drop for Detection {
    fn drop(&mut self) {
        self.health = None;
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The data plane's slots, as stored.
#[derive(Clone, Default)]
pub(crate) struct Slots(Arc<Mutex<Stored>>);

#[derive(Default)]
struct Stored {
    loss: Option<Instant>,
    last_loss: Option<Instant>,
}

impl Slots {
    fn first_loss(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).loss
    }

    /// When the latest slot was stored that is not active.
    pub(crate) fn last_loss(&self) -> Option<Instant> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last_loss
    }

    /// Forgets the first loss.
    pub(crate) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).loss = None;
    }
}

impl Applier for Slots {
    fn apply(&mut self, _backend: &BackendKey, slot: Slot) {
        let mut stored = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.state != SlotState::Active {
            let now = Instant::now();
            stored.loss.get_or_insert(now);
            stored.last_loss = Some(now);
        }
    }

    fn label(&mut self, _event: &HealthEvent) {}

    fn room(&self, _backend: &BackendKey, _inside: Inside) -> Result<usize, NoWay> {
        Err(NoWay::Unresolved)
    }

    fn wrap(&self, _backend: &BackendKey, _inside: Inside, _packet: &[u8]) -> Result<Wrapped, NoWay> {
        Err(NoWay::Unresolved)
    }

    fn guard_turned(&mut self, _event: &GuardEvent) {}

    fn pool_changed(&mut self, _pool: &str, _view: &PoolView) {}
}

/// A check of `kind` with the given times in milliseconds.
pub(crate) fn check(kind: CheckKind, port: Option<u16>, interval: u64, timeout: u64, fall: u32) -> Check {
    let (interval, timeout) = (Duration::from_millis(interval), Duration::from_millis(timeout));
    Check {
        kind,
        port,
        port_of: PortOf::Check,
        interval,
        timeout,
        rise: 2,
        fall,
        through: Through::Direct,
        inside: None,
    }
}

/// A pool with one backend per address, and without damping.
pub(crate) fn pool(name: &str, checks: Vec<Check>, addresses: impl IntoIterator<Item = IpAddr>) -> Pool {
    let backend = |(index, address): (usize, IpAddr)| {
        let name = format!("b{index:04}");
        let backend = Backend {
            name: name.clone(),
            address,
            port: None,
            weight: 100,
            tier: 0,
            host: None,
            mac: None,
            server_ids: Vec::new(),
        };
        (name, backend)
    };
    Pool {
        name: name.to_owned(),
        tier_takeover_below: 0.0,
        last_resort: LastResort::Drop,
        max_ejected: 0.5,
        passive_sample: 20,
        passive_excess: 0.5,
        slow_start: Duration::ZERO,
        hold_down: Duration::ZERO,
        hold_down_max: Duration::ZERO,
        checks,
        backends: addresses.into_iter().enumerate().map(backend).collect(),
    }
}

/// Parses an address of this lab.
pub(crate) fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// Prints a distribution.
pub(crate) fn print_distribution(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{what}: n {} min {:.2?} p50 {:.2?} p90 {:.2?} max {:.2?}",
        times.len(),
        at(0),
        at(50),
        at(90),
        at(100)
    );
}

/// Runs a closure in a thread inside a namespace.
fn inside<T: Send + 'static>(name: &str, run: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    let path = format!("/run/netns/{name}");
    std::thread::spawn(move || {
        let namespace = File::open(path).expect("open the namespace");
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("enter it");
        run()
    })
}

/// IPv6 answers nothing until the link's own address has been tried for duplicates.
fn wait_for_ipv6() {
    let refused = || {
        let closed = SocketAddr::new(address(SERVER_V6), 9);
        let result = TcpStream::connect_timeout(&closed, Duration::from_millis(100));
        result.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    let until = Instant::now() + Duration::from_secs(10);
    while !refused() {
        assert!(Instant::now() < until, "no IPv6 between the namespaces");
    }
}

fn ip(arguments: &str) {
    let status = Command::new("ip").args(arguments.split(' ')).status().expect("run ip");
    assert!(status.success(), "ip {arguments}");
}
