//! One match: the lab, weir and HAProxy in it, and who is on.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use rustix::process::Signal;
use weir_tests::{
    Backend, ConnectLoad, Lab, Paced, Scheduling, SynLoad, Web, WeirProc, answer_without_memory, hurry,
    monotonic,
};

use super::closings::Closings;
use super::haproxy::Relay;
use super::ledger::Row;
use super::rows::{Fault, Match};
use super::trial::{Decision, Takes, Trial};
use super::{link, passive};

const BACKENDS: u8 = 2;
/// What checks connect to.
const PORT: u16 = 80;
/// New connections a second to each backend.
pub(super) const SYNS: u32 = 10_000;
/// The same through HAProxy, which shakes hands: what client, proxy and servers can do on few cores.
const CONNECTS: u32 = 2_500;
/// Trials before it is the other's turn.
const BLOCK: usize = 10;
/// How long after the last new connection the sender must have kept its pace.
pub(super) const LOOK: Duration = Duration::from_millis(2);
/// A backend that got nothing new for this time has been left.
const QUIET: Duration = Duration::from_millis(30);
/// What a check within milliseconds never takes: weir's log of such a trial is printed, and of one with a second down.
const OUTLIER: Duration = Duration::from_millis(200);
/// How long a line about a down may take to be in a log.
const TOLD: Duration = Duration::from_secs(1);
/// How long a backend may take to be left, or to be back.
const LIMIT: Duration = Duration::from_secs(15);

/// Plays a match; gives its rows.
pub(super) fn play(one: &Match, trials: usize, gap: Duration) -> Result<Vec<Row>> {
    match one.fault {
        Fault::LinkDown => return link::play(one, trials, gap),
        Fault::Lossy => return passive::play(one, trials),
        Fault::Killed(_) | Fault::Frozen | Fault::Hung | Fault::Severed => {}
    }
    let stage = Stage::set(one, gap)?;
    let mut weirs = Takes::default();
    let mut relays = Takes::default();
    let wanted = |takes: &Takes| BLOCK.min(trials - takes.kept.len());
    loop {
        let (of_weir, of_relay) = (wanted(&weirs), stage.relay.as_ref().map_or(0, |_| wanted(&relays)));
        if of_weir + of_relay == 0 {
            break;
        }
        stage.block(Actor::Weir, of_weir, &mut weirs)?;
        stage.block(Actor::Haproxy, of_relay, &mut relays)?;
        eprint!(".");
    }
    eprintln!();
    let fault = one.fault.text();
    let mut rows = vec![Row::new(one.weir.id, fault, "weir", one.weir.signal, one.weir.goal, &weirs)?];
    if let Some(id) = one.weir.decision {
        rows.push(Row::of_decisions(id, &weirs)?);
    }
    if let Some(row) = &one.haproxy {
        rows.push(Row::new(row.id, fault, "HAProxy", row.signal, None, &relays)?);
    }
    Ok(rows)
}

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Actor {
    Weir,
    Haproxy,
}

struct Stage<'a> {
    one: &'a Match,
    weir: WeirProc,
    syns: SynLoad,
    relay: Option<(Relay, ConnectLoad)>,
    /// Of servers that are killed.
    closings: Option<Closings>,
    /// The sender may fall this far behind in the time that a trial looks at.
    gap: Duration,
    lab: Lab,
}

impl<'a> Stage<'a> {
    fn set(one: &'a Match, gap: Duration) -> Result<Self> {
        let killed = match one.fault {
            Fault::Killed(program) => Some(program),
            _ => None,
        };
        let web = Web {
            ports: vec![PORT, weir_tests::RELAYED_PORT],
            scheduling: Scheduling::Realtime,
            // A server of several processes dies when the last of them does.
            workers: if killed.is_some() { 0 } else { 1 },
            program: killed.unwrap_or_default(),
            ..Web::default()
        };
        let lab = Lab::builder().direct(BACKENDS).web(web).start()?;
        lab.backends().iter().try_for_each(|backend| answer_without_memory(backend))?;
        let weir = lab.weir(&configuration(one.weir.check, one.mode()))?;
        let syns = SynLoad::start(lab.client(), &["198.51.100.10:80".parse()?], SYNS * u32::from(BACKENDS))?;
        syns.pause();
        weir.signal(Signal::STOP)?;
        let relay = match &one.haproxy {
            None => None,
            Some(row) => {
                let relay = Relay::start(&lab, row)?;
                let load = ConnectLoad::start(lab.client(), relay.address(), CONNECTS * u32::from(BACKENDS))?;
                load.pause();
                relay.signal(Signal::STOP)?;
                Some((relay, load))
            }
        };
        let closings = killed.and_then(|_| Closings::watch(PORT));
        Ok(Self { one, weir, syns, relay, closings, gap, lab })
    }

    /// Lets one actor play some undisturbed trials, and stops it again.
    fn block(&self, actor: Actor, trials: usize, takes: &mut Takes) -> Result<()> {
        if trials == 0 {
            return Ok(());
        }
        // A failure begins when its time is taken, not when this thread is let run again.
        hurry();
        self.signal(actor, Signal::CONT)?;
        self.load(actor)?.resume();
        let enough = takes.kept.len() + trials;
        while takes.kept.len() < enough {
            let number = takes.kept.len() + takes.repeated;
            let trial = self.trial(actor, number).with_context(|| format!("{actor:?}, trial {number}"))?;
            if trial.sender_gap <= self.gap {
                takes.kept.push(trial);
            } else {
                takes.repeated += 1;
                if takes.repeated > 3 * enough.max(20) {
                    bail!(
                        "the sender was held up in {} of {number} trials: quieten the machine",
                        takes.repeated
                    );
                }
            }
        }
        self.load(actor)?.pause();
        self.signal(actor, Signal::STOP)
    }

    fn load(&self, actor: Actor) -> Result<&Paced> {
        match (actor, &self.relay) {
            (Actor::Weir, _) => Ok(&self.syns),
            (Actor::Haproxy, Some((_, load))) => Ok(load),
            (Actor::Haproxy, None) => bail!("haproxy does not take part"),
        }
    }

    fn signal(&self, actor: Actor, signal: Signal) -> Result<()> {
        match (actor, &self.relay) {
            (Actor::Weir, _) => self.weir.signal(signal),
            (Actor::Haproxy, Some((relay, _))) => relay.signal(signal),
            (Actor::Haproxy, None) => bail!("haproxy does not take part"),
        }
    }

    /// Downs that the actor has announced so far.
    fn downs(&self, actor: Actor) -> usize {
        match (actor, &self.relay) {
            (Actor::Weir, _) => self.weir.log().matches("to=\"down\"").count(),
            (Actor::Haproxy, relay) => relay.as_ref().map_or(0, |(relay, _)| relay.downs()),
        }
    }

    fn log_tail(&self) -> String {
        let relay = self.relay.as_ref().map_or_else(String::new, |(relay, _)| relay.log());
        let log = self.weir.log() + &relay;
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(5)..].join("\n")
    }

    fn trial(&self, actor: Actor, number: usize) -> Result<Trial> {
        let load = self.load(actor)?;
        let backends = self.lab.backends();
        let backend = &backends[number % backends.len()];
        wait_for_shares(backends, || self.log_tail())?;
        let (downs, log) = (self.downs(actor), self.weir.log().len());
        thread::sleep(until_phase(number, self.one.interval));
        let failed_at = self.fail(backend)?;
        let left_at = self.wait_until_left(backend, failed_at)?;
        // A line that comes late would count in the next trial.
        let told_by = monotonic() + TOLD;
        while self.downs(actor) == downs && monotonic() < told_by {
            thread::sleep(Duration::from_millis(2));
        }
        let announced = self.downs(actor) - downs;
        let last_connection = left_at.saturating_sub(failed_at);
        if actor == Actor::Weir && (last_connection > OUTLIER || announced > 1) {
            let log = &self.weir.log()[log..];
            eprintln!("trial {number}: {last_connection:?}, {announced} downs; weir's log:\n{log}");
        }
        let decision = match actor {
            Actor::Weir => Decision::read(&self.weir.log()[log..], backend.name(), left_at),
            Actor::Haproxy => None,
        };
        let before = failed_at.saturating_sub(Duration::from_millis(100));
        let closed_at = self.closings.as_ref().and_then(|closings| closings.first_since(failed_at));
        let trial = Trial {
            last_connection,
            socket_closed: closed_at.map(|at| at.saturating_sub(failed_at)),
            decision,
            sender_gap: load.worst_gap(failed_at, failed_at.max(left_at) + LOOK),
            per_second: load.count_between(before, failed_at) as f64 * 10.0 / backends.len() as f64,
            false_downs: announced.saturating_sub(1),
        };
        self.mend(backend)?;
        Ok(trial)
    }

    fn fail(&self, backend: &Backend) -> Result<Duration> {
        match self.one.fault {
            Fault::Killed(_) => Ok(backend.kill()),
            Fault::Frozen => backend.freeze(),
            Fault::Hung => backend.hang(),
            Fault::Severed => backend.sever(),
            Fault::LinkDown | Fault::Lossy => bail!("it has a stage of its own"),
        }
    }

    fn mend(&self, backend: &Backend) -> Result<()> {
        match self.one.fault {
            Fault::Killed(_) => backend.start(),
            Fault::Frozen | Fault::Severed => backend.thaw(),
            Fault::Hung => backend.go_on(),
            Fault::LinkDown | Fault::Lossy => Ok(()),
        }
    }

    /// Waits until a backend gets nothing new; gives the time of the last new connection.
    fn wait_until_left(&self, backend: &Backend, failed_at: Duration) -> Result<Duration> {
        loop {
            thread::sleep(QUIET / 2);
            let last = backend.witness().context("read the switch port's counters")?.last_syn;
            let now = monotonic();
            if now.saturating_sub(last.max(failed_at)) >= QUIET {
                return Ok(last);
            }
            if now > failed_at + LIMIT {
                bail!("{} still gets new connections after {LIMIT:?}", backend.name());
            }
        }
    }
}

/// Waits until every backend takes its share of new connections; `log` is for the error.
pub(super) fn wait_for_shares(backends: &[Backend], log: impl Fn() -> String) -> Result<()> {
    let deadline = monotonic() + LIMIT;
    for backend in backends {
        let before = backend.witness()?.syns;
        while backend.witness()?.syns < before + 20 {
            if monotonic() > deadline {
                let name = backend.name();
                bail!("{name} takes no new connections after {LIMIT:?}; the logs end:\n{}", log());
            }
            thread::sleep(Duration::from_millis(2));
        }
    }
    Ok(())
}

fn configuration(check: &str, mode: &str) -> String {
    let port = if check.contains("\"ping\"") { "" } else { "port = 80\n" };
    let backends: String = (1..=BACKENDS)
        .map(|n| format!("[[service.backend]]\nname = \"direct-{n}\"\naddress = \"10.0.1.{}\"\n", n + 10))
        .collect();
    format!(
        "interfaces = [\"eth0\", \"eth1\"]\n[limits]\nflows_v4 = 262_144\nflows_v6 = 1024\nmaglev_slots = 65_536\n\
         [defaults]\nhold_down = \"0s\"\n[[service]]\nname = \"web\"\nvip = \"198.51.100.10\"\nport = 80\n\
         protocol = \"tcp\"\nmode = \"{mode}\"\n[service.health]\n{check}\n{port}{backends}"
    )
}

/// The time to wait so that failures spread evenly over an interval, whatever their order is like: what luck does
/// to the phase would else decide a median.
pub(super) fn until_phase(number: usize, interval: Duration) -> Duration {
    const GOLDEN_RATIO: f64 = 0.618_033_988_749_895;
    let phase = interval.mul_f64((number as f64 * GOLDEN_RATIO).fract());
    let now = Duration::from_nanos((monotonic().as_nanos() % interval.as_nanos()) as u64);
    4 * interval + phase - now
}
