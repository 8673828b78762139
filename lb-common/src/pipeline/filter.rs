//! Whether a VIP's lists let a source in.
//!
//! The stages that most packets go through look at the lists' fronts alone; a packet that a list may concern, and every
//! packet for a VIP that accepts only what is allowed, they leave as [`Reason::Denied`] to the stage that searches the
//! lists. Lists are asked for every packet, not only for those that start a flow.

use super::ip::Ip;
use crate::filter;
use crate::layout::{Listed, Lists};
use crate::reason::Reason;
use crate::tables::Tables;
use crate::trace::Mark;

/// How far a packet's source is looked for in lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// In the fronts; what may be in a list is left to another stage.
    Front,
    /// In the lists.
    Whole,
}

/// Refuses a source that the VIP's lists keep out.
#[inline(always)]
pub(super) fn check<const W: usize, I: Ip<W>, T: Tables>(
    tables: &T,
    vip: u32,
    source: I::Address,
    look: Look,
) -> Result<(), Reason> {
    let line = tables.vip(vip).ok_or(Reason::Inconsistent)?.lists.get() as u32;
    if line == 0 {
        return Ok(());
    }
    let lists = tables.filter_line(line).ok_or(Reason::Inconsistent)?;
    match look {
        Look::Front => front::<W, I, T>(tables, lists, source),
        Look::Whole => whole::<W, I, T>(tables, lists, vip, source),
    }
}

/// The same for a packet that no service claims: with [`Look::Front`] whatever a VIP with lists gets is left to the other
/// stage.
#[inline(always)]
pub(super) fn check_unclaimed<const W: usize, I: Ip<W>, T: Tables>(
    tables: &T,
    vip: u32,
    source: I::Address,
    look: Look,
) -> Result<(), Reason> {
    match look {
        Look::Front => match tables.vip(vip).ok_or(Reason::Inconsistent)?.lists.get() {
            0 => Ok(()),
            _ => Err(Reason::Denied),
        },
        Look::Whole => check::<W, I, T>(tables, vip, source, look),
    }
}

#[inline(always)]
fn front<const W: usize, I: Ip<W>, T: Tables>(
    tables: &T,
    lists: &Lists,
    source: I::Address,
) -> Result<(), Reason> {
    let source = I::halves(source);
    for which in [Listed::DenyEverywhere, Listed::Deny] {
        let list = lists.list(which);
        if list.is_present() && filter::may_hold(tables, list, I::FAMILY, source) {
            return Err(Reason::Denied);
        }
    }
    if lists.list(Listed::Allow).is_present() { Err(Reason::Denied) } else { Ok(()) }
}

#[inline(always)]
fn whole<const W: usize, I: Ip<W>, T: Tables>(
    tables: &T,
    lists: &Lists,
    vip: u32,
    source: I::Address,
) -> Result<(), Reason> {
    let source = I::halves(source);
    // By number: of three calls the verifier would follow all ways through all of them.
    for number in 0..Listed::ALL.len() as u32 {
        let list = lists.numbered(number);
        if !list.is_present() {
            continue;
        }
        let holds = filter::may_hold(tables, list, I::FAMILY, source)
            && filter::holds(tables, list, I::FAMILY, source).ok_or(Reason::Inconsistent)?;
        tables.trace(Mark::Listed, number, holds as u64);
        let Some(which) = Listed::from_number(number) else { break };
        let refusal = match which {
            Listed::Allow if !holds => Reason::NotAllowed,
            Listed::DenyEverywhere | Listed::Deny if holds => Reason::Denied,
            _ => continue,
        };
        if T::WRITES {
            tables.count_refused(vip, which);
        }
        return Err(refusal);
    }
    Ok(())
}
