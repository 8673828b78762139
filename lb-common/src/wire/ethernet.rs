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

/// Bytes that a VLAN tag adds.
pub const VLAN_TAG_LEN: usize = 4;

/// What follows the ethertype of a VLAN tag (IEEE 802.1Q section 9).
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
pub struct Tag {
    /// Priority (3 bits), drop eligible (1), VLAN id (12), big-endian.
    pub control: [u8; 2],
    /// Type of the payload, big-endian.
    pub ethertype: [u8; 2],
}

/// An Ethernet header up to its first VLAN tag's control information.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
pub struct TaggedStart {
    /// Destination, then source address.
    pub macs: [[u8; 4]; 3],
    /// Ethertype of the tag (0x8100 or 0x88a8), then its control information, big-endian.
    pub tag: [u8; 4],
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
        EtherType::of(self.ethertype)
    }
}

impl EtherType {
    /// Of a big-endian number.
    #[inline(always)]
    #[must_use]
    pub fn of(number: [u8; 2]) -> Self {
        // As they lie: turned round, each packet's would cost two instructions.
        const IPV4: u16 = 0x0800_u16.to_be();
        const IPV6: u16 = 0x86dd_u16.to_be();
        const CUSTOMER: u16 = 0x8100_u16.to_be();
        const SERVICE: u16 = 0x88a8_u16.to_be();
        match u16::from_ne_bytes(number) {
            IPV4 => Self::Ipv4,
            IPV6 => Self::Ipv6,
            CUSTOMER | SERVICE => Self::Vlan,
            _ => Self::Other,
        }
    }
}
