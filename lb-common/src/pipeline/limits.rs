//! Asking whether a new flow is within its service's limit, in a stage of its own that never sees the packet.
//!
//! A stage that meets such a flow leaves its source, service and hash in the CPU's scratch; this stage charges them, and
//! where the flow is let in leaves that there and hands the packet to [`Stage::Rare`](super::Stage::Rare). Who goes on
//! with the packet takes the answer last of all that it asks for, so that no flow is charged twice.

use super::ip::Ip;
use super::parse::Parsed;
use crate::layout::{Asked, Chosen};
use crate::limit;
use crate::reason::Reason;
use crate::tables::Tables;

/// What stands in the place of a backend's id where a flow is let in.
const ADMITTED: u32 = 1;

/// Takes the answer that the packet's flow is let in.
///
/// # Errors
/// [`Reason::SourceLimited`]: asked, the stage is to judge it.
#[inline(always)]
pub(super) fn admitted<const W: usize, I: Ip<W>, T: Tables>(
    tables: &T,
    packet: &Parsed<I::Address>,
    service: u32,
    hash: u64,
) -> Result<(), Reason> {
    let Some(scratch) = tables.scratch() else { return Ok(()) };
    if Chosen(scratch.admitted.get()).of(service, hash).is_some() {
        scratch.admitted.set(0);
        return Ok(());
    }
    let (high, low) = I::halves(packet.source);
    scratch.asked.set(Asked::new(service, I::FAMILY, hash).0);
    scratch.source_high.set(high);
    scratch.source_low.set(low);
    Err(Reason::SourceLimited)
}

/// Judges the flow that was asked about.
///
/// # Errors
/// The reason for which it is not let in.
#[inline(always)]
pub(super) fn judge<T: Tables>(tables: &T) -> Result<(), Reason> {
    let scratch = tables.scratch().ok_or(Reason::Inconsistent)?;
    let asked = Asked(scratch.asked.get());
    limit::charge(tables, asked, (scratch.source_high.get(), scratch.source_low.get()))?;
    scratch.admitted.set(Chosen::new(ADMITTED, asked.service(), asked.0).0);
    Ok(())
}
