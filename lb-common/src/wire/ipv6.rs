//! IPv6 (RFC 8200).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An IPv6 header without extensions.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
pub struct Ipv6 {
    /// Version (4 bits), traffic class (8), flow label (20), big-endian.
    pub version_class_label: [u8; 4],
    /// Length of everything after this header in bytes, big-endian.
    pub payload_length: [u8; 2],
    /// Protocol of what follows.
    pub next_header: u8,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address, in halves.
    pub source: [[u8; 8]; 2],
    /// Destination address, in halves.
    pub destination: [[u8; 8]; 2],
}

impl Ipv6 {
    /// Version, traffic class and flow label as one number.
    #[inline(always)]
    #[must_use]
    pub fn first_word(&self) -> u32 {
        u32::from_be_bytes(self.version_class_label)
    }
}

/// A fragment header.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
pub struct Ipv6Fragment {
    /// Protocol of what follows, in the first fragment.
    pub next_header: u8,
    /// Zero.
    pub reserved: u8,
    /// Offset in 8-byte units (upper 13 bits) and whether more fragments follow (lowest bit), big-endian.
    pub offset_flags: [u8; 2],
    /// Identification, big-endian.
    pub id: [u8; 4],
}

/// The two halves of an address, each big-endian.
#[inline(always)]
#[must_use]
pub fn halves(address: &[u8; 16]) -> (u64, u64) {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *address;
    (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p]))
}
