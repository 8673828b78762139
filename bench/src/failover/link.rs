//! A local link that goes down, with the backends behind it.
//!
//! No switch port sees what weir sends into a dead link, so the last new connection is the last that weir's own data plane
//! counted as new to the backend: its counter is looked at all the time, and the figure is late by up to one look.

use std::fs::File;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use lb_common::layout::HandshakeStep;
use lb_userspace::maps::counters::CounterMaps;
use lb_userspace::maps::pins::Pins;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use weir_tests::{Lab, Process, Scheduling, SynLoad, Web, WeirProc, answer_without_memory, hurry, monotonic};

use super::ledger::Row;
use super::rows::Match;
use super::stage::{LOOK, SYNS, until_phase, wait_for_shares};
use super::trial::{Decision, Takes, Trial};

/// The backend behind the link that fails; the other stands behind another link.
const BEHIND: &str = "direct-1";
const OTHER: &str = "routed-1";
/// The far end of that link.
const FAR: &str = "weir-direct";
/// Time between two looks at the counter.
const STEP: Duration = Duration::from_micros(30);
/// A backend that got nothing new for this time has been left.
const QUIET: Duration = Duration::from_millis(30);
const LIMIT: Duration = Duration::from_secs(15);
/// The kernel tells of carriers once a second, of the link that came up too: one that fails before is found late.
const RESTED: Duration = Duration::from_millis(2200);

/// Plays a match; gives its row.
pub(super) fn play(one: &Match, trials: usize, gap: Duration) -> Result<Vec<Row>> {
    let web = Web { scheduling: Scheduling::Realtime, ..Web::default() };
    let lab = Lab::builder().direct(1).routed(1).web(web).start()?;
    lab.backends().iter().try_for_each(|backend| answer_without_memory(backend))?;
    let weir = lab.weir(&configuration(one.weir.check))?;
    let syns = SynLoad::start(lab.client(), &["198.51.100.10:80".parse()?], SYNS * 2)?;
    let flows = NewFlows::of(&weir)?;
    let mut switch = Switch::start(&lab)?;
    hurry();
    let mut takes = Takes::default();
    while takes.kept.len() < trials {
        let number = takes.kept.len() + takes.repeated;
        thread::sleep(RESTED);
        wait_for_shares(lab.backends(), || weir.log())?;
        let from = weir.log().len();
        thread::sleep(until_phase(number, one.interval));
        let failed_at = monotonic();
        switch.set(Far::Down)?;
        let left_at = flows.wait_until_left(failed_at)?;
        let log = told(&weir, from)?;
        switch.set(Far::Up)?;
        let before = failed_at.saturating_sub(Duration::from_millis(100));
        let trial = Trial {
            last_connection: left_at.saturating_sub(failed_at),
            socket_closed: None,
            decision: Decision::read(&log, BEHIND, left_at),
            sender_gap: syns.worst_gap(failed_at, left_at + LOOK),
            per_second: syns.count_between(before, failed_at) as f64 * 10.0 / 2.0,
            false_downs: log
                .lines()
                .filter(|line| line.contains("to=\"down\"") && !line.contains(BEHIND))
                .count(),
        };
        match trial.sender_gap <= gap {
            true => takes.kept.push(trial),
            false => takes.repeated += 1,
        }
        if takes.repeated > 3 * trials.max(20) {
            bail!("the sender was held up in {} trials: quieten the machine", takes.repeated);
        }
    }
    Ok(vec![Row::new(one.weir.id, one.fault.text(), "weir", one.weir.signal, one.weir.goal, &takes)?])
}

/// What weir's log says since a place of it, once it names the carrier; it is written after the store.
fn told(weir: &WeirProc, from: usize) -> Result<String> {
    let deadline = monotonic() + LIMIT;
    loop {
        let log = weir.log().split_off(from);
        if log.contains("no carrier on eth1") {
            return Ok(log);
        }
        if monotonic() > deadline {
            bail!("not the carrier took the backend out:\n{log}");
        }
        thread::sleep(Duration::from_millis(2));
    }
}

fn configuration(check: &str) -> String {
    format!(
        "interfaces = [\"eth0\", \"eth1\"]\n[limits]\nflows_v4 = 262_144\nflows_v6 = 1024\nmaglev_slots = 65_536\n\
         [defaults]\nhold_down = \"0s\"\n[[service]]\nname = \"web\"\nvip = \"198.51.100.10\"\nport = 80\n\
         protocol = \"tcp\"\nmode = \"ipip\"\n[service.health]\n{check}\n\
         [[service.backend]]\nname = \"{BEHIND}\"\naddress = \"10.0.1.11\"\n\
         [[service.backend]]\nname = \"{OTHER}\"\naddress = \"10.0.2.11\"\n"
    )
}

/// The counter of new flows to the backend behind the link.
struct NewFlows {
    counters: CounterMaps,
    id: u32,
}

impl NewFlows {
    /// Finds the backend's counter: the one that stands still while it is drained.
    fn of(weir: &WeirProc) -> Result<Self> {
        let counters = CounterMaps::open(&Pins::new(weir.bpffs())).context("open weir's counters")?;
        let count = |id: u32| counters.handshakes(id).of(HandshakeStep::Opened);
        let grows = |within: Duration| -> Vec<u32> {
            let before: Vec<u64> = (0..16).map(count).collect();
            thread::sleep(within);
            (0..16).filter(|id| count(*id) > before[*id as usize]).collect()
        };
        let both = grows(Duration::from_millis(200));
        weir.succeed(&["backend", "drain", BEHIND, "--force"])?;
        let other = grows(Duration::from_millis(200));
        weir.succeed(&["backend", "ready", BEHIND])?;
        let mut own = both.into_iter().filter(|id| !other.contains(id));
        let (Some(id), None) = (own.next(), own.next()) else { bail!("no counter is {BEHIND}'s alone") };
        Ok(Self { counters, id })
    }

    fn count(&self) -> u64 {
        self.counters.handshakes(self.id).of(HandshakeStep::Opened)
    }

    /// Waits until the backend gets nothing new; gives the time of the last new connection.
    fn wait_until_left(&self, failed_at: Duration) -> Result<Duration> {
        let (mut seen, mut last) = (self.count(), failed_at);
        loop {
            let (count, now) = (self.count(), monotonic());
            if count != seen {
                (seen, last) = (count, now);
            } else if now.saturating_sub(last) >= QUIET {
                return Ok(last);
            }
            if now > failed_at + LIMIT {
                bail!("{BEHIND} still gets new connections after {LIMIT:?}");
            }
            thread::sleep(STEP);
        }
    }
}

/// What the far end of a link can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Far {
    Down,
    Up,
}

/// An `ip` that waits for words, so that a link goes down when it is told and not when a program has started.
struct Switch {
    words: File,
    _process: Process,
}

impl Switch {
    fn start(lab: &Lab) -> Result<Self> {
        let path = lab.directory().join("switch");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).context("make a pipe")?;
        let mut command = Command::new("chrt");
        command.args(["--fifo", "10", "ip", "-batch"]).arg(&path).stdout(Stdio::null());
        let process = lab.edge().spawn(command)?;
        let words = File::options().write(true).open(&path).context("open the pipe")?;
        Ok(Self { words, _process: process })
    }

    fn set(&mut self, far: Far) -> Result<()> {
        let word = match far {
            Far::Down => "down",
            Far::Up => "up",
        };
        self.words.write_all(format!("link set {FAR} {word}\n").as_bytes()).context("tell ip")
    }
}
