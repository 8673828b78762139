//! Choosing a backend by how busy it is, in a stage of its own that never sees the packet.
//!
//! A stage that meets such a new flow leaves the flow's hash and pool in the CPU's scratch; this stage leaves its choice
//! there and hands the packet to [`Stage::Rare`](super::Stage::Rare), which takes any packet, to go on with it. Inside of
//! another stage, the verifier would follow the comparison of candidates for each way that a packet can come to it.

use crate::layout::{Chosen, Pool};
use crate::reason::Reason;
use crate::select;
use crate::tables::Tables;

/// The backend that was chosen for a new flow; `None` where the table is to decide.
///
/// # Errors
/// [`Reason::Unchosen`]: asked, the stage is to choose.
#[inline(always)]
pub(super) fn chosen<T: Tables>(tables: &T, pool: u32, hash: u64) -> Result<Option<u32>, Reason> {
    let Some(scratch) = tables.scratch() else { return Ok(None) };
    let Some(backend) = Chosen(scratch.chosen.get()).of(pool, hash) else {
        return Err(ask(tables, pool, hash));
    };
    scratch.chosen.set(0);
    Ok(if backend == 0 { None } else { Some(backend) })
}

/// Asks for a choice.
#[inline(always)]
pub(super) fn ask<T: Tables>(tables: &T, pool: u32, hash: u64) -> Reason {
    if let Some(scratch) = tables.scratch() {
        scratch.hash.set(hash);
        scratch.pool.set(pool as u64);
    }
    Reason::Unchosen
}

/// Chooses.
#[inline(always)]
pub(super) fn choose<T: Tables>(tables: &T) -> Result<(), Reason> {
    let scratch = tables.scratch().ok_or(Reason::Inconsistent)?;
    let (id, hash) = (scratch.pool.get() as u32, scratch.hash.get());
    let pool: &Pool = tables.pool(id).ok_or(Reason::Inconsistent)?;
    let backend = select::least_loaded(tables, pool, hash, tables.now()).unwrap_or(0);
    scratch.chosen.set(Chosen::new(backend, id, hash).0);
    Ok(())
}
