//! The configuration fits into the maps that `[limits]` sizes.

use std::collections::BTreeMap;

use crate::config::findings::Findings;
use crate::config::model::{Config, MOST_CHECKS, Pool, Ports};
use crate::config::resolve::Places;
use crate::config::validate::users::Users;

/// Port ranges that one VIP's record holds, all protocols together.
const RANGES_PER_VIP: usize = 32;

/// Exact ports (per address, protocol and port) per service of `[limits]`.
const EXACT_PORTS_PER_SERVICE: usize = 4;

/// VIP addresses that have an id.
const MOST_VIP_ADDRESSES: usize = 16_383;

/// Slots are allotted by cache lines of this many.
const SLOTS_PER_LINE: u32 = 32;

/// Reports what exceeds a limit, at the table that crosses it.
pub(crate) fn validate(config: &Config, users: &Users<'_>, places: &Places, findings: &Findings) {
    vips(config, places, findings);
    services(config, places, findings);
    pools(config, users, places, findings);
}

fn vips(config: &Config, places: &Places, findings: &Findings) {
    let addresses: usize = config.vips.values().map(|vip| vip.addresses.len()).sum();
    if addresses > MOST_VIP_ADDRESSES
        && let Some((name, place)) = places.vips.last_key_value()
    {
        let message = format!("{addresses} VIP addresses; at most {MOST_VIP_ADDRESSES}");
        findings.error(place, &format!("vip {name:?}"), "address", message);
    }
}

fn services(config: &Config, places: &Places, findings: &Findings) {
    let limit = to_usize(config.limits.services);
    let total = config.services.len();
    let most_exact = limit * EXACT_PORTS_PER_SERVICE;
    let mut exact = 0;
    let mut ranges: BTreeMap<&str, usize> = BTreeMap::new();
    let mut ordered: Vec<_> = places.services.iter().collect();
    ordered.sort_by_key(|(_, place)| place.order);
    for (index, (name, place)) in ordered.into_iter().enumerate() {
        let service = &config.services[name];
        if index == limit {
            let message =
                format!("{total} services, but [limits] services = {limit}: raise it to {total} or more");
            findings.error(&place.place, &place.subject, "", message);
        }
        let Ports::Ranges(ports) = &service.ports else { continue };
        let single = ports.iter().filter(|(first, last)| first == last).count();
        let addresses = config.vips[&service.vip].addresses.len();
        let before = exact;
        exact += single * service.protocols.len() * addresses;
        if before <= most_exact && exact > most_exact {
            let message = format!(
                "{exact} exact ports (each per VIP address and protocol) up to here, but [limits] services = {limit} \
                 has room for {most_exact}: raise it, or write ports as ranges"
            );
            findings.error(&place.ports, &place.subject, "port", message);
        }
        let used = ranges.entry(&service.vip).or_default();
        let before = *used;
        *used += (ports.len() - single) * service.protocols.len();
        if before <= RANGES_PER_VIP && *used > RANGES_PER_VIP {
            let message = format!(
                "{used} port ranges (each per protocol) on vip {:?} up to here; at most {RANGES_PER_VIP}: \
                 merge ranges or use port = \"any\"",
                service.vip
            );
            findings.error(&place.ports, &place.subject, "port", message);
        }
    }
}

fn pools(config: &Config, users: &Users<'_>, places: &Places, findings: &Findings) {
    let limits = &config.limits;
    let total: usize = config.pools.values().map(|pool| pool.backends.len()).sum();
    let sizes = config.table_sizes();
    // Tables in use, each with room for its replacement.
    let pool_slots = |pool: &Pool| match users.of_pool(&pool.name) {
        [] => 0,
        _ => 2 * u64::from(sizes.of(pool).next_multiple_of(SLOTS_PER_LINE)),
    };
    let needed: u64 = config.pools.values().map(pool_slots).sum();
    let (mut backends, mut slots) = (0, 0);
    let mut ordered: Vec<_> = places.pools.iter().collect();
    ordered.sort_by_key(|(_, place)| place.order);
    for (name, place) in ordered {
        let before = (backends, slots);
        let pool = &config.pools[name];
        backends += pool.backends.len();
        slots += pool_slots(pool);
        let limit = to_usize(limits.backends);
        if before.0 <= limit && backends > limit {
            let message = format!(
                "{total} backends (one per backend of a pool), but [limits] backends = {limit}: raise it to {total} or more"
            );
            findings.error(&place.place, &place.subject, "backend", message);
        }
        let limit = u64::from(limits.maglev_slots);
        if before.1 <= limit && slots > limit {
            let message = format!(
                "Maglev tables need {needed} slots (twice their sizes, for replacement), \
                 but [limits] maglev_slots = {limit}: raise it to {needed} or more, or lower table_size"
            );
            findings.error(&place.place, &place.subject, "table_size", message);
        }
    }
}

/// Reports more checks than probes can be told apart of, once checks have their VIPs.
pub(crate) fn checks(config: &Config, places: &Places, findings: &Findings) {
    let mut checks = 0;
    let mut ordered: Vec<_> = places.pools.iter().collect();
    ordered.sort_by_key(|(_, place)| place.order);
    for (name, place) in ordered {
        let before = checks;
        let pool = &config.pools[name];
        checks += pool.checks.len() * pool.backends.len();
        if before <= MOST_CHECKS && checks > MOST_CHECKS {
            let message = format!(
                "{checks} checks of backends up to here (each per backend, through a tunnel per VIP too); at most \
                 {MOST_CHECKS}: give pools fewer checks or backends"
            );
            findings.error(&place.place, &place.subject, "health", message);
        }
    }
}

/// Lossless on every target that runs Linux.
fn to_usize(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
