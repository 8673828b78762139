//! Which backend a flow gets: the Maglev slot, then the backend's state.

mod least;

use crate::hash;
use crate::layout::{
    AdminBits, Backend, BackendState, HotWord, LastResort, OnDown, Pool, SLOTS_PER_LINE, Span,
};
use crate::reason::Reason;
use crate::tables::Tables;
use crate::time::{TICK_NS, Tick};
use crate::trace::Mark;

pub use least::{LOADS_TICKS, least_loaded};

/// Further slots that a refused flow tries before the list of usable backends.
const WALK: u32 = 4;
/// Entries of the list of usable backends that a refused flow tries.
const USABLE_TRIES: u32 = 4;
/// How long the table before the current one is honoured, in ticks: 10 minutes.
pub const PREVIOUS_TICKS: u32 = (600_000_000_000 / TICK_NS) as u32 + 1;

/// What is asked of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Take a new flow.
    New,
    /// Go on with a flow that another instance or an earlier table bound: only down refuses.
    Resume,
}

/// A backend that was picked.
pub struct Selected<'a> {
    /// Its id.
    pub id: u32,
    /// Its record.
    pub backend: &'a Backend,
    /// Its state when it was picked.
    pub hot: HotWord,
}

/// The selection hash of a flow: wire fields and the config's seed only, so that every instance gives the same.
///
/// `ends` is source port, destination port, protocol from bit 48 downwards in 16-bit steps.
#[inline(always)]
#[must_use]
pub fn flow_hash<const N: usize>(seed: u64, addresses: [u64; N], ends: u64) -> u64 {
    let mut state = seed;
    for word in addresses {
        state = hash::absorb(state, word);
    }
    hash::finish(hash::absorb(state, ends))
}

/// Whether a backend in this state takes the new flow with this hash.
#[inline(always)]
#[must_use]
pub fn takes_new(hot: HotWord, flow_hash: u64) -> bool {
    let share = ((flow_hash as u32 as u64 * 1000) >> 32) as u16;
    matches!(hot.state(), BackendState::Active) && share < hot.admit()
}

/// Whether a backend in this state goes on with flows it is bound to, under the service's `on_down`.
#[inline(always)]
#[must_use]
pub fn serves_known(hot: HotWord, on_down: OnDown) -> bool {
    match hot.state() {
        BackendState::Active | BackendState::Draining | BackendState::Suspect => true,
        BackendState::DownSoft => !matches!(on_down, OnDown::Reselect),
        BackendState::Down => matches!(on_down, OnDown::Keep),
        BackendState::Absent | BackendState::Resetting => false,
    }
}

/// Whether the last resort `keep` leaves a flow to this backend of its own, which is down: not where the operator has taken
/// it out.
#[inline(always)]
#[must_use]
pub fn may_be_kept(hot: HotWord) -> bool {
    matches!(hot.state(), BackendState::DownSoft | BackendState::Down)
        && !matches!(hot.admin(), AdminBits::Maintenance)
}

/// Whether a pool is left with nobody for new flows and its last resort is `keep`.
#[inline(always)]
#[must_use]
pub fn keeps_all(pool: &Pool) -> bool {
    Span(pool.usable.get()).is_empty()
        && matches!(LastResort::from_word(pool.last_resort.get()), LastResort::Keep)
}

#[inline(always)]
fn accepts(request: Request, hot: HotWord, flow_hash: u64) -> bool {
    match request {
        Request::New => takes_new(hot, flow_hash),
        Request::Resume => {
            matches!(hot.state(), BackendState::Active | BackendState::Draining | BackendState::Suspect)
        }
    }
}

/// The id at `position` of a region.
#[inline(always)]
fn id_at<T: Tables>(tables: &T, span: Span, position: u32) -> Option<u32> {
    let line = tables.maglev_line(span.line() + position / SLOTS_PER_LINE)?;
    Some(line.ids[(position % SLOTS_PER_LINE) as usize] as u32)
}

/// A backend, whatever its state.
#[inline(always)]
pub fn look<T: Tables>(tables: &T, id: u32) -> Option<Selected<'_>> {
    let backend = tables.backend(id)?;
    Some(Selected { id, backend, hot: HotWord(backend.hot.get()) })
}

/// The backend at `position` of a region.
#[inline(always)]
fn look_at<T: Tables>(tables: &T, span: Span, position: u32, mark: Mark) -> Option<Selected<'_>> {
    let selected = look(tables, id_at(tables, span, position)?)?;
    tables.trace(mark, position, selected.id as u64 | selected.hot.0 << 32);
    Some(selected)
}

/// Picks a backend. `bound` is the id of a flow's own backend that is down, 0 where there is none: the last resort
/// `keep` leaves the flow there.
///
/// # Errors
/// [`Reason::NoBackend`] or [`Reason::NoBackendReset`] when none is usable and the last resort is not to keep.
#[inline(always)]
pub fn select<'a, T: Tables>(
    tables: &'a T,
    pool: &Pool,
    request: Request,
    flow_hash: u64,
    bound: u32,
    now: Tick,
) -> Result<Selected<'a>, Reason> {
    let current = Span(pool.current.get());
    if let Request::Resume = request {
        let previous = Span(pool.previous.get());
        if !previous.is_empty() && now.since(Tick::from_bits(pool.changed.get() as u32)) < PREVIOUS_TICKS {
            let slot = hash::scale(flow_hash, previous.len());
            if let Some(selected) = look_at(tables, previous, slot, Mark::Previous)
                && accepts(request, selected.hot, flow_hash)
            {
                return Ok(selected);
            }
        }
    }
    // Bounds that depend on the table keep these loops from being unrolled: the verifier would follow what comes after
    // for each step.
    let mut slot_hash = flow_hash;
    for step in 0..current.len().min(WALK + 1) {
        let slot = hash::scale(slot_hash, current.len());
        if let Some(selected) = look_at(tables, current, slot, Mark::Slot)
            && accepts(request, selected.hot, flow_hash)
        {
            return Ok(selected);
        }
        slot_hash = hash::again(flow_hash, step as u64 + 1);
    }
    let usable = Span(pool.usable.get());
    let start = hash::scale(hash::again(flow_hash, WALK as u64 + 1), usable.len());
    for step in 0..usable.len().min(USABLE_TRIES) {
        let position = start + step;
        let position = if position >= usable.len() { position - usable.len() } else { position };
        if let Some(selected) = look_at(tables, usable, position, Mark::Usable)
            && matches!(selected.hot.state(), BackendState::Active)
        {
            return Ok(selected);
        }
    }
    tables.trace(Mark::LastResort, pool.last_resort.get() as u32, 0);
    match LastResort::from_word(pool.last_resort.get()) {
        LastResort::Keep => keep(tables, current, flow_hash, bound),
        LastResort::Reset => Err(Reason::NoBackendReset),
        LastResort::Drop => Err(Reason::NoBackend),
    }
}

/// The last resort `keep`: the flow's own backend, else the Maglev slot's, whatever its state.
#[inline(always)]
fn keep<T: Tables>(tables: &T, current: Span, flow_hash: u64, bound: u32) -> Result<Selected<'_>, Reason> {
    if bound != 0 {
        return look(tables, bound).ok_or(Reason::NoBackend);
    }
    if current.is_empty() {
        return Err(Reason::NoBackend);
    }
    let slot = hash::scale(flow_hash, current.len());
    id_at(tables, current, slot).and_then(|id| look(tables, id)).ok_or(Reason::NoBackend)
}
