//! `port` and `ports` of a service.

use super::model::Ports;
use super::reader::{Node, Table};
use super::source::Place;

/// A service's ports as read.
pub(crate) struct PortsDraft {
    /// Sorted and disjoint.
    pub(crate) ports: Ports,
    /// The port that is written first: what checks take; `None` for any port.
    pub(crate) first: Option<u16>,
    /// The value.
    pub(crate) place: Place,
}

/// Reads `port` or `ports`; either of a service hides both of `[defaults]`.
pub(crate) fn read(table: &Table<'_>) -> Option<PortsDraft> {
    let (port, ports) = match (table.own("port"), table.own("ports")) {
        (None, None) => (table.value("port"), table.value("ports")),
        own => own,
    };
    match (port, ports) {
        (Some(_), Some(ports)) => {
            ports.fail("and port are both given: keep one of them");
            None
        }
        (Some(port), None) if port.is_array() => {
            port.fail("takes one port; write ports = […] for several");
            None
        }
        (Some(list), None) | (None, Some(list)) => read_list(&list),
        (None, None) => {
            table.error("port", "`port` is missing: add port = 80, port = \"any\" or ports = [80, 443]");
            None
        }
    }
}

fn read_list(list: &Node<'_>) -> Option<PortsDraft> {
    let place = list.place.clone();
    if list.as_string() == Some("any") {
        return Some(PortsDraft { ports: Ports::Any, first: None, place });
    }
    let items = list.items();
    if items.is_empty() {
        list.fail("must hold at least one port; write port = \"any\" for every port");
        return None;
    }
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    for item in &items {
        let (first, last) = range(item)?;
        if let Some((low, high)) = ranges.iter().find(|(low, high)| *low <= last && first <= *high) {
            let other = Ports::Ranges(vec![(*low, *high)]);
            item.fail(format_args!("{} overlaps {other} in the same list: remove one", item.written()));
            return None;
        }
        ranges.push((first, last));
    }
    let first = ranges.first().map(|range| range.0);
    ranges.sort_unstable();
    Some(PortsDraft { ports: Ports::Ranges(ranges), first, place })
}

/// `80`, `"80"`, `"8000-8100"`.
pub(crate) fn range(node: &Node<'_>) -> Option<(u16, u16)> {
    let parsed = match (node.as_integer(), node.as_string()) {
        (Some(number), _) => u16::try_from(number).ok().map(|port| (port, port)),
        (None, Some(text)) => {
            let (first, last) = text.split_once('-').unwrap_or((text, text));
            number(first).zip(number(last))
        }
        (None, None) => None,
    };
    match parsed {
        Some((first, last)) if first >= 1 && first <= last => Some((first, last)),
        Some((first, last)) if first > last => {
            node.fail(format_args!("{} ends before it begins; write \"{last}-{first}\"", node.written()));
            None
        }
        _ => {
            node.fail(format_args!(
                "{} is no port: 1 to 65535, a range such as \"8000-8100\", or port = \"any\"",
                node.written()
            ));
            None
        }
    }
}

/// A port in decimal digits alone: `parse` would also take a sign.
fn number(text: &str) -> Option<u16> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}
