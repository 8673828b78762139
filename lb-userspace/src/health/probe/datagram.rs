//! `udp` and `dns`: a datagram from a port of its own, and the reply to it.
//!
//! Each probe has a socket, so a reply tells which probe it answers, a late one is no other probe's, and the kernel
//! reports an unreachable port for the probe that met it.

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::{Domain, Protocol, Socket, Type};

use super::connect::{Outcome, failure};
use super::dns::{self, Reply};
use super::text::contains;
use crate::config::model::CheckKind;
use crate::health::board::StreamId;
use crate::health::judge::{Failure, Sequence};
use crate::health::time::Moment;

/// Marks the tokens of datagrams among those of the event loop.
pub(super) const DATAGRAM: u64 = 1 << 61;
/// Longest reply that is looked at.
const REPLY_LIMIT: usize = 4096;

/// A datagram under way.
#[derive(Debug)]
struct Waiting {
    socket: Socket,
    stream: StreamId,
    seq: Sequence,
    id: u16,
    sent_at: Moment,
}

/// All datagrams under way.
#[derive(Debug, Default)]
pub(super) struct Datagrams {
    waiting: HashMap<u64, Waiting>,
    /// In the order of sending.
    of_stream: HashMap<StreamId, Vec<u64>>,
    next: u64,
    ids: RandomState,
}

impl Datagrams {
    /// Sends a probe; those of the stream that nobody waits for any more, older than twice `timeout`, end.
    pub(super) fn start(
        &mut self,
        epoll: BorrowedFd<'_>,
        to: SocketAddr,
        (stream, seq): (StreamId, Sequence),
        kind: &CheckKind,
        timeout: Duration,
    ) -> Outcome {
        let now = Moment::now();
        self.end_before(stream, now.before(timeout * 2));
        let id = u16::from_ne_bytes(first_two(self.ids.hash_one((stream, seq))));
        let sent = payload(kind, id).ok_or_else(|| io::Error::other("nothing to send")).and_then(|payload| {
            let socket = open(to)?;
            send(&socket, &payload, SendFlags::empty())?;
            self.next += 1;
            let interest = EventFlags::IN | EventFlags::ERR;
            epoll::add(epoll, &socket, EventData::new_u64(DATAGRAM | self.next), interest)?;
            Ok(socket)
        });
        match sent {
            Ok(socket) => {
                let token = DATAGRAM | self.next;
                self.waiting.insert(token, Waiting { socket, stream, seq, id, sent_at: now });
                self.of_stream.entry(stream).or_default().push(token);
                Outcome::Waiting
            }
            Err(error) => outcome(error),
        }
    }

    /// Takes an event of the loop; returns the probe and how it went, unless the reply is still to come.
    pub(super) fn ready<'a>(
        &mut self,
        token: u64,
        kind_of: impl Fn(StreamId) -> Option<&'a CheckKind>,
    ) -> Option<(StreamId, Sequence, Outcome)> {
        let waiting = self.waiting.get(&token)?;
        let (stream, seq) = (waiting.stream, waiting.seq);
        let outcome = kind_of(stream).map_or(Outcome::Waiting, |kind| receive(waiting, kind));
        if matches!(outcome, Outcome::Waiting) {
            return None;
        }
        self.end(token);
        Some((stream, seq, outcome))
    }

    /// Ends all datagrams of a stream.
    pub(super) fn end_stream(&mut self, stream: StreamId) {
        for token in self.of_stream.remove(&stream).unwrap_or_default() {
            self.waiting.remove(&token);
        }
    }

    fn end_before(&mut self, stream: StreamId, earliest: Moment) {
        let Some(tokens) = self.of_stream.get(&stream) else { return };
        let is_old = |token: &&u64| self.waiting.get(*token).is_none_or(|one| one.sent_at < earliest);
        let old: Vec<u64> = tokens.iter().take_while(is_old).copied().collect();
        old.into_iter().for_each(|token| self.end(token));
    }

    fn end(&mut self, token: u64) {
        let Some(ended) = self.waiting.remove(&token) else { return };
        if let Some(tokens) = self.of_stream.get_mut(&ended.stream) {
            tokens.retain(|of| *of != token);
            if tokens.is_empty() {
                self.of_stream.remove(&ended.stream);
            }
        }
    }
}

/// Reads until a reply decides, or none is left.
fn receive(waiting: &Waiting, kind: &CheckKind) -> Outcome {
    let mut buffer = [0; REPLY_LIMIT];
    loop {
        let length = match recv(&waiting.socket, &mut buffer, RecvFlags::DONTWAIT) {
            Ok((length, _)) => length.min(REPLY_LIMIT),
            Err(Errno::AGAIN | Errno::INTR) => return Outcome::Waiting,
            Err(error) => return outcome(error.into()),
        };
        let reply = match kind {
            CheckKind::Udp(check) => match &check.expect {
                Some(wanted) if !contains(&buffer[..length], wanted) => {
                    Reply::Failed(Failure::Reply(excerpt(&buffer[..length])))
                }
                _ => Reply::Passed,
            },
            CheckKind::Dns(check) => dns::judge(check, waiting.id, &buffer[..length]),
            _ => Reply::NotOurs,
        };
        match reply {
            Reply::NotOurs => {}
            Reply::Passed => return Outcome::Open,
            Reply::Failed(failure) => return Outcome::Failed(failure),
        }
    }
}

/// A socket that takes datagrams from the backend only.
fn open(to: SocketAddr) -> io::Result<Socket> {
    let kind = Type::DGRAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(to), kind, Some(Protocol::UDP))?;
    socket.connect(&to.into())?;
    Ok(socket)
}

fn payload(kind: &CheckKind, id: u16) -> Option<Vec<u8>> {
    match kind {
        CheckKind::Udp(check) => Some(check.send.clone()),
        CheckKind::Dns(check) => dns::query(check, id),
        _ => None,
    }
}

/// A refusal of a datagram is an ICMP error about its port.
fn outcome(error: io::Error) -> Outcome {
    match failure(&error) {
        Some(Failure::Refused) => Outcome::Failed(Failure::PortUnreachable),
        Some(failure) => Outcome::Failed(failure),
        None => Outcome::NotTried(error),
    }
}

/// The beginning of a reply, for people.
fn excerpt(reply: &[u8]) -> String {
    const SHOWN: usize = 32;
    let shown = &reply[..reply.len().min(SHOWN)];
    let more = if reply.len() > SHOWN { "…" } else { "" };
    format!("\"{}{more}\"", shown.escape_ascii())
}

fn first_two(number: u64) -> [u8; 2] {
    let [first, second, ..] = number.to_ne_bytes();
    [first, second]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn excerpts_are_short_and_printable() {
        assert_eq!(excerpt(b"no\n\xff"), "\"no\\n\\xff\"");
        assert_eq!(excerpt(&[b'a'; 40]), format!("\"{}…\"", "a".repeat(32)));
    }
}
