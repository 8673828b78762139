//! Whether weir can run on this host as configured.

use std::collections::BTreeSet;

use tracing::{info, warn};

use super::attachments;
use super::network::Network;
use super::place::Place;
use crate::config::model::Config;
use crate::failure::{Code, Failure};
use crate::maps::attach;
use crate::net::facts;
use crate::net::preflight::{self, Finding, Severity};

/// Looks at the host before anything is changed; refuses where weir must not run.
pub(super) fn preflight(config: &Config, network: &Network, place: &Place) -> Result<(), Failure> {
    let state = network.watch.read();
    let own = attach::own_programs(&place.pins);
    let modes = config.services.values().map(|service| service.mode).collect();
    let plan = preflight::Plan { modes, tagged: preflight::tagged_ports(&state), own_programs: own };
    let mut findings: Vec<Finding> = Vec::new();
    let mut missing_links = Vec::new();
    for interface in &config.interfaces {
        let Some(link) = state.link_named(&interface.name) else {
            missing_links.push(attachments::missing(&interface.name));
            continue;
        };
        match facts::gather(link) {
            Ok(facts) => findings.extend(preflight::judge(&facts, interface, &plan)),
            Err(error) => warn!("{}: look at the driver: {error}", interface.name),
        }
    }
    network.notes(config).iter().for_each(|note| info!("{note}"));
    for finding in findings.iter().filter(|finding| finding.severity < Severity::Refuse) {
        match finding.severity {
            Severity::Warn => warn!("{}; {}", finding.what, finding.remedy),
            _ => info!("{}; {}", finding.what, finding.remedy),
        }
    }
    let refused = findings.iter().filter(|finding| finding.severity == Severity::Refuse);
    let refused = refused.map(|finding| format!("{}; remedy: {}", finding.what, finding.remedy));
    let refused: Vec<String> = missing_links.into_iter().chain(refused).collect();
    match refused.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(Code::Failed, refused.join("\n"))),
    }
}

/// Refuses interfaces whose driver takes off VLAN tags that matter. VLAN interfaces may have come since the start.
pub(super) fn refuse_lost_tags(config: &Config, network: &Network) -> Result<(), Failure> {
    let state = network.watch.read();
    let tagged = preflight::tagged_ports(&state);
    let links = config.interfaces.iter().filter_map(|interface| state.link_named(&interface.name));
    let facts =
        links.filter(|link| tagged.contains(&link.ifindex)).filter_map(|link| facts::gather(link).ok());
    let lost: Vec<String> = facts
        .filter_map(|facts| preflight::lost_tags(&facts, &tagged))
        .map(|finding| format!("{}; remedy: {}; nothing was changed", finding.what, finding.remedy))
        .collect();
    if lost.is_empty() { Ok(()) } else { Err(Failure::new(Code::Failed, lost.join("\n"))) }
}

/// Refuses addresses to send from with ports that the host itself connects from: answers to it would be taken for those
/// of flows, or the other way round.
pub(super) fn refuse_own_ports(config: &Config, network: &Network) -> Result<(), Failure> {
    let own = facts::local_ports();
    let local = network.local(config);
    let clashes: BTreeSet<String> = config
        .services
        .values()
        .flat_map(|service| &service.snat)
        .filter(|snat| local.contains(&snat.address))
        .filter_map(|snat| preflight::own_ports(snat, own))
        .map(|finding| format!("{}; remedy: {}; nothing was changed", finding.what, finding.remedy))
        .collect();
    match clashes.is_empty() {
        true => Ok(()),
        false => Err(Failure::new(Code::Failed, clashes.into_iter().collect::<Vec<_>>().join("\n"))),
    }
}
