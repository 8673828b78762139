//! The streams of probes: one for each distinct address and check, shared by all backends that have both.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::Board;
use crate::config::model::Check;
use crate::health::judge::{Judge, Nature};
use crate::health::machine::Finding;
use crate::health::time::Moment;
use crate::health::watched::limits;

/// How long a probe that could not be made is told of, past the time by which the next one has an end.
const NOT_TRIED_FOR: Duration = Duration::from_secs(1);

/// Names one stream; a later stream in the same place has another generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId {
    /// Place in the table of streams.
    pub index: u32,
    /// Incarnation of the place.
    pub generation: u32,
}

/// One stream of equal probes.
#[derive(Debug)]
pub(in crate::health) struct Stream {
    pub(in crate::health) address: IpAddr,
    pub(in crate::health) check: Check,
    pub(in crate::health) judge: Judge,
    /// What the backends were last told.
    pub(super) told: (Finding, Nature),
    pub(super) role: Role,
    /// Backends it concerns: positions of pool and member.
    pub(super) concerns: Vec<(usize, usize)>,
    pub(super) generation: u32,
    /// When a probe could not be made for the last time, and why: this host's own trouble, which judges nobody.
    pub(super) not_tried: Option<(Moment, String)>,
    /// Whom it asks about, where that makes a difference: an `exec` check is told.
    pub(super) backend: Option<Arc<str>>,
}

impl Stream {
    /// Why its probes cannot be made at present; what became of one probe says nothing for longer than the next take.
    pub(super) fn not_tried(&self, now: Moment) -> Option<String> {
        let (at, why) = self.not_tried.as_ref()?;
        let recent = self.check.interval * 2 + self.check.timeout + NOT_TRIED_FOR;
        (now.since(*at) < recent).then(|| why.clone())
    }

    /// The backend's name, of an `exec` check.
    pub(in crate::health) fn backend(&self) -> &str {
        self.backend.as_deref().unwrap_or_default()
    }
}

/// Whom a stream asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// Backends.
    Backend,
    /// A neighbour that vouches for weir's own link.
    Witness,
    /// A backend's host, directly: tells a broken tunnel from a dead host.
    Hint,
}

/// What equal probes have in common.
pub(super) type Sameness = (IpAddr, Check, Option<Arc<str>>);

/// Streams that came and went by an update.
#[derive(Debug, Default)]
pub(in crate::health) struct StreamChanges {
    pub(in crate::health) added: Vec<StreamId>,
    pub(in crate::health) removed: Vec<StreamId>,
}

impl Board {
    /// A stream, if it still exists.
    pub(in crate::health) fn stream(&self, id: StreamId) -> Option<&Stream> {
        let stream = self.streams.get(usize::try_from(id.index).ok()?)?.as_ref()?;
        (stream.generation == id.generation).then_some(stream)
    }

    pub(super) fn stream_mut(&mut self, id: StreamId) -> Option<&mut Stream> {
        let stream = self.streams.get_mut(usize::try_from(id.index).ok()?)?.as_mut()?;
        (stream.generation == id.generation).then_some(stream)
    }

    /// Finds or opens the stream of an address and check.
    pub(super) fn subscribe(&mut self, same: Sameness, role: Role, changes: &mut StreamChanges) -> StreamId {
        if let Some(&id) = self.by_check.get(&same)
            && self.stream(id).is_some()
        {
            return id;
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.streams.push(None);
            u32::try_from(self.streams.len() - 1).unwrap_or(u32::MAX)
        });
        self.generation = self.generation.wrapping_add(1);
        let id = StreamId { index, generation: self.generation };
        let (address, check, backend) = same.clone();
        let stream = Stream {
            address,
            judge: Judge::new(limits(&check)),
            check,
            backend,
            told: (Finding::Pending, Nature::Answer),
            role,
            concerns: vec![],
            generation: self.generation,
            not_tried: None,
        };
        if let Some(place) = usize::try_from(index).ok().and_then(|index| self.streams.get_mut(index)) {
            *place = Some(stream);
        }
        self.by_check.insert(same, id);
        changes.added.push(id);
        id
    }

    /// Closes the streams that concern nobody.
    pub(super) fn drop_unconcerned(&mut self, changes: &mut StreamChanges) {
        for (index, place) in self.streams.iter_mut().enumerate() {
            let wanted = |stream: &Stream| match stream.role {
                Role::Backend => !stream.concerns.is_empty(),
                Role::Hint => self.hints.contains_key(&stream.address),
                Role::Witness => self.witnesses.iter().any(|(address, _)| *address == stream.address),
            };
            let Some(stream) = place.take_if(|stream| !wanted(stream)) else { continue };
            if stream.role == Role::Backend && stream.told.1 == Nature::Silence {
                self.guard.broke_silence(stream.address);
            }
            let index = u32::try_from(index).unwrap_or(u32::MAX);
            self.by_check.remove(&(stream.address, stream.check, stream.backend));
            self.free.push(index);
            changes.removed.push(StreamId { index, generation: stream.generation });
        }
    }
}
