//! Whether an address is in a list of prefixes.
//!
//! A list is the bounds of its prefixes' ranges, joined and sorted: for each range the last address before it, and its
//! own last one. The number of bounds below an address is odd inside a range and even outside. They are leaves of a
//! tree of cache lines, a node's keys being the first ones of its children; node `n`'s `i`-th child (from 1) is
//! `n · keys + i`, so that no links are stored.
//!
//! Before it stands a *front*, one or two bitmaps indexed by a hash of the address's leading bits: a clear bit says that
//! no address of that group is in the list. A packet that no list concerns usually reads one word of each.

#[cfg(not(target_arch = "bpf"))]
mod build;

use core::hint::black_box;

use crate::layout::{FILTER_WORDS, Family, FilterLine, ListWords, keys_per_line};
use crate::tables::Tables;

#[cfg(not(target_arch = "bpf"))]
pub use build::BuiltList;

/// Odd, of splitmix64's finaliser (public domain).
const SPREAD: u64 = 0x94d0_49bb_1331_11eb;

/// Most levels of a tree.
pub const MAX_LEVELS: u32 = 12;

/// Leading bits of an address that a bit of the front's fine part stands for.
#[inline(always)]
#[must_use]
pub const fn fine_bits(family: Family) -> u32 {
    match family {
        Family::V4 => 24,
        Family::V6 => 48,
    }
}

/// Leading bits of an address that a bit of the front's coarse part stands for.
#[inline(always)]
#[must_use]
pub const fn coarse_bits(family: Family) -> u32 {
    match family {
        Family::V4 => 16,
        Family::V6 => 32,
    }
}

/// The leading bits of an address, given in halves, as a number; an IPv4 address is the lower half.
#[inline(always)]
#[must_use]
pub const fn group(family: Family, (high, low): (u64, u64), bits: u32) -> u64 {
    match family {
        Family::V4 => low >> (32 - bits),
        Family::V6 => high >> (64 - bits),
    }
}

/// The bit of a group in a bitmap of 2^(64 − `shift`) bits.
#[inline(always)]
#[must_use]
pub const fn bit(group: u64, shift: u32) -> u64 {
    group.wrapping_mul(SPREAD) >> (shift & 63)
}

/// Whether the address may be in the list; `false` is certain. An address is given in halves.
#[inline(always)]
pub fn may_hold<T: Tables>(tables: &T, list: ListWords, family: Family, address: (u64, u64)) -> bool {
    if list.is_blind() {
        return true;
    }
    let (line, shift) = list.fine();
    if shift != 0 && is_set(tables, line, bit(group(family, address, fine_bits(family)), shift)) {
        return true;
    }
    let (line, shift) = list.coarse();
    shift != 0 && is_set(tables, line, bit(group(family, address, coarse_bits(family)), shift))
}

/// A bit of the bitmap that begins with `line`; set where there is no such line.
#[inline(always)]
fn is_set<T: Tables>(tables: &T, line: u32, bit: u64) -> bool {
    match tables.filter_line(line.wrapping_add((bit >> 9) as u32)) {
        Some(line) => line.words[(bit >> 6 & 7) as usize] >> (bit & 63) & 1 != 0,
        None => true,
    }
}

/// Whether the address is in the list; `None` where the list names lines that do not exist.
#[inline(always)]
pub fn holds<T: Tables>(tables: &T, list: ListWords, family: Family, address: (u64, u64)) -> Option<bool> {
    let levels = list.levels();
    let mut node = 0_u32;
    for level in 1..=MAX_LEVELS {
        let line = tables.filter_line(list.tree().wrapping_add(node))?;
        let below = keys_below(line, family, address);
        if level >= levels || below == 0 {
            return Some((below ^ list.from_lowest()) & 1 != 0);
        }
        node = node.wrapping_mul(keys_per_line(family)).wrapping_add(below as u32);
    }
    None
}

/// How many of the line's keys are below the address.
#[inline(always)]
fn keys_below(line: &FilterLine, family: Family, (high, low): (u64, u64)) -> u64 {
    let mut below = 0;
    match family {
        Family::V4 => {
            for place in 0..FILTER_WORDS {
                let word = line.words[place & (FILTER_WORDS - 1)];
                below += is_less(word & 0xffff_ffff, low) + is_less(word >> 32, low);
            }
        }
        Family::V6 => {
            for place in 0..4 {
                let place = (place * 2) & (FILTER_WORDS - 2);
                let (key_high, key_low) = (line.words[place], line.words[place + 1]);
                let same = 1 - (is_less(key_high, high) | is_less(high, key_high));
                below += is_less(key_high, high) + (same & is_less(key_low, low));
            }
        }
    }
    below
}

/// 1 where `a` < `b`, else 0: the borrow of their difference. A number that the compiler cannot look into: of what it
/// knows to be 0 or 1 it makes a branch, and the verifier would follow both ways of each key.
#[inline(always)]
fn is_less(a: u64, b: u64) -> u64 {
    let difference = black_box(a.wrapping_sub(b));
    black_box(((!a & b) | (!(a ^ b) & difference)) >> 63)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn less_is_less_at_every_sign() {
        let numbers = [0, 1, 2, u64::from(u32::MAX), 1 << 63, (1 << 63) - 1, u64::MAX - 1, u64::MAX];
        for a in numbers {
            for b in numbers {
                assert_eq!(is_less(a, b), u64::from(a < b), "{a} {b}");
            }
        }
    }

    #[test]
    fn groups_are_leading_bits() {
        assert_eq!(group(Family::V4, (0, 0xc000_0201), 24), 0xc0_0002);
        assert_eq!(group(Family::V6, (0x2001_0db8_0001_0002, 5), 48), 0x2001_0db8_0001);
        for group in 0..5000 {
            assert!(bit(group, 55) < 512 && bit(group, 40) < 1 << 24);
        }
    }
}
