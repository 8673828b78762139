//! A pool as selection sees it.

use crate::cell::SharedU64;

/// A pool by id. Id 0 is never used.
#[repr(C, align(64))]
pub struct Pool {
    /// [`Span`] of the Maglev table.
    pub current: SharedU64,
    /// [`Span`] of the table before; empty once it has been given up.
    pub previous: SharedU64,
    /// [`Span`] of the backends that take new flows, in name order.
    pub usable: SharedU64,
    /// Tick at which `current` replaced `previous`.
    pub changed: SharedU64,
    /// Seed of the selection hash.
    pub seed: SharedU64,
    /// [`LastResort`].
    pub last_resort: SharedU64,
    /// [`LoadsWord`](super::LoadsWord).
    pub loads: SharedU64,
    /// Zero.
    pub reserved: u64,
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::size_of::<Pool>() == 64);

/// A region of the Maglev map: first line (upper half) and number of ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub u64);

impl Span {
    /// `len` ids from the start of line `line`.
    #[must_use]
    pub const fn new(line: u32, len: u32) -> Self {
        Self((line as u64) << 32 | len as u64)
    }

    /// First line.
    #[inline(always)]
    #[must_use]
    pub const fn line(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Number of ids.
    #[inline(always)]
    #[must_use]
    pub const fn len(self) -> u32 {
        self.0 as u32
    }

    /// Whether there are no ids.
    #[inline(always)]
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// What selection does when no backend is usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum LastResort {
    /// Sends as if all were up.
    Keep = 0,
    /// Answers TCP with RST.
    Reset = 1,
    /// Drops.
    Drop = 2,
}

impl LastResort {
    /// From the pool's word; an unknown code reads as drop.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        match word {
            0 => Self::Keep,
            1 => Self::Reset,
            _ => Self::Drop,
        }
    }
}
