//! What checks take from services: ports, and VIPs of checks through tunnels; and the checks of pools that give none.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use crate::config::findings::Findings;
use crate::config::model::{
    Check, CheckKind, Inside, Mode, Pool, PortOf, Ports, ProbeSize, Protocol, Service, Through, Vip,
};
use crate::config::resolve::{CheckPlaces, Places, PoolPlaces};
use crate::config::validate::users::Users;

/// How often a packet of full size is tried.
const FULL_SIZE_EVERY: Duration = Duration::from_secs(1);
/// Least time that its answer is waited for.
const FULL_SIZE_TIMEOUT: Duration = Duration::from_millis(200);

/// What checks through tunnels need to know besides services.
#[derive(Clone, Copy)]
pub(crate) struct Ways<'a> {
    /// The VIPs by name.
    pub(crate) vips: &'a BTreeMap<String, Vip>,
    /// `[tunnel] gue_port`.
    pub(crate) gue_port: u16,
}

/// Gives every check of every pool its port, and every pool its checks.
pub(crate) fn fill(
    pools: &mut BTreeMap<String, Pool>,
    users: &Users<'_>,
    ways: Ways<'_>,
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
        for (check, at) in pool.checks.iter().zip(&place.checks) {
            let told = at.through.as_ref().filter(|_| check.through == Through::Tunnel);
            if let Some(told) = told.filter(|_| !users.is_empty() && !users.iter().any(has_tunnel)) {
                let why = "through \"tunnel\": no service of the pool has one, mode \"nat\" needs none; the check goes \
                           directly";
                findings.warning(told, &at.subject, "through", why);
            }
        }
        let asked = pool.checks.iter().flat_map(|check| through(check, users, ways));
        pool.checks = asked.collect();
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
            vec![
                Check { port: Some(*port), port_of: PortOf::Service, ..Check::with_defaults(CheckKind::Syn) },
                ping,
            ]
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
    for (check, CheckPlaces { subject, place: at, .. }) in checks.iter_mut().zip(&place.checks) {
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
        check.port_of = PortOf::Service;
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

/// A check through tunnels once for each VIP and mode that use the pool, with small and with full packets.
fn through(check: &Check, users: &[&Service], ways: Ways<'_>) -> Vec<Check> {
    if check.through == Through::Direct {
        return vec![check.clone()];
    }
    let tunnelled: Vec<&Service> = users.iter().filter(|service| has_tunnel(service)).copied().collect();
    let users = tunnelled.as_slice();
    let serves = |service: &&&Service| match check.port {
        Some(port) => is_tcp(service) && contains(&service.ports, port),
        None => true,
    };
    let serving: Vec<&Service> = users.iter().filter(serves).copied().collect();
    let asked = if serving.is_empty() { users } else { &serving };
    let vips = asked.iter().filter_map(|service| Some((ways.vips.get(&service.vip)?, service.mode)));
    let asked: BTreeSet<(IpAddr, Mode)> =
        vips.flat_map(|(vip, mode)| vip.addresses.iter().map(move |address| (*address, mode))).collect();
    if asked.is_empty() {
        return vec![Check { through: Through::Direct, ..check.clone() }];
    }
    let pair = |(vip, mode)| {
        let inside = |size| Some(Inside { vip, mode, gue_port: ways.gue_port, size });
        let small = Check { inside: inside(ProbeSize::Small), ..check.clone() };
        let full = Check {
            interval: check.interval.max(FULL_SIZE_EVERY),
            timeout: check.timeout.max(FULL_SIZE_TIMEOUT),
            rise: 1,
            fall: check.fall.max(2),
            inside: inside(ProbeSize::Full),
            ..check.clone()
        };
        [small, full]
    };
    asked.into_iter().flat_map(pair).collect()
}

/// Whether backends get the service's packets as they came, inside an outer header or by their MAC.
fn has_tunnel(service: &&Service) -> bool {
    service.mode != Mode::Nat
}

fn contains(ports: &Ports, port: u16) -> bool {
    match ports {
        Ports::Any => true,
        Ports::Ranges(ranges) => ranges.iter().any(|(first, last)| (*first..=*last).contains(&port)),
    }
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
