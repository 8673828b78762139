//! Judges interfaces before weir attaches: what must not be, what may hurt, what is good to know.
//!
//! Receives facts and config; guarantees the same findings for the same facts, each with a remedy; does no I/O.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::net::IpAddr;

use lb_common::forward::overhead;
use lb_common::layout::Family;

use super::egress::Egress;
use super::ethtool::Switch;
use super::facts::{InterfaceFacts, RpFilter};
use super::snapshot::{Link, LinkKind, NetState};
use crate::config::model::{Interface, Mode, Snat, XdpMode};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Good to know.
    Note,
    /// May lose or harm packets.
    Warn,
    /// weir does not start.
    Refuse,
}

/// Something about the host that matters to weir.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is: object and fact.
    pub what: String,
    /// What to do.
    pub remedy: String,
}

impl Finding {
    fn new(severity: Severity, what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { severity, what: what.into(), remedy: remedy.into() }
    }
}

/// What weir is going to do with the interfaces.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The services' modes.
    pub modes: Vec<Mode>,
    /// Interfaces that tagged frames arrive by ([`tagged_ports`]).
    pub tagged: BTreeSet<u32>,
    /// Ids of weir's own programs, which may be attached already.
    pub own_programs: BTreeSet<u32>,
}

/// Everything that is to be said about one interface.
#[must_use]
pub fn judge(facts: &InterfaceFacts, interface: &Interface, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(occupied(facts, plan));
    findings.extend(offloads(facts, interface, plan));
    findings.extend(stack(facts, plan));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// The links that VLAN links stand on, with the ports of those that are bonds.
#[must_use]
pub fn tagged_ports(net: &NetState) -> BTreeSet<u32> {
    let vlans = net.links().filter(|link| matches!(link.kind, LinkKind::Vlan(_)));
    let mut below: BTreeSet<u32> = vlans.filter_map(|link| link.lower).collect();
    let ports = net.links().filter(|link| link.master.is_some_and(|master| below.contains(&master)));
    let ports: Vec<u32> = ports.map(|link| link.ifindex).collect();
    below.extend(ports);
    below
}

fn occupied(facts: &InterfaceFacts, plan: &Plan) -> Vec<Finding> {
    let name = &facts.link.name;
    let foreign = facts.link.xdp.iter().filter(|program| !plan.own_programs.contains(&program.id));
    foreign
        .map(|program| {
            let (id, mode) = (program.id, program.place.name());
            let called = facts.program_names.get(&id).map(|name| format!(" `{name}`")).unwrap_or_default();
            Finding::new(
                Severity::Refuse,
                format!("{name}: xdp program {id}{called} is attached ({mode} mode)"),
                format!(
                    "stop what attached it, or `ip link set dev {name} xdp off`; `bpftool link` shows its owner"
                ),
            )
        })
        .collect()
}

/// Whether VLAN tags that matter are taken off before XDP sees them. `tagged` is what [`tagged_ports`] gives.
#[must_use]
pub fn lost_tags(facts: &InterfaceFacts, tagged: &BTreeSet<u32>) -> Option<Finding> {
    let name = &facts.link.name;
    let lost = facts.features.rx_vlan == Some(Switch::On) && tagged.contains(&facts.link.ifindex);
    lost.then(|| {
        Finding::new(
            Severity::Refuse,
            format!(
                "{name}: VLAN interfaces are above it, and the driver takes their tags off before xdp sees them: \
                 packets of all VLANs look alike"
            ),
            format!("ethtool -K {name} rxvlan off"),
        )
    })
}

fn offloads(facts: &InterfaceFacts, interface: &Interface, plan: &Plan) -> Vec<Finding> {
    let name = &facts.link.name;
    let features = &facts.features;
    let mut findings = Vec::new();
    if features.lro == Some(Switch::On) {
        findings.push(Finding::new(
            Severity::Refuse,
            format!("{name}: large receive offload is on: merged packets exceed the MTU towards backends"),
            format!("ethtool -K {name} lro off"),
        ));
    }
    let gro = (features.gro == Some(Switch::On)).then_some(interface.xdp_mode);
    let remedy = format!("ethtool -K {name} gro off");
    match gro {
        Some(XdpMode::Generic) => findings.push(Finding::new(
            Severity::Refuse,
            format!("{name}: generic mode with generic receive offload: xdp would see merged packets"),
            remedy,
        )),
        Some(XdpMode::Auto) => findings.push(Finding::new(
            Severity::Note,
            format!("{name}: generic receive offload is on, so generic mode is refused if native fails"),
            remedy,
        )),
        Some(XdpMode::Native) | None => {}
    }
    if features.rx_vlan == Some(Switch::On) {
        let may = Finding::new(
            Severity::Note,
            format!("{name}: the driver may take VLAN tags off before xdp sees them"),
            format!("where VIP traffic arrives tagged: ethtool -K {name} rxvlan off"),
        );
        findings.push(lost_tags(facts, &plan.tagged).unwrap_or(may));
    }
    if facts.link.kind == LinkKind::Veth {
        findings.extend(veth(facts));
    }
    findings
}

fn veth(facts: &InterfaceFacts) -> Vec<Finding> {
    let name = &facts.link.name;
    let mut findings = vec![Finding::new(
        Severity::Note,
        format!("{name}: a veth; frames that xdp sends arrive only if the peer has an xdp program too"),
        "attach any xdp program to the peer, such as one that passes everything",
    )];
    if facts.features.tx_checksum == Some(Switch::On) {
        findings.push(Finding::new(
            Severity::Note,
            format!("{name}: a veth with checksum offload: xdp sees unfinished checksums from this host"),
            format!("ethtool -K {name} tx off, and the same on the peer"),
        ));
    }
    findings
}

fn stack(facts: &InterfaceFacts, plan: &Plan) -> Vec<Finding> {
    let Link { name, up, carrier, .. } = &facts.link;
    let mut findings = Vec::new();
    if !up {
        findings.push(Finding::new(
            Severity::Warn,
            format!("{name}: is down: no packets arrive"),
            format!("ip link set dev {name} up"),
        ));
    } else if !carrier {
        findings.push(Finding::new(
            Severity::Warn,
            format!("{name}: no carrier: no packets arrive"),
            "check the cable and the other end",
        ));
    }
    if facts.rp_filter == Some(RpFilter::Strict) && plan.modes.iter().any(|mode| *mode != Mode::DsrL2) {
        findings.push(Finding::new(
            Severity::Warn,
            format!(
                "{name}: rp_filter is strict: the host drops answers to probes and ICMP errors about tunnels \
                 whose sender is routed by another interface"
            ),
            format!("sysctl net.ipv4.conf.{name}.rp_filter=2"),
        ));
    }
    findings
}

/// Whether mode `nat` and the host itself, whose address this is, would send from the same ports. `own` is what the host
/// connects from ([`super::facts::local_ports`]).
#[must_use]
pub fn own_ports(snat: &Snat, own: (u16, u16)) -> Option<Finding> {
    let ((first, last), (own_first, own_last)) = (snat.ports, own);
    (first <= own_last && own_first <= last).then(|| {
        let below = own_first.saturating_sub(1);
        let (low, high) = if u32::from(below) + u32::from(own_last) >= 65_536 { (1024, below) } else { (own_last + 1, u16::MAX) };
        Finding::new(
            Severity::Refuse,
            format!(
                "snat {}: an address of this host, which itself connects from ports {own_first} to {own_last} \
                 (net.ipv4.ip_local_port_range); {first} to {last} are not apart from those",
                snat.address
            ),
            format!(
                "snat = [{{ address = \"{}\", ports = \"{low}-{high}\" }}], or an address that the host does not have \
                 and that is routed to it",
                snat.address
            ),
        )
    })
}

/// Whether full-size packets from `ingress` still fit towards a backend, once an outer header is added.
/// `mtu` is the largest IP packet towards the backends ([`Egress::mtu_towards_backends`]).
#[must_use]
pub fn headroom(ingress: &Link, egress: &Egress, backend: IpAddr, mode: Mode, mtu: u32) -> Option<Finding> {
    let family = if backend.is_ipv4() { Family::V4 } else { Family::V6 };
    let outer = overhead(mode.layout(), family);
    let need = ingress.mtu + outer;
    let (from, to) = (&ingress.name, &egress.ifname);
    (mtu < need).then(|| {
        Finding::new(
            Severity::Warn,
            format!(
                "{to}: packets of {} bytes from {from} do not fit: {need} bytes with {outer} of outer header \
                 towards {backend}, the MTU is {mtu}",
                ingress.mtu
            ),
            format!(
                "raise the MTU of {to} and of all links to the backend to {need}, or have servers announce \
                 an MSS for {} bytes",
                mtu.saturating_sub(outer)
            ),
        )
    })
}
