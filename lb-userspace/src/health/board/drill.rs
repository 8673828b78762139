//! The board's part in drills: answers of a backend's probes on their way to the judges.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;

use super::{Board, StreamId};
use crate::config::model::CheckKind;
use crate::health::drill::{Fail, Fate};
use crate::health::judge::{Failure, Nature, Sequence};
use crate::health::time::Moment;

/// The drills that last, by address, and answers held back by them.
#[derive(Debug, Default)]
pub(super) struct Drills {
    of_address: HashMap<IpAddr, (Fail, Moment)>,
    late: BinaryHeap<Reverse<(Moment, StreamId, Sequence)>>,
    random: RandomState,
    draws: u64,
}

impl Drills {
    /// When something is to be done.
    pub(super) fn next_deadline(&self) -> Option<Moment> {
        let late = self.late.peek().map(|Reverse((at, ..))| *at);
        self.of_address.values().map(|(_, until)| *until).chain(late).min()
    }
}

impl Board {
    /// Lets whoever has this address fail until then, or no longer.
    pub(in crate::health) fn set_drill(&mut self, address: IpAddr, drill: Option<(Fail, Moment)>) {
        match drill {
            Some(drill) => drop(self.drills.of_address.insert(address, drill)),
            None => drop(self.drills.of_address.remove(&address)),
        }
    }

    /// Ends drills whose time is over, and hands on answers whose time has come.
    pub(super) fn on_drill_time(&mut self, now: Moment) {
        self.drills.of_address.retain(|_, (_, until)| *until > now);
        while let Some(&Reverse((at, id, seq))) = self.drills.late.peek()
            && at <= now
        {
            self.drills.late.pop();
            // Counted from when it was due: being held up any longer is no fault of the backend.
            self.hand_on(id, seq, at, now);
        }
    }

    /// How whoever a stream asks is to fail at present, if at all.
    pub(in crate::health) fn rehearsed(&self, id: StreamId, now: Moment) -> Option<Fail> {
        if self.drills.of_address.is_empty() {
            return None;
        }
        let (fail, until) = self.drills.of_address.get(&self.stream(id)?.address)?;
        (*until > now).then_some(*fail)
    }

    /// What becomes of an answer to a stream's probe; of a `bfd` check's packet; of a tripwire's connection.
    pub(in crate::health) fn fate(&mut self, id: StreamId, now: Moment) -> Fate {
        let Some(fail) = self.rehearsed(id, now) else { return Fate::Passes };
        let draw = self.drills.random.hash_one(self.drills.draws);
        self.drills.draws += 1;
        let Some(stream) = self.stream(id) else { return Fate::Passes };
        fail.fate(&stream.check.kind, stream.check.timeout, draw)
    }

    /// What a drill makes of an answer.
    pub(super) fn diverted(&mut self, id: StreamId, seq: Sequence, now: Moment) -> Diverted {
        // A tripwire's connection has met its fate when it opened.
        if self.stream(id).is_none_or(|stream| stream.check.kind == CheckKind::Tripwire) {
            return Diverted::No;
        }
        match self.fate(id, now) {
            Fate::Passes => return Diverted::No,
            Fate::Lost => {}
            Fate::Refused => self.failed(id, seq, Failure::Refused, now),
            Fate::Late(by) => self.drills.late.push(Reverse((now + by, id, seq))),
        }
        Diverted::Yes
    }

    /// Whether a drill keeps a reported failure from being seen: a host that is gone refuses nothing.
    pub(super) fn unseen(&self, id: StreamId, failure: &Failure, now: Moment) -> Diverted {
        match self.rehearsed(id, now) {
            Some(Fail::Silence) if failure.nature() == Nature::Answer => Diverted::Yes,
            _ => Diverted::No,
        }
    }
}

/// Whether a result went another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Diverted {
    No,
    Yes,
}
