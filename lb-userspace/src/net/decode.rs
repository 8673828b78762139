//! Netlink messages to [`Change`]s.
//!
//! Receives parsed route messages; guarantees that messages of other families and objects that weir does not
//! follow (bridge ports, forwarding databases) become nothing.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use netlink_packet_route::address::{AddressAttribute, AddressFlags, AddressMessage, AddressScope};
use netlink_packet_route::link::{
    InfoBond, InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    LinkXdp, VlanProtocol, XdpAttached,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::snapshot::{
    Address, Change, Link, LinkKind, Neighbour, NeighbourKey, Resolution, Scope, Upkeep, Usability, VlanTag,
    XdpPlace, XdpProgram,
};
use crate::config::model::Mac;

/// Marks the neighbour entries that weir asked the kernel to keep fresh (`NDA_PROTOCOL`; the number is free in
/// the kernel's `rtnetlink.h`), so that a restarted daemon knows its own.
pub(super) const OWNER: RouteProtocol = RouteProtocol::Other(119);

/// What a message says; `None` for what weir does not follow.
pub(super) fn change(message: RouteNetlinkMessage) -> Option<Change> {
    Some(match message {
        RouteNetlinkMessage::NewLink(message) => Change::Link(link(message)?),
        // A bridge port's end comes as `DelLink` of family bridge; the link itself stays.
        RouteNetlinkMessage::DelLink(message) if message.header.interface_family == AddressFamily::Unspec => {
            Change::LinkGone(message.header.index)
        }
        RouteNetlinkMessage::NewAddress(message) => Change::Address(address(&message)?),
        RouteNetlinkMessage::DelAddress(message) => {
            let address = address(&message)?;
            Change::AddressGone(address.ifindex, address.ip, address.prefix)
        }
        RouteNetlinkMessage::NewNeighbour(message) => Change::Neighbour(neighbour(&message)?),
        RouteNetlinkMessage::DelNeighbour(message) => Change::NeighbourGone(neighbour_key(&message)?),
        RouteNetlinkMessage::NewRoute(_)
        | RouteNetlinkMessage::DelRoute(_)
        | RouteNetlinkMessage::NewRule(_)
        | RouteNetlinkMessage::DelRule(_) => Change::Routes,
        _ => return None,
    })
}

fn link(message: LinkMessage) -> Option<Link> {
    if message.header.interface_family != AddressFamily::Unspec {
        return None;
    }
    let flags = message.header.flags;
    let ethernet = message.header.link_layer_type == LinkLayerType::Ether;
    let mut link = Link {
        ifindex: message.header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Running),
        carrier: flags.contains(LinkFlags::LowerUp),
        kind: if flags.contains(LinkFlags::Loopback) { LinkKind::Loopback } else { LinkKind::Device },
        master: None,
        lower: None,
        xdp: Vec::new(),
    };
    let mut lower_is_elsewhere = false;
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(bytes) if ethernet => link.mac = mac(&bytes),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Controller(master) => link.master = Some(master).filter(|index| *index != 0),
            LinkAttribute::Link(lower) => link.lower = Some(lower).filter(|index| *index != 0),
            LinkAttribute::LinkNetNsId(_) => lower_is_elsewhere = true,
            LinkAttribute::LinkInfo(infos) => link.kind = link_kind(&infos).unwrap_or(link.kind),
            LinkAttribute::Xdp(attributes) => link.xdp = xdp_programs(&attributes),
            _ => {}
        }
    }
    if lower_is_elsewhere {
        link.lower = None;
    }
    // Wireless events come as link messages that describe nothing else.
    (!link.name.is_empty()).then_some(link)
}

fn link_kind(infos: &[LinkInfo]) -> Option<LinkKind> {
    let kind = infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind),
        _ => None,
    })?;
    Some(match kind {
        InfoKind::Veth => LinkKind::Veth,
        InfoKind::Bond => LinkKind::Bond { active: active_port(infos) },
        InfoKind::Bridge => LinkKind::Bridge,
        InfoKind::Vlan => LinkKind::Vlan(vlan_tag(infos)?),
        other => LinkKind::Other(other.to_string()),
    })
}

/// The active port of a bond; 0 is none.
fn active_port(infos: &[LinkInfo]) -> Option<u32> {
    let attributes = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Bond(attributes)) => Some(attributes),
        _ => None,
    })?;
    let active = attributes.iter().find_map(|attribute| match attribute {
        InfoBond::ActivePort(port) => Some(*port),
        _ => None,
    });
    active.filter(|port| *port != 0)
}

fn vlan_tag(infos: &[LinkInfo]) -> Option<VlanTag> {
    let attributes = infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(attributes)) => Some(attributes),
        _ => None,
    })?;
    let mut tag = VlanTag { protocol: 0x8100, id: 0 };
    for attribute in attributes {
        match attribute {
            InfoVlan::Id(id) => tag.id = *id,
            InfoVlan::Protocol(VlanProtocol::Ieee8021Ad) => tag.protocol = 0x88a8,
            _ => {}
        }
    }
    Some(tag)
}

fn xdp_programs(attributes: &[LinkXdp]) -> Vec<XdpProgram> {
    let mut single = None;
    let mut place = None;
    let mut programs = Vec::new();
    for attribute in attributes {
        match attribute {
            LinkXdp::DrvProgId(id) => programs.push(XdpProgram { id: *id, place: XdpPlace::Native }),
            LinkXdp::SkbProgId(id) => programs.push(XdpProgram { id: *id, place: XdpPlace::Generic }),
            LinkXdp::HwProgId(id) => programs.push(XdpProgram { id: *id, place: XdpPlace::Offload }),
            LinkXdp::ProgId(id) => single = Some(*id),
            LinkXdp::Attached(XdpAttached::Driver) => place = Some(XdpPlace::Native),
            LinkXdp::Attached(XdpAttached::SocketBuffer) => place = Some(XdpPlace::Generic),
            LinkXdp::Attached(XdpAttached::Hardware) => place = Some(XdpPlace::Offload),
            _ => {}
        }
    }
    if let (true, Some(id), Some(place)) = (programs.is_empty(), single, place) {
        programs.push(XdpProgram { id, place });
    }
    programs
}

fn address(message: &AddressMessage) -> Option<Address> {
    // On a point-to-point link `Address` is the other end's and `Local` ours; IPv6 has only `Address`.
    let ip = message.attributes.iter().fold(None, |found, attribute| match attribute {
        AddressAttribute::Local(ip) => Some(*ip),
        AddressAttribute::Address(ip) => found.or(Some(*ip)),
        _ => found,
    })?;
    let flags = message.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Flags(flags) => Some(*flags),
        _ => None,
    });
    let flags = flags.unwrap_or(AddressFlags::from_bits_retain(u32::from(message.header.flags.bits())));
    Some(Address {
        ifindex: message.header.index,
        ip,
        prefix: message.header.prefix_len,
        scope: match message.header.scope {
            AddressScope::Link => Scope::Link,
            AddressScope::Host | AddressScope::Nowhere => Scope::Host,
            _ => Scope::Global,
        },
        usability: if flags.intersects(AddressFlags::Tentative | AddressFlags::Dadfailed) {
            Usability::Tentative
        } else if flags.contains(AddressFlags::Deprecated) {
            Usability::Deprecated
        } else {
            Usability::Preferred
        },
    })
}

fn neighbour_key(message: &NeighbourMessage) -> Option<NeighbourKey> {
    let ip = message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })?;
    // Multicast "neighbours" are derived from the group, come unannounced, and are nobody's next hop.
    (!ip.is_multicast()).then_some((message.header.ifindex, ip))
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let (ifindex, ip) = neighbour_key(message)?;
    let mut neighbour =
        Neighbour { ifindex, ip, mac: None, resolution: Resolution::Incomplete, upkeep: Upkeep::None };
    let mut owner = RouteProtocol::Unspec;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => neighbour.mac = mac(bytes),
            NeighbourAttribute::Protocol(protocol) => owner = *protocol,
            NeighbourAttribute::ExtFlags(flags) if flags.contains(NeighbourExtFlags::Managed) => {
                neighbour.upkeep = Upkeep::Foreign;
            }
            _ => {}
        }
    }
    if neighbour.upkeep == Upkeep::Foreign && owner == OWNER {
        neighbour.upkeep = Upkeep::Weir;
    }
    neighbour.resolution = match message.header.state {
        NeighbourState::Permanent | NeighbourState::Noarp => Resolution::Permanent,
        NeighbourState::Failed => Resolution::Failed,
        NeighbourState::Incomplete | NeighbourState::None => Resolution::Incomplete,
        _ => Resolution::Resolved,
    };
    if !matches!(neighbour.resolution, Resolution::Resolved | Resolution::Permanent) {
        neighbour.mac = None;
    }
    Some(neighbour)
}

/// Six bytes as a MAC; other link layers have other lengths.
fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac)
}
