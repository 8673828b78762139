//! Limits of new flows: what a service allows, and what sources and services have used of it.
//!
//! An allowance is one number, the time at which it is whole again: each flow puts that off by the interval of its rate,
//! and where it is a whole period ahead there is none left (a token bucket that holds one period's flows; ITU-T I.371
//! calls it the generic cell rate algorithm).

use crate::cell::SharedU64;

/// What a service allows, by its id. Words of 0 are no limit.
#[repr(C, align(64))]
pub struct Limit {
    /// Nanoseconds in which a source gets one flow more.
    pub source_interval: SharedU64,
    /// Nanoseconds whose flows a source may have at once.
    pub source_period: SharedU64,
    /// The same for all sources together.
    pub total_interval: SharedU64,
    /// The same for all sources together.
    pub total_period: SharedU64,
    /// Leading bits of an address that make a source: bits 0–7 of IPv4, 8–15 of IPv6.
    pub prefixes: SharedU64,
    /// When the service's own allowance is whole again, in nanoseconds. Written by the data plane.
    pub total_whole: SharedU64,
    /// Zero.
    pub reserved: [u64; 2],
}

/// Sources of a [`SourceLine`].
pub const SOURCE_WAYS: usize = 8;
/// Lines of the table of sources: a power of two.
pub const SOURCE_LINES: u32 = 1 << 15;

/// Allowances of sources that have used some of theirs, as [`crate::limit`] packs them. Written by the data plane alone.
#[repr(C, align(64))]
pub struct SourceLine {
    /// In no order; 0 is nobody's.
    pub ways: [SharedU64; SOURCE_WAYS],
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::size_of::<Limit>() == 64 && core::mem::size_of::<SourceLine>() == 64);

/// Records of a CPU about sources that were limited.
pub const LIMITED_SLOTS: u32 = 64;

/// A source that was limited on one CPU, for lists.
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug, Default))]
pub struct Limited {
    /// Upper half of the first address of its prefix; 0 for IPv4.
    pub high: SharedU64,
    /// Lower half.
    pub low: SharedU64,
    /// Bits 0–31 service id, 32–39 leading bits of the prefix, 40–47 its family, 4 or 6. 0 is no record.
    pub about: SharedU64,
    /// Packets that were refused.
    pub packets: SharedU64,
    /// When the last one was, in nanoseconds of the data plane's clock.
    pub last_ns: SharedU64,
}

/// What became of a packet that would start a flow of a limited service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Charged {
    /// It was allowed.
    Allowed = 0,
    /// Its source had no allowance left.
    Source = 1,
    /// The service had none left.
    Total = 2,
}

impl Charged {
    /// All, by number.
    pub const ALL: &[Self] = &[Self::Allowed, Self::Source, Self::Total];
}

/// Packets of a service by [`Charged`], since the maps were made.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Charges {
    /// Counts.
    pub packets: [u64; 4],
}

impl Charges {
    /// The count of one outcome.
    #[must_use]
    pub const fn of(&self, what: Charged) -> u64 {
        self.packets[what as usize]
    }
}
