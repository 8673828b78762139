//! The pure parts, from messages and states built by hand.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage, LinkXdp,
    XdpAttached,
};
use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::egress::{Egress, EgressError, egress};
use super::ethtool::{DriverFeatures, Switch};
use super::facts::{InterfaceFacts, RpFilter};
use super::lookup::{Route, RouteKind};
use super::next_hop::{MacOrigin, NextHopState, NextHops, Overrides, Unresolved, next_hop};
use super::preflight::{Plan, Severity, headroom, judge};
use super::snapshot::{
    Address, Change, Link, LinkKind, Neighbour, NetEvent, NetState, Resolution, Scope, Subject, Upkeep,
    Usability, VlanTag, XdpPlace, XdpProgram,
};
use super::{decode, vip};
use crate::config::model::{Interface, Mac, Mode, XdpMode};

const OURS: Mac = Mac([2, 0, 0, 0, 0, 1]);
const ROUTER: Mac = Mac([2, 0, 0, 0, 0, 0xfe]);
const OTHER: Mac = Mac([2, 0, 0, 0, 0, 0xfd]);

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn link(ifindex: u32, name: &str) -> Link {
    Link {
        ifindex,
        name: name.to_owned(),
        mac: Some(OURS),
        mtu: 1500,
        up: true,
        running: true,
        carrier: true,
        kind: LinkKind::Device,
        master: None,
        lower: None,
        xdp: Vec::new(),
    }
}

fn address(ifindex: u32, text: &str, prefix: u8) -> Change {
    Change::Address(Address {
        ifindex,
        ip: ip(text),
        prefix,
        scope: Scope::Global,
        usability: Usability::Preferred,
    })
}

fn neighbour(ifindex: u32, text: &str, mac: Option<Mac>, resolution: Resolution) -> Change {
    Change::Neighbour(Neighbour { ifindex, ip: ip(text), mac, resolution, upkeep: Upkeep::None })
}

fn host() -> NetState {
    let mut net = NetState::default();
    let lo = Link { mac: None, kind: LinkKind::Loopback, mtu: 65536, ..link(1, "lo") };
    let tagged = Link {
        kind: LinkKind::Vlan(VlanTag { protocol: 0x8100, id: 100 }),
        lower: Some(2),
        mtu: 1400,
        ..link(3, "eth0.100")
    };
    let tunnel = Link { mac: None, kind: LinkKind::Other("wireguard".into()), ..link(4, "wg0") };
    for change in [
        Change::Link(lo),
        Change::Link(link(2, "eth0")),
        Change::Link(tagged),
        Change::Link(tunnel),
        address(2, "10.0.0.1", 24),
        address(2, "10.0.1.1", 24),
        address(2, "2001:db8::1", 64),
        address(1, "198.51.100.10", 32),
    ] {
        net.apply(change);
    }
    net
}

fn route(destination: &str, link: u32) -> Route {
    Route {
        destination: ip(destination),
        kind: RouteKind::Unicast,
        link: Some(link),
        gateway: None,
        source: None,
        mtu: None,
    }
}

fn way(destination: &str, gateway: Option<&str>) -> Egress {
    let gateway = gateway.map(ip);
    egress(&host(), &BTreeSet::new(), &Route { gateway, ..route(destination, 2) }).unwrap()
}

#[test]
fn carrier_loss_is_told_with_the_route_change_that_the_kernel_does_not_announce() {
    let mut net = host();
    let events = net.apply(Change::Link(Link { carrier: false, running: false, ..link(2, "eth0") }));
    let lost = NetEvent::CarrierLost { ifindex: 2, name: "eth0".into() };
    assert_eq!(events, [lost, NetEvent::RoutesChanged]);
    assert_eq!(net.apply(Change::Link(Link { carrier: false, running: false, ..link(2, "eth0") })), []);
    let events = net.apply(Change::Link(link(2, "eth0")));
    assert_eq!(events[0], NetEvent::CarrierGained { ifindex: 2, name: "eth0".into() });
}

#[test]
fn a_link_that_vanishes_takes_its_addresses_and_neighbours_along() {
    let mut net = host();
    net.apply(neighbour(2, "10.0.0.254", Some(ROUTER), Resolution::Resolved));
    let events = net.apply(Change::LinkGone(2));
    assert_eq!(events[0], NetEvent::LinkVanished { ifindex: 2, name: "eth0".into() });
    assert!(events.contains(&NetEvent::AddressGone { ifindex: 2, ip: ip("10.0.0.1") }));
    assert_eq!(net.neighbours().count(), 0);
    assert!(net.addresses().all(|address| address.ifindex != 2));
    let events = net.apply(Change::Link(link(9, "eth0")));
    assert_eq!(events[0], NetEvent::LinkAppeared { ifindex: 9, name: "eth0".into() });
    assert_eq!(net.link_named("eth0").unwrap().ifindex, 9);
}

#[test]
fn rename_mac_and_mtu_changes_are_told() {
    let mut net = host();
    let events = net.apply(Change::Link(link(2, "wan")));
    assert_eq!(events, [NetEvent::LinkRenamed { ifindex: 2, from: "eth0".into(), to: "wan".into() }]);
    let events = net.apply(Change::Link(Link { mac: Some(OTHER), ..link(2, "wan") }));
    assert_eq!(events, [NetEvent::LinkChanged { ifindex: 2 }]);
    let events = net.apply(Change::Link(Link { mac: Some(OTHER), mtu: 9000, ..link(2, "wan") }));
    assert_eq!(events, [NetEvent::LinkChanged { ifindex: 2 }, NetEvent::RoutesChanged]);
}

#[test]
fn a_full_dump_repairs_what_was_missed_and_counts_it() {
    let mut net = host();
    net.apply(neighbour(2, "10.0.0.9", Some(OTHER), Resolution::Resolved));
    let mut kernel = host();
    kernel.apply(Change::AddressGone(2, ip("10.0.1.1"), 24));
    kernel.apply(neighbour(2, "10.0.0.254", Some(ROUTER), Resolution::Resolved));
    let dump = || {
        let links = kernel.links().cloned().map(Change::Link);
        let addresses = kernel.addresses().copied().map(Change::Address);
        links.chain(addresses).chain(kernel.neighbours().copied().map(Change::Neighbour)).collect::<Vec<_>>()
    };
    let (events, repaired) = net.reconcile(dump(), &HashSet::new());
    assert_eq!(repaired.len(), 3, "{events:?}");
    assert_eq!(net, kernel);
    assert_eq!(net.reconcile(dump(), &HashSet::new()), (Vec::new(), Vec::new()));
}

#[test]
fn a_notification_during_a_dump_is_newer_than_the_dump() {
    let mut net = host();
    let dump: Vec<Change> = host().links().cloned().map(Change::Link).collect();
    net.apply(Change::LinkGone(2));
    let newer = HashSet::from([Subject::Link(2), Subject::Address(1, ip("198.51.100.10"), 32)]);
    let (_, repaired) = net.reconcile(dump, &newer);
    assert_eq!(repaired, []);
    assert!(net.link(2).is_none());
    assert!(net.addresses().any(|address| address.ip == ip("198.51.100.10")));
}

fn link_message(attributes: Vec<LinkAttribute>) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = 7;
    message.header.link_layer_type = LinkLayerType::Ether;
    message.header.flags = LinkFlags::Up | LinkFlags::Running;
    message.attributes = attributes;
    message
}

#[test]
fn a_link_message_becomes_a_link_with_vlan_lower_and_xdp_programs() {
    let message = link_message(vec![
        LinkAttribute::IfName("eth0.5".into()),
        LinkAttribute::Address(OURS.0.to_vec()),
        LinkAttribute::Mtu(1400),
        LinkAttribute::Link(2),
        LinkAttribute::Controller(8),
        LinkAttribute::LinkInfo(vec![
            LinkInfo::Kind(InfoKind::Vlan),
            LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(5)])),
        ]),
        LinkAttribute::Xdp(vec![LinkXdp::Attached(XdpAttached::SocketBuffer), LinkXdp::ProgId(42)]),
    ]);
    let Some(Change::Link(link)) = decode::change(RouteNetlinkMessage::NewLink(message)) else {
        panic!("not a link")
    };
    assert_eq!(link.kind, LinkKind::Vlan(VlanTag { protocol: 0x8100, id: 5 }));
    assert_eq!((link.ifindex, link.lower, link.master, link.mtu), (7, Some(2), Some(8), 1400));
    assert_eq!((link.mac, link.up, link.carrier), (Some(OURS), true, false));
    assert_eq!(link.xdp, [XdpProgram { id: 42, place: XdpPlace::Generic }]);
}

#[test]
fn a_peer_in_another_namespace_is_no_lower_link() {
    let name = LinkAttribute::IfName("veth0".into());
    let message = link_message(vec![name, LinkAttribute::Link(2), LinkAttribute::LinkNetNsId(0)]);
    let Some(Change::Link(link)) = decode::change(RouteNetlinkMessage::NewLink(message)) else {
        panic!("not a link")
    };
    assert_eq!(link.lower, None);
}

#[test]
fn a_message_that_does_not_describe_the_link_changes_nothing() {
    assert_eq!(decode::change(RouteNetlinkMessage::NewLink(link_message(Vec::new()))), None);
}

#[test]
fn leaving_a_bridge_does_not_remove_the_link() {
    let mut message = link_message(Vec::new());
    message.header.interface_family = AddressFamily::Bridge;
    assert_eq!(decode::change(RouteNetlinkMessage::DelLink(message.clone())), None);
    assert_eq!(decode::change(RouteNetlinkMessage::NewLink(message)), None);
}

#[test]
fn a_neighbour_message_tells_resolution_and_who_keeps_it_fresh() {
    let cases = [
        (NeighbourState::Reachable, Resolution::Resolved),
        (NeighbourState::Stale, Resolution::Resolved),
        (NeighbourState::Delay, Resolution::Resolved),
        (NeighbourState::Probe, Resolution::Resolved),
        (NeighbourState::Permanent, Resolution::Permanent),
        (NeighbourState::Incomplete, Resolution::Incomplete),
        (NeighbourState::Failed, Resolution::Failed),
    ];
    for (state, resolution) in cases {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 2;
        message.header.state = state;
        message.attributes = vec![
            NeighbourAttribute::Destination(ip("10.0.0.254").into()),
            NeighbourAttribute::LinkLayerAddress(ROUTER.0.to_vec()),
            NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
            NeighbourAttribute::Protocol(decode::OWNER),
        ];
        let Some(Change::Neighbour(neighbour)) = decode::change(RouteNetlinkMessage::NewNeighbour(message))
        else {
            panic!("not a neighbour")
        };
        assert_eq!(neighbour.resolution, resolution);
        let usable = matches!(resolution, Resolution::Resolved | Resolution::Permanent);
        assert_eq!(neighbour.mac, usable.then_some(ROUTER), "{state}");
        assert_eq!(neighbour.upkeep, Upkeep::Weir);
    }
}

#[test]
fn the_source_is_the_kernels_unless_that_is_a_vip() {
    let vips = BTreeSet::from([ip("10.0.0.1"), ip("198.51.100.10")]);
    let kernels = Route { source: Some(ip("10.0.1.1")), ..route("10.0.0.9", 2) };
    assert_eq!(egress(&host(), &vips, &kernels).unwrap().source, ip("10.0.1.1"));
    let a_vip = Route { source: Some(ip("10.0.0.1")), ..route("10.0.1.9", 2) };
    assert_eq!(egress(&host(), &vips, &a_vip).unwrap().source, ip("10.0.1.1"));
    let near = Route { source: Some(ip("198.51.100.10")), ..route("10.0.1.9", 2) };
    assert_eq!(
        egress(&host(), &BTreeSet::from([ip("198.51.100.10")]), &near).unwrap().source,
        ip("10.0.1.1")
    );
}

#[test]
fn a_host_with_only_vips_has_no_source() {
    let vips = BTreeSet::from([ip("2001:db8::1")]);
    let error = egress(&host(), &vips, &route("2001:db8::9", 2)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "route to 2001:db8::9: no source address on eth0 that is not a VIP; add one"
    );
}

#[test]
fn routes_that_lead_nowhere_are_errors_that_say_so() {
    let none = BTreeSet::new();
    let destination = ip("10.0.0.9");
    let cases = [
        (RouteKind::Broadcast, EgressError::Broadcast(destination)),
        (RouteKind::Blackhole, EgressError::Blackhole(destination)),
        (RouteKind::Unreachable, EgressError::Unreachable(destination)),
        (RouteKind::Prohibited, EgressError::Prohibited(destination)),
        (RouteKind::None, EgressError::NoRoute(destination)),
    ];
    for (kind, error) in cases {
        assert_eq!(egress(&host(), &none, &Route { kind, ..route("10.0.0.9", 2) }), Err(error));
    }
    assert!(matches!(egress(&host(), &none, &route("10.0.0.9", 1)), Err(EgressError::NoPort { .. })));
    assert!(matches!(egress(&host(), &none, &route("10.0.0.9", 4)), Err(EgressError::NotEthernet { .. })));
    assert!(matches!(egress(&host(), &none, &route("fe80::9", 2)), Err(EgressError::LinkLocal(_))));
}

#[test]
fn an_address_of_the_host_is_a_next_hop_that_no_frame_leaves_by() {
    let none = BTreeSet::new();
    let local = egress(&host(), &none, &Route { kind: RouteKind::Local, ..route("10.0.0.1", 1) }).unwrap();
    assert!(local.is_local());
    assert_eq!(local.mtu_towards_backends(&[], Some(1400)), 0, "the global mtu is for other hosts");
    let state = next_hop(&host(), &local, Overrides::default(), None, Instant::now());
    assert!(matches!(state, NextHopState::Resolved(hop) if (hop.ifindex, hop.mtu) == (0, 0)));
    let mut hops = NextHops::default();
    hops.replace(&host(), [(local, Overrides::default())], Instant::now());
    assert!(hops.neighbours().is_empty(), "nobody to ask for a MAC");
}

#[test]
fn a_route_over_a_vlan_leaves_by_the_port_below_with_its_tag() {
    let egress = egress(&host(), &BTreeSet::new(), &route("10.0.0.9", 3)).unwrap();
    assert_eq!((egress.ifindex, egress.ifname.as_str(), egress.route_ifindex), (2, "eth0", 3));
    assert_eq!(egress.vlans, [VlanTag { protocol: 0x8100, id: 100 }]);
    assert_eq!(egress.mtu, 1400);
}

#[test]
fn the_configured_mtu_replaces_the_routes_and_the_interfaces_own_comes_first() {
    let egress = way("10.0.0.9", None);
    let interface =
        |mtu| Interface { name: "eth0".into(), xdp_mode: XdpMode::Native, mtu, gateway_mac: None };
    for (own, global, expected) in [
        (None, None, 1500),
        (None, Some(1600), 1600),
        (Some(1700), Some(1600), 1700),
        (Some(1400), None, 1400),
    ] {
        assert_eq!(egress.mtu_towards_backends(&[interface(own)], global), expected);
    }
}

#[test]
fn the_routes_mtu_counts_when_it_is_smaller() {
    for (route_mtu, expected) in [(None, 1500), (Some(1300), 1300), (Some(9000), 1500)] {
        let route = Route { mtu: route_mtu, ..route("10.0.0.9", 2) };
        assert_eq!(egress(&host(), &BTreeSet::new(), &route).unwrap().mtu, expected);
    }
}

fn resolved(state: Option<&NextHopState>) -> (Mac, MacOrigin) {
    match state {
        Some(NextHopState::Resolved(hop)) => (hop.dst_mac, hop.origin),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_next_hop_follows_its_neighbour_and_keeps_the_last_mac() {
    let (mut net, mut hops, start) = (host(), NextHops::default(), Instant::now());
    let routed = [way("10.9.0.1", Some("10.0.0.254")), way("10.9.0.2", Some("10.0.0.254"))];
    let used = routed.iter().map(|egress| (egress.clone(), Overrides::default()));
    let changes = hops.replace(&net, used.clone(), start);
    assert_eq!(changes.len(), 1, "backends behind one router share a next hop");
    let key = &changes[0].key;
    assert_eq!(hops.neighbours(), BTreeSet::from([(2, ip("10.0.0.254"))]));

    net.apply(neighbour(2, "10.0.0.254", None, Resolution::Incomplete));
    assert_eq!(hops.refresh(&net, start + Duration::from_secs(1)), []);
    let waiting = NextHopState::Unresolved { why: Unresolved::Waiting, since: start };
    assert_eq!(hops.get(key), Some(&waiting));

    let steps = [
        (Some(ROUTER), Resolution::Resolved, (ROUTER, MacOrigin::Neighbour)),
        (None, Resolution::Failed, (ROUTER, MacOrigin::LastKnown)),
        (None, Resolution::Incomplete, (ROUTER, MacOrigin::LastKnown)),
        (Some(OTHER), Resolution::Resolved, (OTHER, MacOrigin::Neighbour)),
    ];
    for (mac, resolution, expected) in steps {
        net.apply(neighbour(2, "10.0.0.254", mac, resolution));
        hops.refresh(&net, start);
        assert_eq!(resolved(hops.get(key)), expected);
    }
    net.apply(Change::NeighbourGone((2, ip("10.0.0.254"))));
    assert_eq!(hops.refresh(&net, start).len(), 1);
    assert_eq!(resolved(hops.get(key)), (OTHER, MacOrigin::LastKnown));
    assert_eq!(hops.replace(&net, used, start), [], "resolving routes again changes nothing");
    assert_eq!(hops.replace(&net, [], start)[0].to, None);
}

#[test]
fn a_vanished_interface_makes_its_next_hops_unresolved() {
    let (mut net, mut hops, now) = (host(), NextHops::default(), Instant::now());
    net.apply(neighbour(2, "10.0.0.9", Some(OTHER), Resolution::Resolved));
    hops.replace(&net, [(way("10.0.0.9", None), Overrides::default())], now);
    net.apply(Change::LinkGone(2));
    let to = NextHopState::Unresolved { why: Unresolved::NoLink, since: now };
    assert_eq!(hops.refresh(&net, now)[0].to, Some(to));
}

#[test]
fn a_configured_mac_replaces_resolution_and_the_gateways_only_for_routed_backends() {
    let (net, now) = (host(), Instant::now());
    let both = Overrides { backend: Some(OTHER), gateway: Some(ROUTER) };
    let gateway = Overrides { backend: None, gateway: Some(ROUTER) };
    for (overrides, via, expected) in [
        (both, None, Some(OTHER)),
        (both, Some("10.0.0.254"), Some(OTHER)),
        (gateway, Some("10.0.0.254"), Some(ROUTER)),
        (gateway, None, None),
    ] {
        let mut hops = NextHops::default();
        let changes = hops.replace(&net, [(way("10.0.0.9", via), overrides)], now);
        match expected {
            Some(mac) => {
                assert_eq!(resolved(changes[0].to.as_ref()), (mac, MacOrigin::Config));
                assert!(hops.neighbours().is_empty());
            }
            None => assert!(matches!(changes[0].to, Some(NextHopState::Unresolved { .. }))),
        }
    }
}

#[test]
fn a_vip_on_any_link_is_local_and_another_must_be_routed() {
    let net = host();
    let owned: Vec<_> = vip::ownership(&net, [ip("198.51.100.10"), ip("198.51.100.11")]).collect();
    assert_eq!((owned[0].is_local(), owned[0].links.as_slice()), (true, ["lo".to_owned()].as_slice()));
    assert_eq!(owned[0].note(), None);
    assert!(owned[1].note().unwrap().contains("not an address of this host"));
}

fn facts(features: DriverFeatures) -> InterfaceFacts {
    InterfaceFacts {
        link: link(2, "eth0"),
        features,
        rp_filter: Some(RpFilter::Loose),
        program_names: BTreeMap::new(),
    }
}

fn severities(facts: &InterfaceFacts, xdp_mode: XdpMode) -> Vec<(Severity, String)> {
    let interface = Interface { name: "eth0".into(), xdp_mode, mtu: None, gateway_mac: None };
    let plan = Plan { modes: vec![Mode::Ipip], own_programs: BTreeSet::from([7]), ..Plan::default() };
    let findings = judge(facts, &interface, &plan);
    findings.into_iter().map(|finding| (finding.severity, finding.remedy)).collect()
}

#[test]
fn preflight_refuses_merged_packets_with_the_command_that_helps() {
    let lro = facts(DriverFeatures { lro: Some(Switch::On), ..DriverFeatures::default() });
    let refused = (Severity::Refuse, "ethtool -K eth0 lro off".to_owned());
    assert_eq!(severities(&lro, XdpMode::Native), [refused]);
    let gro = facts(DriverFeatures { gro: Some(Switch::On), ..DriverFeatures::default() });
    let remedy = "ethtool -K eth0 gro off".to_owned();
    assert_eq!(severities(&gro, XdpMode::Native), []);
    assert_eq!(severities(&gro, XdpMode::Auto), [(Severity::Note, remedy.clone())]);
    assert_eq!(severities(&gro, XdpMode::Generic), [(Severity::Refuse, remedy)]);
    let off = facts(DriverFeatures { lro: Some(Switch::Off), gro: Some(Switch::Off), ..lro.features });
    assert_eq!(severities(&off, XdpMode::Generic), []);
}

#[test]
fn preflight_names_a_foreign_program_and_lets_its_own_be() {
    let mut busy = facts(DriverFeatures::default());
    busy.link.xdp = vec![XdpProgram { id: 7, place: XdpPlace::Native }];
    assert_eq!(severities(&busy, XdpMode::Native), []);
    busy.link.xdp[0].id = 8;
    busy.program_names.insert(8, "xdp_filter".into());
    let interface =
        Interface { name: "eth0".into(), xdp_mode: XdpMode::Native, mtu: None, gateway_mac: None };
    let findings = judge(&busy, &interface, &Plan::default());
    assert_eq!(findings[0].what, "eth0: xdp program 8 `xdp_filter` is attached (native mode)");
    assert_eq!(findings[0].severity, Severity::Refuse);
}

#[test]
fn preflight_warns_of_a_strict_reverse_path_filter_and_a_dead_link() {
    let mut strict = facts(DriverFeatures::default());
    strict.rp_filter = Some(RpFilter::Strict);
    strict.link.carrier = false;
    let warned: Vec<_> = severities(&strict, XdpMode::Native).into_iter().map(|found| found.0).collect();
    assert_eq!(warned, [Severity::Warn, Severity::Warn]);
}

#[test]
fn headroom_counts_the_outer_header_of_the_backends_family() {
    let out = way("10.0.0.9", None);
    let (v4, v6) = (ip("10.0.0.9"), ip("2001:db8::9"));
    for (mode, backend, mtu, fits) in [
        (Mode::DsrL2, v4, 1500, true),
        (Mode::Ipip, v4, 1500, false),
        (Mode::Ipip, v4, 1520, true),
        (Mode::Ipip, v6, 1520, false),
        (Mode::Ipip, v6, 1540, true),
        (Mode::Gue, v4, 1531, false),
        (Mode::Gue, v4, 1532, true),
        (Mode::Gue, v6, 1551, false),
        (Mode::Gue, v6, 1552, true),
    ] {
        assert_eq!(
            headroom(&link(2, "eth0"), &out, backend, mode, mtu).is_none(),
            fits,
            "{mode:?} {backend}"
        );
    }
}
