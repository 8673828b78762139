//! Mode `nat` has addresses to send from, of the families of its backends, and nothing else uses them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::layout::SnatWord;

use crate::config::findings::Findings;
use crate::config::model::{Config, Mode, Protocol, Scheduler, Service, Snat, Vip};
use crate::config::resolve::{Places, ServicePlaces};

/// Reports services that cannot be translated, and addresses that cannot be sent from.
pub(crate) fn validate(config: &Config, places: &Places, findings: &Findings) {
    let vips = config.vips.values().flat_map(|vip| vip.addresses.iter().map(move |address| (*address, vip)));
    let vips: BTreeMap<IpAddr, &Vip> = vips.collect();
    let backends: BTreeMap<IpAddr, &str> = config
        .pools
        .values()
        .flat_map(|pool| pool.backends.values())
        .map(|backend| (backend.address, backend.name.as_str()))
        .collect();
    let mut ordered: Vec<_> = places.services.iter().collect();
    ordered.sort_by_key(|(_, place)| place.order);
    let mut seen: BTreeMap<IpAddr, (Snat, String)> = BTreeMap::new();
    let mut ports: u64 = 0;
    for (name, place) in ordered {
        let service = &config.services[name];
        mode(config, service, place, findings);
        for (snat, at) in service.snat.iter().zip(&place.snat) {
            let fail = |message: String| findings.error(at, &place.subject, "snat", message);
            let address = snat.address;
            if let Some(vip) = vips.get(&address) {
                fail(format!("snat {address} is an address of vip {:?}: give one of its own", vip.name));
            }
            if let Some(backend) = backends.get(&address) {
                fail(format!("snat {address} is the address of backend {backend:?}: give one of this host"));
            }
            match seen.get(&address) {
                Some((first, first_at)) if first.ports != snat.ports => fail(format!(
                    "snat {address} has ports {}, but {} at {first_at}: an address has one range",
                    shown(*snat),
                    shown(*first)
                )),
                Some(_) => {}
                None => {
                    seen.insert(address, (*snat, at.brief()));
                    let before = ports;
                    ports += 2 * (u64::from(snat.ports.1 - snat.ports.0) + 1);
                    let limit = u64::from(config.limits.nat_ports);
                    if before <= limit && ports > limit {
                        fail(format!(
                            "the snat addresses up to here have {ports} ports (for TCP and UDP together), but [limits] \
                             nat_ports = {limit}: raise it, or give ports = \"…\" to some"
                        ));
                    }
                }
            }
        }
    }
}

fn mode(config: &Config, service: &Service, place: &ServicePlaces, findings: &Findings) {
    let fail = |at, key, message: String| findings.error(at, &place.subject, key, message);
    if service.mode != Mode::Nat {
        if let Some(at) = place.snat.first() {
            let message =
                format!("snat is for mode \"nat\"; this is mode {:?}: remove it", service.mode.name());
            fail(at, "snat", message);
        }
        return;
    }
    if service.protocols.contains(&Protocol::Sctp) {
        let message = "mode \"nat\" translates tcp and udp: give sctp a service of another mode";
        fail(&place.mode, "mode", message.to_owned());
    }
    if service.scheduler == Scheduler::LeastConnections {
        let message = "mode \"nat\" does not count flows for scheduler \"least-connections\": take \"maglev\" or \"source\"";
        fail(&place.mode, "mode", message.to_owned());
    }
    if !service.quic.is_empty() {
        let message = "mode \"nat\" does not go by connection IDs: remove quic_cid";
        fail(&place.mode, "mode", message.to_owned());
    }
    if !service.track {
        fail(&place.mode, "mode", "mode \"nat\" remembers every flow: remove track = false".to_owned());
    }
    for v4 in [true, false] {
        let (family, example) = if v4 { ("IPv4", "10.0.0.1") } else { ("IPv6", "fd00::1") };
        let of_family = service.snat.iter().filter(|snat| snat.address.is_ipv4() == v4).count();
        let backend =
            config.pools[&service.pool].backends.values().find(|backend| backend.address.is_ipv4() == v4);
        // A list with an error may be the one that had the address.
        if let (0, Some(backend), false) = (of_family, backend, findings.has_errors()) {
            let message = format!(
                "mode \"nat\" needs an {family} address to send to backend {:?} ({}) from: \
                 add snat = [\"{example}\"], with an address that leads back to this host",
                backend.name, backend.address
            );
            fail(&place.mode, "snat", message);
        }
        if of_family > SnatWord::MOST {
            let message = format!("{of_family} {family} addresses; at most {} a service", SnatWord::MOST);
            fail(&place.mode, "snat", message);
        }
    }
}

fn shown(snat: Snat) -> String {
    format!("\"{}-{}\"", snat.ports.0, snat.ports.1)
}
