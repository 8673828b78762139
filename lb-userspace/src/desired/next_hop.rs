//! How packets leave towards a backend.

use std::net::IpAddr;

use lb_common::layout::NextHopCopy;

use crate::net::HopKey;

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
