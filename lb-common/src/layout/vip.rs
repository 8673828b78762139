//! A VIP's record: what exact ports do not cover.

use crate::cell::SharedU64;
use crate::wire::Protocol;

/// Ranges in a [`RangeLine`].
pub const RANGES_PER_LINE: usize = 8;

/// A VIP by id. Id 0 is never used; ids stay below 2¹⁴.
#[repr(C, align(64))]
pub struct Vip {
    /// [`VipPorts`]: the services that take any port, by protocol.
    pub any: SharedU64,
    /// First line (upper half) and number of lines of the VIP's port ranges.
    pub ranges: SharedU64,
    /// [`Unmatched`].
    pub unmatched: SharedU64,
    /// Bit 0: echo requests are answered.
    pub flags: SharedU64,
    /// Line of the VIP's [`Lists`](super::Lists); 0 is none.
    pub lists: SharedU64,
    /// Id of the `snat` address that this is; 0 where it is none.
    pub snat: SharedU64,
    /// Zero.
    pub reserved: [u64; 2],
}

/// Port ranges of one VIP, disjoint within a protocol.
#[repr(C, align(64))]
pub struct RangeLine {
    /// [`RangeWord`]s; 0 is unused.
    pub ranges: [SharedU64; RANGES_PER_LINE],
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::size_of::<Vip>() == 64 && core::mem::size_of::<RangeLine>() == 64);

/// Service ids of the any-port services: TCP in bits 0–15, UDP 16–31, SCTP 32–47; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VipPorts(pub u64);

impl VipPorts {
    /// The word for these services.
    #[must_use]
    pub const fn new(tcp: u16, udp: u16, sctp: u16) -> Self {
        Self(tcp as u64 | (udp as u64) << 16 | (sctp as u64) << 32)
    }

    /// The any-port service of `protocol`; 0 is none.
    #[inline(always)]
    #[must_use]
    pub const fn service(self, protocol: Protocol) -> u32 {
        (self.0 >> ((protocol as u32 - 1) * 16)) as u16 as u32
    }
}

/// Ports `first..=last` of a protocol belong to a service: bits 0–15 service, 16–31 protocol, 32–47 first, 48–63 last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RangeWord(pub u64);

impl RangeWord {
    /// A word with these parts, ports in host order.
    #[must_use]
    pub const fn new(protocol: Protocol, first: u16, last: u16, service: u16) -> Self {
        Self(service as u64 | (protocol as u64) << 16 | (first as u64) << 32 | (last as u64) << 48)
    }

    /// The service, if the range covers `port` of `protocol`; else 0.
    #[inline(always)]
    #[must_use]
    pub const fn service(self, protocol: Protocol, port: u16) -> u32 {
        let first = (self.0 >> 32) as u16;
        let last = (self.0 >> 48) as u16;
        if (self.0 >> 16) as u16 == protocol as u16 && first <= port && port <= last {
            self.0 as u16 as u32
        } else {
            0
        }
    }
}

/// What happens to a VIP's packets that no service claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Unmatched {
    /// To the host's stack.
    Pass = 0,
    /// Dropped.
    Drop = 1,
    /// Answered with RST or port unreachable.
    Reject = 2,
}

impl Unmatched {
    /// Bit of the VIP's word: the address is a `snat` address, whose ports may be flows' own.
    pub const SNAT: u64 = 1 << 8;

    /// From the VIP's word; an unknown code reads as drop.
    #[inline(always)]
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        match word & 0xff {
            0 => Self::Pass,
            2 => Self::Reject,
            _ => Self::Drop,
        }
    }
}
