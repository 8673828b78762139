//! Reading and writing one entry.

use super::class::Meta;
use super::key::{Binding, FlowKey};
use crate::layout::{Bucket, Way};

/// A flow's own entry.
pub struct Found<'a, const W: usize> {
    /// Where it is.
    pub way: &'a Way<W>,
    /// What it is bound to.
    pub binding: Binding,
    /// Class, deadline, generation as read.
    pub meta: Meta,
}

/// Looks for the flow's entry in one of its buckets.
#[inline(always)]
pub fn find<'a, const W: usize>(bucket: &'a Bucket<W>, key: &FlowKey<W>) -> Option<Found<'a, W>> {
    for way in &bucket.ways {
        let binding = Binding(way.binding.get());
        if matches(way, binding, key) {
            return Some(Found { way, binding, meta: Meta(way.meta.get()) });
        }
    }
    None
}

#[inline(always)]
fn matches<const W: usize>(way: &Way<W>, binding: Binding, key: &FlowKey<W>) -> bool {
    let mask = binding.mask();
    let mut difference = (binding.port() ^ key.port) as u64;
    for (stored, word) in way.key.iter().zip(&key.words) {
        difference |= stored.get() ^ mask ^ word;
    }
    difference == 0
}

/// Makes `way` the entry of `key`, bound to `backend`. The order of the stores does not matter.
#[inline(always)]
pub fn write<const W: usize>(way: &Way<W>, key: &FlowKey<W>, backend: u32, meta: Meta) {
    let binding = Binding::new(backend, key.port);
    for (stored, word) in way.key.iter().zip(&key.words) {
        stored.set(word ^ binding.mask());
    }
    way.binding.set(binding.0);
    way.meta.set(meta.0);
}
