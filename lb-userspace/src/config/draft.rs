//! From files to drafts: every table read on its own, nothing looked up in another yet.

use std::path::PathBuf;
use std::rc::Rc;

use toml::Spanned;
use toml::de::DeTable;

use super::findings::Findings;
use super::model::{Events, Guard, Hook, Interface, Limits, Mac, Tunnel};
use super::pool::{self, PoolDraft};
use super::reader::Table;
use super::service::{self, ServiceDraft};
use super::source::{self, Place, Source};
use super::vip::{self, VipDraft};
use super::{check, global, hook, interface, keys, list};
use crate::filter::Prefixes;

/// All tables of all files.
pub(crate) struct Drafts {
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) gateway_mac: Option<Mac>,
    pub(crate) mtu: Option<u16>,
    pub(crate) hash_seed: u64,
    pub(crate) limits: Limits,
    pub(crate) tunnel: Tunnel,
    /// Where its sources are written.
    pub(crate) tunnel_sources: Vec<Place>,
    pub(crate) deny: Prefixes,
    pub(crate) next_program: Option<PathBuf>,
    pub(crate) guard: Guard,
    pub(crate) vips: Vec<VipDraft>,
    /// Settings of VIPs that services give by address.
    pub(crate) vip_defaults: vip::Settings,
    pub(crate) pools: Vec<PoolDraft>,
    pub(crate) services: Vec<ServiceDraft>,
    pub(crate) events: Events,
    pub(crate) hooks: Vec<Hook>,
}

/// Reads the main file and the files that it includes; `None` where a file is no TOML.
pub(crate) fn read(main: &Rc<Source>, findings: &Findings) -> Option<Drafts> {
    let tree = parse(main, findings);
    let top = Table::top(tree.as_ref()?, keys::TOP, main, findings);
    let included = included(&top);
    let trees: Vec<_> = included.iter().map(|source| (source, parse(source, findings))).collect();
    if trees.iter().any(|(_, tree)| tree.is_none()) {
        return None;
    }
    let defaults = top.value("defaults").and_then(|node| node.table("[defaults]".into(), keys::DEFAULTS));
    let vip_defaults = defaults.as_ref().map(read_defaults).unwrap_or_default();
    global::refuse_later_keys(&top);
    let (tunnel, tunnel_sources) = global::tunnel(&top);
    let mut drafts = Drafts {
        interfaces: interface::read(&top),
        gateway_mac: top.value("gateway_mac").and_then(|node| node.mac()),
        mtu: top.value("mtu").and_then(|node| interface::mtu(&node)),
        hash_seed: global::hash_seed(&top),
        limits: global::limits(&top),
        tunnel,
        tunnel_sources,
        deny: list::read(&top, "deny"),
        next_program: global::next_program(&top),
        guard: global::guard(&top),
        vips: Vec::new(),
        vip_defaults,
        pools: Vec::new(),
        services: Vec::new(),
        events: hook::events(&top),
        hooks: hook::read(&top),
    };
    drafts.add(&top, defaults.as_ref());
    for (source, tree) in &trees {
        if let Some(tree) = tree {
            drafts.add(&Table::top(tree, keys::INCLUDED, source, findings), defaults.as_ref());
        }
    }
    if let Some(defaults) = &defaults {
        drafts.warn_of_unused_checks(defaults);
    }
    Some(drafts)
}

impl Drafts {
    /// Warns of keys of health tables in `[defaults]` where there is no health table.
    fn warn_of_unused_checks(&self, defaults: &Table<'_>) {
        if self.pools.iter().any(|pool| !pool.checks.is_empty()) {
            return;
        }
        let of_checks = keys::HEALTH.iter().filter(|key| **key != "port" && keys::DEFAULTS.contains(key));
        for node in of_checks.filter_map(|key| defaults.own(key)) {
            node.warn("is for health tables, and there is none: default checks keep their own settings");
        }
    }

    /// Adds the tables of one file.
    fn add(&mut self, top: &Table<'_>, defaults: Option<&Table<'_>>) {
        each(top, "vip", keys::VIP, defaults, |table| self.vips.extend(vip::read(table)));
        each(top, "pool", keys::POOL, defaults, |table| self.pools.extend(pool::read(table)));
        each(top, "service", keys::SERVICE, defaults, |table| {
            let (service, nested) = service::read(table);
            self.services.push(service);
            self.pools.extend(nested);
        });
    }
}

fn each(
    top: &Table<'_>,
    key: &'static str,
    keys: &'static [&'static str],
    defaults: Option<&Table<'_>>,
    mut read: impl FnMut(&Table<'_>),
) {
    for table in top.value(key).map(|list| list.tables(key, keys)).unwrap_or_default() {
        match defaults {
            Some(defaults) => read(&table.with_defaults(defaults)),
            None => read(&table),
        }
    }
}

/// Reads every value of `[defaults]` once, so that one that no table takes is checked, too.
fn read_defaults(defaults: &Table<'_>) -> vip::Settings {
    pool::settings(defaults);
    service::validate_defaults(defaults);
    check::validate_defaults(defaults);
    for table in
        defaults.value("health").map(|l| l.tables("[defaults] health", keys::HEALTH)).unwrap_or_default()
    {
        check::read(&table.with_defaults(defaults));
    }
    vip::settings(defaults)
}

/// The files that `include` names, each once.
fn included(top: &Table<'_>) -> Vec<Rc<Source>> {
    let mut found: Vec<Rc<Source>> = Vec::new();
    for node in top.value("include").map(|list| list.items()).unwrap_or_default() {
        let Some(pattern) = node.string("a path or a pattern such as \"conf.d/*.toml\"") else { continue };
        let files = match source::expand(&top.place.source.sibling(pattern)) {
            Ok(files) => files,
            Err(cause) => {
                node.fail(format_args!("{pattern:?} cannot be listed: {cause}"));
                continue;
            }
        };
        for file in files {
            if file == top.place.source.file || found.iter().any(|source| source.file == file) {
                continue;
            }
            match Source::read(&file) {
                Ok(source) => found.push(source),
                Err(cause) => node.fail(format_args!("{pattern:?} cannot be used: {cause}")),
            }
        }
    }
    found
}

/// Parses one file; every syntax error is a finding.
pub(super) fn parse<'a>(source: &'a Rc<Source>, findings: &Findings) -> Option<Spanned<DeTable<'a>>> {
    let (tree, errors) = DeTable::parse_recoverable(&source.text);
    for error in &errors {
        let place = source.place(error.span().map_or(0, |span| span.start));
        findings.error(&place, "", "", format!("not valid TOML: {}", error.message()));
    }
    errors.is_empty().then_some(tree)
}
