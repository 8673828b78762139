//! Every packet belongs to at most one service.
//!
//! Within a VIP and protocol an exact port beats a range and a range beats any port, so overlap between
//! those kinds has one meaning; overlap within a kind has none.

use std::collections::BTreeMap;

use crate::config::findings::Findings;
use crate::config::model::{Config, Ports, Protocol, Service};
use crate::config::resolve::Places;

/// Ports of one service that compete with others of the same kind.
struct Claim<'a> {
    first: u16,
    last: u16,
    service: &'a str,
}

/// Claims of one VIP and protocol, by kind.
#[derive(Default)]
struct Claims<'a> {
    exact: Vec<Claim<'a>>,
    ranges: Vec<Claim<'a>>,
    any: Vec<Claim<'a>>,
}

/// Reports every service that claims what an earlier one has.
pub(crate) fn validate(config: &Config, places: &Places, findings: &Findings) {
    let mut claims: BTreeMap<(&str, Protocol), Claims<'_>> = BTreeMap::new();
    for service in config.services.values() {
        for protocol in &service.protocols {
            claims.entry((&service.vip, *protocol)).or_default().add(service);
        }
    }
    for ((vip, protocol), claims) in claims {
        for kind in [claims.exact, claims.ranges, claims.any] {
            report(kind, vip, protocol, places, findings);
        }
    }
}

impl<'a> Claims<'a> {
    fn add(&mut self, service: &'a Service) {
        let claim = |first, last| Claim { first, last, service: &service.name };
        match &service.ports {
            Ports::Any => self.any.push(claim(0, u16::MAX)),
            Ports::Ranges(ranges) => {
                for (first, last) in ranges {
                    let kind = if first == last { &mut self.exact } else { &mut self.ranges };
                    kind.push(claim(*first, *last));
                }
            }
        }
    }
}

/// Compares each claim with the earlier one that reaches furthest.
fn report(mut claims: Vec<Claim<'_>>, vip: &str, protocol: Protocol, places: &Places, findings: &Findings) {
    claims.sort_by_key(|claim| (claim.first, places.services[claim.service].order));
    let mut furthest: Option<&Claim<'_>> = None;
    for claim in &claims {
        if let Some(other) =
            furthest.filter(|other| other.last >= claim.first && other.service != claim.service)
        {
            let (first, second) =
                match places.services[other.service].order < places.services[claim.service].order {
                    true => (other, claim),
                    false => (claim, other),
                };
            let (earlier, later) = (&places.services[first.service], &places.services[second.service]);
            let message = format!(
                "{} of vip {vip:?} overlaps service {:?} ({} at {}): change the ports of one of them",
                describe(second, protocol),
                first.service,
                describe(first, protocol),
                earlier.ports.brief()
            );
            findings.error(&later.ports, &later.subject, "port", message);
        }
        if furthest.is_none_or(|other| claim.last > other.last) {
            furthest = Some(claim);
        }
    }
}

fn describe(claim: &Claim<'_>, protocol: Protocol) -> String {
    let ports = match (claim.first, claim.last) {
        (0, _) => Ports::Any,
        range => Ports::Ranges(vec![range]),
    };
    format!("{} port {ports}", protocol.name())
}
