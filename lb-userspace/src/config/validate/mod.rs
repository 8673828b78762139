//! Checks of the configuration as a whole: what one table alone cannot show.

mod backends;
mod bfd;
mod capacity;
mod check_ports;
mod family;
mod overlap;
mod unused;

use super::findings::Findings;
use super::model::Config;
use super::resolve::Places;

/// Runs every check, and fills in what checks take from services.
pub(crate) fn validate(config: &mut Config, places: &Places, findings: &Findings) {
    backends::validate(config, places, findings);
    bfd::validate(config, places, findings);
    family::validate(config, places, findings);
    overlap::validate(config, places, findings);
    capacity::validate(config, places, findings);
    check_ports::fill(config, places, findings);
    // A table with an error may be the one that uses the others.
    if !findings.has_errors() {
        unused::warn(config, places, findings);
    }
}
