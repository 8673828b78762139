//! Weighted Maglev tables (Eisenbud et al., NSDI 2016, section 3.4): which backend each slot belongs to.
//!
//! A table depends on the members' names, their weights, the number of slots and the seed alone, so that two instances
//! that agree on these agree on every slot. Each member gets exactly the floor or the ceiling of its share; its turns
//! are spread evenly over the building of the table, so that a small change of weights moves few slots.

#![forbid(unsafe_code)]

use std::cmp::Reverse;

use lb_common::hash;

/// A backend that gets slots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member<'a> {
    /// Stable name.
    pub name: &'a str,
    /// Greater than 0.
    pub weight: u16,
}

/// Most slots of a table.
pub const MAX_SLOTS: u32 = 1 << 24;

/// The member of every slot, as a position in `members`, which are in the order of their names.
///
/// `slots` is a prime of at most [`MAX_SLOTS`]. Without members the table is empty. More members than slots leave some
/// without any.
#[must_use]
pub fn build(members: &[Member<'_>], slots: u32, seed: u64) -> Vec<u16> {
    if members.is_empty() || slots == 0 {
        return Vec::new();
    }
    let hashes: Vec<u64> = members.iter().map(|member| name_hash(member.name, seed)).collect();
    let quotas = quotas(members, &hashes, slots);
    let mut walks: Vec<Walk> = hashes.iter().map(|&hash| Walk::new(hash, slots)).collect();
    let mut taken = Taken::new(slots);
    let mut table = vec![0; slots as usize];
    for position in turns(&quotas, slots) {
        let slot = walks[position as usize].first_free(&mut taken, slots);
        table[slot as usize] = position;
    }
    table
}

/// Hash of a name: depends on nothing else but the seed.
fn name_hash(name: &str, seed: u64) -> u64 {
    let mut state = hash::absorb(seed, name.len() as u64);
    for chunk in name.as_bytes().chunks(8) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        state = hash::absorb(state, u64::from_le_bytes(word));
    }
    hash::finish(state)
}

/// Slots for each member: the floor of its share, and one more for the largest remainders until all are given out.
fn quotas(members: &[Member<'_>], hashes: &[u64], slots: u32) -> Vec<u32> {
    let total: u64 = members.iter().map(|member| u64::from(member.weight)).sum::<u64>().max(1);
    let shares: Vec<u64> = members.iter().map(|member| u64::from(member.weight) * u64::from(slots)).collect();
    let mut quotas: Vec<u32> = shares.iter().map(|share| (share / total) as u32).collect();
    let given: u32 = quotas.iter().sum();
    let mut order: Vec<usize> = (0..members.len()).collect();
    // Equal remainders are told apart by name, not by position: a new first name moves nobody's extra slot.
    order.sort_unstable_by_key(|&position| (Reverse(shares[position] % total), hashes[position], position));
    for &position in order.iter().take((slots - given) as usize) {
        quotas[position] += 1;
    }
    quotas
}

/// The members in the order of their turns: member `i`'s turns are spread evenly over as many rounds as the largest
/// quota; within a round members follow each other in the order of their names.
fn turns(quotas: &[u32], slots: u32) -> Vec<u16> {
    let rounds = quotas.iter().copied().max().unwrap_or(0);
    let round_of = |turn: u32, quota: u32| (u64::from(turn) * u64::from(rounds) / u64::from(quota)) as usize;
    // Counting sort by round.
    let mut starts = vec![0u32; rounds as usize + 1];
    for &quota in quotas {
        for turn in 0..quota {
            starts[round_of(turn, quota) + 1] += 1;
        }
    }
    for round in 1..starts.len() {
        starts[round] += starts[round - 1];
    }
    let mut order = vec![0; slots as usize];
    for (position, &quota) in quotas.iter().enumerate() {
        for turn in 0..quota {
            let next = &mut starts[round_of(turn, quota)];
            order[*next as usize] = position as u16;
            *next += 1;
        }
    }
    order
}

/// A member's order of preference over the slots: a step that is coprime to their prime number visits all.
struct Walk {
    next: u32,
    step: u32,
}

impl Walk {
    fn new(hash: u64, slots: u32) -> Self {
        let step = if slots == 1 { 0 } else { hash::scale(hash::again(hash, 1), slots - 1) + 1 };
        Self { next: hash::scale(hash, slots), step }
    }

    fn first_free(&mut self, taken: &mut Taken, slots: u32) -> u32 {
        loop {
            let slot = self.next;
            let next = slot + self.step;
            self.next = if next >= slots { next - slots } else { next };
            if taken.take(slot) {
                return slot;
            }
        }
    }
}

/// One bit a slot: 65,537 of them stay in the first-level cache.
struct Taken(Vec<u64>);

impl Taken {
    fn new(slots: u32) -> Self {
        Self(vec![0; slots.div_ceil(64) as usize])
    }

    /// Takes a slot unless it was taken.
    fn take(&mut self, slot: u32) -> bool {
        let word = &mut self.0[(slot / 64) as usize];
        let bit = 1 << (slot % 64);
        let free = *word & bit == 0;
        *word |= bit;
        free
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;

    const SLOTS: u32 = 65537;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("web-{number:03}")).collect()
    }

    fn equal(names: &[String]) -> Vec<Member<'_>> {
        names.iter().map(|name| Member { name, weight: 100 }).collect()
    }

    fn counts(table: &[u16], members: usize) -> Vec<u32> {
        let mut counts = vec![0; members];
        for &position in table {
            counts[position as usize] += 1;
        }
        counts
    }

    #[test]
    fn busiest_of_100_equal_backends_has_at_most_1_02_of_its_share() {
        let names = names(100);
        let table = build(&equal(&names), SLOTS, 7);
        let busiest = counts(&table, 100).into_iter().max().unwrap();
        assert!(f64::from(busiest) <= 1.02 * f64::from(SLOTS) / 100.0, "{busiest}");
    }

    #[test]
    fn weights_1_2_10_hold_within_2_percent() {
        let names = names(30);
        let weights = [10, 20, 100];
        let members: Vec<Member<'_>> = names
            .iter()
            .enumerate()
            .map(|(number, name)| Member { name, weight: weights[number % 3] })
            .collect();
        let table = build(&members, SLOTS, 7);
        for (number, count) in counts(&table, 30).into_iter().enumerate() {
            let share = f64::from(SLOTS) * f64::from(weights[number % 3]) / 1300.0;
            assert!((f64::from(count) / share - 1.0).abs() < 0.02, "{number}: {count} of {share}");
        }
    }

    /// Share of the slots of the backends that stay which change hands when `gone` leaves.
    fn disruption(names: &[String], gone: usize, seed: u64) -> f64 {
        let before = build(&equal(names), SLOTS, seed);
        let rest: Vec<String> = names
            .iter()
            .enumerate()
            .filter(|(number, _)| *number != gone)
            .map(|(_, name)| name.clone())
            .collect();
        let after = build(&equal(&rest), SLOTS, seed);
        let (mut stayed, mut moved) = (0u32, 0u32);
        for (&old, &new) in before.iter().zip(&after) {
            if old as usize != gone {
                stayed += 1;
                moved += u32::from(names[old as usize] != rest[new as usize]);
            }
        }
        f64::from(moved) / f64::from(stayed)
    }

    #[test]
    fn removing_one_of_100_backends_moves_at_most_1_5_percent_of_the_others_slots() {
        let names = names(100);
        let mut worst = 0.0f64;
        for (gone, seed) in [(0, 0), (1, 0), (17, 0), (50, 7), (73, 7), (98, 9), (99, 9)] {
            worst = worst.max(disruption(&names, gone, seed));
        }
        println!("worst disruption: {:.3} %", worst * 100.0);
        assert!(worst <= 0.015, "{worst}");
    }

    #[test]
    fn a_table_depends_on_names_weights_and_seed_only() {
        let names = names(100);
        assert_eq!(build(&equal(&names), SLOTS, 7), build(&equal(&names.clone()), SLOTS, 7));
        assert_ne!(build(&equal(&names), SLOTS, 7), build(&equal(&names), SLOTS, 8));
    }

    #[test]
    fn building_is_timed() {
        for count in [100, 4096] {
            let names = names(count);
            let start = Instant::now();
            let table = build(&equal(&names), SLOTS, 7);
            println!("{count} backends, {} slots: {:?}", table.len(), start.elapsed());
            assert_eq!(table.len(), SLOTS as usize);
        }
    }

    proptest! {
        #[test]
        fn every_backend_gets_the_floor_or_the_ceiling_of_its_share(
            weights in prop::collection::vec(1u16..=1000, 1..60),
            slots in prop::sample::select(vec![2u32, 61, 1021, 4093]),
            seed: u64,
        ) {
            let names = names(weights.len());
            let members: Vec<Member<'_>> =
                names.iter().zip(&weights).map(|(name, &weight)| Member { name, weight }).collect();
            let table = build(&members, slots, seed);
            prop_assert_eq!(table.len(), slots as usize);
            let total: u64 = weights.iter().map(|&weight| u64::from(weight)).sum();
            for (count, &weight) in counts(&table, weights.len()).into_iter().zip(&weights) {
                let share = u64::from(weight) * u64::from(slots);
                let (floor, ceiling) = ((share / total) as u32, share.div_ceil(total) as u32);
                prop_assert!(count == floor || count == ceiling, "{} of {}..={}", count, floor, ceiling);
            }
        }
    }
}
