//! A backend that loses a part of its handshakes: five pools side by side, each with trials of its own.
//!
//! Here clients shake hands, as only those count: 100 new connections a second to each backend. The time is from the
//! beginning of the loss to the store that halves the backend's share of new flows.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use weir_tests::{Backend, ConnectLoad, Lab, WeirProc, monotonic};

use super::ledger::Row;
use super::rows::Match;
use super::stage::until_phase;
use super::trial::{Takes, Trial, stored_at};

const POOLS: u8 = 5;
const BACKENDS: u8 = 3;
/// New connections a second to each backend.
const CONNECTS: u32 = 100;
/// SYNs of a hundred that are lost.
const LOST: u32 = 30;
/// How long the handshakes of all are fine before some are lost.
const FINE: Duration = Duration::from_secs(2);
const LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Plays a match; gives its row.
pub(super) fn play(one: &Match, trials: usize) -> Result<Vec<Row>> {
    let lab = Lab::builder().direct(POOLS * BACKENDS).vips(POOLS).start()?;
    let weir = lab.weir(&configuration(one.weir.check))?;
    let load = |pool: u8| {
        let vip = ([198, 51, 100, 10 + pool], 80).into();
        ConnectLoad::start(lab.client(), vip, CONNECTS * u32::from(BACKENDS))
    };
    let loads: Vec<ConnectLoad> = (0..POOLS).map(load).collect::<Result<_>>()?;
    let share = trials.div_ceil(usize::from(POOLS));
    let play = |pool: u8| -> Result<Vec<Trial>> {
        let pool = Pool { number: pool, lab: &lab, weir: &weir, load: &loads[usize::from(pool)], one };
        (0..share).map(|number| pool.trial(number)).collect()
    };
    let kept = thread::scope(|scope| -> Result<Vec<Trial>> {
        let threads: Vec<_> = (0..POOLS).map(|pool| scope.spawn(move || play(pool))).collect();
        let joined =
            threads.into_iter().map(|thread| thread.join().map_err(|_| anyhow!("a trial panicked"))?);
        Ok(joined.collect::<Result<Vec<_>>>()?.concat())
    })?;
    let takes = Takes { kept: kept.into_iter().take(trials).collect(), repeated: 0 };
    Ok(vec![Row::new(one.weir.id, one.fault.text(), "weir", one.weir.signal, one.weir.goal, &takes)?])
}

/// One pool, and what plays with it.
struct Pool<'a> {
    number: u8,
    lab: &'a Lab,
    weir: &'a WeirProc,
    load: &'a ConnectLoad,
    one: &'a Match,
}

impl Pool<'_> {
    fn trial(&self, number: usize) -> Result<Trial> {
        let member = usize::from(self.number * BACKENDS) + number % usize::from(BACKENDS);
        let backend = &self.lab.backends()[member];
        thread::sleep(FINE + until_phase(number, self.one.interval));
        let from = self.weir.log().len();
        let failed_at = monotonic();
        backend.lose_handshakes(LOST)?;
        let lowered = self.wait_for(backend, from, " of its SYNs fail, ");
        backend.lose_handshakes(0)?;
        let lowered = lowered?;
        let before = failed_at.saturating_sub(Duration::from_secs(1));
        let trial = Trial {
            last_connection: lowered.saturating_sub(failed_at),
            socket_closed: None,
            decision: None,
            sender_gap: self.load.worst_gap(failed_at, failed_at + FINE),
            per_second: self.load.count_between(before, failed_at) as f64 / f64::from(BACKENDS),
            false_downs: self.weir.log()[from..].matches("to=\"down\"").count(),
        };
        self.wait_for(backend, from, "takes 100 % of its share")?;
        Ok(trial)
    }

    /// Waits for a line of weir's log about the backend's share; gives the time of the store that it tells of.
    fn wait_for(&self, backend: &Backend, from: usize, words: &str) -> Result<Duration> {
        let deadline = monotonic() + LIMIT;
        let of_backend = format!("/{} ", backend.name());
        loop {
            let log = self.weir.log().split_off(from);
            if let Some(line) = log.lines().find(|line| line.contains(&of_backend) && line.contains(words)) {
                return stored_at(line).with_context(|| format!("read {line}"));
            }
            if monotonic() > deadline {
                bail!("weir says nothing like `{words}` about {} within {LIMIT:?}:\n{log}", backend.name());
            }
            thread::sleep(POLL);
        }
    }
}

fn configuration(check: &str) -> String {
    let pool = |pool: u8| {
        let backends: String = (pool * BACKENDS..(pool + 1) * BACKENDS)
            .map(|n| {
                let (name, host) = (n + 1, n + 11);
                format!("[[service.backend]]\nname = \"direct-{name}\"\naddress = \"10.0.1.{host}\"\n")
            })
            .collect();
        format!(
            "[[service]]\nname = \"web-{pool}\"\nvip = \"198.51.100.{}\"\nport = 80\nprotocol = \"tcp\"\n\
             mode = \"dsr-l2\"\n[service.health]\n{check}\nport = 80\n{backends}",
            10 + pool
        )
    };
    let pools: String = (0..POOLS).map(pool).collect();
    format!(
        "interfaces = [\"eth0\", \"eth1\"]\n[limits]\nflows_v4 = 262_144\nflows_v6 = 1024\nmaglev_slots = 65_536\n\
         [defaults]\nhold_down = \"0s\"\n{pools}"
    )
}
