//! What tells that a flow is in no second bucket: without reading it.
//!
//! Most flows are in their first bucket. Each bucket has a mark, and while it is 0 no flow whose first bucket it is is in its
//! second one: a packet without an entry in the first has none at all. The data plane sets a mark before it enters a flow in
//! its second bucket, and again when it finds one there: to the time, so that the control plane knows which marks are older
//! than its look through the table, and takes back those for which it found no flow.

use crate::cell::SharedU8;
use crate::layout::{MARKS_PER_LINE, OverflowLine};
use crate::time::Tick;

/// Lines of marks of a table with so many buckets.
#[must_use]
pub const fn overflow_lines(buckets: u32) -> u32 {
    buckets.div_ceil(MARKS_PER_LINE as u32)
}

/// The line that a bucket's mark is in.
#[inline(always)]
#[must_use]
pub const fn overflow_line(bucket: u32) -> u32 {
    bucket / MARKS_PER_LINE as u32
}

/// What a mark is set to now: never 0, another value each 8.6 s, the same again after 18 minutes.
#[inline(always)]
#[must_use]
pub const fn mark(now: Tick) -> u8 {
    now.bits() as u8 | 1
}

/// The mark of a flow's first bucket.
#[derive(Clone, Copy)]
pub struct Overflow<'a>(&'a SharedU8);

impl<'a> Overflow<'a> {
    /// The mark of `bucket`, which is in this line.
    #[inline(always)]
    #[must_use]
    pub fn of(line: &'a OverflowLine, bucket: u32) -> Self {
        Self(&line.marks[bucket as usize % MARKS_PER_LINE])
    }

    /// Whether a flow may be in its second bucket.
    #[inline(always)]
    #[must_use]
    pub fn any(self) -> bool {
        self.0.get() != 0
    }

    /// Says that one is.
    #[inline(always)]
    pub fn set(self, now: Tick) {
        let mark = mark(now);
        if self.0.get() != mark {
            self.0.set(mark);
        }
    }
}
