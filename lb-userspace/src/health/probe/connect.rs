//! `tcp`: full connects, non-blocking, reset at once.
//!
//! A probe may own two attempts: a second SYN goes out while the first waits, because the kernel's own repetition
//! comes a second later. The first attempt to be answered decides.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};

use crate::health::board::StreamId;
use crate::health::judge::{Failure, Sequence};

/// Marks the tokens of attempts among those of the event loop.
pub(super) const ATTEMPT: u64 = 1 << 63;

/// How a connect went.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Under way: the event loop tells.
    Waiting,
    /// Connected.
    Open,
    /// The network said no.
    Failed(Failure),
    /// This host could not try: no verdict on the backend.
    NotTried(io::Error),
}

/// A connect under way.
#[derive(Debug)]
struct Attempt {
    socket: Socket,
    stream: StreamId,
    seq: Sequence,
}

/// All connects under way.
#[derive(Debug, Default)]
pub(super) struct Connects {
    attempts: HashMap<u64, Attempt>,
    of_probe: HashMap<(StreamId, Sequence), Vec<u64>>,
    of_stream: HashMap<StreamId, Vec<Sequence>>,
    next: u64,
}

impl Connects {
    /// Starts an attempt for a probe.
    pub(super) fn start(
        &mut self,
        epoll: BorrowedFd<'_>,
        to: SocketAddr,
        stream: StreamId,
        seq: Sequence,
    ) -> Outcome {
        let socket = match open(to) {
            Ok(socket) => socket,
            Err(error) => return Outcome::NotTried(error),
        };
        match socket.connect(&to.into()) {
            Ok(()) => return Outcome::Open,
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                return outcome(error);
            }
            Err(_) => {}
        }
        self.next += 1;
        let token = ATTEMPT | self.next;
        let interest = EventFlags::OUT | EventFlags::ERR | EventFlags::HUP;
        if let Err(error) = epoll::add(epoll, &socket, EventData::new_u64(token), interest) {
            return Outcome::NotTried(error.into());
        }
        self.attempts.insert(token, Attempt { socket, stream, seq });
        let tokens = self.of_probe.entry((stream, seq)).or_default();
        if tokens.is_empty() {
            self.of_stream.entry(stream).or_default().push(seq);
        }
        tokens.push(token);
        Outcome::Waiting
    }

    /// Takes an event of the loop; returns the probe and how it went, and ends its other attempt.
    pub(super) fn ready(&mut self, token: u64, flags: EventFlags) -> Option<(StreamId, Sequence, Outcome)> {
        let attempt = self.attempts.get(&token)?;
        let (stream, seq) = (attempt.stream, attempt.seq);
        let outcome = match flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            false => Outcome::Open,
            true => match attempt.socket.take_error() {
                Ok(None) => Outcome::Open,
                Ok(Some(error)) | Err(error) => outcome(error),
            },
        };
        self.end(stream, seq);
        Some((stream, seq, outcome))
    }

    /// Ends a probe's attempts: closing resets them.
    pub(super) fn end(&mut self, stream: StreamId, seq: Sequence) {
        let Some(tokens) = self.of_probe.remove(&(stream, seq)) else { return };
        for token in tokens {
            self.attempts.remove(&token);
        }
        if let Some(seqs) = self.of_stream.get_mut(&stream) {
            seqs.retain(|of| *of != seq);
            if seqs.is_empty() {
                self.of_stream.remove(&stream);
            }
        }
    }

    /// Ends the attempts of a stream's probes that wait no longer.
    pub(super) fn end_unless(&mut self, stream: StreamId, waits: impl Fn(Sequence) -> bool) {
        let seqs = self.of_stream.get(&stream).cloned().unwrap_or_default();
        for seq in seqs.into_iter().filter(|seq| !waits(*seq)) {
            self.end(stream, seq);
        }
    }

    /// Ends all attempts of a stream.
    pub(super) fn end_stream(&mut self, stream: StreamId) {
        self.end_unless(stream, |_| false);
    }
}

/// Opens a socket whose close sends RST, so that nothing lingers on either side.
pub(super) fn open(to: SocketAddr) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::TCP))?;
    socket.set_linger(Some(Duration::ZERO))?;
    Ok(socket)
}

/// Tells the network's refusals from this host's own trouble.
pub(super) fn outcome(error: io::Error) -> Outcome {
    match failure(&error) {
        Some(failure) => Outcome::Failed(failure),
        None => Outcome::NotTried(error),
    }
}

/// What an error of the kernel says about the backend; `None` if it is about this host.
pub(super) fn failure(error: &io::Error) -> Option<Failure> {
    let errno = Errno::from_io_error(error)?;
    match errno {
        Errno::CONNREFUSED | Errno::CONNRESET => Some(Failure::Refused),
        Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN | Errno::NOPROTOOPT => {
            Some(Failure::Unreachable(errno_text(errno)))
        }
        Errno::TIMEDOUT => Some(Failure::Silent),
        _ => None,
    }
}

/// The kernel's words without the number.
fn errno_text(errno: Errno) -> String {
    let text = io::Error::from(errno).to_string();
    text.split(" (os error").next().unwrap_or_default().to_lowercase()
}
