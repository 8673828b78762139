//! `tcp`: full connects, non-blocking, reset at once.
//!
//! A probe may own two attempts: a second SYN goes out while the first waits, because the kernel's own repetition
//! comes a second later. The first attempt to be answered decides.
//!
//! A socket whose connect succeeded is disconnected, which resets the connection as closing would, and connects again
//! for the next probe: that saves opening, setting up, watching and closing one, a quarter of what a probe costs.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::connect_unspec;
use socket2::{Domain, Protocol, Socket, Type};

use super::echo::Family;
use crate::health::board::StreamId;
use crate::health::judge::{Failure, Sequence};

/// Marks the tokens of attempts among those of the event loop.
pub(super) const ATTEMPT: u64 = 1 << 63;
/// Disconnected sockets of a family that are kept: more than connect at a time where answers take milliseconds.
const RESTING: usize = 128;

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
    family: Family,
    stream: StreamId,
    seq: Sequence,
}

/// A socket without a connection, and the token by which the event loop watches it.
#[derive(Debug)]
struct Resting {
    token: u64,
    socket: Socket,
    family: Family,
}

/// All connects under way.
#[derive(Debug, Default)]
pub(super) struct Connects {
    attempts: HashMap<u64, Attempt>,
    /// The probes of a stream that wait, each attempt with its token.
    of_stream: HashMap<StreamId, Vec<(Sequence, u64)>>,
    resting: Vec<Resting>,
    next: u64,
}

impl Connects {
    /// Starts an attempt for a probe. All events that the loop has taken must have been passed on: one of a socket's
    /// last connection would count for this.
    pub(super) fn start(
        &mut self,
        epoll: BorrowedFd<'_>,
        to: SocketAddr,
        stream: StreamId,
        seq: Sequence,
    ) -> Outcome {
        let family = Family::of(to.ip());
        let Resting { token, socket, .. } = match self.rested(epoll, to, family) {
            Ok(resting) => resting,
            Err(error) => return Outcome::NotTried(error),
        };
        match socket.connect(&to.into()) {
            Ok(()) => return Outcome::Open,
            Err(error) if error.raw_os_error() != Some(Errno::INPROGRESS.raw_os_error()) => {
                return outcome(error);
            }
            Err(_) => {}
        }
        self.attempts.insert(token, Attempt { socket, family, stream, seq });
        self.of_stream.entry(stream).or_default().push((seq, token));
        Outcome::Waiting
    }

    /// A socket without a connection: one that rested, else a new one.
    fn rested(&mut self, epoll: BorrowedFd<'_>, to: SocketAddr, family: Family) -> io::Result<Resting> {
        if let Some(last) = self.resting.iter().rposition(|resting| resting.family == family) {
            return Ok(self.resting.swap_remove(last));
        }
        let socket = open(to)?;
        self.next += 1;
        let token = ATTEMPT | self.next;
        // By its edges: a socket without a connection is hung up all the time.
        let interest = EventFlags::OUT | EventFlags::ERR | EventFlags::HUP | EventFlags::ET;
        epoll::add(epoll, &socket, EventData::new_u64(token), interest)?;
        Ok(Resting { token, socket, family })
    }

    /// Takes an event of the loop; returns the probe and how it went, and ends its attempts.
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
        if let Outcome::Open = outcome
            && let Some(Attempt { socket, family, .. }) = self.attempts.remove(&token)
        {
            self.rest(Resting { token, socket, family });
        }
        self.end(stream, seq);
        Some((stream, seq, outcome))
    }

    /// Resets a connection and keeps its socket.
    fn rest(&mut self, resting: Resting) {
        let others = self.resting.iter().filter(|other| other.family == resting.family).count();
        // Closing resets it too.
        if others < RESTING && connect_unspec(&resting.socket).is_ok() {
            self.resting.push(resting);
        }
    }

    /// Ends a probe's attempts: closing resets them.
    pub(super) fn end(&mut self, stream: StreamId, seq: Sequence) {
        self.end_if(stream, |of| of == seq);
    }

    /// Ends the attempts of a stream's probes that wait no longer.
    pub(super) fn end_unless(&mut self, stream: StreamId, waits: impl Fn(Sequence) -> bool) {
        self.end_if(stream, |seq| !waits(seq));
    }

    fn end_if(&mut self, stream: StreamId, ends: impl Fn(Sequence) -> bool) {
        let Some(waiting) = self.of_stream.get_mut(&stream) else { return };
        waiting.retain(|(seq, token)| {
            let ended = ends(*seq);
            if ended {
                self.attempts.remove(token);
            }
            !ended
        });
    }

    /// Ends all attempts of a stream.
    pub(super) fn end_stream(&mut self, stream: StreamId) {
        self.end_if(stream, |_| true);
        self.of_stream.remove(&stream);
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

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;
    use std::os::fd::AsFd as _;

    use rustix::event::epoll::{CreateFlags, Event};

    use super::*;

    const STREAM: StreamId = StreamId { index: 0, generation: 1 };

    /// Plays the event loop until as many connects are settled.
    fn settled(
        connects: &mut Connects,
        epoll: BorrowedFd<'_>,
        count: usize,
    ) -> Vec<(StreamId, Sequence, Outcome)> {
        let mut all = Vec::new();
        while all.len() < count {
            let mut events = Vec::<Event>::with_capacity(16);
            epoll::wait(epoll, rustix::buffer::spare_capacity(&mut events), None).expect("events");
            all.extend(events.iter().filter_map(|event| connects.ready(event.data.u64(), event.flags)));
        }
        all
    }

    #[test]
    fn a_socket_that_connected_is_reset_and_connects_again() {
        let epoll = epoll::create(CreateFlags::CLOEXEC).expect("an event loop");
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).expect("a listener");
            let to = listener.local_addr().expect("its address");
            let mut connects = Connects::default();
            for seq in 1..=5 {
                assert!(matches!(connects.start(epoll.as_fd(), to, STREAM, seq), Outcome::Waiting));
                let (_, of, outcome) = settled(&mut connects, epoll.as_fd(), 1).remove(0);
                assert!(of == seq && matches!(outcome, Outcome::Open), "{of} {outcome:?}");
                let (mut accepted, _) = listener.accept().expect("a connection");
                let end = accepted.read(&mut [0]).expect_err("a reset");
                assert_eq!(end.kind(), io::ErrorKind::ConnectionReset);
                assert_eq!((connects.resting.len(), connects.next, connects.attempts.len()), (1, 1, 0));
            }
            drop(listener);
            assert!(matches!(connects.start(epoll.as_fd(), to, STREAM, 6), Outcome::Waiting));
            let (_, _, outcome) = settled(&mut connects, epoll.as_fd(), 1).remove(0);
            assert!(matches!(outcome, Outcome::Failed(Failure::Refused)), "{outcome:?}");
            assert_eq!(connects.resting.len(), 0, "only what connected is kept");
        }
    }

    #[test]
    fn a_probe_with_two_attempts_has_one_outcome_and_leaves_nothing_behind() {
        let epoll = epoll::create(CreateFlags::CLOEXEC).expect("an event loop");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let to = listener.local_addr().expect("its address");
        let mut connects = Connects::default();
        for seq in [1, 1, 2] {
            assert!(matches!(connects.start(epoll.as_fd(), to, STREAM, seq), Outcome::Waiting));
        }
        let mut seqs: Vec<_> =
            settled(&mut connects, epoll.as_fd(), 2).iter().map(|(_, seq, _)| *seq).collect();
        seqs.sort_unstable();
        assert_eq!(seqs, [1, 2]);
        assert_eq!((connects.attempts.len(), connects.of_stream[&STREAM].len()), (0, 0));
        connects.start(epoll.as_fd(), to, STREAM, 3);
        connects.end_unless(STREAM, |seq| seq != 3);
        assert!(connects.attempts.is_empty());
        connects.end_stream(STREAM);
        assert!(connects.of_stream.is_empty());
    }
}
