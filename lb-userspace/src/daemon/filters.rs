//! Prefixes denied at run time, as the engine puts them in force.

use ipnet::IpNet;
use jiff::Timestamp;
use tracing::{error, info};

use super::engine::Engine;
use super::stored::Stored;
use crate::config::model::Config;
use crate::events::{Event, Kind};
use crate::failure::Failure;
use crate::filter::Lists;
use crate::health::Which;
use crate::state::denied::{Denied, DenyAction, DenyRequest, Target};
use crate::state::overlay::Overlay;
use crate::view::deny::{self, DenyFilter};
use crate::view::nearest::not_found;

/// The lists of config and run time; what is as in `before` is shared with it.
pub(super) fn lists(config: &Config, overlay: &Overlay, before: &Lists, now: Timestamp) -> Lists {
    let denied = overlay.denied().prefixes(now).collect::<Vec<(Option<&str>, IpNet)>>();
    tokio::task::block_in_place(|| Lists::new(config, denied.into_iter(), before))
}

impl Engine {
    /// Grants a request, or changes nothing.
    pub(super) async fn deny(&mut self, request: &DenyRequest, by: &str) -> Result<deny::Denied, Failure> {
        let now = Timestamp::now();
        let (denied, targets) = self.overlay.denied().change(&self.config, request, by, now)?;
        let before = self.overlay.clone();
        let overlay = before.clone().with_denied(denied);
        self.force_denied(overlay.clone(), now).await?;
        if let Err(failure) = self.save(&overlay) {
            self.force_denied(before, now).await?;
            return Err(failure);
        }
        let (verb, to) = match request.action {
            DenyAction::Add => ("denies", "denied"),
            DenyAction::Remove => ("no longer denies", "let in"),
        };
        for target in &targets {
            info!(by, reason = request.reason, "{verb} {target}");
            let event = told(target, now).is(to).asked_by(by).because(request.reason.as_str());
            self.journal().recorder.record(event);
        }
        let mut view = self.denied(&DenyFilter { vip: request.vip.clone() })?;
        view.effects = targets.iter().map(|target| format!("{verb} {target}")).collect();
        let named = |entry: &deny::EntryRow| {
            targets.iter().any(|target| target.vip == entry.vip && target.prefix.to_string() == entry.prefix)
        };
        view.entries.retain(named);
        Ok(view)
    }

    /// Ends denials whose time is over.
    pub(super) async fn end_denials(&mut self, now: Timestamp) {
        if self.overlay.denied().next_expiry().is_none_or(|expiry| expiry > now) {
            return;
        }
        let mut denied: Denied = self.overlay.denied().clone();
        let ended = denied.prune(now);
        let overlay = self.overlay.clone().with_denied(denied);
        for target in &ended {
            info!("no longer denies {target}: its time is over");
            self.journal().recorder.record(told(target, now).is("let in").because("its time is over"));
        }
        if let Err(failure) = self.save(&overlay) {
            error!("{}", failure.message);
        }
        if let Err(failure) = self.force_denied(overlay, now).await {
            error!("end denials: {}", failure.message);
        }
    }

    /// Puts what is denied in force; where that fails, what was before stays so.
    async fn force_denied(&mut self, overlay: Overlay, now: Timestamp) -> Result<(), Failure> {
        let lists = lists(&self.config, &overlay, &self.lists, now);
        let before =
            (std::mem::replace(&mut self.overlay, overlay), std::mem::replace(&mut self.lists, lists));
        let synced = self.sync(&Which::All, Stored::decided_now()).await.map(drop);
        if synced.is_err() {
            (self.overlay, self.lists) = before;
        }
        synced
    }

    /// The lists in force.
    pub(super) fn denied(&self, filter: &DenyFilter) -> Result<deny::Denied, Failure> {
        if let Some(vip) = filter.vip.as_deref().filter(|vip| !self.config.vips.contains_key(*vip)) {
            return Err(not_found("vip", vip, self.config.vips.keys().map(String::as_str)));
        }
        let (maps, counters) = (self.maps(), self.counters());
        let refused = |vip: &str| {
            let ids = maps.vip_info.iter().enumerate().filter(|(_, info)| info.name.as_str() == vip);
            ids.fold([0; 3], |sum, (id, _)| {
                let refusals = counters.refusals(id as u32);
                std::array::from_fn(|list| sum[list] + refusals.packets[list])
            })
        };
        let denied = self.overlay.denied();
        let view = || deny::Denied::new(&self.config, denied, filter, &refused, Timestamp::now());
        Ok(tokio::task::block_in_place(view))
    }
}

fn told(target: &Target, now: Timestamp) -> Event {
    let event = Event::new(Kind::Deny, now).with("prefix", target.prefix.to_string());
    match &target.vip {
        Some(vip) => event.with("vip", vip.as_str()),
        None => event,
    }
}
