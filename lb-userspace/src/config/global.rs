//! The top level: hash seed, `[limits]`, `[tunnel]`, `[guard]`.

use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use lb_common::wire::GUE_PORT;

use super::keys;
use super::model::{Guard, Limits, Tunnel};
use super::reader::{Node, Table};
use super::scalar::DAY;
use super::source::{self, Place};

/// Flows that one table may hold: 4 GiB of IPv4 entries.
const MOST_FLOWS: u32 = 1 << 27;

/// Ports of all `snat` addresses and protocols: 5 GiB.
const MOST_NAT_PORTS: u32 = 1 << 25;

/// Smallest flow table.
const FEWEST_FLOWS: u32 = 64;

/// Slots of all Maglev tables: 2 GiB.
const MOST_SLOTS: u32 = 1 << 30;

/// Prefixes of all lists: 1.5 GiB.
const MOST_PREFIXES: u32 = 1 << 24;

/// Room for one table of the smallest default size, and for its replacement.
const FEWEST_SLOTS: u32 = 2048;

impl Default for Limits {
    fn default() -> Self {
        Self {
            flows_v4: 1_048_576,
            flows_v6: 262_144,
            services: 1024,
            backends: 4096,
            maglev_slots: 4_194_304,
            prefixes: 131_072,
            nat_ports: 131_072,
        }
    }
}

/// `[limits]`, or its defaults.
pub(crate) fn limits(top: &Table<'_>) -> Limits {
    let defaults = Limits::default();
    let Some(table) = sub_table(top, "limits", keys::LIMITS) else { return defaults };
    let read = |key, range, default| table.value(key).and_then(|node| node.integer(range)).unwrap_or(default);
    Limits {
        flows_v4: read("flows_v4", FEWEST_FLOWS..=MOST_FLOWS, defaults.flows_v4),
        flows_v6: read("flows_v6", FEWEST_FLOWS..=MOST_FLOWS, defaults.flows_v6),
        services: read("services", 1..=u32::from(u16::MAX), defaults.services),
        backends: read("backends", 1..=u32::from(u16::MAX), defaults.backends),
        maglev_slots: read("maglev_slots", FEWEST_SLOTS..=MOST_SLOTS, defaults.maglev_slots),
        prefixes: read("prefixes", 0..=MOST_PREFIXES, defaults.prefixes),
        nat_ports: read("nat_ports", 0..=MOST_NAT_PORTS, defaults.nat_ports),
    }
}

/// `[tunnel]`, or its defaults; and where each of its sources is written.
pub(crate) fn tunnel(top: &Table<'_>) -> (Tunnel, Vec<Place>) {
    let (mut tunnel, mut places) = (Tunnel { source: Vec::new(), gue_port: GUE_PORT }, Vec::new());
    let Some(table) = sub_table(top, "tunnel", keys::TUNNEL) else { return (tunnel, places) };
    for node in table.value("source").map(|list| list.items()).unwrap_or_default() {
        let Some(net) = node.prefix() else { continue };
        let v4 = |net: &IpNet| net.addr().is_ipv4();
        match tunnel.source.iter().find(|other| v4(other) == v4(&net)) {
            Some(other) => node.fail(format_args!(
                "has two of one family ({} and {}); give at most one IPv4 and one IPv6 source",
                bare(other),
                bare(&net)
            )),
            None => {
                tunnel.source.push(net);
                places.push(node.place);
            }
        }
    }
    if let Some(port) = table.value("gue_port").and_then(|node| node.integer(1..=u16::MAX)) {
        tunnel.gue_port = port;
    }
    (tunnel, places)
}

/// `[guard]`, or its defaults.
pub(crate) fn guard(top: &Table<'_>) -> Guard {
    let defaults = Guard::default();
    let Some(table) = sub_table(top, "guard", keys::GUARD) else { return defaults };
    let gateway =
        table.value("gateway").map(|list| list.items().iter().filter_map(|node| node.address()).collect());
    let freeze_max = table.value("freeze_max").and_then(|node| node.duration(Duration::ZERO..=DAY));
    Guard {
        panic_threshold: table
            .value("panic_threshold")
            .and_then(|node| node.share())
            .unwrap_or(defaults.panic_threshold),
        freeze_max: freeze_max.unwrap_or(defaults.freeze_max),
        gateway: gateway.or(defaults.gateway),
    }
}

/// An address without the prefix length of a whole address.
fn bare(net: &IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// `hash_seed`: a number, or a file that holds one.
pub(crate) fn hash_seed(top: &Table<'_>) -> u64 {
    let Some(node) = top.value("hash_seed") else { return 0 };
    if !node.is_table() {
        return node.integer(0..=u64::MAX).unwrap_or(0);
    }
    seed_from_file(&node).unwrap_or(0)
}

fn seed_from_file(node: &Node<'_>) -> Option<u64> {
    let table = node.table("hash_seed".to_owned(), keys::FILE)?;
    let file = table.required("file", "file = \"seed\"")?;
    let path = file.place.source.sibling(file.string("a path")?);
    let text =
        source::read_text(&path).map_err(|cause| file.fail(format_args!("cannot be used: {cause}"))).ok()?;
    let text = text.trim();
    let seed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    if seed.is_err() {
        file.fail(format_args!(
            "{} must hold one number, decimal or 0x…, of at most 64 bits",
            path.display()
        ));
    }
    seed.ok()
}

/// `next_program`: where a program is pinned.
pub(crate) fn next_program(top: &Table<'_>) -> Option<PathBuf> {
    let node = top.value("next_program")?;
    let path = PathBuf::from(node.string("the path of a pinned XDP program")?);
    if !path.is_absolute() {
        node.fail(format_args!(
            "must be an absolute path such as \"/sys/fs/bpf/filter\", got {}",
            node.written()
        ));
        return None;
    }
    Some(path)
}

/// Keys of the contract at the top level that have no effect yet.
pub(crate) fn refuse_later_keys(top: &Table<'_>) {
    if let Some(node) = top.value("metrics") {
        node.fail("is not available in this version: remove the table");
    }
}

pub(crate) fn sub_table<'a>(
    top: &Table<'a>,
    key: &'static str,
    keys: &'static [&'static str],
) -> Option<Table<'a>> {
    top.value(key)?.table(format!("[{key}]"), keys)
}
