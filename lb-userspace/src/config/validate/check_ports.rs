//! Ports of checks that give none, and the checks of pools that give none.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::findings::Findings;
use crate::config::model::{Check, CheckKind, Pool, Protocol, Service};
use crate::config::resolve::{Places, PoolPlaces};
use crate::config::validate::users::Users;

/// Gives every check of every pool its port, and every pool its checks.
pub(crate) fn fill(
    pools: &mut BTreeMap<String, Pool>,
    users: &Users<'_>,
    places: &Places,
    findings: &Findings,
) {
    for (name, place) in &places.pools {
        let Some(pool) = pools.get_mut(name) else { continue };
        let users = users.of_pool(name);
        pool.checks = match pool.checks.as_slice() {
            [] => default_checks(users, places, place, findings),
            given => with_ports(given, users, places, place, findings),
        };
    }
}

/// `syn` to the port and `ping`; `ping` alone where no TCP service names a port.
fn default_checks(
    users: &[&Service],
    places: &Places,
    place: &PoolPlaces,
    findings: &Findings,
) -> Vec<Check> {
    let ping = Check::with_defaults(CheckKind::Ping);
    let tcp: Vec<_> = users.iter().copied().filter(|service| is_tcp(service)).collect();
    let ports = first_ports(&tcp, places);
    let mut ports_left = ports.iter();
    match (ports_left.next(), ports_left.next()) {
        (None, _) => vec![ping],
        (Some(port), None) => {
            vec![Check { port: Some(*port), ..Check::with_defaults(CheckKind::Syn) }, ping]
        }
        (Some(_), Some(_)) => {
            let message = format!(
                "the default check needs one port, but {}: add a health table with type and port",
                list(&tcp, places)
            );
            findings.error(&place.place, &place.subject, "health", message);
            vec![ping]
        }
    }
}

fn with_ports(
    given: &[Check],
    users: &[&Service],
    places: &Places,
    place: &PoolPlaces,
    findings: &Findings,
) -> Vec<Check> {
    let mut checks = given.to_vec();
    for (check, (subject, at)) in checks.iter_mut().zip(&place.checks) {
        if check.port.is_some() || !check.kind.has_port() {
            continue;
        }
        let spoken = match check.kind {
            CheckKind::Udp(_) | CheckKind::Dns(_) => Protocol::Udp,
            _ => Protocol::Tcp,
        };
        let speak: Vec<_> =
            users.iter().copied().filter(|service| service.protocols.contains(&spoken)).collect();
        let users = if speak.is_empty() { users } else { &speak };
        let ports = first_ports(users, places);
        check.port = ports.first().copied().filter(|_| ports.len() == 1);
        // A program may do without.
        if matches!(check.kind, CheckKind::Exec(_)) {
            continue;
        }
        // A service with an error of its own may be the one that gives the port.
        if check.port.is_none() && (!users.is_empty() || !findings.has_errors()) {
            let why = match (users.is_empty(), ports.is_empty()) {
                (true, _) => "no service uses the pool".to_owned(),
                (false, true) => "its service takes any port".to_owned(),
                (false, false) => list(users, places),
            };
            let message = format!("port is needed for type {:?}: {why}; add port = …", check.kind.name());
            findings.error(at, subject, "port", message);
        }
    }
    checks
}

fn is_tcp(service: &Service) -> bool {
    service.protocols.contains(&Protocol::Tcp)
}

fn first_ports(services: &[&Service], places: &Places) -> BTreeSet<u16> {
    services.iter().filter_map(|service| places.services[&service.name].first_port).collect()
}

/// `services "a" (80) and "b" (443) differ`.
fn list(services: &[&Service], places: &Places) -> String {
    let mut ordered = services.to_vec();
    ordered.sort_by_key(|service| places.services[&service.name].order);
    let shown: Vec<_> =
        ordered.iter().map(|service| format!("{:?} ({})", service.name, service.ports)).collect();
    format!("services {} differ", shown.join(" and "))
}
