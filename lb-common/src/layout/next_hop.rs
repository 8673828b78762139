//! Where a frame goes next: port and Ethernet addresses.

use crate::cell::SharedU64;

/// A next hop by id, in two copies. Id 0 is never used.
///
/// The writer fills the copy that is not selected, then flips the word; it leaves a grace time before it fills again.
#[repr(C, align(64))]
pub struct NextHop {
    /// Bit 0: the copy in use. Bit 1: resolved.
    pub select: SharedU64,
    /// The copies.
    pub copies: [NextHopCopy; 2],
}

/// One copy.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NextHopCopy {
    /// Interface index; 0 is the host itself, whose `mtu` is 0 too.
    pub port: u32,
    /// Largest IP packet in bytes.
    pub mtu: u16,
    /// How many of `tags` are used.
    pub tag_count: u16,
    /// Destination, then source Ethernet address.
    pub macs: [u8; 12],
    /// VLAN tags, outermost first: ethertype, then control information, big-endian.
    pub tags: [[u8; 4]; 2],
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::size_of::<NextHop>() == 64);

impl NextHop {
    /// The word that selects `copy`, resolved or not.
    #[must_use]
    pub const fn selector(copy: usize, resolved: bool) -> u64 {
        (copy as u64 & 1) | (resolved as u64) << 1
    }

    /// The copy in use; `None` while unresolved.
    #[inline(always)]
    #[must_use]
    pub fn current(&self) -> Option<&NextHopCopy> {
        let select = self.select.get();
        // An index instead of two cases: the verifier would follow what comes after for each.
        if select & 2 == 0 { None } else { Some(&self.copies[(select & 1) as usize]) }
    }
}
