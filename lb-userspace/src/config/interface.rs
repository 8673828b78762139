//! `interfaces` and `[[interface]]`: where the program is attached.

use super::keys;
use super::model::{Interface, XdpMode};
use super::reader::{Node, Table};
use super::source::Place;

/// Smallest packet size that every IPv4 host must take (RFC 791).
const SMALLEST_MTU: u16 = 576;

/// All interfaces, in the order of the file, the short list first.
pub(crate) fn read(top: &Table<'_>) -> Vec<Interface> {
    let xdp_mode = top.value("xdp_mode").and_then(|node| mode(&node)).unwrap_or(XdpMode::Native);
    let mut found: Vec<(Interface, Place)> = Vec::new();
    for node in top.value("interfaces").map(|list| list.items()).unwrap_or_default() {
        if let Some(name) = node.interface_name() {
            add(top, &mut found, Interface { name, xdp_mode, mtu: None, gateway_mac: None }, node.place);
        }
    }
    for table in
        top.value("interface").map(|list| list.tables("interface", keys::INTERFACE)).unwrap_or_default()
    {
        let name = table.required("name", "name = \"eth0\"").and_then(|node| node.interface_name());
        let xdp_mode = table.value("xdp_mode").and_then(|node| mode(&node)).unwrap_or(xdp_mode);
        let mtu = table.value("mtu").and_then(|node| mtu(&node));
        let gateway_mac = table.value("gateway_mac").and_then(|node| node.mac());
        if let Some(name) = name {
            add(top, &mut found, Interface { name, xdp_mode, mtu, gateway_mac }, table.place.clone());
        }
    }
    let given = top.value("interfaces").is_some_and(|list| !list.items().is_empty());
    if !given && top.value("interface").is_none() {
        top.error("interfaces", "no interfaces: add interfaces = [\"eth0\"]");
    }
    found.into_iter().map(|(interface, _)| interface).collect()
}

fn add(top: &Table<'_>, found: &mut Vec<(Interface, Place)>, interface: Interface, place: Place) {
    match found.iter().find(|(other, _)| other.name == interface.name) {
        Some((_, first)) => {
            let message =
                format!("interface {:?} is given twice, first at {}", interface.name, first.brief());
            top.findings.error(&place, "", "interfaces", message);
        }
        None => found.push((interface, place)),
    }
}

/// A word for where the program runs.
pub(super) fn mode(node: &Node<'_>) -> Option<XdpMode> {
    node.word(&[
        ("native", Some(XdpMode::Native)),
        ("auto", Some(XdpMode::Auto)),
        ("generic", Some(XdpMode::Generic)),
    ])
}

/// The largest IP packet, in bytes.
pub(crate) fn mtu(node: &Node<'_>) -> Option<u16> {
    node.integer(SMALLEST_MTU..=u16::MAX)
}
