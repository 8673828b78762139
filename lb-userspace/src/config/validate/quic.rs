//! Connection IDs name servers: every server by a name of its own, in every configuration that services go by.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::findings::Findings;
use crate::config::model::{CidConfig, Config, Pool, Protocol, ServerId};
use crate::config::quic::QuicDraft;
use crate::config::resolve::{Places, PoolPlaces};

/// Gives services their configurations, and reports what connection IDs could not be routed by.
pub(crate) fn fill(config: &mut Config, places: &Places, findings: &Findings) {
    let mut pools: Vec<_> = places.pools.iter().collect();
    pools.sort_by_key(|(_, place)| place.order);
    for (name, place) in &pools {
        unique(&config.pools[*name], place, findings);
    }
    let mut services: Vec<_> = places.services.iter().collect();
    services.sort_by_key(|(_, place)| place.order);
    let mut asking = BTreeSet::new();
    for (name, place) in services {
        let Some((draft, at)) = &place.quic else { continue };
        let service = &config.services[name];
        let pool = &config.pools[&service.pool];
        asking.insert(pool.name.clone());
        let fail = |message: String| findings.error(at, &place.subject, "quic_cid", message);
        if !service.protocols.contains(&Protocol::Udp) {
            fail("quic_cid is for protocol \"udp\", which this service does not have: remove it".to_owned());
            continue;
        }
        let configs = match draft {
            QuicDraft::Given(configs) => configs.clone(),
            QuicDraft::Suggested => match suggested(pool) {
                Ok(configs) => configs,
                Err(message) => {
                    fail(message);
                    continue;
                }
            },
        };
        for config in &configs {
            complete(name, *config, pool, &places.pools[&pool.name], findings);
        }
        if let Some(service) = config.services.get_mut(name) {
            service.quic = configs;
        }
    }
    for (name, place) in pools.iter().filter(|(name, _)| !asking.contains(*name)) {
        for backend in config.pools[*name].backends.values() {
            let at = &place.backends[&backend.name];
            if let Some(written) = &at.server_id {
                let message =
                    "server_id is used by no service: add quic_cid = true to the one that it is for";
                findings.warning(written, &at.subject, "server_id", message);
            }
        }
    }
}

/// A connection ID must name one server.
fn unique(pool: &Pool, place: &PoolPlaces, findings: &Findings) {
    let mut seen: BTreeMap<ServerId, &str> = BTreeMap::new();
    for (name, backend) in &pool.backends {
        let at = &place.backends[name];
        for id in &backend.server_ids {
            if let (Some(first), Some(written)) = (seen.insert(*id, name), &at.server_id) {
                let message = format!(
                    "server_id {id} is backend {first:?}'s too: a connection ID must name one server"
                );
                findings.error(written, &at.subject, "server_id", message);
            }
        }
    }
}

/// The one configuration of backends whose server ids are of one length.
fn suggested(pool: &Pool) -> Result<Vec<CidConfig>, String> {
    let ids = pool.backends.values().flat_map(|backend| &backend.server_ids);
    let lengths: BTreeSet<usize> = ids.map(|id| id.len()).collect();
    let lengths: Vec<usize> = lengths.into_iter().collect();
    match lengths.as_slice() {
        [] => Err(format!(
            "quic_cid goes by server ids, and no backend of pool {:?} has one: add server_id = \"…\" to each",
            pool.name
        )),
        [length] => Ok(vec![CidConfig { config_id: 0, server_id_length: *length as u8 }]),
        [first, .., last] => Err(format!(
            "quic_cid = true goes by server ids of one length, and backends of pool {:?} have some of {first} to {last} \
             bytes: say which configuration has which, like quic_cid = [{{ config_id = 0, server_id_length = {first} }}, …]",
            pool.name
        )),
    }
}

/// Every backend has a server id of the configuration's length.
fn complete(service: &str, config: CidConfig, pool: &Pool, place: &PoolPlaces, findings: &Findings) {
    let CidConfig { config_id, server_id_length } = config;
    let lacks = |ids: &[ServerId]| ids.iter().all(|id| id.len() != usize::from(server_id_length));
    for backend in pool.backends.values().filter(|backend| lacks(&backend.server_ids)) {
        let at = &place.backends[&backend.name];
        let message = format!(
            "no server_id of {server_id_length} bytes, which configuration {config_id} of service {service:?} goes by: add one"
        );
        findings.error(at.server_id.as_ref().unwrap_or(&at.name), &at.subject, "server_id", message);
    }
}
