//! Prefixes to the lines that [`super::may_hold`] and [`super::holds`] read.

extern crate alloc;

use alloc::vec;
use alloc::vec::Vec;
use core::ops::Range;

use super::{bit, coarse_bits, fine_bits};
use crate::layout::{FILTER_WORDS, Family, FilterLine, ListParts, ListWords, keys_per_line};

/// Bits of a bitmap for each group in it: one group in sixteen of those that are not in the list looks as if it were.
const SPARSE: u64 = 16;
/// log2 of the bits of the smallest and largest bitmap: a line, and 2 MiB.
const SIZES: Range<u32> = 9..24;
/// Most groups at an end of a range that are marked one by one in the fine part.
const MOST_FINE: u64 = 256;
/// Most groups of a range that are marked one by one in the coarse part.
const MOST_COARSE: u64 = 65_536;

/// A list in lines, wherever they will be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuiltList {
    lines: Vec<FilterLine>,
    /// With line numbers from the list's first line on.
    parts: ListParts,
}

/// First and last address of a range, as numbers.
type AddressRange = (u128, u128);

impl BuiltList {
    /// The list of prefixes of one family: their first addresses as numbers, those of IPv4 below 2³², and their lengths.
    #[must_use]
    pub fn new(family: Family, prefixes: impl IntoIterator<Item = (u128, u8)>) -> Self {
        let ranges = ranges(family, prefixes);
        let marks: Vec<Marks> = ranges.iter().map(|range| Marks::of(family, *range)).collect();
        let blind = marks.iter().any(|marks| marks.coarse.end - marks.coarse.start > MOST_COARSE);
        let (fine, fine_shift, coarse, coarse_shift) = match blind {
            true => (Vec::new(), 0, Vec::new(), 0),
            false => {
                let (fine, fine_shift) = bitmap(marks.iter().flat_map(|marks| marks.fine.clone()));
                let (coarse, coarse_shift) = bitmap(marks.iter().map(|marks| marks.coarse.clone()));
                (fine, fine_shift, coarse, coarse_shift)
            }
        };
        let (tree, levels) = tree(family, &keys(&ranges));
        let parts = ListParts {
            fine: 0,
            fine_shift,
            coarse: fine.len() as u32,
            coarse_shift,
            tree: (fine.len() + coarse.len()) as u32,
            levels,
            from_lowest: ranges.first().is_some_and(|first| first.0 == 0),
            blind,
        };
        Self { lines: [fine, coarse, tree].concat(), parts }
    }

    /// The lines.
    #[must_use]
    pub fn lines(&self) -> &[FilterLine] {
        &self.lines
    }

    /// The words that name the list where its lines begin at `first`.
    #[must_use]
    pub fn words(&self, first: u32) -> ListWords {
        let ListParts { fine, coarse, tree, .. } = self.parts;
        ListWords::new(ListParts {
            fine: first + fine,
            coarse: first + coarse,
            tree: first + tree,
            ..self.parts
        })
    }
}

fn width(family: Family) -> u32 {
    match family {
        Family::V4 => 32,
        Family::V6 => 128,
    }
}

/// The last address of a family.
fn last(family: Family) -> u128 {
    u128::MAX >> (128 - width(family))
}

/// The ranges of prefixes, ascending; what overlaps or follows closely is one.
fn ranges(family: Family, prefixes: impl IntoIterator<Item = (u128, u8)>) -> Vec<AddressRange> {
    let last = last(family);
    let range = |(address, length): (u128, u8)| {
        let host = last.checked_shr(length.into()).unwrap_or(0);
        (address & last & !host, (address & last) | host)
    };
    let mut ranges: Vec<AddressRange> = prefixes.into_iter().map(range).collect();
    ranges.sort_unstable();
    let mut joined: Vec<AddressRange> = Vec::with_capacity(ranges.len());
    for (start, end) in ranges {
        match joined.last_mut() {
            Some(before) if start <= before.1.saturating_add(1) => before.1 = before.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined
}

/// The groups that a range touches, without any in both parts.
struct Marks {
    fine: [Range<u64>; 2],
    coarse: Range<u64>,
}

impl Marks {
    fn of(family: Family, (start, end): AddressRange) -> Self {
        let fine = |address: u128| (address >> (width(family) - fine_bits(family))) as u64;
        let (start, end) = (fine(start), fine(end) + 1);
        if end - start <= MOST_FINE {
            return Self { fine: [start..end, 0..0], coarse: 0..0 };
        }
        let step = 1 << (fine_bits(family) - coarse_bits(family));
        // What is wholly in the range is marked coarsely; its ends, too, where they are long.
        let (mut first, mut after) = (start.div_ceil(step), end / step);
        let (mut head, mut tail) = (start..first * step, after * step..end);
        if first > after || head.end - head.start > MOST_FINE {
            (first, head) = (start / step, 0..0);
        }
        if first > after || tail.end - tail.start > MOST_FINE || after <= first && head.is_empty() {
            (after, tail) = (end.div_ceil(step), 0..0);
        }
        Self { fine: [head, tail], coarse: first..after }
    }
}

/// A bitmap of these groups, and its shift; nothing and 0 without any.
fn bitmap(groups: impl Iterator<Item = Range<u64>> + Clone) -> (Vec<FilterLine>, u8) {
    let count: u64 = groups.clone().map(|range| range.end - range.start).sum();
    if count == 0 {
        return (Vec::new(), 0);
    }
    let size = (count * SPARSE).next_power_of_two().ilog2().clamp(SIZES.start, SIZES.end);
    let shift = 64 - size;
    let mut lines = vec![FilterLine::default(); 1 << (size - SIZES.start)];
    for bit in groups.flatten().map(|group| bit(group, shift)) {
        lines[(bit >> 9) as usize].words[(bit >> 6 & 7) as usize] |= 1 << (bit & 63);
    }
    (lines, shift as u8)
}

/// The bounds of ranges: the last address before each, and its last.
fn keys(ranges: &[AddressRange]) -> Vec<u128> {
    let bounds = ranges.iter().flat_map(|(start, end)| [start.checked_sub(1), Some(*end)]);
    bounds.flatten().collect()
}

/// A tree over ascending keys, and its levels.
fn tree(family: Family, keys: &[u128]) -> (Vec<FilterLine>, u8) {
    let fan = keys_per_line(family) as usize;
    let leaves = keys.len().div_ceil(fan).max(1);
    let mut levels = 1;
    // Nodes above the leaves, and leaves that fit below them.
    let (mut above, mut fit) = (0, 1);
    while fit < leaves {
        (above, fit, levels) = (above + fit, fit * fan, levels + 1);
    }
    // Keys that nothing fills are above every address.
    let mut lines = vec![FilterLine { words: [u64::MAX; FILTER_WORDS] }; above + leaves];
    for (place, key) in keys.iter().enumerate() {
        set_key(&mut lines[above + place / fan], family, place % fan, *key);
    }
    // Of each level the first node, and how many keys a child of its nodes stands for.
    let (mut first, mut nodes, mut child) = (0, 1, fit / fan * fan);
    while first < above {
        for place in 0..nodes * fan {
            if let Some(key) = keys.get(place * child) {
                set_key(&mut lines[first + place / fan], family, place % fan, *key);
            }
        }
        (first, nodes, child) = (first + nodes, nodes * fan, child / fan);
    }
    (lines, levels)
}

fn set_key(line: &mut FilterLine, family: Family, place: usize, key: u128) {
    match family {
        Family::V4 => {
            let shift = 32 * (place % 2);
            let word = &mut line.words[place / 2];
            *word = *word & !(u64::from(u32::MAX) << shift) | (key as u64) << shift;
        }
        Family::V6 => {
            line.words[place * 2] = (key >> 64) as u64;
            line.words[place * 2 + 1] = key as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{holds, may_hold};
    use super::*;
    use crate::memory::{Memory, Slices};

    fn halves(address: u128) -> (u64, u64) {
        ((address >> 64) as u64, address as u64)
    }

    /// What the front and the list say of an address, the list being behind a line that is not its own.
    fn ask(family: Family, list: &BuiltList, address: u128) -> (bool, Option<bool>) {
        let filters = [&[FilterLine::default()], list.lines()].concat();
        let memory = Memory { slices: Slices { filters: &filters, ..Slices::EMPTY }, ..Memory::EMPTY };
        let (words, address) = (list.words(1), halves(address));
        (may_hold(&memory, words, family, address), holds(&memory, words, family, address))
    }

    fn covered(family: Family, prefixes: &[(u128, u8)], address: u128) -> bool {
        let same = |(prefix, length): &(u128, u8)| {
            let shift = width(family) - u32::from(*length);
            (address ^ prefix).checked_shr(shift).unwrap_or(0) == 0
        };
        prefixes.iter().any(same)
    }

    /// Addresses close together, so that prefixes meet, and anywhere.
    fn address(family: Family) -> impl Strategy<Value = u128> {
        let ends = prop::sample::select(vec![0, 1, 255, 256, 0xffff_ffff, u128::MAX - 1, u128::MAX]);
        let near = (0..4_u128, 0..4_u128, 0..3_u128, 0..4_u128).prop_map(move |(a, b, c, d)| match family {
            Family::V4 => a << 30 | b << 16 | c << 8 | d,
            Family::V6 => a << 126 | b << 96 | c << 80 | d << 62 | d,
        });
        prop_oneof![any::<u128>(), ends, near].prop_map(move |address| address & last(family))
    }

    fn list(family: Family) -> impl Strategy<Value = Vec<(u128, u8)>> {
        let prefix = (address(family), 0..=width(family) as u8);
        prop_oneof![
            3 => prop::collection::vec(prefix, 1..20),
            1 => prop::collection::vec((address(family), Just(width(family) as u8)), 1..600),
            1 => prop::collection::vec((any::<u128>().prop_map(move |a| a & last(family)), 8..=width(family) as u8), 300..400),
        ]
    }

    fn family() -> impl Strategy<Value = Family> {
        prop::sample::select(vec![Family::V4, Family::V6])
    }

    proptest! {
        #[test]
        fn a_list_holds_the_addresses_of_its_prefixes_and_no_others(
            (family, prefixes, addresses) in family().prop_flat_map(|family| {
                (Just(family), list(family), prop::collection::vec(address(family), 1..50))
            }),
        ) {
            let built = BuiltList::new(family, prefixes.iter().copied());
            let ends = prefixes.iter().take(100).flat_map(|&prefix| {
                let (start, end) = ranges(family, [prefix])[0];
                [start, end, start.saturating_sub(1), end.saturating_add(1) & last(family)]
            });
            for address in addresses.into_iter().chain(ends) {
                let (front, held) = ask(family, &built, address);
                let expected = covered(family, &prefixes, address);
                prop_assert_eq!(held, Some(expected), "{:x}", address);
                prop_assert!(front || !expected, "the front hides {:x}", address);
            }
        }
    }

    #[test]
    fn a_list_of_no_prefixes_holds_no_address() {
        for family in [Family::V4, Family::V6] {
            let built = BuiltList::new(family, []);
            for address in [0, 1, last(family) / 3, last(family)] {
                assert_eq!(ask(family, &built, address), (false, Some(false)));
            }
        }
    }

    #[test]
    fn all_addresses_are_a_list_whose_front_tells_nothing_of_ipv6() {
        for family in [Family::V4, Family::V6] {
            let built = BuiltList::new(family, [(0, 0)]);
            for address in [0, 1, last(family) / 3, last(family)] {
                assert_eq!(ask(family, &built, address), (true, Some(true)));
            }
        }
    }

    #[test]
    fn a_front_lets_most_addresses_by() {
        let mut state = 1_u64;
        let mut random = || {
            state = crate::hash::again(state, 1);
            u128::from(state >> 8)
        };
        let prefixes: Vec<(u128, u8)> =
            (0..20_000).map(|number| (random() & 0xffff_ffff, 18 + (number % 15) as u8)).collect();
        let built = BuiltList::new(Family::V4, prefixes.iter().copied());
        let filters = [&[FilterLine::default()], built.lines()].concat();
        let memory = Memory { slices: Slices { filters: &filters, ..Slices::EMPTY }, ..Memory::EMPTY };
        let asked = (0..100_000).map(|_| random() & 0xffff_ffff);
        let outside: Vec<u128> = asked
            .filter(|address| holds(&memory, built.words(1), Family::V4, (0, *address as u64)) == Some(false))
            .collect();
        let seen = outside
            .iter()
            .filter(|address| may_hold(&memory, built.words(1), Family::V4, (0, **address as u64)));
        let (seen, outside) = (seen.count(), outside.len());
        println!(
            "{seen} of {outside} addresses outside the list are searched for; {} lines",
            built.lines().len()
        );
        assert!(seen * 20 < outside, "{seen} of {outside}");
    }
}
