//! How packets leave towards a backend.

use std::net::IpAddr;

use lb_common::layout::NextHopCopy;

use crate::config::model::Mac;

/// What one next-hop record stands for; backends with the same key share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HopKey {
    /// The route's link.
    pub ifindex: u32,
    /// The neighbour's address.
    pub ip: IpAddr,
    /// The MAC that the config gives.
    pub mac: Option<Mac>,
    /// Largest IP packet: routes over one router may differ.
    pub mtu: u32,
}

/// A backend's way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    /// The next hop; a key of [`super::Desired::next_hops`].
    pub next_hop: HopKey,
    /// Outer source, of the backend's family; its last `entropy_bits` bits are 0.
    pub source: IpAddr,
    /// How many bits at the end of the source carry the flow's entropy.
    pub entropy_bits: u8,
}

/// What a next hop's record says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HopRecord {
    /// Port, MTU, Ethernet addresses, tags.
    pub copy: NextHopCopy,
    /// Whether frames can be sent.
    pub resolved: bool,
}
