//! Where a new entry goes.

use super::class::{Class, Meta};
use crate::layout::{Bucket, Way};
use crate::time::Tick;

/// How many more free ways the second bucket must have to be preferred: a flow in its first bucket costs one line.
const SECOND_BUCKET_BIAS: u32 = 1;

/// How willingly an entry is given up, by class: 2 before 3, 8 never. A nibble a class; expired is 1, empty 0.
const RANKS: u32 = nibbles(&[
    (Class::Empty, 1),
    (Class::Embryonic, 2),
    (Class::Ended, 2),
    (Class::Answered, 3),
    (Class::Young, 3),
    (Class::Proven, 8),
    (Class::Closing, 8),
]);

const fn nibbles(ranks: &[(Class, u32)]) -> u32 {
    let (mut table, mut index) = (0, 0);
    while index < ranks.len() {
        table |= ranks[index].1 << (ranks[index].0 as u32 * 4);
        index += 1;
    }
    table
}

/// A way's score: rank in bits 24 and up, ticks left in bits 4–23, the way's index in bits 0–1.
const RANK_SHIFT: u32 = 24;
/// Scores from here on are live proven or closing entries.
const NEVER: u32 = 8 << RANK_SHIFT;

/// Scores a way without branches: eight of them in a row would be too many paths for the verifier.
#[inline(always)]
fn score<const W: usize>(way: &Way<W>, index: u32, now: Tick) -> u32 {
    let binding = way.binding.get();
    let meta = Meta(way.meta.get());
    let used = (binding | binding.wrapping_neg()) >> 31;
    let left = meta.deadline().since(now);
    let live = 1 - (left >> 19);
    let rank = RANKS >> (((meta.0 >> 20) & 7) * 4) & 0xf;
    let rank = used * (rank * live + (1 - live));
    rank << RANK_SHIFT | (left & 0x7ffff) << 4 | index
}

struct Best {
    score: u32,
    free: u32,
}

impl Best {
    /// The index of the best way.
    #[inline(always)]
    fn way(&self, salt: u32) -> usize {
        ((self.score ^ salt) & 3) as usize
    }
}

#[inline(always)]
fn best<const W: usize>(bucket: &Bucket<W>, salt: u32, now: Tick) -> Best {
    let mut best = Best { score: NEVER, free: 0 };
    for (index, way) in bucket.ways.iter().enumerate() {
        let score = score(way, (index as u32 ^ salt) & 3, now);
        // 1 for ranks 0 and 1: bit 1, 2 or 3 of the rank is set for the others.
        let rank = score >> RANK_SHIFT;
        best.free += 1 - (((rank >> 1) | (rank >> 2) | (rank >> 3)) & 1);
        if score < best.score {
            best.score = score;
        }
    }
    best
}

/// The way that a new flow of these two buckets may take: an empty one, else an expired one, else the oldest
/// embryonic, else the oldest young one; never a live proven or closing one. The emptier bucket is filled first.
///
/// `salt` is any bits of the flow's hash: it breaks ties, and keeps the verifier from following each index apart.
#[inline(always)]
pub fn place<'a, const W: usize>(
    first: &'a Bucket<W>,
    second: &'a Bucket<W>,
    salt: u32,
    now: Tick,
) -> Option<&'a Way<W>> {
    let (one, two) = (best(first, salt, now), best(second, salt, now));
    let take_second = if one.free | two.free != 0 {
        two.free > one.free + SECOND_BUCKET_BIAS || one.free == 0
    } else {
        two.score >> 4 < one.score >> 4
    };
    let (bucket, best) = if take_second { (second, two) } else { (first, one) };
    if best.score >= NEVER { None } else { Some(&bucket.ways[best.way(salt)]) }
}
