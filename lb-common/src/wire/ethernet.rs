//! Ethernet II (IEEE 802.3).

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of an untagged Ethernet header.
pub const ETHERNET_LEN: usize = 14;

/// An untagged Ethernet header.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
pub struct Ethernet {
    /// Destination, then source address.
    pub macs: [[u8; 4]; 3],
    /// Type of the payload, big-endian.
    pub ethertype: [u8; 2],
}

/// What an Ethernet frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EtherType {
    /// 0x0800
    Ipv4,
    /// 0x86dd
    Ipv6,
    /// 0x8100 or 0x88a8
    Vlan,
    /// Anything else.
    Other,
}

impl Ethernet {
    /// The decoded payload type.
    #[inline(always)]
    #[must_use]
    pub fn ethertype(&self) -> EtherType {
        match u16::from_be_bytes(self.ethertype) {
            0x0800 => EtherType::Ipv4,
            0x86dd => EtherType::Ipv6,
            0x8100 | 0x88a8 => EtherType::Vlan,
            _ => EtherType::Other,
        }
    }
}
