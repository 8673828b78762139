//! The index from a flow's client end to its port's record.
//!
//! An entry sits in one of two lines that the flow's bucket hash names. It is put in and taken out by compare and
//! exchange; it is taken out before its port is free, so an entry that a look-up finds names a record of some flow,
//! which the look-up compares.

use super::port::{Flow, Held, read};
use crate::hash;
use crate::layout::{NAT_WAYS, NatLine, NatPort};
use crate::tables::Tables;

/// How an entry of a flow begins.
#[inline(always)]
const fn tag(flow_hash: u64) -> u64 {
    hash::again(flow_hash, 3) & 0xffff_ffff_0000_0000
}

/// The two lines of a flow.
#[inline(always)]
const fn lines(flow_hash: u64, mask: u32) -> [u32; 2] {
    [flow_hash as u32 & mask, (flow_hash >> 32) as u32 & mask]
}

/// All bits set for 0, none for anything else: a comparison whose result is used as a number becomes a branch in BPF.
#[inline(always)]
const fn all_ones_if_zero(number: u64) -> u64 {
    let folded = (number >> 32) as u32 | number as u32;
    (((folded as u64).wrapping_sub(1)) >> 32).wrapping_neg() >> 32
}

/// Place and entry of the first way whose entry, under `mask`, is `sought`.
#[inline(always)]
fn search(line: &NatLine, sought: u64, mask: u64) -> Option<(usize, u64)> {
    let (mut place, mut entry, mut free) = (0, 0, u64::MAX);
    for (number, way) in line.ways.iter().enumerate() {
        let read = way.get();
        let matches = all_ones_if_zero((read ^ sought) & mask);
        let matches = (matches | matches << 32) & free;
        free &= !matches;
        place |= number as u64 & matches;
        entry |= read & matches;
    }
    if free != 0 { None } else { Some((place as usize & (NAT_WAYS - 1), entry)) }
}

/// Number and record of the port that a flow has.
#[inline(always)]
pub fn find<'a, T: Tables>(tables: &'a T, flow: &Flow, flow_hash: u64) -> Option<(u32, &'a NatPort, Held)> {
    let [first, second] = lines(flow_hash, tables.nat_mask());
    let sought = tag(flow_hash);
    let tags = 0xffff_ffff_0000_0000;
    let found = match search(tables.nat_line(first)?, sought, tags) {
        None => search(tables.nat_line(second)?, sought, tags),
        found => found,
    };
    let number = (found?.1 as u32).wrapping_sub(1);
    let record = tables.nat_port(number)?;
    let held = read(record)?;
    if held.flow == *flow { Some((number, record, held)) } else { None }
}

/// Enters a flow; whether there was a place.
#[inline(always)]
#[must_use]
pub fn insert<T: Tables>(tables: &T, flow_hash: u64, number: u32, record: &NatPort) -> bool {
    let [first, second] = lines(flow_hash, tables.nat_mask());
    let entry = tag(flow_hash) | (number as u64 + 1);
    // A place that another CPU takes at the same moment: the other line has one.
    for line_number in [first, second] {
        let Some(line) = tables.nat_line(line_number) else { return false };
        let Some((place, _)) = search(line, 0, u64::MAX) else { continue };
        if line.ways[place].exchange(0, entry) {
            record.indexed.set((line_number as u64) << 3 | place as u64);
            return true;
        }
    }
    false
}

/// Takes a record's flow out of the index.
#[inline(always)]
pub fn forget<T: Tables>(tables: &T, number: u32, record: &NatPort) {
    let indexed = record.indexed.get();
    let Some(line) = tables.nat_line((indexed >> 3) as u32) else { return };
    let way = &line.ways[indexed as usize & (NAT_WAYS - 1)];
    let entry = way.get();
    if entry as u32 == number.wrapping_add(1) {
        // Nobody else takes it out, and nobody puts anything where something is.
        let _ = way.exchange(entry, 0);
    }
}
