//! Pools have backends, names mean one address, and tables are large enough.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::findings::Findings;
use crate::config::model::{Config, Mode, Pool, Ports, Vip};
use crate::config::resolve::{Places, PoolPlaces};
use crate::config::validate::users::Users;

/// Reports pools and backends that cannot work.
pub(crate) fn validate(config: &Config, users: &Users<'_>, places: &Places, findings: &Findings) {
    let vips = config.vips.values().flat_map(|vip| vip.addresses.iter().map(move |address| (*address, vip)));
    let vips: BTreeMap<IpAddr, &Vip> = vips.collect();
    let mut pools: Vec<_> = places.pools.iter().collect();
    pools.sort_by_key(|(_, place)| place.order);
    let mut by_name: BTreeMap<&str, (IpAddr, String)> = BTreeMap::new();
    for (name, place) in pools {
        if place.backends_written == 0 {
            findings.error(
                &place.place,
                &place.subject,
                "backend",
                "no backends: add at least one backend table",
            );
        }
        for (backend_name, backend) in &config.pools[name].backends {
            let at = &place.backends[backend_name];
            let address = backend.address;
            let (first, first_at) =
                by_name.entry(backend_name).or_insert_with(|| (address, at.address.brief()));
            if *first != address {
                let message = format!(
                    "address {address} differs from backend {backend_name:?} at {first_at} ({first}): \
                     one name is one address in all pools"
                );
                findings.error(&at.address, &at.subject, "address", message);
            }
            if let Some(vip) = vips.get(&address) {
                let message = format!(
                    "address {address} is an address of vip {:?}: give the server's own address",
                    vip.name
                );
                findings.error(&at.address, &at.subject, "address", message);
            }
        }
        repeated_addresses(config, name, place, findings);
        ports(&config.pools[name], users, place, findings);
    }
    table_sizes(config, places, findings);
}

/// Two names for one server give it two shares; allowed, but rarely meant.
fn repeated_addresses(config: &Config, pool: &str, place: &PoolPlaces, findings: &Findings) {
    let mut seen: BTreeMap<IpAddr, &str> = BTreeMap::new();
    let backends = &config.pools[pool].backends;
    for (name, backend) in backends {
        if let Some(first) = seen.insert(backend.address, name) {
            let at = &place.backends[name];
            let message = format!("address {} is also backend {first:?} of this pool", backend.address);
            findings.warning(&at.address, &at.subject, "address", message);
        }
    }
    if !backends.is_empty() && backends.values().all(|backend| backend.weight == 0) {
        let message = "every backend has weight 0: the pool takes no new flows";
        findings.warning(&place.place, &place.subject, "backend", message);
    }
}

/// A backend's port is a promise to rewrite, which mode `nat` alone does.
fn ports(pool: &Pool, users: &Users<'_>, place: &PoolPlaces, findings: &Findings) {
    // Among all users, the first that differs from a backend is the first of all or the first that differs from that.
    let users: Vec<_> =
        users.of_pool(&pool.name).iter().filter(|service| service.mode != Mode::Nat).collect();
    let first = users.first();
    let other = users.iter().find(|service| first.is_some_and(|first| first.ports != service.ports));
    let (first, other) = (first.copied(), other.copied());
    for (name, backend) in &pool.backends {
        let at = &place.backends[name];
        let (Some(port), Some(port_place)) = (backend.port, &at.port) else { continue };
        let kept = Ports::Ranges(vec![(port, port)]);
        if let Some(service) = first.into_iter().chain(other).find(|service| service.ports != kept) {
            let message = format!(
                "port {port} is for mode \"nat\"; mode {:?} of service {:?} keeps the packet's port: remove it",
                service.mode.name(),
                service.name
            );
            findings.error(port_place, &at.subject, "port", message);
        }
    }
}

/// A pool has one table; every backend needs a slot of it.
fn table_sizes(config: &Config, places: &Places, findings: &Findings) {
    let mut asked: BTreeMap<&str, (u32, &str)> = BTreeMap::new();
    let mut services: Vec<_> = places.services.iter().collect();
    services.sort_by_key(|(_, place)| place.order);
    for (name, place) in services {
        let service = &config.services[name];
        let (Some(size), Some(at)) = (service.table_size, &place.table_size) else { continue };
        let pool = &config.pools[&service.pool];
        let (first_size, first) = asked.entry(&pool.name).or_insert((size, name));
        if *first_size != size {
            let message = format!(
                "table_size {size} differs from service {first:?} ({first_size}), which shares pool {:?}: \
                 a pool has one table",
                pool.name
            );
            findings.error(at, &place.subject, "table_size", message);
        }
        let backends = pool.backends.len();
        if u32::try_from(backends).is_ok_and(|backends| size < backends) {
            let message =
                format!("table_size {size} is smaller than the {backends} backends of pool {:?}", pool.name);
            findings.error(at, &place.subject, "table_size", message);
        }
    }
}
