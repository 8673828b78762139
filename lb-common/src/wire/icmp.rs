//! ICMP (RFC 792) and ICMPv6 (RFC 4443).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The first eight bytes of a message.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
pub struct Icmp {
    /// Type.
    pub kind: u8,
    /// Code.
    pub code: u8,
    /// Checksum, big-endian.
    pub checksum: [u8; 2],
    /// By type: identifier and sequence, an MTU, a pointer.
    pub rest: [u8; 4],
}

/// What a message is to a balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// An echo request.
    EchoRequest,
    /// An error, which quotes the packet that it is about.
    Error,
    /// Neighbour discovery and the like: what a link needs.
    Neighbour,
    /// Anything else.
    Other,
}

impl Message {
    /// Of an ICMP type.
    #[inline(always)]
    #[must_use]
    pub const fn of_v4(kind: u8) -> Self {
        match kind {
            8 => Self::EchoRequest,
            // Destination unreachable, time exceeded, parameter problem.
            3 | 11 | 12 => Self::Error,
            _ => Self::Other,
        }
    }

    /// Of an ICMPv6 type.
    #[inline(always)]
    #[must_use]
    pub const fn of_v6(kind: u8) -> Self {
        match kind {
            128 => Self::EchoRequest,
            // Destination unreachable, packet too big, time exceeded, parameter problem.
            1..=4 => Self::Error,
            // Multicast listeners, router and neighbour discovery, redirects (RFC 2710, 4861).
            130..=137 | 143 => Self::Neighbour,
            _ => Self::Other,
        }
    }
}
