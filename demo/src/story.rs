//! The acts: what is done to backends and the daemon, and what is measured meanwhile.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use weir_tests::{Downloads, Family, Get, Lab, WeirProc, monotonic};

use crate::{
    board::{Act, Board, Tone},
    journal::{self, Transition},
    record::{Blow, Drained, Record, Restarted, Span, Strike, Sums},
};

/// The backends that the story is about, one of each kind of trouble.
pub(crate) const KILLED: &str = "direct-2";
pub(crate) const FROZEN: &str = "routed-1";
pub(crate) const DRAINED: &str = "routed-2";

/// How many downloads run during the drain and during the restart.
const DOWNLOADS: usize = 48;
/// How long weir may take to notice anything before the story goes on without it.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long nothing needs to be sent until every packet under way has arrived.
const SETTLE: Duration = Duration::from_millis(200);

/// Plays the acts on a running lab.
pub(crate) struct Story<'a> {
    pub(crate) lab: &'a Lab,
    pub(crate) weir: WeirProc,
    pub(crate) board: &'a Board,
    /// Set by Ctrl-C.
    pub(crate) stop: &'a AtomicBool,
    pub(crate) record: Record,
}

impl Story<'_> {
    /// Plays all acts but the last measurement, under load.
    pub(crate) fn play(&mut self) -> Result<()> {
        self.act(Act::Steady, "Steady load: real HTTP requests, IPv4 and IPv6, to six nginx", |story| {
            story.pause(Duration::from_secs(5))
        })?;
        self.act(Act::Kill, "Kill: SIGKILL to every process of direct-2", |story| {
            story.strike(Blow::Kill, KILLED)
        })?;
        self.act(Act::Freeze, "Freeze: the host of routed-1 neither receives nor sends a frame", |story| {
            story.strike(Blow::Freeze, FROZEN)
        })?;
        self.act(Act::Drain, "Drain: routed-2 takes no new connections, its downloads go on", Self::drain)?;
        self.act(Act::Restart, "Restart: SIGKILL to the daemon; traffic goes on without it", Self::restart)?;
        self.act(Act::Whole, "Whole again: routed-2 is back in service", |story| {
            story.weir.succeed(&["backend", "ready", DRAINED])?;
            story.board.tell(Tone::Plain, format!("weir backend ready {DRAINED}"));
            story.pause(Duration::from_secs(3))
        })?;
        self.record.alarms = self.journal();
        self.record.alarms.retain(|transition| {
            transition.takes_out() && ![KILLED, FROZEN].contains(&transition.backend.as_str())
        });
        Ok(())
    }

    /// Ends the daemon, so that nothing is sent any more, and compares the reasons with the packets.
    pub(crate) fn count(&mut self) -> Result<()> {
        self.weir.terminate()?;
        thread::sleep(SETTLE);
        let reasons = self.counters()?.into_iter().collect();
        let seen = self.packets_seen()?;
        self.record.sums = Some(Sums { reasons, seen });
        Ok(())
    }

    fn act(&mut self, act: Act, banner: &str, play: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        self.board.begin(act, banner);
        self.record.spans.push(Span { act, begin: monotonic() });
        play(self)?;
        Ok(())
    }

    fn pause(&self, time: Duration) -> Result<()> {
        self.wait(time, || Ok(false)).map(drop)
    }

    /// Looks again and again until something holds or the time is over; says which.
    fn wait(&self, limit: Duration, mut holds: impl FnMut() -> Result<bool>) -> Result<bool> {
        let deadline = Instant::now() + limit;
        loop {
            if self.stop.load(Ordering::Relaxed) {
                bail!("interrupted");
            }
            if holds()? {
                return Ok(true);
            }
            if Instant::now() >= deadline {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn journal(&self) -> Vec<Transition> {
        journal::transitions(&self.weir.log())
    }

    fn transitions(&self, backend: &str, since: Duration) -> Vec<Transition> {
        let mut transitions = self.journal();
        transitions.retain(|transition| transition.backend == backend && transition.decided >= since);
        transitions
    }

    fn strike(&mut self, blow: Blow, name: &str) -> Result<()> {
        let backend = self.lab.backend(name);
        let at = match blow {
            Blow::Kill => backend.kill(),
            Blow::Freeze => backend.freeze()?,
        };
        let down = || Ok(self.transitions(name, at).iter().any(|transition| transition.to == "down"));
        self.wait(PATIENCE, down)?;
        self.pause(Duration::from_secs(4))?;
        let (witness, watched) = (backend.witness()?, monotonic());
        let mut strike = Strike {
            blow,
            backend: name.to_owned(),
            at,
            transitions: self.transitions(name, at),
            last_syn: witness.last_syn,
            last_packet: witness.last_packet,
            watched,
            back_after: None,
        };
        let again = monotonic();
        match blow {
            Blow::Kill => {
                backend.start()?;
                self.board.tell(Tone::Plain, format!("{name}: nginx started again"));
            }
            Blow::Freeze => {
                backend.thaw()?;
                self.board.tell(Tone::Plain, format!("{name}: thawed"));
            }
        }
        let up = || Ok(self.transitions(name, again).iter().any(|transition| transition.to == "up"));
        if self.wait(PATIENCE, up)? {
            let up = self.transitions(name, again).into_iter().find(|transition| transition.to == "up");
            strike.back_after = up.map(|up| up.stored.saturating_sub(again));
        }
        self.record.strikes.push(strike);
        self.pause(Duration::from_secs(2))
    }

    /// Starts downloads that last some seconds, and shows them from then on.
    fn downloads(&self) -> Result<Downloads> {
        let request = Get::new((self.lab.vip().of(Family::V4), 80).into()).path("/big");
        let downloads = Downloads::start(self.lab.client(), vec![request; DOWNLOADS]);
        downloads.wait_started(PATIENCE)?;
        self.board.tell(Tone::Plain, format!("{DOWNLOADS} downloads of some seconds run"));
        Ok(downloads)
    }

    /// Waits for the end of downloads.
    fn finish(&self, downloads: Downloads) -> Result<Vec<weir_tests::Download>> {
        self.wait(Duration::from_secs(20), || {
            let states = downloads.states();
            let ended = states.iter().all(|download| download.end.is_some());
            self.board.lock().downloads = states;
            Ok(ended)
        })?;
        Ok(downloads.states())
    }

    fn drain(&mut self) -> Result<()> {
        let backend = self.lab.backend(DRAINED);
        let downloads = self.downloads()?;
        self.board.lock().downloads = downloads.states();
        self.pause(Duration::from_secs(1))?;
        let kept = downloads.states().iter().filter(|one| one.backend.as_deref() == Some(DRAINED)).count();
        self.weir.succeed(&["backend", "drain", DRAINED, "--reason", "kernel update"])?;
        let at = monotonic();
        // A packet that weir sent before the store may still be on its way through the switches.
        thread::sleep(Duration::from_millis(5));
        let before = backend.witness()?.syns;
        self.board.tell(Tone::Plain, format!("weir backend drain {DRAINED}: {kept} downloads run on it"));
        let downloads = self.finish(downloads)?;
        let (after, watched) = (backend.witness()?.syns, monotonic());
        let backend = DRAINED.to_owned();
        self.record.drained =
            Some(Drained { backend, at, syns_after: after - before, downloads, kept, watched });
        self.pause(Duration::from_secs(1))
    }

    fn restart(&mut self) -> Result<()> {
        let downloads = self.downloads()?;
        // A flow is proven once the client's second ACK has passed.
        self.wait(PATIENCE, || {
            self.board.lock().downloads = downloads.states();
            Ok(self.proven()?.len() >= DOWNLOADS)
        })?;
        let (programs, flows, counters) = (self.programs()?, self.proven()?, self.counters()?);
        self.weir.kill();
        let killed = monotonic();
        self.board.lock().daemon = "killed";
        self.board.tell(Tone::Bad, "the daemon is dead (SIGKILL)");
        self.pause(Duration::from_secs(2))?;
        let started = monotonic();
        self.weir.launch()?;
        let ready = monotonic();
        self.board.lock().daemon = "running";
        self.board
            .tell(Tone::Good, format!("the daemon is ready after {} ms", (ready - started).as_millis()));
        let still = self.proven()?;
        let running = downloads.states().iter().filter(|download| download.end.is_none()).count();
        // Those of downloads that ended meanwhile are closing.
        let moved =
            flows.iter().filter(|(client, backend)| still.get(*client).is_some_and(|now| now != *backend));
        let mut moved: Vec<String> = moved.map(|(client, _)| client.clone()).collect();
        let known = flows.keys().filter(|client| still.contains_key(*client)).count();
        if known < running {
            moved.push(format!("{} flows left the table", running - known));
        }
        let now = self.counters()?;
        let fell = counters.iter().filter(|(reason, count)| now.get(*reason) < Some(count));
        let fell = fell.map(|(reason, _)| reason.clone()).collect();
        let admin = self.admin(DRAINED)?;
        let programs = [programs, self.programs()?];
        let flows = flows.len();
        let downloads = self.finish(downloads)?;
        self.record.restarted =
            Some(Restarted { killed, started, ready, programs, flows, moved, fell, admin, downloads });
        Ok(())
    }

    /// Proven flows: client and port, and the backend.
    fn proven(&self) -> Result<BTreeMap<String, String>> {
        let answer = self.weir.json(&["flows", "--state", "proven", "--limit", "0"])?;
        let flows = answer["flows"].as_array().context("weir flows: no list")?;
        let pair = |flow: &Value| {
            let client = format!("{}:{}", flow["client"].as_str()?, flow["client_port"]);
            Some((client, flow["backend"].as_str()?.to_owned()))
        };
        Ok(flows.iter().filter_map(pair).collect())
    }

    fn counters(&self) -> Result<BTreeMap<String, u64>> {
        let status = self.weir.json(&["status"])?;
        let counters = status["counters"].as_object().context("weir status: no counters")?;
        Ok(counters.iter().map(|(reason, count)| (reason.clone(), count.as_u64().unwrap_or(0))).collect())
    }

    fn admin(&self, name: &str) -> Result<String> {
        let answer = self.weir.json(&["backends", "--backend", name])?;
        Ok(answer["backends"][0]["admin"].as_str().unwrap_or_default().to_owned())
    }

    /// The ids of the programs on weir's interfaces.
    fn programs(&self) -> Result<Vec<u64>> {
        let links: Value = serde_json::from_str(&self.weir.host().ip("-json link show")?)?;
        let links = links.as_array().context("ip link show: no list")?;
        Ok(links.iter().filter_map(|link| link["xdp"]["prog"]["id"].as_u64()).collect())
    }

    /// Packets that the drivers of weir's interfaces handed to the program.
    fn packets_seen(&self) -> Result<u64> {
        let mut sum = 0;
        for interface in ["eth0", "eth1"] {
            let text = self.weir.host().exec("ethtool", &["-S", interface])?;
            let counts = text.lines().filter_map(|line| line.trim().split_once("_xdp_packets: "));
            sum += counts.filter_map(|(_, count)| count.parse::<u64>().ok()).sum::<u64>();
        }
        Ok(sum)
    }
}
