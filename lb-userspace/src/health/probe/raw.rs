//! The raw sockets, one per family and kind, opened when the first check needs one.
//!
//! A raw TCP socket costs the host a little for each TCP packet it receives, so it exists only with a `syn` check.

#![forbid(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use rustix::event::epoll::{self, EventData, EventFlags};

use super::echo::{EchoSocket, Family};
use super::half_open::{Answer, HalfOpenSocket};
use crate::config::model::CheckKind;
use crate::health::board::StreamId;
use crate::health::judge::Sequence;

/// All raw sockets.
#[derive(Debug, Default)]
pub(super) struct RawSockets {
    echo: Vec<(Family, EchoSocket)>,
    half_open: Vec<(Family, HalfOpenSocket)>,
}

impl RawSockets {
    /// Opens what probes of `kind` to `address` need, and has the loop woken by `token` for its answers.
    pub(super) fn open_for(
        &mut self,
        kind: &CheckKind,
        address: IpAddr,
        epoll: BorrowedFd<'_>,
        token: u64,
    ) -> io::Result<()> {
        let family = Family::of(address);
        match kind {
            CheckKind::Ping if self.echo(family).is_none() => {
                let socket = EchoSocket::open(family)?;
                epoll::add(epoll, &socket, EventData::new_u64(token), EventFlags::IN)?;
                self.echo.push((family, socket));
            }
            CheckKind::Syn if self.half_open(family).is_none() => {
                let socket = HalfOpenSocket::open(family)?;
                epoll::add(epoll, &socket, EventData::new_u64(token), EventFlags::IN)?;
                self.half_open.push((family, socket));
            }
            _ => {}
        }
        Ok(())
    }

    /// The echo socket of a family.
    pub(super) fn echo(&self, family: Family) -> Option<&EchoSocket> {
        self.echo.iter().find(|(of, _)| *of == family).map(|(_, socket)| socket)
    }

    /// The half-open socket of a family.
    pub(super) fn half_open(&self, family: Family) -> Option<&HalfOpenSocket> {
        self.half_open.iter().find(|(of, _)| *of == family).map(|(_, socket)| socket)
    }

    /// The next echo reply.
    pub(super) fn next_echo(&self) -> Option<(StreamId, Sequence)> {
        self.echo.iter().find_map(|(_, socket)| socket.receive())
    }

    /// The next answer to a SYN.
    pub(super) fn next_half_open(&self) -> Option<Answer> {
        self.half_open.iter().find_map(|(_, socket)| socket.receive())
    }
}
