//! What the kernel knows about interfaces, addresses, neighbours and routes.
//!
//! Receives netlink messages of the namespace it was opened in; guarantees a [`NetState`] that follows the
//! kernel's, with an event for each change; never reads `/sys/class/net`, which shows another namespace's
//! devices under `ip netns exec`. One way:
//!
//! ```text
//! kernel → watch → decode → snapshot ─┬→ egress → next_hop → one next-hop record
//! kernel → lookup ────────────────────┘      └→ keeper → kernel (keeps the neighbour fresh)
//! ```
//! Only [`watch`], [`carrier`], [`lookup`], [`keeper`], [`path_mtu`] and [`facts`] talk to the kernel; the rest are functions of
//! values.

#[cfg(test)]
mod bond_tests;
pub mod carrier;
mod decode;
pub mod egress;
pub mod ethtool;
pub mod facts;
pub mod keeper;
pub mod lookup;
pub mod next_hop;
pub mod path_mtu;
pub mod preflight;
mod requests;
pub mod snapshot;
#[cfg(test)]
mod tests;
pub mod vip;
pub mod watch;

pub use egress::{Egress, EgressError, egress};
pub use keeper::NeighbourKeeper;
pub use lookup::{Route, RouteLookup, resolve};
pub use next_hop::{HopChange, HopKey, NextHop, NextHopState, NextHops, Overrides, next_hop};
pub use path_mtu::{PathMtus, TooBig};
pub use snapshot::{NetEvent, NetState};
pub use watch::{NetWatch, Observed};
