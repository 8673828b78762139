//! The two buckets of a flow: which of them is read, and which is written.

use super::ip::Ip;
use crate::flow::{self, First, FlowKey, Overflow};
use crate::layout::{Asking, Bucket, Way};
use crate::reason::Reason;
use crate::tables::Tables;
use crate::time::Tick;
use crate::trace::Mark;

/// The mark of a flow's first bucket.
#[inline(always)]
pub(super) fn overflow<const W: usize, I: Ip<W>, T: Tables>(
    tables: &T,
    first: u32,
) -> Result<Overflow<'_>, Reason> {
    let line = I::overflow_line(tables, flow::overflow_line(first)).ok_or(Reason::Inconsistent)?;
    Ok(Overflow::of(line, first))
}

/// Looks for a flow that is not in its first bucket in its second one, where it can be.
#[inline(always)]
pub(super) fn find_second<'a, const W: usize, I: Ip<W>, T: Tables>(
    tables: &'a T,
    key: &FlowKey<W>,
    second: u32,
    overflow: Overflow<'_>,
    now: Tick,
) -> Result<Option<flow::Found<'a, W>>, Reason> {
    if !overflow.any() {
        return Ok(None);
    }
    tables.trace(Mark::Bucket, second, 1);
    let found = flow::find(I::bucket(tables, second).ok_or(Reason::Inconsistent)?, key);
    if T::WRITES && found.is_some() {
        overflow.set(now);
    }
    Ok(found)
}

/// The way that a new flow may take: in its first bucket unless the second one's is better.
#[inline(always)]
pub(super) fn place<'a, const W: usize, I: Ip<W>, T: Tables>(
    tables: &'a T,
    key: &FlowKey<W>,
    (first, second): (&'a Bucket<W>, u32),
    overflow: Overflow<'_>,
    now: Tick,
) -> Result<Option<&'a Way<W>>, Reason> {
    let one = flow::offer(first, key.own_way(), now);
    let asking = match one.as_first() {
        First::Taken => return Ok(one.way()),
        First::Crowded => {
            let scratch = tables.scratch().ok_or(Reason::Inconsistent)?;
            let asking = Asking(scratch.asking.get()).in_tick(now);
            if !asking.may(I::flows_mask(tables)) {
                return Ok(one.way());
            }
            Some((scratch, asking))
        }
        First::Scarce => None,
    };
    tables.trace(Mark::Bucket, second, 2);
    let two = flow::offer(I::bucket(tables, second).ok_or(Reason::Inconsistent)?, key.own_way(), now);
    let yields = one.yields_to(&two);
    if T::WRITES
        && let Some((scratch, asking)) = asking
    {
        scratch.asking.set(if yields { asking.gained() } else { asking.in_vain() }.0);
    }
    if !yields {
        return Ok(one.way());
    }
    if T::WRITES {
        overflow.set(now);
    }
    Ok(two.way())
}
