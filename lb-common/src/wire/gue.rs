//! UDP (RFC 768) and Generic UDP Encapsulation, variant 0 (draft-ietf-intarea-gue section 3).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::transport::Ports;

/// The port that IANA has assigned to GUE.
pub const GUE_PORT: u16 = 6080;

/// A UDP header.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
pub struct Udp {
    /// Ports.
    pub ports: Ports,
    /// Length of header and payload in bytes, big-endian.
    pub length: [u8; 2],
    /// Checksum, big-endian; 0 is none.
    pub checksum: [u8; 2],
}

/// The fixed part of a GUE header of variant 0.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
pub struct Gue {
    /// Variant (upper 2 bits), control bit, length of what follows these 4 bytes in 32-bit words (lower 5).
    pub start: u8,
    /// IP protocol number of the payload; in a control message the type of it.
    pub protocol: u8,
    /// Which extension fields follow, big-endian.
    pub flags: [u8; 2],
}

impl Gue {
    /// The header of a data packet without extensions.
    #[inline(always)]
    #[must_use]
    pub const fn data(protocol: u8) -> Self {
        Self { start: 0, protocol, flags: [0; 2] }
    }

    /// The variant, 0..=3.
    #[inline(always)]
    #[must_use]
    pub const fn variant(&self) -> u8 {
        self.start >> 6
    }

    /// Whether this is a control message.
    #[inline(always)]
    #[must_use]
    pub const fn is_control(&self) -> bool {
        self.start & 0x20 != 0
    }

    /// Whether there is more than the fixed part: extension fields, private data, or flags that announce them.
    #[inline(always)]
    #[must_use]
    pub const fn is_extended(&self) -> bool {
        self.start & 0x1f != 0 || self.flags[0] != 0 || self.flags[1] != 0
    }
}
