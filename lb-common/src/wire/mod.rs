//! Wire headers as byte arrays, without alignment and in network byte order (RFC 791, 8200, 9293, 768, 9260).

mod ethernet;
mod gue;
mod ipv4;
mod ipv6;
mod transport;

pub use ethernet::{ETHERNET_LEN, EtherType, Ethernet, Tag, TaggedStart, VLAN_TAG_LEN};
pub use gue::{GUE_PORT, Gue, Udp};
pub use ipv4::Ipv4;
pub use ipv6::{Ipv6, halves};
pub use transport::{Ports, Protocol, SctpStart, Segment, TcpFlags, TcpStart};

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// A header that any bytes are a valid value of.
pub trait Header: FromBytes + IntoBytes + Unaligned + Immutable + KnownLayout {}
impl<H: FromBytes + IntoBytes + Unaligned + Immutable + KnownLayout> Header for H {}
