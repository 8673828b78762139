//! Checks of the configuration as a whole: what one table alone cannot show.

mod backends;
mod bfd;
mod capacity;
mod check_ports;
mod family;
mod nat;
mod overlap;
mod quic;
mod scheduler;
mod tunnel;
mod unused;
mod users;

use super::findings::Findings;
use super::model::Config;
use super::resolve::Places;
use check_ports::Ways;
use users::Users;

/// Runs every check, and fills in what checks take from services.
pub(crate) fn validate(config: &mut Config, places: &Places, findings: &Findings) {
    quic::fill(config, places, findings);
    let users = Users::of(&config.services);
    backends::validate(config, &users, places, findings);
    bfd::validate(config, places, findings);
    family::validate(config, places, findings);
    nat::validate(config, places, findings);
    overlap::validate(config, places, findings);
    scheduler::validate(config, places, findings);
    tunnel::validate(config, places, findings);
    capacity::validate(config, &users, places, findings);
    let ways = Ways { vips: &config.vips, gue_port: config.tunnel.gue_port };
    check_ports::fill(&mut config.pools, &users, ways, places, findings);
    capacity::checks(config, places, findings);
    // A table with an error may be the one that uses the others.
    if !findings.has_errors() {
        unused::warn(&users, places, findings);
    }
}
