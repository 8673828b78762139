//! Where a new entry goes.

use super::class::{Class, Meta};
use crate::layout::{Bucket, Way};
use crate::time::Tick;

/// How many more free ways the second bucket must have to be preferred: a flow in its first bucket costs one line.
const SECOND_BUCKET_BIAS: u32 = 1;

/// Scores above this are live proven or closing entries, never taken.
const NEVER: u32 = 4 << 24;
/// Scores below this are empty or expired.
const FREE: u32 = 2 << 24;

/// How willingly a way is given up: rank in bits 24 and up, within a rank the oldest first.
#[inline(always)]
fn score<const W: usize>(way: &Way<W>, now: Tick) -> u32 {
    if way.binding.get() == 0 {
        return 0;
    }
    let meta = Meta(way.meta.get());
    match meta.deadline().remaining(now) {
        None => 1 << 24,
        Some(left) => match meta.class() {
            Class::Embryonic | Class::Ended => 2 << 24 | left,
            Class::Answered | Class::Young => 3 << 24 | left,
            Class::Empty => 1 << 24,
            Class::Proven | Class::Closing | Class::Reset => NEVER,
        },
    }
}

struct Best {
    score: u32,
    way: usize,
    free: u32,
}

#[inline(always)]
fn best<const W: usize>(bucket: &Bucket<W>, now: Tick) -> Best {
    let mut best = Best { score: NEVER, way: 0, free: 0 };
    for (index, way) in bucket.ways.iter().enumerate() {
        let score = score(way, now);
        if score < FREE {
            best.free += 1;
        }
        if score < best.score {
            best.score = score;
            best.way = index;
        }
    }
    best
}

/// The way that a new flow of these two buckets may take: an empty one, else an expired one, else the oldest
/// embryonic, else the oldest young one; never a live proven or closing one. The emptier bucket is filled first.
#[inline(always)]
pub fn place<'a, const W: usize>(
    first: &'a Bucket<W>,
    second: &'a Bucket<W>,
    now: Tick,
) -> Option<&'a Way<W>> {
    let (one, two) = (best(first, now), best(second, now));
    let take_second = if one.free != 0 || two.free != 0 {
        two.free > one.free + SECOND_BUCKET_BIAS || one.free == 0
    } else {
        two.score < one.score
    };
    let (bucket, choice) = if take_second { (second, two) } else { (first, one) };
    if choice.score >= NEVER { None } else { Some(&bucket.ways[choice.way & 3]) }
}
