//! A netlink socket for questions: batches of requests, and dumps. Blocking: local answers take microseconds.
//!
//! Guarantees one answer per request, in the order asked. Never used for notifications.
#![forbid(unsafe_code)]

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::packet_core::{
    NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::net::sockopt::{self, Timeout};

/// Requests sent with one system call. The kernel drops answers that the receive buffer has no room for; each
/// takes about 1 KiB of it, so a batch fits into the default buffer of 208 KiB.
const BATCH: usize = 128;
/// Longest netlink datagram that the kernel builds for a dump is 32 KiB.
const DATAGRAM: usize = 64 * 1024;
/// The kernel answers while it handles the request; silence this long means that an answer was lost.
const PATIENCE: Duration = Duration::from_secs(2);
/// A dump that changes during each of so many attempts is taken as it is; changes are also notified.
const DUMP_ATTEMPTS: usize = 4;

/// The answer to one request: a message, or an acknowledgement without one.
pub(super) type Answer = io::Result<Option<RouteNetlinkMessage>>;

/// A netlink socket of the namespace that the calling thread is in.
pub(super) struct Requests {
    socket: Socket,
    sequence: u32,
}

impl Requests {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        sockopt::set_socket_timeout(socket.as_fd(), Timeout::Recv, Some(PATIENCE))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// Sends each message with `flags` (and `NLM_F_REQUEST`) and returns each one's answer.
    pub(super) fn exchange(
        &mut self,
        messages: impl IntoIterator<Item = RouteNetlinkMessage>,
        flags: u16,
    ) -> io::Result<Vec<Answer>> {
        let mut messages = messages.into_iter().peekable();
        let mut answers = Vec::new();
        let mut buffer = Vec::with_capacity(DATAGRAM);
        while messages.peek().is_some() {
            let first = self.sequence.wrapping_add(1);
            buffer.clear();
            let mut sent = 0;
            for message in messages.by_ref().take(BATCH) {
                self.append(&mut buffer, message, flags);
                sent += 1;
            }
            self.socket.send(&buffer, 0)?;
            self.receive_answers(first, sent, &mut answers, &mut buffer)?;
        }
        Ok(answers)
    }

    fn receive_answers(
        &self,
        first: u32,
        sent: usize,
        answers: &mut Vec<Answer>,
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        let base = answers.len();
        answers.extend((0..sent).map(|_| Ok(None)));
        let mut missing = sent;
        while missing > 0 {
            for message in self.receive(buffer)? {
                let index = message.header.sequence_number.wrapping_sub(first) as usize;
                // An answer to an earlier exchange that was given up.
                let Some(slot) = answers.get_mut(base.saturating_add(index)).filter(|_| index < sent) else {
                    continue;
                };
                *slot = match message.payload {
                    NetlinkPayload::InnerMessage(message) => Ok(Some(message)),
                    NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
                    NetlinkPayload::Error(_) => Ok(None),
                    _ => continue,
                };
                missing -= 1;
            }
        }
        Ok(())
    }

    /// All objects that `question` asks for; asked again when the table changed meanwhile.
    pub(super) fn dump(&mut self, question: &RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        let mut objects = Vec::new();
        for _ in 0..DUMP_ATTEMPTS {
            objects.clear();
            if self.dump_once(question.clone(), &mut objects)? == DumpEnd::Consistent {
                break;
            }
        }
        Ok(objects)
    }

    fn dump_once(
        &mut self,
        question: RouteNetlinkMessage,
        objects: &mut Vec<RouteNetlinkMessage>,
    ) -> io::Result<DumpEnd> {
        let mut buffer = Vec::with_capacity(DATAGRAM);
        self.append(&mut buffer, question, NLM_F_DUMP);
        self.socket.send(&buffer, 0)?;
        let mut end = DumpEnd::Consistent;
        loop {
            for message in self.receive(&mut buffer)? {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                if message.header.flags & NLM_F_DUMP_INTR != 0 {
                    end = DumpEnd::Interrupted;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(object) => objects.push(object),
                    NetlinkPayload::Done(_) => return Ok(end),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }

    fn append(&mut self, buffer: &mut Vec<u8>, message: RouteNetlinkMessage, flags: u16) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let start = buffer.len();
        buffer.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut buffer[start..]);
    }

    fn receive(&self, buffer: &mut Vec<u8>) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        buffer.clear();
        match self.socket.recv(buffer, 0) {
            Ok(_) => Ok(parse(buffer).0),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "netlink request: the kernel did not answer"))
            }
            Err(error) => Err(error),
        }
    }
}

#[derive(PartialEq)]
enum DumpEnd {
    Consistent,
    Interrupted,
}

/// The messages of a datagram, and the number of those that could not be read.
pub(super) fn parse(mut datagram: &[u8]) -> (Vec<NetlinkMessage<RouteNetlinkMessage>>, usize) {
    let mut messages = Vec::new();
    let mut unread = 0;
    while let Ok(header) = NetlinkBuffer::new_checked(datagram) {
        let length = header.length() as usize;
        match NetlinkMessage::deserialize(&datagram[..length]) {
            Ok(message) => messages.push(message),
            Err(error) => {
                tracing::debug!(%error, "netlink message: cannot be read");
                unread += 1;
            }
        }
        datagram = &datagram[length.next_multiple_of(4).min(datagram.len())..];
    }
    (messages, unread)
}
