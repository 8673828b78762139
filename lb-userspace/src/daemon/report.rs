//! What the log says.

use jiff::Timestamp;
use tracing::{info, warn};

use crate::admin::answers::Reloaded;
use crate::config::model::XdpMode;
use crate::health::machine::Health;
use crate::health::{GuardEvent, GuardEventKind, HealthEvent};
use crate::maps::attach::Attached;
use crate::net::snapshot::XdpPlace;

/// One line a transition, with its evidence.
pub(super) fn transition(event: &HealthEvent) {
    let detected_after_us = event.detected_after.as_micros() as u64;
    let applied_after_us = event.applied_after.as_micros() as u64;
    let (backend, from, to) = (&event.backend, event.from.name(), event.to.name());
    let evidence = event.evidence.to_string();
    // The line's own time is that of writing it.
    let decided_at = Timestamp::try_from(event.time).unwrap_or_default();
    let text = &event.reason;
    match event.to {
        Health::Up | Health::Trial => {
            info!(%backend, from, to, %decided_at, detected_after_us, applied_after_us, evidence, "{text}");
        }
        _ => warn!(%backend, from, to, %decided_at, detected_after_us, applied_after_us, evidence, "{text}"),
    }
}

/// One line a turn of the guard.
pub(super) fn guard(event: &GuardEvent) {
    let (kind, silent, counted) = (event.kind.name(), event.silent, event.counted);
    match event.kind {
        GuardEventKind::Thawed => info!(guard = kind, silent, counted, "{event}"),
        _ => warn!(guard = kind, silent, counted, "{event}"),
    }
}

/// What attaching did.
pub(super) fn attached(name: &str, attached: Attached, mode: XdpMode) {
    match attached {
        Attached::Kept => {}
        Attached::Replaced => info!("{name}: program replaced"),
        Attached::Anew(place) => info!("{name}: attached ({} mode)", place.name()),
        Attached::Again(place) => {
            info!(
                "{name}: attached anew ({} mode): the interface was re-created, or somebody detached the program",
                place.name()
            );
        }
    }
    if let (Attached::Anew(XdpPlace::Generic) | Attached::Again(XdpPlace::Generic), XdpMode::Auto) =
        (attached, mode)
    {
        warn!("{name}: no native XDP in the driver: generic mode, several times slower per packet");
    }
}

/// What a reload changed.
pub(super) fn reloaded(reloaded: &Reloaded) {
    reloaded.warnings.iter().for_each(|warning| warn!("{warning}"));
    match reloaded.changes.is_empty() {
        true => info!("config read again, nothing changed"),
        false => reloaded.changes.iter().for_each(|change| info!("reload: {change}")),
    }
}
