//! `dsr-l2` leaves the packet as it came, so packet and backend are of one family.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::findings::Findings;
use crate::config::model::{Backend, Config, Mode};
use crate::config::resolve::Places;

/// Reports `dsr-l2` services with a VIP address and a backend of different families.
pub(crate) fn validate(config: &Config, places: &Places, findings: &Findings) {
    // Services share pools: each is searched once.
    let mut first: BTreeMap<&str, [Option<&Backend>; 2]> = BTreeMap::new();
    for (name, service) in &config.services {
        if service.mode != Mode::DsrL2 {
            continue;
        }
        let place = &places.services[name];
        let (vip, pool) = (&config.vips[&service.vip], &config.pools[&service.pool]);
        let [first_v4, first_v6] = first.entry(&service.pool).or_insert_with(|| {
            [true, false].map(|v4| pool.backends.values().find(|backend| backend.address.is_ipv4() == v4))
        });
        for address in &vip.addresses {
            let other = if address.is_ipv4() { *first_v6 } else { *first_v4 };
            let Some(backend) = other else { continue };
            let message = format!(
                "mode \"dsr-l2\" cannot send {} packets for {address} to backend {:?} ({}): \
                 give each family a service and pool of its own, or use mode = \"ipip\"",
                family(*address),
                backend.name,
                backend.address
            );
            findings.error(&place.mode, &place.subject, "mode", message);
        }
    }
}

fn family(address: IpAddr) -> &'static str {
    if address.is_ipv4() { "IPv4" } else { "IPv6" }
}
