//! How fast a failed backend leaves, and that a healthy one stays: real probes, real kills, under load.
//!
//! Every figure is the time from the failure to the last new connection that weir sent to the failed backend, as
//! the switch port in front of it saw it. The load is steady, so that its pace is the resolution. What is asserted
//! leaves room for machines that stand still for milliseconds now and then: `cargo xtask bench failover` measures.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::Result;
use weir_tests::{
    Backend, Distribution, Lab, Scheduling, SynLoad, Web, WeirProc, answer_without_memory, eventually, hurry,
    monotonic,
};

/// One measurement at a time: each wants the machine's cores for itself.
static MACHINE: Mutex<()> = Mutex::new(());

fn machine() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// New connections a second, over all backends.
const RATE: u32 = 5_000;
/// The time after a failure for which the sender's pace is printed: a sender that is held up flatters.
const LOOK: Duration = Duration::from_millis(25);
/// When the last connection is read off; nothing may have come in between.
const AFTERMATH: Duration = Duration::from_millis(100);

const BACKENDS: [&str; 3] = ["direct-1", "direct-2", "direct-3"];

const HEAD: &str = r#"
interfaces = ["eth0", "eth1"]

[limits]
flows_v4 = 262_144
flows_v6 = 1024
maglev_slots = 65_536
"#;

/// A service on the VIP with a number, over all backends, with this check.
fn service(name: &str, vip: u8, check: &str) -> String {
    let backends = BACKENDS.iter().zip(11..).map(|(name, number)| {
        format!("[[pool.backend]]\nname = \"{name}\"\naddress = \"10.0.1.{number}\"\n")
    });
    let backends: String = backends.collect();
    format!(
        r#"
[[service]]
name = "{name}"
vip = "198.51.100.{vip}"
port = 80
protocol = "tcp"
mode = "dsr-l2"
pool = "{name}"

[[pool]]
name = "{name}"
hold_down = "0s"
{check}
{backends}
"#
    )
}

struct Trials {
    lab: Lab,
    weir: WeirProc,
    load: SynLoad,
}

/// Times of one trial.
struct Trial {
    /// From the failure to the last new connection.
    last_connection: Duration,
    /// The longest time without a new connection from the sender.
    sender_gap: Duration,
}

impl Trials {
    fn new(check: &str) -> Result<Self> {
        let web = Web { scheduling: Scheduling::Realtime, ..Web::default() };
        let lab = Lab::builder().direct(BACKENDS.len() as u8).web(web).start()?;
        lab.backends().iter().try_for_each(|backend| answer_without_memory(backend))?;
        let weir = lab.weir(&(HEAD.to_owned() + &service("web", 10, check)))?;
        let load = SynLoad::start(lab.client(), &["198.51.100.10:80".parse()?], RATE)?;
        Ok(Self { lab, weir, load })
    }

    /// Waits until a backend takes its share of new connections.
    fn wait_for_share(&self, backend: &Backend) -> Result<()> {
        let before = backend.witness()?.syns;
        eventually(&format!("{} takes new connections", backend.name()), || {
            backend.witness().is_ok_and(|witness| witness.syns > before + 20)
        });
        Ok(())
    }

    /// Lets each backend in turn fail and come back.
    fn run(
        &self,
        count: usize,
        fail: impl Fn(&Backend) -> Result<Duration>,
        mend: impl Fn(&Backend) -> Result<()>,
    ) -> Result<Vec<Trial>> {
        // A failure begins when its time is taken, not when this thread is let run again.
        hurry();
        let mut trials = Vec::new();
        for number in 0..count {
            let backend = self.lab.backend(BACKENDS[number % BACKENDS.len()]);
            self.wait_for_share(backend)?;
            thread::sleep(until_phase(number));
            let failed_at = fail(backend)?;
            thread::sleep((failed_at + AFTERMATH).saturating_sub(monotonic()));
            // As a rule long past; not where the machine stood still meanwhile.
            eventually(&format!("{} is down", backend.name()), || {
                self.weir.log().matches("to=\"down\"").count() > number
            });
            let witness = backend.witness()?;
            trials.push(Trial {
                last_connection: witness.last_syn.saturating_sub(failed_at),
                sender_gap: self.load.worst_gap(failed_at, failed_at + LOOK),
            });
            mend(backend)?;
        }
        let rate = self.load.rate();
        println!("{count} trials at {rate:.0} new connections/s; load average {}", load_average());
        Ok(trials)
    }
}

/// The interval of the slowest check here.
const INTERVAL: Duration = Duration::from_millis(5);

/// The time to wait so that failures spread evenly over the checks' interval, whatever their order is like: what
/// luck does to the phase would else decide a median.
fn until_phase(number: usize) -> Duration {
    const GOLDEN_RATIO: f64 = 0.618_033_988_749_895;
    let phase = INTERVAL.mul_f64((number as f64 * GOLDEN_RATIO).fract());
    let now = Duration::from_nanos((monotonic().as_nanos() % INTERVAL.as_nanos()) as u64);
    4 * INTERVAL + phase - now
}

/// The machine's load at present, for the record.
fn load_average() -> String {
    std::fs::read_to_string("/proc/loadavg").unwrap_or_default().trim().to_owned()
}

/// The values of a field in weir's lines about transitions to a state, in microseconds.
fn field_us(log: &str, to: &str, field: &str) -> Distribution {
    let wanted = format!("to=\"{to}\"");
    let lines = log.lines().filter(|line| line.contains(&wanted));
    let value = |line: &str| line.split_once(&format!(" {field}="))?.1.split(' ').next()?.parse().ok();
    lines.filter_map(value).map(Duration::from_micros).collect()
}

fn print_report(title: &str, trials: &[Trial], log: &str) -> Distribution {
    let last: Distribution = trials.iter().map(|trial| trial.last_connection).collect();
    let gaps: Distribution = trials.iter().map(|trial| trial.sender_gap).collect();
    println!("{title}\n  failure to last new connection: {last}\n  longest gap of the sender:      {gaps}");
    for to in ["suspect", "down"] {
        for field in ["detected_after_us", "applied_after_us"] {
            println!("  {to:7} {field:18} {}", field_us(log, to, field));
        }
    }
    let example = log.lines().rev().find(|line| line.contains("to=\"down\"")).unwrap_or_default();
    println!("  {example}");
    assert!(example.contains(" evidence=\"") && example.contains("ms ok after "), "{example}");
    let applied = field_us(log, "down", "applied_after_us");
    assert!(applied.len() >= trials.len(), "a line for each down: {applied}");
    assert!(applied.percentile(50) <= Duration::from_millis(1), "from decision to store: {applied}");
    last
}

/// What a check every few milliseconds reaches even where the machine stands still for tens of them.
fn assert_soon(last: &Distribution) {
    assert!(last.percentile(50) <= Duration::from_millis(20), "{last}");
    assert!(last.percentile(90) <= Duration::from_millis(60), "{last}");
}

fn killed_server_takes_no_new_connection_soon(kind: &str) -> Result<()> {
    let _machine = machine();
    let trials = Trials::new(&check(kind))?;
    let done = trials.run(50, |backend| Ok(backend.kill()), Backend::start)?;
    let log = trials.weir.log();
    let last = print_report(&format!("SIGKILL of nginx, {kind} every 5 ms"), &done, &log);
    assert_soon(&last);
    Ok(())
}

/// A `tcp` or `syn` check every 5 ms. The first refusal already keeps new connections away (suspect), so that a
/// second one can be asked for before a backend is called down, at no cost in speed.
fn check(kind: &str) -> String {
    format!(
        "[[pool.health]]\ntype = \"{kind}\"\nport = 80\ninterval = \"5ms\"\ntimeout = \"10ms\"\nfall = 2\nrise = 2\n"
    )
}

/// Threads that spin on every core, at ordinary priority.
struct BusyCores {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl BusyCores {
    fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let spin = |stop: Arc<AtomicBool>| {
            move || {
                let mut turns = 0_u64;
                while !stop.load(Ordering::Relaxed) {
                    turns = std::hint::black_box(turns + 1);
                }
                turns
            }
        };
        let cores = thread::available_parallelism().map_or(2, usize::from);
        let threads = (0..cores).map(|_| thread::spawn(spin(stop.clone()))).collect();
        Self { stop, threads }
    }
}

impl Drop for BusyCores {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

/// A `ping` check every millisecond.
const PING: &str =
    "[[pool.health]]\ntype = \"ping\"\ninterval = \"1ms\"\ntimeout = \"3ms\"\nfall = 3\nrise = 3\n";

#[test]
fn server_killed_under_syn_checks_takes_no_new_connection_within_milliseconds() -> Result<()> {
    killed_server_takes_no_new_connection_soon("syn")
}

#[test]
fn server_killed_under_tcp_checks_takes_no_new_connection_within_milliseconds() -> Result<()> {
    killed_server_takes_no_new_connection_soon("tcp")
}

#[test]
fn frozen_host_takes_no_new_connection_within_milliseconds() -> Result<()> {
    let _machine = machine();
    let trials = Trials::new(PING)?;
    let done = trials.run(40, Backend::freeze, Backend::thaw)?;
    let log = trials.weir.log();
    let last = print_report("frozen host, ping every 1 ms, timeout 3 ms, fall 3", &done, &log);
    assert_soon(&last);
    Ok(())
}

#[test]
fn healthy_backends_stay_up_for_a_minute_while_every_core_is_busy() -> Result<()> {
    let _machine = machine();
    // One service for each kind of check, over the same backends.
    let pools = [("ping", PING.to_owned()), ("syn", check("syn")), ("tcp", check("tcp"))];
    let services = pools.iter().zip(10..).map(|((name, checks), vip)| service(name, vip, checks));
    let config = services.fold(HEAD.to_owned(), |text, service| text + &service);
    let lab = Lab::builder().direct(BACKENDS.len() as u8).vips(pools.len() as u8).start()?;
    lab.backends().iter().try_for_each(|backend| answer_without_memory(backend))?;
    let weir = lab.weir(&config)?;
    let targets = (10..13).map(|vip| format!("198.51.100.{vip}:80").parse());
    let _load = SynLoad::start(lab.client(), &targets.collect::<Result<Vec<_>, _>>()?, 500)?;
    eventually("every backend is up", || weir.log().matches("to=\"up\"").count() >= 9);
    let before = weir.log().len();
    let _busy = BusyCores::start();
    let minutes =
        std::env::var("WEIR_TEST_BUSY_MINUTES").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    thread::sleep(Duration::from_secs(60 * minutes));
    let log = weir.log().split_off(before);
    let lines =
        |to: &str| log.lines().filter(|line| line.contains(&format!("to=\"{to}\""))).collect::<Vec<_>>();
    println!(
        "{minutes} min of ping 1 ms / 3 ms / 3, syn and tcp 5 ms / 10 ms / 2 on 3 backends: {} suspicions, {} downs; load average {}",
        lines("suspect").len(),
        lines("down").len(),
        load_average()
    );
    lines("suspect").iter().take(5).for_each(|line| println!("  {line}"));
    assert_eq!(lines("down"), Vec::<&str>::new());
    let backends = weir.json(&["backends"])?;
    let up = backends["backends"]
        .as_array()
        .map_or(0, |all| all.iter().filter(|one| one["health"] == "up").count());
    assert_eq!(up, 9, "{backends}");
    Ok(())
}
