//! `tripwire`: the sockets of idle connections, and the clock that their state machines go by.
//!
//! Nothing is ever sent. What the server sends is read and thrown away. The kernel's keepalive finds hosts that
//! forgot a connection; a connection whose end it reports is looked into as any other.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use socket2::{Socket, TcpKeepalive};

use super::connect::{self, Outcome};
use crate::config::model::Check;
use crate::health::board::{Board, StreamId};
use crate::health::drill::{Fail, Fate};
use crate::health::judge::Failure;
use crate::health::time::Moment;
use crate::health::tripwire::{End, Pace, Report, Step, Tripwire};

/// Marks the tokens of idle connections among those of the event loop.
pub(super) const TRIPWIRE: u64 = 1 << 62;
/// What the kernel can wait between two keepalives, at least.
const KEEPALIVE_STEP: Duration = Duration::from_secs(1);
/// Reads of unasked-for data in one go; what is left has the loop come back.
const READS: usize = 8;

/// One idle connection.
#[derive(Debug)]
struct Wire {
    machine: Tripwire,
    to: SocketAddr,
    check: Check,
    connection: Option<(u64, Socket)>,
    /// The connect that confirms it.
    second: Option<(u64, Socket)>,
    /// When the kernel would give the connection up, had its host gone as a drill plays it.
    given_up_at: Option<Moment>,
    /// The entry of `Tripwires::due` that counts.
    scheduled: Option<Moment>,
}

/// All idle connections.
#[derive(Debug, Default)]
pub(super) struct Tripwires {
    wires: HashMap<StreamId, Wire>,
    by_token: HashMap<u64, StreamId>,
    /// Deadlines; those that are not their wire's `scheduled` are void.
    due: BinaryHeap<Reverse<(Moment, StreamId)>>,
    next: u64,
    trouble: Option<(StreamId, io::Error)>,
}

impl Tripwires {
    /// Starts one, whose first connect is due at `first`.
    pub(super) fn add(&mut self, id: StreamId, to: SocketAddr, check: Check, first: Moment) {
        let patience = check.timeout * check.fall;
        let pace = Pace { interval: check.interval, timeout: check.timeout, patience };
        let wire = Wire {
            machine: Tripwire::new(pace, first),
            to,
            check,
            connection: None,
            second: None,
            given_up_at: None,
            scheduled: None,
        };
        self.wires.insert(id, wire);
        self.watch(id);
    }

    /// Ends one, if there is such a one.
    pub(super) fn remove(&mut self, id: StreamId) {
        self.close(id);
        self.wires.remove(&id);
    }

    /// When [`Tripwires::run_due`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// Why this host could not connect, since the last time this was asked.
    pub(super) fn take_trouble(&mut self) -> Option<(StreamId, io::Error)> {
        self.trouble.take()
    }

    /// Takes an event of the loop.
    pub(super) fn ready(
        &mut self,
        token: u64,
        flags: EventFlags,
        board: &mut Board,
        epoll: BorrowedFd<'_>,
        now: Moment,
    ) {
        let Some(&id) = self.by_token.get(&token) else { return };
        let Some(wire) = self.wires.get_mut(&id) else { return };
        if wire.second.as_ref().is_some_and(|(second, _)| *second == token) {
            return self.second_ready(id, flags, board, epoll, now);
        }
        let Some((_, socket)) = &wire.connection else { return };
        if wire.machine.is_connecting() {
            match socket.take_error() {
                Ok(None) if flags.contains(EventFlags::OUT) => {
                    let interest = EventFlags::IN | EventFlags::RDHUP;
                    // Fails only for a socket that is not watched.
                    let _ = epoll::modify(epoll, socket, EventData::new_u64(token), interest);
                    match heard(board, id, &wire.check, now) {
                        Heard::Refused => {
                            let refused = wire.machine.on_refused(Failure::Refused, now);
                            return self.settle(id, refused, board, epoll, now);
                        }
                        Heard::Nothing => {}
                        Heard::Open => wire.machine.on_connected(now),
                    }
                }
                Ok(None) => {}
                Ok(Some(error)) | Err(error) => return self.not_connected(id, error, board, epoll, now),
            }
        }
        if let Some(end) = drained(socket) {
            let report = wire.machine.on_end(end, now);
            self.settle(id, report, board, epoll, now);
        } else {
            self.watch(id);
        }
    }

    /// Takes an event of the second connection; one that is open has done its work.
    fn second_ready(
        &mut self,
        id: StreamId,
        flags: EventFlags,
        board: &mut Board,
        epoll: BorrowedFd<'_>,
        now: Moment,
    ) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let Some((token, socket)) = wire.second.take() else { return };
        match socket.take_error() {
            Ok(None) if flags.contains(EventFlags::OUT) => match heard(board, id, &wire.check, now) {
                Heard::Refused => {
                    self.by_token.remove(&token);
                    let refused = wire.machine.on_refused(Failure::Refused, now);
                    return self.settle(id, refused, board, epoll, now);
                }
                // It is closed, and goes on being waited for: nobody has heard of it.
                Heard::Nothing => {}
                Heard::Open => {
                    if let Some(report) = wire.machine.on_confirmed() {
                        tell(board, id, report, now);
                    }
                }
            },
            Ok(None) => {
                wire.second = Some((token, socket));
                return;
            }
            Ok(Some(error)) | Err(error) => {
                self.by_token.remove(&token);
                return self.not_connected(id, error, board, epoll, now);
            }
        }
        self.by_token.remove(&token);
        self.watch(id);
    }

    /// Has the connections of whoever a drill has just let fail end as they would.
    pub(super) fn rehearse(&mut self, board: &mut Board, epoll: BorrowedFd<'_>, now: Moment) {
        let failing = |id: &StreamId| Some((*id, board.rehearsed(*id, now)?));
        let failing: Vec<(StreamId, Fail)> = self.wires.keys().filter_map(failing).collect();
        for (id, fail) in failing {
            let Some(wire) = self.wires.get_mut(&id) else { continue };
            match fail {
                Fail::Crash => {
                    if let Some(report) = wire.machine.on_end(End::Closed, now) {
                        self.settle(id, Some(report), board, epoll, now);
                    }
                }
                Fail::Silence => {
                    wire.given_up_at = Some(now + patience(&wire.check));
                    self.watch(id);
                }
                Fail::Slow(_) | Fail::Loss(_) => {}
            }
        }
    }

    /// Ends a connection that the kernel would have given up by now, while its host is gone for a drill.
    fn give_up(&mut self, id: StreamId, board: &mut Board, epoll: BorrowedFd<'_>, now: Moment) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        if wire.given_up_at.take_if(|at| *at <= now).is_some()
            && board.rehearsed(id, now) == Some(Fail::Silence)
            && let Some(report) = wire.machine.on_end(End::Silent, now)
        {
            self.settle(id, Some(report), board, epoll, now);
        }
    }

    /// Does everything that is due.
    pub(super) fn run_due(&mut self, board: &mut Board, epoll: BorrowedFd<'_>, now: Moment) {
        while let Some(&Reverse((at, id))) = self.due.peek()
            && at <= now
        {
            self.due.pop();
            let wire = self.wires.get_mut(&id);
            if wire.is_some_and(|wire| wire.scheduled.take_if(|scheduled| *scheduled == at).is_some()) {
                self.give_up(id, board, epoll, now);
                self.advance(id, board, epoll, now);
            }
        }
    }

    /// A connect has failed.
    fn not_connected(
        &mut self,
        id: StreamId,
        error: io::Error,
        board: &mut Board,
        epoll: BorrowedFd<'_>,
        now: Moment,
    ) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let report = match connect::failure(&error) {
            Some(failure) => wire.machine.on_refused(failure, now),
            None => {
                self.trouble = Some((id, error));
                wire.machine.on_not_tried(now)
            }
        };
        self.settle(id, report, board, epoll, now);
    }

    /// Tells what a connection that is gone says, before anything else is done; then goes on.
    fn settle(
        &mut self,
        id: StreamId,
        report: Option<Report>,
        board: &mut Board,
        epoll: BorrowedFd<'_>,
        now: Moment,
    ) {
        if let Some(report) = report {
            tell(board, id, report, now);
        }
        self.close(id);
        self.advance(id, board, epoll, now);
    }

    /// Lets a machine do what is due, and notes when it wants to be asked again.
    fn advance(&mut self, id: StreamId, board: &mut Board, epoll: BorrowedFd<'_>, now: Moment) {
        while let Some(step) = self.wires.get_mut(&id).and_then(|wire| wire.machine.on_time(now)) {
            match step {
                Step::Report(report) => tell(board, id, report, now),
                Step::Connect(seq) => {
                    self.close(id);
                    let began = Moment::now();
                    let opened = self.open(id, epoll);
                    board.sent(id, seq, began, Moment::now());
                    self.opened(id, opened, Attempt::First, board);
                }
                Step::Confirm => {
                    let opened = self.open(id, epoll);
                    self.opened(id, opened, Attempt::Second, board);
                }
            }
        }
        self.watch(id);
    }

    /// Notes a machine's next deadline.
    fn watch(&mut self, id: StreamId) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let at = wire.machine.next_deadline().into_iter().chain(wire.given_up_at).min();
        if let Some(at) = at.filter(|at| wire.scheduled != Some(*at)) {
            self.due.push(Reverse((at, id)));
        }
        wire.scheduled = at;
    }

    /// Starts a connect, and has the loop told of it.
    fn open(&mut self, id: StreamId, epoll: BorrowedFd<'_>) -> io::Result<(u64, Socket)> {
        let wire = self.wires.get(&id).ok_or(io::ErrorKind::NotFound)?;
        let socket = open(wire.to, &wire.check)?;
        self.next += 1;
        let token = TRIPWIRE | self.next;
        let interest = EventFlags::OUT | EventFlags::IN | EventFlags::RDHUP;
        epoll::add(epoll, &socket, EventData::new_u64(token), interest)?;
        Ok((token, socket))
    }

    /// Keeps a connect under way, or says why there is none.
    fn opened(
        &mut self,
        id: StreamId,
        opened: io::Result<(u64, Socket)>,
        attempt: Attempt,
        board: &mut Board,
    ) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        let error = match opened {
            // Also where the connection is open already: the loop says so next.
            Ok((token, socket)) => {
                self.by_token.insert(token, id);
                match attempt {
                    Attempt::First => wire.connection = Some((token, socket)),
                    Attempt::Second => wire.second = Some((token, socket)),
                }
                return;
            }
            Err(error) => error,
        };
        let now = Moment::now();
        let report = match connect::outcome(error) {
            Outcome::Failed(failure) => wire.machine.on_refused(failure, now),
            Outcome::NotTried(error) => {
                self.trouble = Some((id, error));
                wire.machine.on_not_tried(now)
            }
            Outcome::Waiting | Outcome::Open => None,
        };
        if let Some(report) = report {
            tell(board, id, report, now);
        }
        self.close(id);
    }

    /// Closes its connections, with a reset where they are open still.
    fn close(&mut self, id: StreamId) {
        let Some(wire) = self.wires.get_mut(&id) else { return };
        for (token, _) in wire.connection.take().into_iter().chain(wire.second.take()) {
            self.by_token.remove(&token);
        }
    }
}

/// Which of a wire's connects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Attempt {
    /// The one that is to stay.
    First,
    /// The one that confirms it.
    Second,
}

/// What is heard of a connect that went well, while a drill may have its backend fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Heard {
    Open,
    Refused,
    Nothing,
}

fn heard(board: &mut Board, id: StreamId, check: &Check, now: Moment) -> Heard {
    match board.fate(id, now) {
        Fate::Refused => Heard::Refused,
        Fate::Lost => Heard::Nothing,
        Fate::Late(by) if by >= check.timeout => Heard::Nothing,
        Fate::Late(_) | Fate::Passes => Heard::Open,
    }
}

/// Passes a report on.
fn tell(board: &mut Board, id: StreamId, report: Report, now: Moment) {
    match report {
        Report::Alive { seq, connected_at } => board.answered(id, seq, connected_at, now),
        Report::Failed { seq, failure } => board.failed(id, seq, failure, now),
        Report::Withdrawn { seq } => board.withdrawn(id, seq),
        Report::Doubt { failure } => board.doubted(id, now, failure, now),
    }
}

/// How long a connection is idle before the kernel asks whether its host is still there.
fn idle(check: &Check) -> Duration {
    check.interval.max(KEEPALIVE_STEP)
}

/// How long after its last sign of life the kernel gives a host up.
fn patience(check: &Check) -> Duration {
    idle(check) + KEEPALIVE_STEP * check.fall.min(100)
}

/// Starts a connect; the kernel watches the idle connection.
fn open(to: SocketAddr, check: &Check) -> io::Result<Socket> {
    let socket = connect::open(to)?;
    let idle = idle(check);
    let keepalive =
        TcpKeepalive::new().with_time(idle).with_interval(KEEPALIVE_STEP).with_retries(check.fall.min(100));
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(patience(check)))?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => Err(error),
        _ => Ok(socket),
    }
}

/// Reads all there is; says how the connection ended if it has.
fn drained(mut socket: &Socket) -> Option<End> {
    let mut buffer = [0; 4096];
    for _ in 0..READS {
        match socket.read(&mut buffer) {
            Ok(0) => return Some(End::Closed),
            Ok(_) => {}
            Err(error) => {
                return match Errno::from_io_error(&error) {
                    Some(Errno::AGAIN | Errno::INTR) => None,
                    Some(Errno::CONNRESET | Errno::PIPE) => Some(End::Reset),
                    _ => Some(End::Silent),
                };
            }
        }
    }
    None
}
