//! Why probes fail, and what that means.

#![forbid(unsafe_code)]

use std::fmt;

use super::bfd::session::Loss;
use super::machine::FailureKind;

/// Why a probe failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The port answered with a reset.
    Refused,
    /// No way there, in the kernel's words.
    Unreachable(String),
    /// Nobody takes datagrams at the port, as the backend itself said.
    PortUnreachable,
    /// The connection was reset before it had proved anything.
    Reset,
    /// An idle connection ended, in this way: a hint, which is never counted.
    Ended(&'static str),
    /// Connections open, and are closed at once.
    NotHeld,
    /// What a BFD session says.
    Session(Loss),
    /// The connection ended before there was an answer.
    Closed,
    /// No answer in time.
    Silent,
    /// A status outside the accepted ranges.
    Status(u16),
    /// The body lacks the expected text.
    Body,
    /// Not the protocol that was expected.
    Protocol(String),
    /// No progress in time, in this phase.
    Stalled(Phase),
    /// No TLS connection, or with a certificate that is not believed.
    Tls(String),
    /// A reply that says something else than expected.
    Reply(String),
    /// How the operator's program ended, and its last words.
    Command(String),
}

/// A phase of a probe, in which it may stall.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The connection was not open.
    Connect,
    /// The TLS handshake was not done.
    Tls,
    /// Nothing of an answer had come.
    FirstByte,
    /// A part of the answer had come.
    Body,
    /// The operator's program had not ended.
    Command,
}

impl Phase {
    /// What was waited for.
    fn name(self) -> &'static str {
        match self {
            Self::Connect => "connection",
            Self::Tls => "TLS handshake",
            Self::FirstByte => "first byte",
            Self::Body => "rest of the answer",
            Self::Command => "end of the program",
        }
    }
}

impl Failure {
    /// What the failure means for known flows.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::Refused
            | Self::Unreachable(_)
            | Self::PortUnreachable
            | Self::Reset
            | Self::Ended(_)
            | Self::Closed
            | Self::Silent => FailureKind::Hard,
            Self::Session(loss) => loss.kind(),
            Self::Stalled(Phase::Connect | Phase::Tls | Phase::FirstByte) => FailureKind::Hard,
            // Who begins to answer is slow, not dead.
            Self::Stalled(Phase::Body | Phase::Command) => FailureKind::Soft,
            Self::NotHeld | Self::Status(_) | Self::Body | Self::Protocol(_) => FailureKind::Soft,
            Self::Tls(_) | Self::Reply(_) | Self::Command(_) => FailureKind::Soft,
        }
    }

    /// Whether somebody answered, or nobody did.
    ///
    /// A kernel says "unreachable" when a neighbour does not answer: that is silence too.
    #[must_use]
    pub fn nature(&self) -> Nature {
        match self {
            Self::Session(loss) => loss.nature(),
            Self::Silent | Self::Unreachable(_) | Self::Stalled(Phase::Connect) => Nature::Silence,
            Self::Refused
            | Self::PortUnreachable
            | Self::Stalled(_)
            | Self::Tls(_)
            | Self::Reply(_)
            | Self::Command(_)
            | Self::Reset
            | Self::Ended(_)
            | Self::NotHeld
            | Self::Closed
            | Self::Status(_)
            | Self::Body
            | Self::Protocol(_) => Nature::Answer,
        }
    }
}

/// What a finding rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nature {
    /// Something that came back.
    Answer,
    /// Nothing came back: the backend's fault, or weir's own.
    Silence,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("connection refused"),
            Self::Unreachable(cause) => write!(f, "unreachable: {cause}"),
            Self::PortUnreachable => f.write_str("port unreachable"),
            Self::Reset => f.write_str("connection reset"),
            Self::Ended(how) => write!(f, "idle connection ended: {how}"),
            Self::NotHeld => f.write_str("connections are closed at once"),
            Self::Session(loss) => write!(f, "{loss}"),
            Self::Closed => f.write_str("connection closed before an answer"),
            Self::Silent => f.write_str("no answer"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Body => f.write_str("expected text not in body"),
            Self::Protocol(cause) => write!(f, "invalid answer: {cause}"),
            Self::Stalled(phase) => write!(f, "no answer in time: no {}", phase.name()),
            Self::Tls(cause) => write!(f, "tls: {cause}"),
            Self::Reply(said) => write!(f, "unexpected reply: {said}"),
            Self::Command(how) => f.write_str(how),
        }
    }
}
