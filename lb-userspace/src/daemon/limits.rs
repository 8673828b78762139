//! Limits of new flows at run time, as the engine puts them in force.

use jiff::Timestamp;
use tracing::{error, info};

use super::engine::Engine;
use super::stored::Stored;
use crate::events::{Event, Kind};
use crate::failure::Failure;
use crate::flows;
use crate::health::Which;
use crate::state::limited::{LimitAction, LimitRequest};
use crate::state::overlay::Overlay;
use crate::view::limits::Limits;

impl Engine {
    /// The limits in force, and what they refuse.
    pub(super) fn limits(&self) -> Limits {
        let (maps, counters) = (self.maps(), self.counters());
        let limited = self.overlay.limited();
        let view =
            || Limits::new(&self.config, limited, &maps, &counters, (flows::now_ns(), Timestamp::now()));
        tokio::task::block_in_place(view)
    }

    /// Grants a request, or changes nothing.
    pub(super) async fn limit(&mut self, request: &LimitRequest, by: &str) -> Result<Limits, Failure> {
        let now = Timestamp::now();
        let limited = self.overlay.limited().change(&self.config, request, by, now)?;
        let before = self.overlay.clone();
        let overlay = before.clone().with_limited(limited);
        self.force_limited(overlay.clone()).await?;
        if let Err(failure) = self.save(&overlay) {
            self.force_limited(before).await?;
            return Err(failure);
        }
        let (done, to) = match request.action {
            LimitAction::Add => ("new flows are limited", "limited"),
            LimitAction::Lift => ("new flows are not limited", "lifted"),
            LimitAction::Remove => ("the config's limit holds again", "configured"),
        };
        for service in &request.services {
            info!(by, reason = request.reason, "service {service}: {done}");
            let event = told(service, now).is(to).asked_by(by).because(request.reason.as_str());
            self.journal().recorder.record(event);
        }
        let mut view = self.limits();
        view.effects = request.services.iter().map(|service| format!("service {service}: {done}")).collect();
        view.limits.retain(|limit| request.services.contains(&limit.service));
        view.sources.clear();
        Ok(view)
    }

    /// Ends limits whose time is over.
    pub(super) async fn end_limits(&mut self, now: Timestamp) {
        if self.overlay.limited().next_expiry().is_none_or(|expiry| expiry > now) {
            return;
        }
        let mut limited = self.overlay.limited().clone();
        let ended = limited.prune(now);
        let overlay = self.overlay.clone().with_limited(limited);
        for service in &ended {
            info!("service {service}: the config's limit holds again: the time of the other is over");
            let event = told(service, now).is("configured").because("its time is over");
            self.journal().recorder.record(event);
        }
        if let Err(failure) = self.save(&overlay) {
            error!("{}", failure.message);
        }
        if let Err(failure) = self.force_limited(overlay).await {
            error!("end limits: {}", failure.message);
        }
    }

    /// Puts limits in force; where that fails, what was before stays so.
    async fn force_limited(&mut self, overlay: Overlay) -> Result<(), Failure> {
        let before = std::mem::replace(&mut self.overlay, overlay);
        let synced = self.sync(&Which::All, Stored::decided_now()).await.map(drop);
        if synced.is_err() {
            self.overlay = before;
        }
        synced
    }
}

fn told(service: &str, now: Timestamp) -> Event {
    Event::new(Kind::Limit, now).with("service", service)
}
