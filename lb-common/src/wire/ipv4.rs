//! IPv4 (RFC 791).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// An IPv4 header without options.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
pub struct Ipv4 {
    /// Version (upper 4 bits) and header length in 32-bit words.
    pub version_ihl: u8,
    /// DSCP (upper 6 bits) and ECN.
    pub traffic_class: u8,
    /// Length of header and payload in bytes, big-endian.
    pub total_length: [u8; 2],
    /// Identification, big-endian.
    pub id: [u8; 2],
    /// Flags (upper 3 bits) and fragment offset in 8-byte units, big-endian.
    pub flags_offset: [u8; 2],
    /// Time to live.
    pub ttl: u8,
    /// IP protocol number.
    pub protocol: u8,
    /// Header checksum, big-endian.
    pub checksum: [u8; 2],
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
}

impl Ipv4 {
    /// Whether this is part of a fragmented packet: more fragments follow, or the offset is not 0.
    #[inline(always)]
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        const PARTS: u16 = (Ipv4::MORE_FRAGMENTS | Ipv4::OFFSET).to_be();
        u16::from_ne_bytes(self.flags_offset) & PARTS != 0
    }

    /// The flag that says that more fragments follow.
    pub const MORE_FRAGMENTS: u16 = 0x2000;
    /// The bits of the fragment's offset, in 8-byte units.
    pub const OFFSET: u16 = 0x1fff;

    /// Flags and fragment offset as one number.
    #[inline(always)]
    #[must_use]
    pub fn flags_offset(&self) -> u16 {
        u16::from_be_bytes(self.flags_offset)
    }

    /// Header length in bytes as claimed, 0..=60.
    #[inline(always)]
    #[must_use]
    pub fn header_length(&self) -> usize {
        ((self.version_ihl & 0x0f) as usize) << 2
    }
}
