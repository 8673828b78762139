//! What the daemon does for its callers.

use std::future::Future;

use jiff::Timestamp;

use super::answers::{DrainProgress, Readiness, Reloaded};
use crate::events::EventFilter;
use crate::explain::{ExplainedFrames, Frames};
use crate::failure::Failure;
use crate::rollout::request::RolloutRequest;
use crate::state::denied::DenyRequest;
use crate::state::limited::LimitRequest;
use crate::state::overlay::BackendName;
use crate::state::request::{BackendRequest, Changed};
use crate::view::backends::Backends;
use crate::view::deny::{Denied, DenyFilter};
use crate::view::drill::{DrillReport, DrillRequest};
use crate::view::events::{Events, StateAt};
use crate::view::filter::{BackendFilter, FlowFilter, ServiceFilter};
use crate::view::flows::Flows;
use crate::view::limits::Limits;
use crate::view::rollouts::Rollouts;
use crate::view::services::Services;
use crate::view::status::Status;

/// The daemon as the admin API sees it. A caller waits for [`super::server::REQUEST_TIME`] at most: then what only reads
/// is dropped at its next await, and what changes something goes on.
pub trait Operations: Send + Sync + 'static {
    /// The status page.
    fn status(&self) -> impl Future<Output = Result<Status, Failure>> + Send;

    /// The services that match.
    fn services(&self, filter: ServiceFilter) -> impl Future<Output = Result<Services, Failure>> + Send;

    /// The backends that match.
    fn backends(&self, filter: BackendFilter) -> impl Future<Output = Result<Backends, Failure>> + Send;

    /// The flows that match.
    fn flows(&self, filter: FlowFilter) -> impl Future<Output = Result<Flows, Failure>> + Send;

    /// Explains frames.
    fn explain(&self, frames: Frames) -> impl Future<Output = Result<ExplainedFrames, Failure>> + Send;

    /// The events that match.
    fn events(&self, filter: EventFilter) -> impl Future<Output = Result<Events, Failure>> + Send;

    /// The state at a time, by the events.
    fn state_at(&self, at: Timestamp) -> impl Future<Output = Result<StateAt, Failure>> + Send;

    /// Rehearses a failure. Only operators get here. `by` is the user on record.
    fn drill(
        &self,
        request: DrillRequest,
        by: String,
    ) -> impl Future<Output = Result<DrillReport, Failure>> + Send;

    /// The last drill of a backend, `pool/name`.
    fn drill_report(&self, backend: String) -> impl Future<Output = Result<DrillReport, Failure>> + Send;

    /// The rollouts.
    fn rollouts(&self) -> impl Future<Output = Result<Rollouts, Failure>> + Send;

    /// Starts, promotes, aborts or ends a rollout. Only operators get here. `by` is the user on record.
    fn rollout(
        &self,
        request: RolloutRequest,
        by: String,
    ) -> impl Future<Output = Result<Rollouts, Failure>> + Send;

    /// The limits of new flows.
    fn limits(&self) -> impl Future<Output = Result<Limits, Failure>> + Send;

    /// Limits new flows at run time, or no longer.
    fn limit(
        &self,
        request: LimitRequest,
        by: String,
    ) -> impl Future<Output = Result<Limits, Failure>> + Send;

    /// The lists that judge sources.
    fn denied(&self, filter: DenyFilter) -> impl Future<Output = Result<Denied, Failure>> + Send;

    /// Denies prefixes at run time, or lets them in again. Only operators get here. `by` is the user on record.
    fn deny(&self, request: DenyRequest, by: String) -> impl Future<Output = Result<Denied, Failure>> + Send;

    /// Whether the VIPs should be announced.
    fn ready(&self) -> impl Future<Output = Result<Readiness, Failure>> + Send;

    /// Live flows of these backends.
    fn drain_progress(
        &self,
        backends: Vec<BackendName>,
    ) -> impl Future<Output = Result<DrainProgress, Failure>> + Send;

    /// Reads the config again, all or nothing. Only operators get here. `by` is the user on record.
    fn reload(&self, by: String) -> impl Future<Output = Result<Reloaded, Failure>> + Send;

    /// Changes backends at run time. Only operators get here. `by` is the user on record.
    fn change(
        &self,
        request: BackendRequest,
        by: String,
    ) -> impl Future<Output = Result<Changed, Failure>> + Send;
}
