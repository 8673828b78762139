//! `[[service]]` and `[service.timeouts]`.

use std::net::IpAddr;
use std::time::Duration;

use super::keys;
use super::limit;
use super::model::{Mode, NewFlowLimit, OnDown, Protocol, Scheduler, Snat, Timeouts};
use super::pool::{self, PoolDraft};
use super::ports::{self, PortsDraft};
use super::quic::{self, QuicDraft};
use super::reader::{Node, Table};
use super::scalar::{Alphabet, DAY};
use super::snat;
use super::source::Place;

/// A service as read: what it names is not yet looked up. What could not be read is absent, or holds
/// its default, and has its finding.
pub(crate) struct ServiceDraft {
    pub(crate) name: String,
    /// How messages name it.
    pub(crate) subject: String,
    /// The table.
    pub(crate) place: Place,
    pub(crate) vip: Option<(VipRef, Place)>,
    pub(crate) ports: Option<PortsDraft>,
    pub(crate) protocols: Vec<Protocol>,
    /// The name of a pool, and where it is written.
    pub(crate) pool: Option<(String, Place)>,
    pub(crate) settings: Settings,
}

/// How a service names its VIP.
pub(crate) enum VipRef {
    /// By address.
    Address(IpAddr),
    /// By the name of a `[[vip]]`.
    Name(String),
}

/// The other keys of a service that `[defaults]` may hold.
pub(crate) struct Settings {
    pub(crate) mode: Option<(Mode, Place)>,
    /// In the order of the file, each with its place.
    pub(crate) snat: Vec<(Snat, Place)>,
    pub(crate) scheduler: Option<(Scheduler, Place)>,
    pub(crate) table_size: Option<(u32, Place)>,
    pub(crate) on_down: OnDown,
    pub(crate) quic: Option<(QuicDraft, Place)>,
    pub(crate) track: bool,
    pub(crate) timeouts: Timeouts,
    /// The service's own limit, which may be none.
    pub(crate) new_flow_limit: Option<(Option<NewFlowLimit>, Place)>,
}

/// Reads one `[[service]]`, and the pool that its nested tables make.
pub(crate) fn read(table: &Table<'_>) -> (ServiceDraft, Option<PoolDraft>) {
    let name = table.required("name", "name = \"…\"").and_then(|node| node.name(Alphabet::Strict));
    let name = name.unwrap_or_default();
    let vip = table.required("vip", "vip = \"198.51.100.10\"").and_then(|node| vip(&node));
    let ports = ports::read(table);
    let protocols = table.required("protocol", "protocol = \"tcp\"");
    let protocols = protocols.map(|list| protocols_of(&list)).unwrap_or_default();
    if table.value("mode").is_none() {
        table.error("mode", "`mode` is missing: add mode = \"nat\", mode = \"ipip\" or mode = \"dsr-l2\"");
    }
    let settings = settings(table);
    let (pool, nested) = pool_of(table, &name);
    let (subject, place) = (table.subject.to_string(), table.place.clone());
    (ServiceDraft { name, subject, place, vip, ports, protocols, pool, settings }, nested)
}

/// The pool that a service names, or that it has of its own.
fn pool_of(table: &Table<'_>, name: &str) -> (Option<(String, Place)>, Option<PoolDraft>) {
    let nested = table.own("backend").or_else(|| table.own("health"));
    let named = table.own("pool");
    if let (Some(named), Some(nested)) = (&named, &nested) {
        named.fail(format_args!(
            "and a nested {} table are both given: move the table to the [[pool]], or remove pool",
            nested.key
        ));
        return (None, None);
    }
    if let Some(nested) = nested {
        let own = (name.to_owned(), nested.place);
        return (Some(own), Some(pool::read_nested(table, name.to_owned())));
    }
    match table.value("pool") {
        Some(node) => (pool_name(&node), None),
        None => {
            table.error("pool", "no backends: add [[service.backend]] tables, or pool = \"…\"");
            (None, None)
        }
    }
}

fn vip(node: &Node<'_>) -> Option<(VipRef, Place)> {
    let text = node.string("the name of a [[vip]], or an address")?;
    // What no name has was meant to be an address, and is told what is wrong with it.
    let vip = match text.is_empty() || text.contains(['.', ':', '/']) {
        true => VipRef::Address(node.address()?),
        false => VipRef::Name(text.to_owned()),
    };
    Some((vip, node.place.clone()))
}

fn pool_name(node: &Node<'_>) -> Option<(String, Place)> {
    let text = node.string("the name of a [[pool]]")?;
    if text.is_empty() {
        node.fail("must be the name of a [[pool]], got \"\"");
        return None;
    }
    Some((text.to_owned(), node.place.clone()))
}

fn protocols_of(list: &Node<'_>) -> Vec<Protocol> {
    let items = list.items();
    if items.is_empty() {
        list.fail("must hold at least one of: tcp, udp, sctp");
    }
    let mut found = Vec::new();
    for node in items {
        let word = node.word(&[
            ("tcp", Some(Protocol::Tcp)),
            ("udp", Some(Protocol::Udp)),
            ("sctp", Some(Protocol::Sctp)),
        ]);
        match word {
            Some(protocol) if found.contains(&protocol) => {
                node.fail(format_args!("{} is given twice: remove one", node.written()));
            }
            Some(protocol) => found.push(protocol),
            None => {}
        }
    }
    found
}

/// Checks the values that `[defaults]` gives to services.
pub(crate) fn validate_defaults(defaults: &Table<'_>) {
    settings(defaults);
    defaults.value("vip").map(|node| vip(&node).is_some());
    defaults.value("pool").map(|node| pool_name(&node));
    defaults.value("protocol").map(|list| protocols_of(&list));
    if defaults.value("port").or_else(|| defaults.value("ports")).is_some() {
        ports::read(defaults);
    }
}

/// Reads the keys that `[defaults]` may hold.
pub(crate) fn settings(table: &Table<'_>) -> Settings {
    let mode = table.value("mode").and_then(|node| {
        let modes = [
            ("dsr-l2", Some(Mode::DsrL2)),
            ("ipip", Some(Mode::Ipip)),
            ("gue", Some(Mode::Gue)),
            ("nat", Some(Mode::Nat)),
        ];
        Some((node.word(&modes)?, node.place))
    });
    let scheduler = table.value("scheduler").and_then(|node| {
        let words: Vec<_> =
            Scheduler::ALL.iter().map(|scheduler| (scheduler.name(), Some(*scheduler))).collect();
        Some((node.word(&words)?, node.place))
    });
    let table_size = table.value("table_size").and_then(|node| {
        let size = node.integer(2..=1 << 24)?;
        if !is_prime(size) {
            node.fail(format_args!("{size} is not a prime; the next one is {}", next_prime(size)));
            return None;
        }
        Some((size, node.place))
    });
    let on_down = table.value("on_down").and_then(|node| {
        let choices = [
            ("auto", Some(OnDown::Auto)),
            ("reselect", Some(OnDown::Reselect)),
            ("keep", Some(OnDown::Keep)),
            ("reset", Some(OnDown::Reset)),
        ];
        let on_down = node.word(&choices)?;
        if on_down == OnDown::Keep {
            node.warn("\"keep\" goes on sending known flows to a backend that is down");
        }
        Some(on_down)
    });
    let quic = table.value("quic_cid").and_then(|node| Some((quic::read(&node)?, node.place)));
    Settings {
        mode,
        snat: snat::read(table),
        scheduler,
        table_size,
        on_down: on_down.unwrap_or(OnDown::Auto),
        quic,
        track: table.value("track").and_then(|node| node.boolean()).unwrap_or(true),
        timeouts: timeouts(table),
        new_flow_limit: table.own("new_flow_limit").map(|node| (limit::read(&node), node.place)),
    }
}

fn timeouts_table<'a>(table: &Table<'a>) -> Option<Table<'a>> {
    let subject = format!("{} timeouts", table.subject);
    table.own("timeouts")?.table(subject, keys::TIMEOUTS)
}

/// `timeouts`, key by key: the service's own, then those of `[defaults]`, then the built-in ones.
fn timeouts(table: &Table<'_>) -> Timeouts {
    let sources: Vec<_> =
        [timeouts_table(table), table.defaults().and_then(timeouts_table)].into_iter().flatten().collect();
    let read = |key, default| {
        let node = sources.iter().find_map(|source| source.own(key));
        node.and_then(|node| node.duration(Duration::from_secs(1)..=DAY))
            .unwrap_or(Duration::from_secs(default))
    };
    Timeouts {
        tcp_embryonic: read("tcp_embryonic", 60),
        tcp_established: read("tcp_established", 7800),
        tcp_closing: read("tcp_closing", 60),
        udp: read("udp", 120),
    }
}

fn is_prime(number: u32) -> bool {
    number >= 2
        && (2..)
            .take_while(|d| u64::from(*d) * u64::from(*d) <= u64::from(number))
            .all(|d| !number.is_multiple_of(d))
}

fn next_prime(number: u32) -> u32 {
    (number..).find(|candidate| is_prime(*candidate)).unwrap_or(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_table_sizes_are_prime_and_their_neighbours_are_not() {
        for prime in [2, 3, 1021, 4093, 16381, 65537] {
            assert!(is_prime(prime), "{prime}");
        }
        for composite in [0, 1, 4, 1023, 65535, 65536] {
            assert!(!is_prime(composite), "{composite}");
        }
        assert_eq!(next_prime(65536), 65537);
    }
}
