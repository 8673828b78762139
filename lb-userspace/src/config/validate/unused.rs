//! Tables that nothing refers to.

use crate::config::findings::Findings;
use crate::config::model::Config;
use crate::config::resolve::Places;

/// Warns of pools and VIPs without a service.
pub(crate) fn warn(config: &Config, places: &Places, findings: &Findings) {
    for (name, place) in &places.pools {
        if !config.services.values().any(|service| service.pool == *name) {
            findings.warning(&place.place, &place.subject, "", "no service uses this pool");
        }
    }
    for (name, place) in &places.vips {
        if !config.services.values().any(|service| service.vip == *name) {
            findings.warning(place, &format!("vip {name:?}"), "", "no service uses this VIP");
        }
    }
}
