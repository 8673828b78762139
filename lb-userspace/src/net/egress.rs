//! From a route to the way a packet leaves: port, VLAN tags, source, router, MTU.
//!
//! Receives the network state, the VIPs and the kernel's route; guarantees a source that is the host's own and
//! never a VIP; does no I/O.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;
use lb_common::hash;

use super::lookup::{Route, RouteKind};
use super::snapshot::{Address, Link, LinkKind, NetState, Scope, Usability, VlanTag};
use crate::config::model::{Interface, Mac};

/// Deepest stack of links above a port that is followed.
const MAX_DEPTH: usize = 4;

/// How packets to one destination leave the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// The port that frames leave by, below any VLAN links; 0 where they stay on the host.
    pub ifindex: u32,
    /// Its name.
    pub ifname: String,
    /// The link that the route names, where the next hop is a neighbour: a VLAN's, else the same as `ifindex`.
    pub route_ifindex: u32,
    /// Source MAC: the route's link's.
    pub src_mac: Mac,
    /// Source of outer headers and probes.
    pub source: IpAddr,
    /// The router, where the destination is not on the link.
    pub gateway: Option<IpAddr>,
    /// The neighbour that frames go to: the router, else the destination.
    pub next_hop_ip: IpAddr,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Tags, outermost first; empty unless the route leaves by a VLAN link.
    pub vlans: Vec<VlanTag>,
}

impl Egress {
    /// The way to an address of the host itself: no frame leaves.
    fn local(destination: IpAddr) -> Self {
        Self {
            ifindex: 0,
            ifname: String::new(),
            route_ifindex: 0,
            src_mac: Mac([0; 6]),
            source: destination,
            gateway: None,
            next_hop_ip: destination,
            mtu: 0,
            vlans: Vec::new(),
        }
    }

    /// Whether packets stay on the host.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.ifindex == 0
    }

    /// The largest IP packet towards the backends: the configured one of the port's interface, else the global
    /// one, else the route's.
    #[must_use]
    pub fn mtu_towards_backends(&self, interfaces: &[Interface], global: Option<u16>) -> u32 {
        if self.is_local() {
            return self.mtu;
        }
        let own = interfaces.iter().find(|interface| interface.name == self.ifname);
        own.and_then(|interface| interface.mtu).or(global).map_or(self.mtu, u32::from)
    }
}

/// Why packets to a destination cannot leave.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EgressError {
    /// No route.
    #[error("route to {0}: none; add a route, or fix the backend's address")]
    NoRoute(IpAddr),
    /// A route of type `unreachable`.
    #[error("route to {0}: unreachable; see `ip route get {0}`")]
    Unreachable(IpAddr),
    /// A route of type `blackhole`.
    #[error("route to {0}: blackhole; see `ip route get {0}`")]
    Blackhole(IpAddr),
    /// A route of type `prohibit`.
    #[error("route to {0}: prohibited; see `ip route get {0}`")]
    Prohibited(IpAddr),
    /// A broadcast or multicast address.
    #[error("route to {0}: a broadcast or multicast address; a backend must be one host")]
    Broadcast(IpAddr),
    /// IPv6 link-local addresses do not say which link.
    #[error("route to {0}: link-local, which names no interface; use a global address")]
    LinkLocal(IpAddr),
    /// The link is the loopback, or unknown yet.
    #[error("route to {destination}: leaves by {link}, which leads to no other host")]
    NoPort {
        /// The destination.
        destination: IpAddr,
        /// The link, by name or number.
        link: String,
    },
    /// The link carries no Ethernet frames.
    #[error("route to {destination}: leaves by {link}, which is not an Ethernet interface")]
    NotEthernet {
        /// The destination.
        destination: IpAddr,
        /// The link's name.
        link: String,
    },
    /// The host has no address to send from.
    #[error("route to {destination}: no source address on {link} that is not a VIP; add one")]
    NoSource {
        /// The destination.
        destination: IpAddr,
        /// The link's name.
        link: String,
    },
}

/// The way that packets along `route` leave.
///
/// # Errors
/// Says why they cannot, and what to do.
pub fn egress(net: &NetState, vips: &BTreeSet<IpAddr>, route: &Route) -> Result<Egress, EgressError> {
    let destination = route.destination;
    if let IpAddr::V6(ip) = destination
        && ip.is_unicast_link_local()
    {
        return Err(EgressError::LinkLocal(destination));
    }
    match route.kind {
        RouteKind::Unicast => {}
        RouteKind::Local => return Ok(Egress::local(destination)),
        RouteKind::Broadcast => return Err(EgressError::Broadcast(destination)),
        RouteKind::Blackhole => return Err(EgressError::Blackhole(destination)),
        RouteKind::Unreachable => return Err(EgressError::Unreachable(destination)),
        RouteKind::Prohibited => return Err(EgressError::Prohibited(destination)),
        RouteKind::None => return Err(EgressError::NoRoute(destination)),
    }
    let no_port = |link: String| EgressError::NoPort { destination, link };
    let number = route.link.ok_or(EgressError::NoRoute(destination))?;
    let link = net.link(number).ok_or_else(|| no_port(format!("interface {number}")))?;
    if link.kind == LinkKind::Loopback {
        return Err(no_port(link.name.clone()));
    }
    let src_mac =
        link.mac.ok_or_else(|| EgressError::NotEthernet { destination, link: link.name.clone() })?;
    let next_hop_ip = route.gateway.unwrap_or(destination);
    let (port, vlans) = port_below(net, link, next_hop_ip).ok_or_else(|| no_port(link.name.clone()))?;
    let source = source(net, vips, route, link, next_hop_ip)
        .ok_or_else(|| EgressError::NoSource { destination, link: link.name.clone() })?;
    Ok(Egress {
        ifindex: port.ifindex,
        ifname: port.name.clone(),
        route_ifindex: link.ifindex,
        src_mac,
        source,
        gateway: route.gateway,
        next_hop_ip,
        mtu: route.mtu.filter(|mtu| *mtu > 0).map_or(link.mtu, |mtu| mtu.min(link.mtu)),
        vlans,
    })
}

/// The port under a stack of VLAN links and bonds, and the tags on the way down, outermost first.
fn port_below<'a>(net: &'a NetState, link: &'a Link, next_hop: IpAddr) -> Option<(&'a Link, Vec<VlanTag>)> {
    let mut port = link;
    let mut tags = Vec::new();
    for _ in 0..MAX_DEPTH {
        port = match port.kind {
            LinkKind::Vlan(tag) => {
                tags.insert(0, tag);
                net.link(port.lower?)?
            }
            LinkKind::Bond { active } => bond_port(net, port, active, next_hop)?,
            _ => return Some((port, tags)),
        };
    }
    None
}

/// The port of a bond by which frames to a next hop leave: the active one; else one of those that have a carrier, the
/// same for a next hop as long as they stay the same; while none has, the first. Which port the bond itself would take
/// depends on its hash policy; the other end accepts frames from any.
fn bond_port<'a>(net: &'a NetState, bond: &Link, active: Option<u32>, next_hop: IpAddr) -> Option<&'a Link> {
    if let Some(port) = active.and_then(|port| net.link(port)) {
        return Some(port);
    }
    let mut ports: Vec<&Link> = net.links().filter(|link| link.master == Some(bond.ifindex)).collect();
    ports.sort_by_key(|link| link.ifindex);
    let usable: Vec<&Link> = ports.iter().copied().filter(|link| link.up && link.carrier).collect();
    let number = match next_hop {
        IpAddr::V4(ip) => u64::from(ip.to_bits()),
        IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64 ^ ip.to_bits() as u64,
    };
    let spread = hash::finish(hash::absorb(0, number));
    match usable.len() as u32 {
        0 => ports.first().copied(),
        count => usable.get(hash::scale(spread, count) as usize).copied(),
    }
}

/// The kernel's choice; if that is a VIP, the most fitting other address: of the link, in the next hop's prefix.
fn source(
    net: &NetState,
    vips: &BTreeSet<IpAddr>,
    route: &Route,
    link: &Link,
    next_hop: IpAddr,
) -> Option<IpAddr> {
    let own = |ip: &IpAddr| !vips.contains(ip) && !ip.is_loopback();
    if let Some(source) = route.source.filter(own) {
        return Some(source);
    }
    let fits = |address: &&Address| {
        address.ip.is_ipv4() == route.destination.is_ipv4()
            && address.scope == Scope::Global
            && address.usability != Usability::Tentative
            && own(&address.ip)
    };
    let rank = |address: &&Address| {
        let here = address.ifindex == link.ifindex;
        let prefix = IpNet::new(address.ip, address.prefix).ok();
        let near = here && prefix.is_some_and(|prefix| prefix.contains(&next_hop));
        (!near, !here, address.usability == Usability::Deprecated, address.ip)
    };
    net.addresses().filter(fits).min_by_key(rank).map(|address| address.ip)
}
