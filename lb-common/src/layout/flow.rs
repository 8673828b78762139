//! The flow table's storage; its protocol is in [`crate::flow`].

use crate::cell::{SharedU8, SharedU32, SharedU64};

/// One flow entry: `W` key words and the last word, whose upper half is the binding, its lower half the meta.
///
/// 16 bytes for IPv4 (`W` = 1), 32 for IPv6 (`W` = 3).
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug, Clone))]
pub struct Way<const W: usize> {
    /// Key words, each XORed with a function of the binding.
    pub key: [SharedU64; W],
    /// Class, deadline and backend generation; rewritten alone by a refresh.
    pub meta: SharedU32,
    /// Backend id (upper 16 bits) and destination port; 0 is an empty way.
    pub binding: SharedU32,
}

/// Four ways: one cache line for IPv4, two adjacent ones for IPv6.
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug, Clone))]
pub struct Bucket<const W: usize> {
    /// The ways, in no order.
    pub ways: [Way<W>; 4],
}

/// Marks of an [`OverflowLine`].
pub const MARKS_PER_LINE: usize = 64;

/// Marks of neighbouring buckets of a flow table; see [`crate::flow::Overflow`].
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug, Clone))]
pub struct OverflowLine {
    /// The marks; 0 is none.
    pub marks: [SharedU8; MARKS_PER_LINE],
}

#[cfg(not(loom))]
const _: () = {
    assert!(core::mem::size_of::<Bucket<1>>() == 64 && core::mem::size_of::<Bucket<3>>() == 128);
    assert!(core::mem::size_of::<OverflowLine>() == 64);
};

impl OverflowLine {
    /// A line without marks.
    #[must_use]
    pub fn empty() -> Self {
        Self { marks: core::array::from_fn(|_| SharedU8::new(0)) }
    }
}

impl<const W: usize> Bucket<W> {
    /// A bucket of empty ways.
    #[must_use]
    pub fn empty() -> Self {
        Self {
            ways: core::array::from_fn(|_| Way {
                key: core::array::from_fn(|_| SharedU64::new(0)),
                meta: SharedU32::new(0),
                binding: SharedU32::new(0),
            }),
        }
    }
}
