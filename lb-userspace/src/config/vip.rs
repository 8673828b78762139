//! `[[vip]]`: addresses that weir answers for.

use std::net::IpAddr;

use super::model::{NewFlowLimit, Unmatched, Vip};
use super::reader::Table;
use super::scalar::Alphabet;
use super::source::Place;
use super::{limit, list};
use crate::filter::Prefixes;

/// A VIP as read, not yet compared with the others.
pub(crate) struct VipDraft {
    /// What was read; addresses that are no addresses are left out.
    pub(crate) vip: Vip,
    /// The table.
    pub(crate) place: Place,
    /// One place per address of `vip`.
    pub(crate) address_places: Vec<Place>,
}

/// What a VIP has besides name and addresses; also of VIPs that a service gives by address.
#[derive(Clone)]
pub(crate) struct Settings {
    /// See [`Vip::icmp_echo`].
    pub(crate) icmp_echo: bool,
    /// See [`Vip::unmatched`].
    pub(crate) unmatched: Unmatched,
    /// See [`Vip::allow`].
    pub(crate) allow: Prefixes,
    /// See [`Vip::deny`].
    pub(crate) deny: Prefixes,
    /// See [`Vip::new_flow_limit`].
    pub(crate) new_flow_limit: Option<NewFlowLimit>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            icmp_echo: true,
            unmatched: Unmatched::Auto,
            allow: Prefixes::default(),
            deny: Prefixes::default(),
            new_flow_limit: None,
        }
    }
}

impl Settings {
    /// The VIP with these settings.
    pub(crate) fn vip(self, name: String, addresses: Vec<IpAddr>) -> Vip {
        let Self { icmp_echo, unmatched, allow, deny, new_flow_limit } = self;
        Vip { name, addresses, icmp_echo, unmatched, allow, deny, new_flow_limit }
    }
}

/// Reads one `[[vip]]`; `None` where it has no usable name.
pub(crate) fn read(table: &Table<'_>) -> Option<VipDraft> {
    let name = table.required("name", "name = \"…\"").and_then(|node| node.name(Alphabet::Strict));
    let listed = table.required("address", "address = [\"198.51.100.10\"]");
    let mut addresses = Vec::new();
    let mut address_places = Vec::new();
    let nodes = listed.as_ref().map(|list| list.items()).unwrap_or_default();
    if let (Some(list), true) = (&listed, nodes.is_empty()) {
        list.fail("must hold at least one address");
    }
    for node in nodes {
        if let Some(address) = node.address() {
            addresses.push(address);
            address_places.push(node.place);
        }
    }
    let vip = settings(table).vip(name?, addresses);
    Some(VipDraft { vip, place: table.place.clone(), address_places })
}

/// Reads the keys that `[defaults]` may hold.
pub(crate) fn settings(table: &Table<'_>) -> Settings {
    let unmatched = table.value("unmatched").and_then(|node| {
        node.word(&[
            ("auto", Some(Unmatched::Auto)),
            ("pass", Some(Unmatched::Pass)),
            ("drop", Some(Unmatched::Drop)),
            ("reject", Some(Unmatched::Reject)),
        ])
    });
    let base = Settings::default();
    Settings {
        icmp_echo: table.value("icmp_echo").and_then(|node| node.boolean()).unwrap_or(base.icmp_echo),
        unmatched: unmatched.unwrap_or(base.unmatched),
        allow: list::read_allow(table),
        deny: list::read(table, "deny"),
        new_flow_limit: table.value("new_flow_limit").and_then(|node| limit::read(&node)),
    }
}
