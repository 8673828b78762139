//! What a scheduler needs.

use crate::config::findings::Findings;
use crate::config::model::{Config, Scheduler};
use crate::config::resolve::Places;

/// Reports services whose scheduler cannot work.
pub(crate) fn validate(config: &Config, places: &Places, findings: &Findings) {
    let mut services: Vec<_> = places.services.iter().collect();
    services.sort_by_key(|(_, place)| place.order);
    for (name, place) in services {
        let service = &config.services[name];
        if service.scheduler == Scheduler::LeastConnections && !service.track {
            let message = "scheduler \"least-connections\" counts the flows that are remembered, and track = false \
                           remembers none: remove track = false, or take scheduler = \"maglev\"";
            findings.error(
                place.scheduler.as_ref().unwrap_or(&place.place),
                &place.subject,
                "scheduler",
                message,
            );
        }
    }
}
