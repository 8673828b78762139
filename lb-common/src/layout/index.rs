//! Indexes from addresses and ports to ids: cache-line buckets read inline, without a kernel hash.
//!
//! A key sits in the line that its hash names or, where that line overflowed, in the neighbour (line number XOR 1).
//! Only the control plane writes; it never moves an entry, so that a reader cannot miss one that stays.

use crate::cell::{SharedU32, SharedU64};

/// Entries of an [`IndexLine`].
pub const INDEX_WAYS: usize = 7;
/// Entries of a [`VipLineV6`].
pub const V6_WAYS: usize = 3;

/// Seven entries from a 32-bit key to a non-zero 32-bit value: key in the upper half, value in the lower.
///
/// The VIP index maps an IPv4 address (as a big-endian number) to a VIP id, the port index
/// `(VIP id << 2 | protocol) << 16 | port` to a service id.
#[repr(C, align(64))]
pub struct IndexLine {
    /// The entries; 0 is empty. One store adds, replaces or removes an entry.
    pub entries: [SharedU64; INDEX_WAYS],
    /// Non-zero: an entry of this line may be in the neighbour.
    pub overflow: SharedU64,
}

/// Three entries from an IPv6 address to a non-zero VIP id.
///
/// An entry is added by writing its halves, then its id; removed by clearing the id. A cleared entry is written
/// again only after a grace time in which every reader of the old halves has finished.
#[repr(C, align(64))]
pub struct VipLineV6 {
    /// Upper halves of the addresses, as big-endian numbers.
    pub high: [SharedU64; V6_WAYS],
    /// Lower halves.
    pub low: [SharedU64; V6_WAYS],
    /// VIP ids; 0 is empty.
    pub ids: [SharedU32; V6_WAYS],
    /// Non-zero: an entry of this line may be in the neighbour.
    pub overflow: SharedU32,
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::size_of::<IndexLine>() == 64 && core::mem::size_of::<VipLineV6>() == 64);

impl IndexLine {
    /// The entry for `key` and `value`.
    #[must_use]
    pub const fn entry(key: u32, value: u32) -> u64 {
        (key as u64) << 32 | value as u64
    }

    /// The value under `key` in this line.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, key: u32) -> Option<u32> {
        for entry in &self.entries {
            // The value alone where the keys are equal; 0 is an empty entry, 2³² and more another key.
            let difference = entry.get() ^ (key as u64) << 32;
            if difference.wrapping_sub(1) < u32::MAX as u64 {
                return Some(difference as u32);
            }
        }
        None
    }
}

impl VipLineV6 {
    /// The VIP id of the address in this line.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, high: u64, low: u64) -> Option<u32> {
        let mut found = 0;
        for way in 0..V6_WAYS {
            if self.low[way].get() == low && self.high[way].get() == high {
                found = self.ids[way].get();
            }
        }
        if found == 0 { None } else { Some(found) }
    }
}
