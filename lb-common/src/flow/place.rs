//! Where a new entry goes.

use core::hint::black_box;

use super::class::{CLASS_SHIFT, Class};
use crate::layout::{Bucket, Way};
use crate::time::{TICK_BITS, TICK_MASK, Tick};

/// Live entries of a bucket that is crowded, of four: new flows go to their second buckets if those are emptier, or soon one
/// finds no place.
const CROWDED: u32 = 3;

/// A way's score: rank in bits 24 and up, ticks left in bits 4–23, the place of the way's index in an order that is the flow's own
/// in bits 2–3, the index in bits 0–1. The lower, the more willingly the way is given up. An empty way's is its index alone:
/// flows that are mostly in the first way are found by branches that the processor foresees (5 % of a known flow among 65,536
/// on an AMD EPYC, measured with live ones in order too).
/// An expired entry has a rank of 0 too, and ticks left from the upper half: the fewer, the longer ago it expired.
const RANK_SHIFT: u32 = 24;
/// Bits of a score between rank and index.
const AGE_AND_ORDER: u64 = 0xff_fffc;
/// Ways of a bucket.
const WAYS: u32 = 4;
/// Scores from here on are live proven or closing entries.
const NEVER: u32 = rank(Class::Proven) << RANK_SHIFT;

/// The same number in both halves of a word.
const fn both(number: u32) -> u64 {
    number as u64 * ONES
}
const ONES: u64 = 1 << 32 | 1;

/// The rank of a live entry of this class; a free way's is 0. As [`pair`] computes it.
const fn rank(class: Class) -> u32 {
    let code = class as u32;
    (((code | code >> 1 & 1) + 1) & 7) + 1
}

/// The orders that [`rank`] stands for: what never came to anything first, then what only began, then what is young.
const _: () = {
    assert!(rank(Class::Ended) < rank(Class::Embryonic) && rank(Class::Embryonic) < rank(Class::Young));
    assert!(rank(Class::Answered) == rank(Class::Young) && rank(Class::Young) < rank(Class::Proven));
    assert!(rank(Class::Proven) < rank(Class::Closing) && rank(Class::Closing) < 16);
};

/// Where the number of protected entries stands in a count; that of all in use is below.
const PROTECTED_SHIFT: u32 = 8;

/// Scores of two ways, one in each half of a word, and counts of them, to be added up likewise: in use, and protected.
///
/// Two at a time take half the instructions of one at a time.
#[inline(always)]
fn pair<const W: usize>([one, two]: [&Way<W>; 2], order: u64, clock: u64) -> (u64, u64) {
    let metas = one.meta.get() as u64 | (two.meta.get() as u64) << 32;
    let left = ((metas & both(TICK_MASK)) + clock) & both(TICK_MASK);
    let expired = left >> (TICK_BITS - 1);
    let class = metas >> CLASS_SHIFT & both(7);
    let held = (class + both(7)) >> 3 & ONES;
    let used = held & !expired;
    let rank = ((((class | class >> 1 & ONES) + ONES) & both(7)) + ONES) & (used * 0xf);
    let score = (left << 4 | order) & ((held * AGE_AND_ORDER) | both(3));
    let protected = rank >> 2 & rank >> 1 & ONES;
    (rank << RANK_SHIFT | score, used | protected << PROTECTED_SHIFT)
}

/// The lesser of two numbers below 2³¹, in each half of a word. Without branches: they would be taken at random.
#[inline(always)]
const fn lesser(one: u64, two: u64) -> u64 {
    let at_least = ((two | both(1 << 31)) - one) >> 31 & ONES;
    let mask = (at_least << 32).wrapping_sub(at_least);
    one & mask | two & !mask
}

/// What a bucket has for a new flow: the first empty way, else the entry that expired first (its flow may yet go on), else the
/// oldest of those that ended before they were proven, else the oldest embryonic, else the oldest young one; never a live
/// proven or closing one.
pub struct Offer<'a, const W: usize> {
    bucket: &'a Bucket<W>,
    score: u32,
    /// Live entries.
    used: u32,
    /// Live entries that are proven or closing.
    protected: u32,
}

/// What `bucket` has for a new flow; `own_way` is [`FlowKey::own_way`](super::FlowKey::own_way).
///
/// Of entries as old as each other it is the own way's, or the one next in an order of the flow's own: so that the flows of a flood
/// do not all take the same.
#[inline(always)]
pub fn offer<const W: usize>(bucket: &Bucket<W>, own_way: u32, now: Tick) -> Offer<'_, W> {
    // Zero, which the verifier does not see: it would follow each index apart (a fifth more instructions).
    let zero = (black_box(own_way) ^ own_way) & 3;
    let (order, clock) = (both((own_way & 3) << 2 | zero), both(TICK_MASK + 1 - now.bits()));
    let [a, b, c, d] = &bucket.ways;
    // An index n is at n and at 4 n, the latter under the flow's own way.
    let (first, count) = pair([a, b], order ^ 5 << 32, clock);
    let (second, more) = pair([c, d], order ^ (15 << 32 | 10), clock);
    let (scores, count) = (lesser(first, second), count + more);
    let (one, two) = (scores as u32 as i64, (scores >> 32) as i64);
    let score = one + ((two - one) & (two - one) >> 63);
    let count = (count + (count >> 32)) as u32;
    Offer { bucket, score: score as u32, used: count & 7, protected: count >> PROTECTED_SHIFT & 7 }
}

/// What a new flow does with what its first bucket has for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum First {
    /// Takes it.
    Taken,
    /// Takes it unless the second bucket has fewer live entries.
    Crowded,
    /// Takes it unless the second bucket has fewer protected entries, and a free way if this one has: here are so many that
    /// soon no flow finds a place.
    Scarce,
}

impl<'a, const W: usize> Offer<'a, W> {
    /// What a new flow does with this, if it is its first bucket's.
    #[inline(always)]
    #[must_use]
    pub fn as_first(&self) -> First {
        if self.protected >= CROWDED {
            First::Scarce
        } else if self.used >= CROWDED {
            First::Crowded
        } else {
            First::Taken
        }
    }

    /// Whether the flow takes what its second bucket has instead.
    #[inline(always)]
    #[must_use]
    pub fn yields_to(&self, second: &Self) -> bool {
        match self.as_first() {
            First::Taken => false,
            First::Crowded => second.used < self.used,
            // Not where a live entry would give way there, and nobody here.
            First::Scarce => second.protected < self.protected && (second.used < WAYS || self.used == WAYS),
        }
    }

    /// The way; `None` where all entries are protected.
    #[inline(always)]
    #[must_use]
    pub fn way(&self) -> Option<&'a Way<W>> {
        if self.score >= NEVER { None } else { Some(&self.bucket.ways[(self.score & 3) as usize]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::{FlowKey, Meta, find, forget, write};
    use crate::hash;
    use crate::wire::Protocol;

    /// Far from zero, so that deadlines lie on both sides of the wrap.
    const NOW: Tick = Tick::from_bits(TICK_MASK - 2);
    const CLASSES: [Class; 7] = [
        Class::Empty,
        Class::Embryonic,
        Class::Answered,
        Class::Young,
        Class::Proven,
        Class::Closing,
        Class::Ended,
    ];

    /// Buckets of random entries; few deadlines, so that ties are common.
    fn buckets(seed: u64) -> [Bucket<1>; 2] {
        let buckets: [Bucket<1>; 2] = std::array::from_fn(|_| Bucket::empty());
        for (number, way) in (0u64..).zip(buckets.iter().flat_map(|bucket| &bucket.ways)) {
            let random = hash::again(seed, number + 1);
            let class = CLASSES[random as usize % 7];
            if class != Class::Empty {
                let deadline = NOW.plus((random >> 8) as u32 % 8).bits().wrapping_sub(3);
                let meta = Meta::new(Tick::from_bits(deadline), class, (random >> 16) as u8);
                write(way, &FlowKey::v4(1, number as u32, (1, 80), 1, Protocol::Tcp), 7, meta);
            }
        }
        buckets
    }

    /// How willingly an entry is given up: its kind, then the ticks that it has left.
    fn worth(way: &Way<1>) -> (u32, u32) {
        let meta = Meta(way.meta.get());
        match (meta.class(), meta.deadline().remaining(NOW)) {
            (Class::Empty, _) => (0, 0),
            (_, None) => (1, meta.deadline().bits().wrapping_sub(NOW.bits()) & TICK_MASK),
            (Class::Ended, Some(left)) => (2, left),
            (Class::Embryonic, Some(left)) => (3, left),
            (Class::Answered | Class::Young, Some(left)) => (4, left),
            (Class::Proven | Class::Closing, Some(_)) => (5, 0),
        }
    }

    /// The way that a new flow takes where both buckets are read.
    fn place<'a>(one: &'a Bucket<1>, two: &'a Bucket<1>, own_way: u32) -> Option<&'a Way<1>> {
        let (one, two) = (offer(one, own_way, NOW), offer(two, own_way, NOW));
        if one.yields_to(&two) { two.way() } else { one.way() }
    }

    #[test]
    fn a_new_flow_takes_the_entry_that_is_worth_least() {
        for seed in 0..20_000 {
            let [one, two] = buckets(seed);
            let at_least =
                |bucket: &Bucket<1>, what| bucket.ways.iter().filter(|way| worth(way).0 >= what).count();
            let (used, protected) =
                (|bucket: &Bucket<1>| at_least(bucket, 2), |bucket: &Bucket<1>| at_least(bucket, 5));
            let least = |bucket: &Bucket<1>| bucket.ways.iter().map(worth).min().expect("it has ways");
            let second = if protected(&one) >= 3 {
                protected(&two) < protected(&one) && (used(&two) < 4 || used(&one) == 4)
            } else {
                used(&one) >= 3 && used(&two) < used(&one)
            };
            let (bucket, expected) = if second { (&two, least(&two)) } else { (&one, least(&one)) };
            let taken = place(&one, &two, hash::again(seed, 99) as u32);
            assert_eq!(taken.map(worth), Some(expected).filter(|worth| worth.0 < 5), "seed {seed}");
            if let Some(taken) = taken {
                let index = bucket.ways.iter().position(|way| std::ptr::eq(way, taken));
                let index = index.unwrap_or_else(|| panic!("seed {seed}: of the other bucket"));
                let first = bucket.ways.iter().position(|way| worth(way).0 == 0);
                assert!(
                    first.is_none_or(|first| first == index),
                    "seed {seed}: {index} is not the first empty one"
                );
            }
        }
    }

    #[test]
    fn of_entries_that_began_in_one_tick_any_is_given_up() {
        let [one, two] = buckets(0);
        let embryonic = Meta::new(NOW.plus(2), Class::Embryonic, 0);
        for (number, way) in (0..).zip(one.ways.iter().chain(&two.ways)) {
            write(way, &FlowKey::v4(1, number, (1, 80), 1, Protocol::Tcp), 7, embryonic);
        }
        // Always the same one would be the entry that the last flow of a flood took.
        let given_up = |way: &Way<1>| {
            (0..4).any(|own_way| place(&one, &two, own_way).is_some_and(|taken| std::ptr::eq(taken, way)))
        };
        assert!(one.ways.iter().all(given_up));
    }

    #[test]
    fn the_own_ways_of_one_buckets_flows_differ() {
        let mask = (1 << 19) - 1;
        let of_bucket_7 = (0..8_000_000u32)
            .map(|source| FlowKey::v4(1, source, (1, 80), 1, Protocol::Tcp))
            .filter(|key| key.buckets(mask).0 == 7);
        let ways: std::collections::HashSet<u32> = of_bucket_7.map(|key| key.own_way()).collect();
        assert_eq!(ways.len(), 4);
    }

    #[test]
    fn an_entry_that_was_forgotten_is_free() {
        let [one, two] = buckets(0);
        let (key, proven) = (FlowKey::v4(1, 1, (1, 80), 1, Protocol::Tcp), Meta::new(NOW, Class::Proven, 0));
        one.ways.iter().chain(&two.ways).for_each(|way| write(way, &key, 7, proven));
        assert!(place(&one, &two, 0).is_none());
        forget(&two.ways[2]);
        assert!(place(&one, &two, 0).is_some_and(|way| std::ptr::eq(way, &two.ways[2])));
        assert!(find(&two, &key).is_some_and(|found| !std::ptr::eq(found.way, &two.ways[2])));
    }
}
