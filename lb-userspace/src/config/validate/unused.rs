//! Tables that nothing refers to.

use crate::config::findings::Findings;
use crate::config::resolve::Places;
use crate::config::validate::users::Users;

/// Warns of pools and VIPs without a service.
pub(crate) fn warn(users: &Users<'_>, places: &Places, findings: &Findings) {
    for (name, place) in &places.pools {
        if users.of_pool(name).is_empty() {
            findings.warning(&place.place, &place.subject, "", "no service uses this pool");
        }
    }
    for (name, place) in &places.vips {
        if !users.has_vip(name) {
            findings.warning(place, &format!("vip {name:?}"), "", "no service uses this VIP");
        }
    }
}
