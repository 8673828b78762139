//! One entry.

use std::ops::Range;

use lb_common::flow::{Binding, Meta, decode};
use lb_common::layout::{Bucket, Way};
use lb_common::wire::Protocol;

use super::FlowTable;
use crate::maps::set::MapSet;

/// An entry as read.
pub(crate) struct Entry {
    /// Client's address halves; IPv4 in the second.
    pub(super) source: (u64, u64),
    /// Client's port, destination port.
    pub(super) ports: (u16, u16),
    pub(super) vip: u32,
    pub(super) protocol: Protocol,
    pub(super) backend: u16,
    pub(super) meta: Meta,
}

/// Reads a way; `None` when it is empty or torn.
fn read<const W: usize>(way: &Way<W>) -> Option<Entry> {
    let binding = Binding(way.binding.get());
    if binding.0 == 0 {
        return None;
    }
    let words: [u64; W] = std::array::from_fn(|word| way.key[word].get() ^ binding.mask());
    let meta = Meta(way.meta.get());
    let (source, port, vip, protocol) = decode(&words)?;
    let backend = binding.backend() as u16;
    (vip != 0 && backend != 0 && way.binding.get() == binding.0).then_some(Entry {
        source,
        ports: (port, binding.port()),
        vip,
        protocol,
        backend,
        meta,
    })
}

/// An entry where it is.
pub(super) struct Placed {
    pub(super) entry: Entry,
    /// Number of its bucket.
    pub(super) number: u32,
    /// Number of the flow's first bucket.
    pub(super) first: u32,
}

/// The entries in these buckets of a table whose flows belong where they are: others are torn.
pub(super) fn placed<'a, const W: usize, F: FlowTable<W>>(
    maps: &'a MapSet,
    numbers: Range<usize>,
) -> impl Iterator<Item = Placed> + 'a {
    let buckets = F::buckets(maps);
    let secret = maps.meta[0].geometry.secret;
    let mask = (buckets.len() as u32).saturating_sub(1);
    let of_bucket = move |(number, bucket): (usize, &'a Bucket<W>)| {
        bucket.ways.iter().filter_map(read).filter_map(move |entry| {
            let (first, second) = F::key(secret, &entry).buckets(mask);
            let number = number as u32;
            (first == number || second == number).then_some(Placed { entry, number, first })
        })
    };
    buckets.iter().enumerate().take(numbers.end).skip(numbers.start).flat_map(of_bucket)
}

/// The entries of a whole table.
pub(super) fn entries<'a, const W: usize, F: FlowTable<W>>(
    maps: &'a MapSet,
) -> impl Iterator<Item = Entry> + 'a {
    placed::<W, F>(maps, 0..F::buckets(maps).len()).map(|placed| placed.entry)
}
