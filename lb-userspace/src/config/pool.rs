//! `[[pool]]` and `[[pool.backend]]`, and the same tables inside a service.

use std::time::Duration;

use super::check::{self, CheckDraft};
use super::keys;
use super::model::{Backend, LastResort};
use super::quic;
use super::reader::{Node, Table};
use super::scalar::{Alphabet, DAY, show};
use super::source::Place;

/// A pool as read, not yet compared with the others.
pub(crate) struct PoolDraft {
    /// Its name, or the service's.
    pub(crate) name: String,
    /// How messages name it.
    pub(crate) subject: String,
    /// The table.
    pub(crate) place: Place,
    /// What it has besides checks and backends.
    pub(crate) settings: Settings,
    /// Empty where none is given: the default checks follow from the services.
    pub(crate) checks: Vec<CheckDraft>,
    /// In the order of the file.
    pub(crate) backends: Vec<BackendDraft>,
    /// Backends written, valid or not.
    pub(crate) backends_written: usize,
}

/// A backend as read.
pub(crate) struct BackendDraft {
    /// What was read.
    pub(crate) backend: Backend,
    /// How messages name it.
    pub(crate) subject: String,
    /// Its address.
    pub(crate) address_place: Place,
    /// Its name.
    pub(crate) name_place: Place,
    /// Its port, where given.
    pub(crate) port_place: Option<Place>,
    /// Its server ids, where given.
    pub(crate) server_id_place: Option<Place>,
}

/// The keys of a pool that `[defaults]` may hold.
pub(crate) struct Settings {
    pub(crate) tier_takeover_below: f64,
    pub(crate) last_resort: LastResort,
    pub(crate) max_ejected: f64,
    pub(crate) passive_sample: u32,
    pub(crate) passive_excess: f64,
    pub(crate) slow_start: Duration,
    pub(crate) hold_down: Duration,
    pub(crate) hold_down_max: Duration,
}

/// Reads one `[[pool]]`; `None` where it has no usable name.
pub(crate) fn read(table: &Table<'_>) -> Option<PoolDraft> {
    let name = table.required("name", "name = \"…\"").and_then(|node| node.name(Alphabet::Strict));
    let pool = members(table, name.clone().unwrap_or_default(), settings(table));
    name.map(|_| pool)
}

/// Reads the pool that a service's own `health` and `backend` tables make.
pub(crate) fn read_nested(service: &Table<'_>, name: String) -> PoolDraft {
    // The pool's other settings come from `[defaults]` alone.
    let settings = service.defaults().map_or_else(Settings::default, settings);
    members(service, name, settings)
}

fn members(table: &Table<'_>, name: String, settings: Settings) -> PoolDraft {
    let subject = table.subject.to_string();
    let with_defaults = |inner: Table<'_>, read: &mut dyn FnMut(&Table<'_>)| match table.defaults() {
        Some(defaults) => read(&inner.with_defaults(defaults)),
        None => read(&inner),
    };
    let mut checks = Vec::new();
    for inner in tables(table, table.value("health"), "health", keys::HEALTH) {
        with_defaults(inner, &mut |inner| checks.push(check::read(inner)));
    }
    if table.own("health").is_none() {
        // Meant for all pools, which need not all have tunnels.
        checks.iter_mut().for_each(|check| check.places.through = None);
    }
    let listed = table.own("backend");
    let backends_written = listed.as_ref().map_or(0, |list| list.items().len());
    let backends = tables(table, listed, "backend", keys::BACKEND).iter().filter_map(read_backend).collect();
    PoolDraft { name, subject, place: table.place.clone(), settings, checks, backends, backends_written }
}

fn tables<'a>(
    parent: &Table<'a>,
    list: Option<Node<'a>>,
    kind: &str,
    keys: &'static [&'static str],
) -> Vec<Table<'a>> {
    let subject = |list: &Node<'_>| match list.subject == parent.subject {
        true => format!("{} {kind}", parent.subject),
        false => format!("{} {kind}", list.subject),
    };
    list.map(|list| list.tables(&subject(&list), keys)).unwrap_or_default()
}

fn read_backend(table: &Table<'_>) -> Option<BackendDraft> {
    let name_node = table.required("name", "name = \"…\"");
    let name = name_node.as_ref().and_then(|node| node.name(Alphabet::Host));
    let address_node = table.required("address", "address = \"10.0.0.11\"");
    let address = address_node.as_ref().and_then(|node| node.address());
    let port_node = table.value("port");
    let port = port_node.as_ref().and_then(|node| node.integer(1..=u16::MAX));
    let weight = table.value("weight").and_then(|node| node.integer(0..=1000)).unwrap_or(100);
    let tier = table.value("tier").and_then(|node| node.integer(0..=u8::MAX)).unwrap_or(0);
    let host = table.value("host").and_then(|node| node.name(Alphabet::Host));
    let mac = table.value("mac").and_then(|node| node.mac());
    let server_ids = quic::server_ids(table);
    let server_id_place = table.value("server_id").map(|node| node.place);
    Some(BackendDraft {
        backend: Backend { name: name?, address: address?, port, weight, tier, host, mac, server_ids },
        subject: table.subject.to_string(),
        address_place: address_node?.place,
        name_place: name_node?.place,
        port_place: port_node.map(|node| node.place),
        server_id_place,
    })
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            tier_takeover_below: 0.0,
            last_resort: LastResort::Keep,
            max_ejected: 0.5,
            passive_sample: 20,
            passive_excess: 0.5,
            slow_start: Duration::ZERO,
            hold_down: Duration::from_secs(1),
            hold_down_max: Duration::from_secs(300),
        }
    }
}

/// Reads the keys that `[defaults]` may hold.
pub(crate) fn settings(table: &Table<'_>) -> Settings {
    let base = Settings::default();
    let share = |key| table.value(key).and_then(|node| node.share());
    let duration = |key, least| table.value(key).and_then(|node| node.duration(least..=DAY));
    let last_resort = table.value("last_resort").and_then(|node| {
        node.word(&[
            ("keep", Some(LastResort::Keep)),
            ("drop", Some(LastResort::Drop)),
            ("reset", Some(LastResort::Reset)),
        ])
    });
    let least = Duration::from_millis(1);
    let settings = Settings {
        tier_takeover_below: share("tier_takeover_below").unwrap_or(base.tier_takeover_below),
        last_resort: last_resort.unwrap_or(base.last_resort),
        max_ejected: share("max_ejected").unwrap_or(base.max_ejected),
        passive_sample: table
            .value("passive_sample")
            .and_then(|node| node.integer(0..=1_000_000))
            .unwrap_or(base.passive_sample),
        passive_excess: share("passive_excess").unwrap_or(base.passive_excess),
        slow_start: duration("slow_start", Duration::ZERO).unwrap_or(base.slow_start),
        hold_down: duration("hold_down", Duration::ZERO).unwrap_or(base.hold_down),
        hold_down_max: duration("hold_down_max", least).unwrap_or(base.hold_down_max),
    };
    if settings.hold_down > settings.hold_down_max {
        let (first, longest) = (show(settings.hold_down), show(settings.hold_down_max));
        let message =
            format!("hold_down {first} is longer than hold_down_max {longest}: lower it or raise the other");
        let place = table.value("hold_down").map_or_else(|| table.place.clone(), |node| node.place);
        table.findings.error(&place, &table.subject, "hold_down", message);
    }
    settings
}
