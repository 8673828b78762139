//! Asks the kernel which way a packet to an address would take.
//!
//! Receives destinations; guarantees one answer each, from the kernel's own route look-up (rules, metrics,
//! multipath and next-hop objects included). Nothing is cached: a look-up costs a few microseconds, and any
//! cache by prefix would have to repeat the kernel's rules to be right.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::egress::{Egress, EgressError, egress};
use super::requests::{Answer, Requests};
use super::watch::NetWatch;

/// The kernel's answer to a route look-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The address asked for.
    pub destination: IpAddr,
    /// What the kernel would do with a packet to it.
    pub kind: RouteKind,
    /// The link that it leaves by.
    pub link: Option<u32>,
    /// The router, where the destination is not on the link.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would take.
    pub source: Option<IpAddr>,
    /// The route's own MTU (configured, or learnt by path MTU discovery), in bytes.
    pub mtu: Option<u32>,
}

/// What the kernel does with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteKind {
    /// Sends it on.
    Unicast,
    /// Keeps it: an address of the host.
    Local,
    /// Sends it to everybody, or to a group.
    Broadcast,
    /// Drops it silently (`blackhole`).
    Blackhole,
    /// Answers that there is no way (`unreachable`).
    Unreachable,
    /// Answers that it is not allowed (`prohibit`).
    Prohibited,
    /// Finds no route.
    None,
}

/// A socket for route look-ups, of the namespace that the thread was in when it was opened.
pub struct RouteLookup {
    requests: Requests,
}

impl RouteLookup {
    /// Opens the socket.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket.
    pub fn open() -> io::Result<Self> {
        Ok(Self { requests: Requests::open()? })
    }

    /// Looks up all `destinations`, pipelined, and answers in their order. Blocks for some
    /// microseconds a destination.
    ///
    /// # Errors
    /// When the netlink socket fails as a whole; a destination without a route is an answer.
    pub fn lookup(&mut self, destinations: &[IpAddr]) -> io::Result<Vec<Route>> {
        let answers = self.requests.exchange(destinations.iter().map(|ip| question(*ip)), 0)?;
        destinations.iter().zip(answers).map(|(ip, answer)| route(*ip, answer)).collect()
    }
}

/// Resolves backends' addresses to the way that packets to them leave: look-up, then [`egress`] on the state as
/// it is after the look-up. The state is not held while the kernel is asked, so notifications go on.
///
/// # Errors
/// When the netlink socket fails as a whole.
pub fn resolve(
    lookup: &mut RouteLookup,
    watch: &NetWatch,
    vips: &BTreeSet<IpAddr>,
    destinations: &[IpAddr],
) -> io::Result<Vec<Result<Egress, EgressError>>> {
    let routes = lookup.lookup(destinations)?;
    let net = watch.read();
    Ok(routes.iter().map(|route| egress(&net, vips, route)).collect())
}

fn question(destination: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: match destination {
            IpAddr::V4(_) => AddressFamily::Inet,
            IpAddr::V6(_) => AddressFamily::Inet6,
        },
        destination_prefix_length: if destination.is_ipv4() { 32 } else { 128 },
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Destination(destination.into())];
    RouteNetlinkMessage::GetRoute(message)
}

fn route(destination: IpAddr, answer: Answer) -> io::Result<Route> {
    let mut route =
        Route { destination, kind: RouteKind::None, link: None, gateway: None, source: None, mtu: None };
    match answer {
        Ok(Some(RouteNetlinkMessage::NewRoute(message))) => fill(&mut route, message),
        Ok(_) => {}
        // The kernel reports such routes as the error that a packet would meet.
        Err(error) => match error.raw_os_error() {
            Some(libc::EINVAL) => route.kind = RouteKind::Blackhole,
            Some(libc::EHOSTUNREACH) => route.kind = RouteKind::Unreachable,
            Some(libc::EACCES) => route.kind = RouteKind::Prohibited,
            Some(libc::ENETUNREACH) => route.kind = RouteKind::None,
            // A host without IPv6.
            Some(libc::EOPNOTSUPP | libc::EAFNOSUPPORT) => route.kind = RouteKind::None,
            _ => {
                return Err(io::Error::new(error.kind(), format!("look up route to {destination}: {error}")));
            }
        },
    }
    Ok(route)
}

fn fill(route: &mut Route, message: RouteMessage) {
    route.kind = match message.header.kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::Local | RouteType::Anycast => RouteKind::Local,
        RouteType::Broadcast | RouteType::Multicast => RouteKind::Broadcast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Prohibit => RouteKind::Prohibited,
        RouteType::Unreachable => RouteKind::Unreachable,
        _ => RouteKind::None,
    };
    for attribute in message.attributes {
        match attribute {
            RouteAttribute::Oif(link) => route.link = Some(link),
            RouteAttribute::Gateway(gateway) => route.gateway = ip(&gateway),
            // An IPv4 route over an IPv6 router (RFC 5549).
            RouteAttribute::Via(RouteVia::Inet(gateway)) => route.gateway = Some(gateway.into()),
            RouteAttribute::Via(RouteVia::Inet6(gateway)) => route.gateway = Some(gateway.into()),
            RouteAttribute::PrefSource(source) => route.source = ip(&source),
            RouteAttribute::Metrics(metrics) => {
                route.mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some((*ip).into()),
        RouteAddress::Inet6(ip) => Some((*ip).into()),
        _ => None,
    }
}
