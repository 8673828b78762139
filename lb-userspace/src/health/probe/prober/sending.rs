//! Probes on their way out: when a stream's turn comes, by which socket, and what is noted of it.

use std::io;
use std::os::fd::AsFd;

use super::{Prober, target};
use crate::config::model::CheckKind;
use crate::health::board::StreamId;
use crate::health::judge::Sequence;
use crate::health::probe::connect::{self, Outcome};
use crate::health::probe::echo::Family;
use crate::health::probe::lane::{Turn, grid};
use crate::health::probe::timers::Task;
use crate::health::time::Moment;

impl Prober {
    /// Sends a stream's next probe.
    pub(super) fn send(&mut self, id: StreamId) {
        let random = self.draw();
        let (Some(stream), Some(lane)) = (self.board.stream(id), self.lanes.get_mut(id)) else { return };
        let interval = stream.check.interval;
        let began = Moment::now();
        if lane.put_off(interval, began, random) == Turn::PutOff {
            return self.timers.at(lane.send_at(interval), id, Task::Send);
        }
        let seq = lane.take_turn(interval, began, random);
        self.timers.at(lane.send_at(interval), id, Task::Send);
        self.launch(id, seq, began);
    }

    /// Sends a probe out of turn for each stream that cannot wait.
    pub(super) fn send_urgent(&mut self) {
        for id in self.board.take_urgent() {
            if let Some(lane) = self.lanes.get_mut(id) {
                let seq = lane.take_extra();
                self.launch(id, seq, Moment::now());
            }
        }
    }

    /// Sends one probe and notes what follows.
    fn launch(&mut self, id: StreamId, seq: Sequence, began: Moment) {
        let Some(stream) = self.board.stream(id) else { return };
        let timeout = stream.check.timeout;
        let repeat_after = stream.judge.grace().clamp(timeout / 4, timeout / 2);
        let repeats = matches!(stream.check.kind, CheckKind::Tcp | CheckKind::Syn);
        let outcome = self.emit(id, seq);
        // Read after sending: being held up before makes the probe no older.
        let now = Moment::now();
        if let Outcome::NotTried(error) = outcome {
            return self.complain(id, &error, now);
        }
        self.board.sent(id, seq, began, now);
        match outcome {
            Outcome::Waiting => {
                if repeats {
                    let at = (now + repeat_after).round_up(grid(timeout / 4));
                    self.timers.at(at, id, Task::Repeat(seq));
                }
                self.arm_judgement(id, now);
            }
            settled => self.settle(id, seq, settled, now),
        }
    }

    /// Sends a probe's packet a second time while the first is unanswered.
    pub(super) fn repeat(&mut self, id: StreamId, seq: Sequence) {
        if self.board.stream(id).is_some_and(|stream| stream.judge.is_outstanding(seq)) {
            match self.emit(id, seq) {
                // The first packet may still be answered.
                Outcome::Waiting | Outcome::NotTried(_) => {}
                settled => self.settle(id, seq, settled, Moment::now()),
            }
        }
    }

    /// Hands a probe to the kernel, or to the async runtime.
    fn emit(&mut self, id: StreamId, seq: Sequence) -> Outcome {
        let (Some(stream), Some(lane)) = (self.board.stream(id), self.lanes.get_mut(id)) else {
            return Outcome::Waiting;
        };
        if let Some(inside) = stream.check.inside {
            return self.emit_inside(id, seq, inside);
        }
        let to = target(stream.address, &stream.check);
        let family = Family::of(to.ip());
        let handed = match &stream.check.kind {
            CheckKind::None | CheckKind::Tripwire | CheckKind::Bfd => Ok(()),
            CheckKind::Tcp => return self.connects.start(self.epoll.as_fd(), to, id, seq),
            CheckKind::Ping => match self.raw.echo(family) {
                Some(socket) => socket.send(to.ip(), id, seq),
                None => Err(io::ErrorKind::NotConnected.into()),
            },
            CheckKind::Syn => match self.raw.half_open(family) {
                Some(socket) => {
                    let unanswered = stream.judge.silence(Moment::now()).map_or(0, |(count, _)| count);
                    lane.source(to.ip(), unanswered, Moment::now())
                        .and_then(|source| socket.send(source, to, self.numbers.of(id, seq)))
                }
                None => Err(io::ErrorKind::NotConnected.into()),
            },
            kind @ (CheckKind::Udp(_) | CheckKind::Dns(_)) => {
                let timeout = stream.check.timeout;
                return self.datagrams.start(self.epoll.as_fd(), to, (id, seq), kind, timeout);
            }
            CheckKind::Http(_) | CheckKind::Https(..) | CheckKind::Exec(_) => {
                let started = self.asynchronous.start(to, (id, seq), &stream.check, stream.backend());
                return started.map_or_else(Outcome::NotTried, |()| Outcome::Waiting);
            }
        };
        handed.map_or_else(connect::outcome, |()| Outcome::Waiting)
    }
}
