//! `snat` of a service: addresses to send from, with or without a range of ports.

use super::keys;
use super::model::Snat;
use super::ports;
use super::reader::{Node, Table};
use super::source::Place;

/// The ports of an entry that gives none: all but those of well-known services.
pub(crate) const ALL_PORTS: (u16, u16) = (1024, u16::MAX);

/// Reads the list; what cannot be read is left out and has its finding.
pub(crate) fn read(table: &Table<'_>) -> Vec<(Snat, Place)> {
    let nodes = table.value("snat").map(|list| list.items()).unwrap_or_default();
    let mut found: Vec<(Snat, Place)> = Vec::new();
    for node in nodes {
        let Some(snat) = entry(table, &node) else { continue };
        if found.iter().any(|(other, _)| other.address == snat.address) {
            node.fail(format_args!("{} is given twice: remove one", snat.address));
            continue;
        }
        found.push((snat, node.place));
    }
    found
}

/// `"10.0.0.1"`, or `{ address = "10.0.0.1", ports = "40000-60999" }`.
fn entry(table: &Table<'_>, node: &Node<'_>) -> Option<Snat> {
    if !node.is_table() {
        return Some(Snat { address: node.address()?, ports: ALL_PORTS });
    }
    let entry = node.table(format!("{} snat", table.subject), keys::SNAT)?;
    let address = entry.required("address", "address = \"10.0.0.1\"")?.address()?;
    let ports = match entry.value("ports") {
        Some(node) => ports::range(&node)?,
        None => ALL_PORTS,
    };
    Some(Snat { address, ports })
}
