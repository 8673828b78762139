//! Ways over bonds and VLANs, and interfaces that lose tags.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use netlink_packet_route::link::{InfoBond, InfoData, InfoKind, LinkAttribute, LinkInfo, LinkMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::decode;
use super::egress::{Egress, egress};
use super::ethtool::{DriverFeatures, Switch};
use super::facts::InterfaceFacts;
use super::lookup::{Route, RouteKind};
use super::preflight::{Plan, Severity, judge, lost_tags, tagged_ports};
use super::snapshot::{Address, Change, Link, LinkKind, NetEvent, NetState, Scope, Usability, VlanTag};
use crate::config::model::{Interface, Mac, XdpMode};

const BOND: Mac = Mac([2, 0, 0, 0, 0, 0x10]);
const FIRST: u32 = 2;
const SECOND: u32 = 3;

fn link(ifindex: u32, name: &str, kind: LinkKind) -> Link {
    Link {
        ifindex,
        name: name.to_owned(),
        mac: Some(BOND),
        mtu: 1500,
        up: true,
        running: true,
        carrier: true,
        kind,
        master: None,
        lower: None,
        xdp: Vec::new(),
    }
}

fn port(ifindex: u32, carrier: bool) -> Change {
    let name = if ifindex == FIRST { "eth0" } else { "eth1" };
    Change::Link(Link { master: Some(10), carrier, ..link(ifindex, name, LinkKind::Device) })
}

/// A bond of two ports with a VLAN on it.
fn host(active: Option<u32>) -> NetState {
    let mut net = NetState::default();
    let tagged = LinkKind::Vlan(VlanTag { protocol: 0x8100, id: 100 });
    for change in [
        port(FIRST, true),
        port(SECOND, true),
        Change::Link(link(10, "bond0", LinkKind::Bond { active })),
        Change::Link(Link { lower: Some(10), ..link(11, "bond0.100", tagged) }),
        Change::Link(link(12, "eth2", LinkKind::Device)),
        Change::Address(Address {
            ifindex: 10,
            ip: [10, 0, 0, 1].into(),
            prefix: 24,
            scope: Scope::Global,
            usability: Usability::Preferred,
        }),
    ] {
        net.apply(change);
    }
    net
}

fn way(net: &NetState, last: u8, link: u32) -> Egress {
    let destination = IpAddr::from([10, 0, 0, last]);
    let kind = RouteKind::Unicast;
    let route = Route { destination, kind, link: Some(link), gateway: None, source: None, mtu: None };
    egress(net, &BTreeSet::new(), &route).unwrap()
}

#[test]
fn a_bonds_active_port_is_in_its_message() {
    let mut message = LinkMessage::default();
    message.header.index = 10;
    message.header.interface_family = AddressFamily::Unspec;
    message.attributes = vec![
        LinkAttribute::IfName("bond0".into()),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Bond),
            LinkInfo::Data(InfoData::Bond(vec![InfoBond::MiiMon(100), InfoBond::ActivePort(3)])),
        ]),
    ];
    let mut kinds = Vec::new();
    for port in [3, 0] {
        let LinkAttribute::LinkInfo(infos) = &mut message.attributes[1] else { panic!("as made above") };
        infos[1] = LinkInfo::Data(InfoData::Bond(vec![InfoBond::MiiMon(100), InfoBond::ActivePort(port)]));
        let Some(Change::Link(link)) = decode::change(RouteNetlinkMessage::NewLink(message.clone())) else {
            panic!("not a link")
        };
        kinds.push(link.kind);
    }
    assert_eq!(kinds, [LinkKind::Bond { active: Some(3) }, LinkKind::Bond { active: None }]);
}

#[test]
fn a_route_over_a_bond_leaves_by_its_active_port_with_the_bonds_mac() {
    for active in [FIRST, SECOND] {
        let way = way(&host(Some(active)), 9, 10);
        assert_eq!((way.ifindex, way.route_ifindex, way.src_mac), (active, 10, BOND));
        assert!(way.vlans.is_empty());
    }
}

#[test]
fn a_bond_without_an_active_port_spreads_next_hops_over_those_with_a_carrier() {
    let net = host(None);
    let mut seen = BTreeMap::new();
    for last in 2..252 {
        let port = way(&net, last, 10).ifindex;
        assert_eq!(way(&net, last, 10).ifindex, port, "the same each time");
        *seen.entry(port).or_insert(0) += 1;
    }
    assert!(seen[&FIRST] > 60 && seen[&SECOND] > 60, "{seen:?}");
    let mut net = net;
    let events = net.apply(port(FIRST, false));
    assert!(events.contains(&NetEvent::RoutesChanged), "ways are resolved anew: {events:?}");
    assert!((2..252).all(|last| way(&net, last, 10).ifindex == SECOND));
    net.apply(port(SECOND, false));
    assert_eq!(way(&net, 9, 10).ifindex, FIRST, "the first while none has a carrier");
}

#[test]
fn another_active_port_has_ways_resolved_anew() {
    let mut net = host(Some(FIRST));
    let events = net.apply(Change::Link(link(10, "bond0", LinkKind::Bond { active: Some(SECOND) })));
    assert!(events.contains(&NetEvent::RoutesChanged), "{events:?}");
}

#[test]
fn a_vlan_over_a_bond_leaves_tagged_by_a_port() {
    let way = way(&host(Some(SECOND)), 9, 11);
    assert_eq!((way.ifindex, way.ifname.as_str(), way.route_ifindex), (SECOND, "eth1", 11));
    assert_eq!(way.vlans, [VlanTag { protocol: 0x8100, id: 100 }]);
}

#[test]
fn an_interface_below_vlans_must_not_take_tags_off() {
    let net = host(None);
    let tagged = tagged_ports(&net);
    assert_eq!(tagged, BTreeSet::from([FIRST, SECOND, 10]), "the bond and its ports");
    for (ifindex, offload, expected) in [
        (FIRST, Switch::On, Some(Severity::Refuse)),
        (SECOND, Switch::Off, None),
        (12, Switch::On, Some(Severity::Note)),
    ] {
        let link = net.link(ifindex).unwrap().clone();
        let name = link.name.clone();
        let features = DriverFeatures { rx_vlan: Some(offload), ..DriverFeatures::default() };
        let facts = InterfaceFacts { link, features, rp_filter: None, program_names: BTreeMap::new() };
        let interface =
            Interface { name: name.clone(), xdp_mode: XdpMode::Native, mtu: None, gateway_mac: None };
        let plan = Plan { tagged: tagged.clone(), ..Plan::default() };
        let found = judge(&facts, &interface, &plan);
        assert_eq!(found.first().map(|finding| finding.severity), expected, "{name}");
        let lost = lost_tags(&facts, &tagged).map(|finding| finding.remedy);
        let remedy = (expected == Some(Severity::Refuse)).then(|| "ethtool -K eth0 rxvlan off".to_owned());
        assert_eq!(lost, remedy, "{name}");
    }
}
