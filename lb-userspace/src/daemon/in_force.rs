//! How a start brings the config into force: whatever can refuse is asked before what ran before is touched.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::Timestamp;
use tracing::info;

use super::attachments::Attachments;
use super::instance::Instance;
use super::network::Network;
use super::rollouts::Rollouts;
use super::slots::Sink;
use super::views::{self, Known, Views};
use super::wanted::Wanted;
use crate::apply::{Applier, ApplyError};
use crate::config::model::Config;
use crate::failure::{Code, Failure};
use crate::filter::Lists;
use crate::flows;
use crate::health::{BackendKey, HealthError, Opened, Targets, Which};
use crate::maps::counters;
use crate::maps::next_program;
use crate::state::overlay::Overlay;

/// What bringing the program into force gives.
pub(super) struct InForce {
    pub(super) applier: Applier,
    pub(super) views: Views,
    pub(super) known: HashMap<BackendKey, Known>,
    pub(super) sink: Sink,
    pub(super) detection: Opened,
}

/// Opens detection, applies the config, attaches, and makes these maps the instance's. The program replaces the one that
/// runs only where the maps are ready for it; where it runs on the same maps, a check that cannot be run, an interface
/// that refuses or a next program that does not fit is found before any of its tables is written.
pub(super) fn bring_into_force(
    (config, lists): (&Config, &Lists),
    (overlay, rollouts): (&Overlay, &Rollouts),
    network: &mut Network,
    instance: &mut Instance,
    attachments: &mut Attachments,
    now: Timestamp,
    open: impl FnOnce(&Applier, Targets) -> Result<(Sink, Opened), HealthError>,
) -> Result<InForce, Failure> {
    network.use_ports(counters::tx_ports(&instance.pins)?);
    let next_program = next_program::find(&instance.pins, config.next_program.as_deref())?;
    network.resolve(config);
    let mut applier = Applier::adopt(instance.maps.clone(), flows::now_ns());
    let known = views::known_in_maps(instance.predecessor_maps().unwrap_or(&instance.maps), config);
    let wanted = Wanted { config, overlay, lists, network, rollouts, now };
    let views = wanted.views(&Which::All, &known, &HashMap::new());
    let desired = Arc::new(wanted.desired(&Which::All, &views, None));
    let (sink, detection) = open(&applier, wanted.targets()).map_err(|error| detection_failed(&error))?;
    let replaces_maps = instance.predecessor_maps().is_some();
    if instance.made() {
        // No packet comes past the filter behind weir.
        next_program.put()?;
        if !replaces_maps {
            attachments.attach_all(&config.interfaces, instance, network)?;
        }
    } else {
        attachments.attach_all(&config.interfaces, instance, network)?;
        next_program.put()?;
    }
    let summary = applier.apply(&desired, flows::now_ns()).map_err(does_not_fit)?;
    info!("applied the config: {summary:?}");
    if replaces_maps {
        instance.carry_over()?;
        attachments.attach_all(&config.interfaces, instance, network)?;
        instance.carry_late_flows();
    }
    instance.commit()?;
    #[cfg(feature = "packet-log")]
    super::packet_log::relay(instance.program()?)?;
    attachments.detach_others(&config.interfaces);
    Ok(InForce { applier, views, known, sink, detection })
}

pub(super) fn detection_failed(error: &HealthError) -> Failure {
    Failure::new(Code::Failed, error.to_string())
}

pub(super) fn does_not_fit(error: ApplyError) -> Failure {
    Failure::new(Code::Failed, format!("apply the config: {error}; nothing was changed"))
}
