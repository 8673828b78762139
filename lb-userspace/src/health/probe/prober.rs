//! Runs all checks on one thread of its own: sends probes, reads answers, judges, applies.
//!
//! One loop: sleep until a timer or an answer; read the clock; drain every socket; judge as of that reading; send.
//! The order makes a stall of this thread harmless: answers that waited count before anybody is judged, and probes
//! sent late count from when they were sent. A stall of another core, with answers on it, is what the roll call is for.

#![forbid(unsafe_code)]

use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, SystemTime};

use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::asynchronous::{AsyncProbes, Report};
use super::bfd::Talks;
use super::connect::{ATTEMPT, Connects, Outcome};
use super::datagram::{DATAGRAM, Datagrams};
use super::icmp_errors::ErrorSockets;
use super::lane::{Lane, Lanes, grid};
use super::numbers::Numbers;
use super::raw::RawSockets;
use super::realtime;
use super::roll_call::{Ended, RollCall};
use super::through::TunnelSockets;
use super::timers::{Task, Timers};
use super::tripwire::{TRIPWIRE, Tripwires};
use super::trust::TlsSettings;
use crate::config::model::{Check, CheckKind};
use crate::health::board::{Board, StreamChanges, StreamId};
use crate::health::command::{Command, HealthError, Targets, Waker};
use crate::health::hearsay::Complaint;
use crate::health::judge::Sequence;
use crate::health::time::Moment;
use crate::net::carrier::CarrierWatch;

mod answers;
mod sending;
mod tunnel;

const WAKE: u64 = 1;
const TIMER: u64 = 2;
const RAW: u64 = 3;
const BFD: u64 = 4;
const LINKS: u64 = 5;
const ICMP: u64 = 6;
/// Events taken from the kernel in one call.
const BATCH: usize = 256;
/// A timer that fires later than this was held up; nobody is judged before another look at the sockets.
const LATE: Duration = Duration::from_millis(1);
const SECOND_LOOK: Duration = Duration::from_micros(500);
/// Least time between two judgements of a stream.
const JUDGE_GAP: Duration = Duration::from_micros(100);
/// Own trouble with sending is logged this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);

/// The probe thread's state.
pub(in crate::health) struct Prober {
    board: Board,
    lanes: Lanes,
    timers: Timers,
    raw: RawSockets,
    tunnels: TunnelSockets,
    numbers: Numbers,
    connects: Connects,
    tripwires: Tripwires,
    talks: Talks,
    datagrams: Datagrams,
    links: CarrierWatch,
    icmp_errors: ErrorSockets,
    asynchronous: AsyncProbes,
    commands: Receiver<Command>,
    waker: Arc<Waker>,
    epoll: OwnedFd,
    timer: OwnedFd,
    /// Whatever arrived before this time has been read.
    drained_at: Moment,
    judge_not_before: Moment,
    roll_call: RollCall,
    random: RandomState,
    draws: u64,
    complained_at: Option<Moment>,
}

/// Whether the loop goes on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    Continue,
    Stop,
}

impl Prober {
    /// Opens the event loop.
    pub(in crate::health) fn new(
        board: Board,
        commands: Receiver<Command>,
        waker: Arc<Waker>,
        runtime: tokio::runtime::Handle,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN)?;
        epoll::add(&epoll, waker.as_fd(), EventData::new_u64(WAKE), EventFlags::IN)?;
        let icmp_errors = ErrorSockets::open(epoll.as_fd(), ICMP)?;
        let links = CarrierWatch::open()?;
        epoll::add(&epoll, &links, EventData::new_u64(LINKS), EventFlags::IN)?;
        Ok(Self {
            board,
            lanes: Lanes::default(),
            timers: Timers::default(),
            raw: RawSockets::default(),
            tunnels: TunnelSockets::default(),
            numbers: Numbers::default(),
            connects: Connects::default(),
            tripwires: Tripwires::default(),
            talks: Talks::default(),
            datagrams: Datagrams::default(),
            links,
            icmp_errors,
            asynchronous: AsyncProbes::new(runtime, waker.clone()),
            commands,
            waker,
            epoll,
            timer,
            drained_at: Moment::now(),
            judge_not_before: Moment::default(),
            roll_call: RollCall::default(),
            random: RandomState::new(),
            draws: 0,
            complained_at: None,
        })
    }

    /// Loops until told to stop.
    pub(in crate::health) fn run(mut self) {
        match realtime::enter() {
            Ok(()) => match RollCall::start() {
                Ok(cores) => self.roll_call = cores,
                Err(error) => tracing::warn!("start a thread on each core: {error}"),
            },
            Err(error) => tracing::info!(
                "probe thread runs without real-time priority: {error}; grant CAP_SYS_NICE for it"
            ),
        }
        let mut events = Vec::with_capacity(BATCH);
        let mut armed = None;
        loop {
            let deadlines = [
                self.timers.first(),
                self.board.next_deadline(),
                self.tripwires.next_deadline(),
                self.talks.next_deadline(),
                self.icmp_errors.next_deadline(),
            ];
            let wanted = deadlines.into_iter().flatten().min();
            if wanted != armed {
                self.arm(wanted);
                armed = wanted;
            }
            self.wait(&mut events, None);
            let now = Moment::now();
            self.hear_cores(now);
            let mut next = self.take(&mut events, now);
            while next == Next::Continue && self.wait(&mut events, Some(&Timespec::default())) > 0 {
                next = self.take(&mut events, now);
            }
            if next == Next::Stop {
                return;
            }
            if wanted.is_some_and(|at| at <= now) {
                armed = None;
            }
            self.drained_at = self.roll_call.handled_by(now);
            self.look_twice_if_late(wanted, now);
            self.icmp_errors.on_time(self.epoll.as_fd(), now);
            self.board.on_time(now);
            self.run_due(now);
            self.send_urgent();
            self.board.flush(Moment::now());
        }
    }

    /// Opens what these pools need; they are not checked yet.
    pub(in crate::health) fn prepare(&mut self, targets: &Targets) -> Result<(), HealthError> {
        targets.validate()?;
        let opened = self.open_for(targets);
        if opened.is_err() {
            self.talks.close_unused();
        }
        opened
    }

    /// Forgets what was received since the sockets were opened: nothing of it is an answer.
    pub(in crate::health) fn forget_received(&mut self, now: Moment) {
        self.take_icmp_errors(now);
        self.talks.take_packets(&mut self.board, now);
    }

    fn open_for(&mut self, targets: &Targets) -> Result<(), HealthError> {
        for pool in targets.pools.values() {
            let direct = pool.checks.iter().filter(|check| check.inside.is_none());
            for (check, backend) in
                direct.flat_map(|check| pool.backends.values().map(move |backend| (check, backend)))
            {
                let opened = self.raw.open_for(&check.kind, backend.address, self.epoll.as_fd(), RAW);
                opened.map_err(|source| HealthError::open(&check.kind, source))?;
                if check.kind == CheckKind::Bfd {
                    let opened = self.talks.open_for(backend.address, self.epoll.as_fd(), BFD);
                    opened.map_err(HealthError::BfdPort)?;
                }
            }
        }
        self.open_tunnels(targets)?;
        for witness in &targets.witnesses {
            let opened = self.raw.open_for(&CheckKind::Ping, *witness, self.epoll.as_fd(), RAW);
            opened.map_err(|source| HealthError::open(&CheckKind::Ping, source))?;
        }
        Ok(())
    }

    /// Replaces the set of pools by one that was prepared.
    pub(in crate::health) fn update(&mut self, targets: &Targets, tls: TlsSettings, now: Moment) {
        self.asynchronous.set_tls(tls);
        // The carriers of the links that new ways take.
        self.take_carriers();
        let changes = self.board.update(targets, now);
        self.follow(changes, now);
        self.talks.close_unused();
    }

    /// Starts and ends sending for the streams that came and went.
    fn follow(&mut self, changes: StreamChanges, now: Moment) {
        for id in changes.removed {
            self.lanes.remove(id);
            self.connects.end_stream(id);
            self.tripwires.remove(id);
            self.talks.remove(id);
            self.datagrams.end_stream(id);
        }
        for id in changes.added {
            let random = self.draw();
            let Some(stream) = self.board.stream(id) else { continue };
            let lane = Lane::new(stream.check.interval, now, random);
            let first = lane.send_at(stream.check.interval);
            match stream.check.kind {
                CheckKind::Tripwire => {
                    let to = target(stream.address, &stream.check);
                    self.tripwires.add(id, to, stream.check.clone(), first);
                }
                CheckKind::Bfd => self.talks.add(id, stream.address, &stream.check, first),
                _ => {
                    self.timers.at(first, id, Task::Send);
                    self.lanes.add(id, lane);
                }
            }
        }
    }

    /// Sets the timer, or stops it.
    fn arm(&self, at: Option<Moment>) {
        // Zero would stop the timer.
        let nanos = at.map_or(0, |at| at.0.max(1));
        let tv_sec = i64::try_from(nanos / 1_000_000_000).unwrap_or(i64::MAX);
        let tv_nsec = i64::try_from(nanos % 1_000_000_000).unwrap_or(0);
        let value = Itimerspec { it_interval: Timespec::default(), it_value: Timespec { tv_sec, tv_nsec } };
        if let Err(error) = timerfd_settime(&self.timer, TimerfdTimerFlags::ABSTIME, &value) {
            tracing::error!("set the probe timer: {error}");
        }
    }

    /// Waits for events; returns their number.
    fn wait(&self, events: &mut Vec<Event>, timeout: Option<&Timespec>) -> usize {
        events.clear();
        // The timer stays readable until it is set anew, so only a full batch asks for another.
        let taken = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), timeout).unwrap_or(0);
        let timer_only = events.iter().all(|event| event.data.u64() == TIMER);
        if timer_only { 0 } else { taken }
    }

    /// Takes what the events announce: answers, outcomes, results, commands.
    fn take(&mut self, events: &mut Vec<Event>, now: Moment) -> Next {
        let mut next = Next::Continue;
        for event in events.drain(..) {
            let flags = event.flags;
            match event.data.u64() {
                RAW => self.take_answers(now),
                LINKS => self.take_carriers(),
                ICMP => self.take_icmp_errors(now),
                BFD => self.talks.take_packets(&mut self.board, now),
                WAKE => next = self.take_messages(now),
                token if token & TRIPWIRE != 0 => {
                    self.tripwires.ready(token, flags, &mut self.board, self.epoll.as_fd(), now);
                }
                token if token & ATTEMPT != 0 => {
                    if let Some((stream, seq, outcome)) = self.connects.ready(token, flags) {
                        self.settle(stream, seq, outcome, now);
                    }
                }
                token if token & DATAGRAM != 0 => {
                    let kind_of = |id| Some(&self.board.stream(id)?.check.kind);
                    if let Some((stream, seq, outcome)) = self.datagrams.ready(token, kind_of) {
                        self.settle(stream, seq, outcome, now);
                    }
                }
                _ => {}
            }
        }
        next
    }

    /// Takes results of the async runtime, and commands.
    fn take_messages(&mut self, now: Moment) -> Next {
        self.waker.clear();
        while let Some(Report { stream, seq, outcome }) = self.asynchronous.next() {
            match outcome {
                // Whoever ran it has judged its time.
                Outcome::Open => self.board.answered(stream, seq, Moment::default(), now),
                outcome => self.settle(stream, seq, outcome, now),
            }
        }
        loop {
            // A reply that nobody waits for any more is dropped.
            match self.commands.try_recv() {
                Ok(Command::Prepare(targets, reply)) => drop(reply.send(self.prepare(&targets))),
                Ok(Command::Update(targets, tls, reply)) => {
                    self.update(&targets, tls, now);
                    // Nobody waits any more where the caller has gone.
                    let _ = reply.send(());
                }
                Ok(Command::SetWish(key, wish, reply)) => {
                    let done = self.board.set_wish(&key, wish, now);
                    drop(reply.send(done.ok_or(HealthError::NoSuchBackend(key))));
                }
                Ok(Command::Handshakes(totals)) => self.board.take_handshakes(&totals, now),
                Ok(Command::SetLostCarriers(interfaces)) => self.board.set_lost_carriers(interfaces, now),
                Ok(Command::SilentNeighbours(silent)) => {
                    for (about, neighbour) in silent {
                        self.board.complained(about, Complaint::Neighbour(neighbour), now);
                    }
                }
                Ok(Command::GuardStatus(reply)) => drop(reply.send(self.board.guard_status(now))),
                Ok(Command::SetSplit(pool, split, reply)) => {
                    let done = self.board.set_split(&pool, split, now);
                    drop(reply.send(done.ok_or(HealthError::NoSuchPool(pool))));
                }
                Ok(Command::SetDrill(address, drill, reply)) => {
                    let at = now.to_wall(Moment::now(), SystemTime::now());
                    self.board.set_drill(address, drill.map(|(fail, span)| (fail, now + span)));
                    self.tripwires.rehearse(&mut self.board, self.epoll.as_fd(), now);
                    // Nobody waits for the answer of a drill that was taken back.
                    let _ = reply.send(at);
                }
                Ok(Command::Timings(pool, reply)) => drop(reply.send(self.board.timings(&pool, now))),
                Ok(Command::Snapshot(which, reply)) => {
                    // What is seen has been told.
                    self.board.flush(Moment::now());
                    drop(reply.send(self.board.snapshot(&which, now)));
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return Next::Stop,
                Err(TryRecvError::Empty) => return Next::Continue,
            }
        }
    }

    /// Puts judging off once if this thread was held up: what it then sees may be half the truth.
    fn look_twice_if_late(&mut self, wanted: Option<Moment>, now: Moment) {
        let late_by = wanted.map_or(Duration::ZERO, |at| now.since(at));
        self.board.woke_late(late_by, now);
        let late = late_by > LATE;
        // Not again while the second look itself is due: constant lateness must not blind us.
        if late && now.since(self.judge_not_before) > SECOND_LOOK + LATE {
            self.judge_not_before = now + SECOND_LOOK;
        }
    }

    /// Notes which cores have handled what they had received.
    fn hear_cores(&mut self, now: Moment) {
        let Some(Ended { took, missing }) = self.roll_call.look(now) else { return };
        if !missing.is_empty() {
            tracing::warn!(
                "cores {missing:?} handle no packets for {took:.1?}: backends may seem silent that have answered"
            );
        } else if took > LATE {
            tracing::info!("a core handled no packets for {took:.1?}: silence was not judged meanwhile");
        }
    }

    /// Does everything that is due.
    fn run_due(&mut self, now: Moment) {
        self.tripwires.run_due(&mut self.board, self.epoll.as_fd(), now);
        self.talks.run_due(&mut self.board, now);
        let trouble = [self.tripwires.take_trouble(), self.talks.take_trouble()];
        for (id, error) in trouble.into_iter().flatten() {
            self.complain(id, &error, now);
        }
        while let Some((at, id, task)) = self.timers.pop_due(now) {
            match task {
                Task::Judge => self.judge(id, at, now),
                Task::Repeat(seq) => self.repeat(id, seq),
                Task::Send => self.send(id),
            }
        }
    }

    /// Judges a stream as of `now`, unless a second look comes first.
    fn judge(&mut self, id: StreamId, at: Moment, now: Moment) {
        let Some(lane) = self.lanes.get_mut(id).filter(|lane| lane.judge_at == Some(at)) else { return };
        lane.judge_at = None;
        if now < self.judge_not_before {
            lane.judge_at = Some(self.judge_not_before);
            return self.timers.at(self.judge_not_before, id, Task::Judge);
        }
        let due = self.board.stream(id).and_then(|stream| stream.judge.next_judgement());
        let wait = due.filter(|due| *due <= now).and_then(|due| self.roll_call.wait_for(due, now));
        if let (Some(at), Some(lane)) = (wait, self.lanes.get_mut(id)) {
            lane.judge_at = Some(at);
            return self.timers.at(at, id, Task::Judge);
        }
        self.board.judge(id, now);
        if let Some(stream) = self.board.stream(id) {
            self.connects.end_unless(id, |seq| stream.judge.is_outstanding(seq));
        }
        self.arm_judgement(id, now + JUDGE_GAP);
    }

    /// Arms the stream's next judgement, not before `earliest`.
    fn arm_judgement(&mut self, id: StreamId, earliest: Moment) {
        let (Some(stream), Some(lane)) = (self.board.stream(id), self.lanes.get_mut(id)) else { return };
        let Some(at) = stream.judge.next_judgement() else { return };
        let at = at.max(earliest).round_up(grid(stream.check.timeout / 4));
        if lane.judge_at.is_none_or(|armed| at < armed) {
            lane.judge_at = Some(at);
            self.timers.at(at, id, Task::Judge);
        }
    }

    /// Passes a connect's outcome on.
    fn settle(&mut self, id: StreamId, seq: Sequence, outcome: Outcome, now: Moment) {
        match outcome {
            Outcome::Waiting => {}
            Outcome::Open => {
                self.connects.end(id, seq);
                self.board.answered(id, seq, self.drained_at, now);
            }
            Outcome::Failed(failure) => {
                self.connects.end(id, seq);
                self.board.failed(id, seq, failure, now);
            }
            Outcome::NotTried(error) => {
                self.board.withdrawn(id, seq);
                self.complain(id, &error, now);
            }
        }
    }

    /// Says, now and then, that this host cannot send; the backend is not judged by it.
    fn complain(&mut self, id: StreamId, error: &io::Error, now: Moment) {
        self.board.not_tried(id, error.to_string(), now);
        if self.complained_at.is_some_and(|at| now.since(at) < COMPLAIN_EVERY) {
            return;
        }
        self.complained_at = Some(now);
        if let Some(stream) = self.board.stream(id) {
            let (kind, to) = (&stream.check.kind, stream.address);
            tracing::warn!("send {} probe to {to}: {error}", crate::health::snapshot::kind_name(kind));
        }
    }

    /// A number that nobody can foresee.
    fn draw(&mut self) -> u64 {
        self.draws += 1;
        self.random.hash_one(self.draws)
    }
}

/// Where a check's probes go.
fn target(address: IpAddr, check: &Check) -> SocketAddr {
    SocketAddr::new(address, check.port.unwrap_or(0))
}
