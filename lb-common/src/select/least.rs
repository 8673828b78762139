//! Least connections: of the backends that the Maglev table gives for a flow, one with few live flows for its weight.
//!
//! Two candidates are compared. Where even the better one has clearly more than its share of the pool's flows, further
//! ones are looked at, so that a few slow backends cannot fill up because they happen to be drawn together. A choice
//! among candidates that the flow's hash draws, instead of the least loaded of all, keeps the CPUs, which all look at
//! the same numbers, from sending every new flow to one backend.

use super::{id_at, look, takes_new};
use crate::hash;
use crate::layout::{LoadsWord, Pool, Span};
use crate::tables::Tables;
use crate::time::{TICK_NS, Tick};
use crate::trace::Mark;

/// Candidates that are compared in any case.
const CHOICES: u32 = 2;
/// Slots that are looked at at most.
const SLOTS: u32 = 8;
/// Entries of the list of usable backends that are looked at at most, after the slots.
const USABLE: u32 = 8;
/// How long the daemon's last count is relied on, in ticks: 2 minutes.
pub const LOADS_TICKS: u32 = (120_000_000_000 / TICK_NS) as u32 + 1;

/// How busy a candidate is above its id, so that the lesser of two is the better; one number, since each one that a
/// loop carries along multiplies what the verifier follows.
#[derive(Clone, Copy)]
struct Candidate(u64);

impl Candidate {
    const NONE: Self = Self(u64::MAX);

    #[inline(always)]
    fn of<T: Tables>(tables: &T, span: Span, position: u32, flow_hash: u64) -> Self {
        let Some(id) = id_at(tables, span, position) else { return Self::NONE };
        let (Some(candidate), Some(load)) = (look(tables, id), tables.load(id)) else { return Self::NONE };
        let live = load.live();
        tables.trace(Mark::Load, id, live as u64 | candidate.hot.0 << 32);
        if takes_new(candidate.hot, flow_hash) {
            Self(load.for_its_weight(live) << 16 | id as u64)
        } else {
            Self::NONE
        }
    }

    #[inline(always)]
    const fn id(self) -> u32 {
        self.0 as u16 as u32
    }

    /// Whether it has at most its share and an eighth.
    #[inline(always)]
    const fn fits(self, loads: LoadsWord) -> bool {
        self.0 >> 16 <= loads.most()
    }
}

/// Picks a backend for a new flow, by its id; `None` where no count of the daemon's is recent, or no candidate takes new flows:
/// then [`super::select`] picks.
#[inline(always)]
pub fn least_loaded<T: Tables>(tables: &T, pool: &Pool, flow_hash: u64, now: Tick) -> Option<u32> {
    let loads = LoadsWord(pool.loads.get());
    // As a deadline: the daemon's clock can be a tick ahead of the program's reading.
    let Some(_) = loads.at().and_then(|at| at.plus(LOADS_TICKS).remaining(now)) else {
        tables.trace(Mark::Load, 0, 0);
        return None;
    };
    let mut best = Candidate::NONE;
    let current = Span(pool.current.get());
    let mut slot_hash = flow_hash;
    for step in 0..current.len().min(SLOTS) {
        if step >= CHOICES && best.fits(loads) {
            break;
        }
        let slot = hash::scale(slot_hash, current.len());
        best = Candidate(best.0.min(Candidate::of(tables, current, slot, flow_hash).0));
        slot_hash = hash::again(flow_hash, step as u64 + 1);
    }
    let usable = Span(pool.usable.get());
    let start = hash::scale(slot_hash, usable.len());
    for step in 0..usable.len().min(USABLE) {
        if best.fits(loads) {
            break;
        }
        let position = start + step;
        let position = if position >= usable.len() { position - usable.len() } else { position };
        best = Candidate(best.0.min(Candidate::of(tables, usable, position, flow_hash).0));
    }
    if best.0 == Candidate::NONE.0 { None } else { Some(best.id()) }
}
