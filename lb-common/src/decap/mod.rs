//! The backend's side of tunnels: takes the outer header off packets for a VIP, and lowers the MSS of its answers.
//!
//! Receives every frame that comes in: link header → outer header → tunnel → inner header → VIP and source → ECN → the
//! frame without its outer header. A frame that is no tunnel for a configured VIP from a configured source passes byte
//! for byte. What goes out is [`mss`]'s matter.

mod ecn;
mod ip;
mod link;
pub mod mss;
mod prefix;
mod reason;
mod tunnel;

#[cfg(not(target_arch = "bpf"))]
pub mod memory;

pub use prefix::Prefix;
pub use reason::{Reason, Verdict};

use crate::layout::Family;
use crate::packet::Packet;
use crate::wire::EtherType;
use ip::{Header, Ip, V4, V6};
use link::Link;
use tunnel::Tunnel;

/// What decapsulation asks of the maps.
pub trait Tables {
    /// Whether this host serves the address.
    fn is_vip(&self, address: &Prefix) -> bool;
    /// Whether packets with this outer source are opened.
    fn is_source(&self, address: &Prefix) -> bool;
    /// The UDP port that GUE packets come to, host order.
    fn gue_port(&self) -> u16;
    /// Counts a packet that left for `reason`.
    fn count(&self, reason: Reason, bytes: u64);
}

/// Fixed numbers of the loaded programs: the value of a one-entry array.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The UDP port that GUE packets come to.
    pub gue_port: u16,
    /// Largest MSS that IPv4 answers announce; 0 leaves them alone.
    pub mss_v4: u16,
    /// Largest MSS that IPv6 answers announce; 0 leaves them alone.
    pub mss_v6: u16,
    /// Zero.
    pub reserved: u16,
}

/// Takes the outer header off where there is one to take off; counts the packet, and says how it left.
#[inline(always)]
pub fn process<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Reason {
    let bytes = packet.length() as u64;
    let reason = match open(packet, tables) {
        Ok(reason) | Err(reason) => reason,
    };
    tables.count(reason, bytes);
    reason
}

#[inline(always)]
fn open<P: Packet, T: Tables>(packet: &mut P, tables: &T) -> Result<Reason, Reason> {
    let Some(link) = link::read(packet) else { return Err(Reason::Truncated) };
    match link.ethertype {
        EtherType::Ipv4 => outer::<V4, P, T>(packet, tables, &link),
        EtherType::Ipv6 => outer::<V6, P, T>(packet, tables, &link),
        EtherType::Vlan | EtherType::Other => Err(Reason::NotIp),
    }
}

#[inline(always)]
fn outer<O: Ip, P: Packet, T: Tables>(packet: &mut P, tables: &T, link: &Link) -> Result<Reason, Reason> {
    let Some(outer) = O::read(packet, link.length) else { return Err(Reason::Truncated) };
    let tunnel = tunnel::find::<O, P, T>(packet, tables, &outer, link.length)?;
    match tunnel.family {
        Family::V4 => inner::<V4, P, T>(packet, tables, link, &outer, &tunnel)?,
        Family::V6 => inner::<V6, P, T>(packet, tables, link, &outer, &tunnel)?,
    }
    Ok(tunnel.reason)
}

#[inline(always)]
fn inner<I: Ip, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    link: &Link,
    outer: &Header,
    tunnel: &Tunnel,
) -> Result<(), Reason> {
    let Some(inner) = I::read(packet, tunnel.inner_at) else { return Err(Reason::InnerMalformed) };
    if !inner.is_sound::<I>() || inner.length > tunnel.inner_space {
        return Err(Reason::InnerMalformed);
    }
    if !tables.is_vip(&inner.destination) {
        return Err(Reason::NotVip);
    }
    if !tables.is_source(&outer.source) {
        return Err(Reason::NotSource);
    }
    let class = ecn::combine(inner.traffic_class, outer.traffic_class).ok_or(Reason::EcnConflict)?;
    packet.shrink_front(tunnel.inner_at - link.length).map_err(|_| Reason::Inconsistent)?;
    link::write(packet, link, I::ETHERTYPE).ok_or(Reason::Inconsistent)?;
    if class != inner.traffic_class {
        I::set_traffic_class(packet, link.length, class).ok_or(Reason::Inconsistent)?;
    }
    Ok(())
}

/// Bytes that a tunnel adds to a packet at most: an outer IPv6 header, UDP and GUE.
pub const MAX_OVERHEAD: usize = 40 + GUE_OVERHEAD;
/// Bytes of UDP and GUE.
pub const GUE_OVERHEAD: usize = 8 + 4;
