//! What comes in beside the answers of connected sockets: replies to raw packets, ICMP errors, news of links.

use std::net::SocketAddr;

use super::{Prober, target};
use crate::config::model::CheckKind;
use crate::health::board::StreamId;
use crate::health::hearsay::Complaint;
use crate::health::judge::{Failure, Sequence};
use crate::health::probe::echo::Family;
use crate::health::probe::half_open::{Answer, Verdict};
use crate::health::probe::icmp_errors::{IcmpError, Quote};
use crate::health::time::Moment;

impl Prober {
    /// Takes what hosts and routers say of probes and of tunnelled packets.
    pub(super) fn take_icmp_errors(&mut self, now: Moment) {
        for IcmpError { from, cause, about, quote } in self.icmp_errors.read(now) {
            let probe = match quote {
                Quote::Tunnelled { source, port, vip } => {
                    if self.board.tunnels(about, source, port, vip) {
                        self.board.complained(about, Complaint::Icmp { from, cause }, Moment::now());
                    }
                    continue;
                }
                Quote::Icmp(request) => {
                    self.raw.echo(Family::of(about)).and_then(|socket| socket.probe_of(about, &request))
                }
                Quote::Segment { port, initial } => {
                    let named = self.half_open_probe(SocketAddr::new(about, port), initial);
                    // A SYN that went to a VIP through a tunnel has no business outside one.
                    let direct = |id| Some(self.board.stream(id)?.check.inside.is_none());
                    named.filter(|(id, _)| direct(*id) == Some(true))
                }
            };
            if let Some((stream, seq)) = probe {
                let failure = Failure::Unreachable(format!("{cause}, says {from}"));
                self.board.failed(stream, seq, failure, Moment::now());
            }
        }
    }

    /// Takes what the kernel says of links.
    pub(super) fn take_carriers(&mut self) {
        while let Some(link) = self.links.take() {
            self.board.set_carrier(link, Moment::now());
        }
    }

    /// Reads the raw sockets empty.
    pub(super) fn take_answers(&mut self, now: Moment) {
        self.take_replies(now);
        while let Some((stream, seq)) = self.raw.next_echo() {
            self.board.answered(stream, seq, self.drained_at, now);
        }
        while let Some(answer) = self.raw.next_half_open() {
            self.take_half_open(answer, now);
        }
    }

    /// Takes an answer to a SYN; returns whose it was.
    pub(super) fn take_half_open(&mut self, answer: Answer, now: Moment) -> Option<StreamId> {
        let (stream, seq) = self.half_open_probe(answer.from, answer.initial)?;
        match answer.verdict {
            Verdict::Open => self.board.answered(stream, seq, self.drained_at, now),
            Verdict::Refused => self.board.failed(stream, seq, Failure::Refused, now),
        }
        Some(stream)
    }

    /// The probe whose SYN to `to` had this initial sequence number.
    fn half_open_probe(&self, to: SocketAddr, initial: u32) -> Option<(StreamId, Sequence)> {
        let (id, seq) = self.lanes.named(self.numbers.read(initial))?;
        let stream = self.board.stream(id)?;
        let asked = stream.check.inside.map_or(stream.address, |inside| inside.vip);
        (stream.check.kind == CheckKind::Syn && target(asked, &stream.check) == to).then_some((id, seq))
    }
}
