//! Two hosts have one BFD session between them, whoever asks for it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::findings::Findings;
use crate::config::model::{Check, CheckKind, Config};
use crate::config::resolve::{CheckPlaces, Places};
use crate::config::scalar::show;

/// Reports `bfd` checks of one address that want different sessions.
pub(crate) fn validate(config: &Config, places: &Places, findings: &Findings) {
    let mut pools: Vec<_> = places.pools.iter().collect();
    pools.sort_by_key(|(_, place)| place.order);
    let mut sessions: BTreeMap<IpAddr, (&Check, String)> = BTreeMap::new();
    for (name, place) in pools {
        let pool = &config.pools[name];
        let checks = pool.checks.iter().zip(&place.checks);
        for (check, CheckPlaces { subject, place: at, .. }) in
            checks.filter(|(check, _)| check.kind == CheckKind::Bfd)
        {
            for address in pool.backends.values().map(|backend| backend.address) {
                let (first, first_at) = sessions.entry(address).or_insert_with(|| (check, at.brief()));
                if *first != check {
                    let message = format!(
                        "{address} has a bfd check with interval {} and fall {} at {first_at}: two hosts have one \
                         session, so all their bfd checks must be equal",
                        show(first.interval),
                        first.fall
                    );
                    findings.error(at, subject, "type", message);
                    break;
                }
            }
        }
    }
}
