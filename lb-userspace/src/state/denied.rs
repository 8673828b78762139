//! Prefixes that are denied at run time: what a request means, whether a guard refuses. Pure: time is a parameter.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use ipnet::IpNet;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::overlay::{Note, live};
use super::request::{Force, check_record};
use crate::config::model::Config;
use crate::failure::{Code, Failure};
use crate::filter;
use crate::view::nearest::not_found;

/// Most prefixes that are denied at run time: every change writes all of them.
const MOST: usize = 10_000;

/// A prefix, and where it is denied.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Target {
    /// Name of the VIP; without it all.
    #[serde(default)]
    pub vip: Option<String>,
    /// The prefix.
    pub prefix: IpNet,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.vip {
            Some(vip) => write!(f, "{} at vip {vip}", self.prefix),
            None => write!(f, "{} at every vip", self.prefix),
        }
    }
}

/// A denial: until when, and who, when, why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// When it ends by itself.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// Who, when, why.
    #[serde(flatten)]
    pub note: Note,
}

/// Everything that is denied at run time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Denied {
    pub(super) entries: BTreeMap<Target, Denial>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DenyAction {
    /// Deny; of what is denied already, time and reason are new.
    Add,
    /// Deny no longer.
    Remove,
}

/// `POST /v1/deny`: prefixes to deny at run time, or no longer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenyRequest {
    /// What to do.
    pub action: DenyAction,
    /// With which prefixes.
    pub prefixes: Vec<String>,
    /// At which VIP; without it all.
    #[serde(default)]
    pub vip: Option<String>,
    /// Why, for the record.
    #[serde(default)]
    pub reason: String,
    /// Seconds after which it ends by itself.
    #[serde(default)]
    pub for_s: Option<u64>,
    /// Whether guards are overridden.
    #[serde(default)]
    pub force: bool,
    /// The user behind a root shell (`SUDO_USER`); believed of root alone.
    #[serde(default)]
    pub on_behalf_of: Option<String>,
}

impl DenyRequest {
    fn guard(&self) -> Force {
        if self.force { Force::Forced } else { Force::Unforced }
    }
}

impl Denied {
    /// What is denied at `now`.
    pub fn in_force(&self, now: Timestamp) -> impl Iterator<Item = (&Target, &Denial)> {
        self.entries.iter().filter(move |(_, denial)| live(denial.until, now))
    }

    /// Prefixes in force at `now`, with the names of their VIPs.
    pub fn prefixes(&self, now: Timestamp) -> impl Iterator<Item = (Option<&str>, IpNet)> {
        self.in_force(now).map(|(target, _)| (target.vip.as_deref(), target.prefix))
    }

    /// Removes what has ended; gives it.
    pub fn prune(&mut self, now: Timestamp) -> Vec<Target> {
        let ended = self.entries.extract_if(.., |_, denial| !live(denial.until, now));
        ended.map(|(target, _)| target).collect()
    }

    /// When the next one ends by itself.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.entries.values().filter_map(|denial| denial.until).min()
    }

    /// What is denied once `request` is granted, and what it means. `by` is the user on record. All or nothing.
    ///
    /// # Errors
    /// Usage; not found; refused by a guard.
    pub fn change(
        &self,
        config: &Config,
        request: &DenyRequest,
        by: &str,
        now: Timestamp,
    ) -> Result<(Self, Vec<Target>), Failure> {
        check(request)?;
        if let Some(vip) = request.vip.as_deref().filter(|vip| !config.vips.contains_key(*vip)) {
            return Err(not_found("vip", vip, config.vips.keys().map(String::as_str)));
        }
        let prefixes: Result<Vec<IpNet>, String> =
            request.prefixes.iter().map(|text| filter::parse(text)).collect();
        let prefixes = prefixes.map_err(|problem| Failure::new(Code::Usage, problem))?;
        let mut next = self.clone();
        let targets: Vec<Target> =
            prefixes.into_iter().map(|prefix| Target { vip: request.vip.clone(), prefix }).collect();
        for target in &targets {
            match request.action {
                DenyAction::Add => next.add(target, request, by, now)?,
                DenyAction::Remove => next.remove(config, target)?,
            }
        }
        if next.entries.len() > MOST {
            let message = format!(
                "{} prefixes at run time, at most {MOST}: put a list into the config, as deny = {{ file = \"…\" }}",
                next.entries.len()
            );
            return Err(Failure::new(Code::Refused, message));
        }
        Ok((next, targets))
    }

    fn add(
        &mut self,
        target: &Target,
        request: &DenyRequest,
        by: &str,
        now: Timestamp,
    ) -> Result<(), Failure> {
        if target.prefix.prefix_len() == 0 && request.guard() == Force::Unforced {
            let message = format!("deny {target}: that is everybody; --force overrides");
            return Err(Failure::new(Code::Refused, message));
        }
        let until = request.for_s.map(|seconds| now + Duration::from_secs(seconds));
        let note = Note { by: by.to_owned(), since: now, reason: request.reason.clone() };
        self.entries.insert(target.clone(), Denial { until, note });
        Ok(())
    }

    fn remove(&mut self, config: &Config, target: &Target) -> Result<(), Failure> {
        if self.entries.remove(target).is_some() {
            return Ok(());
        }
        let listed = match &target.vip {
            None => Some(&config.deny),
            Some(vip) => config.vips.get(vip).map(|vip| &vip.deny),
        };
        if listed.is_some_and(|listed| listed.contains(&target.prefix)) {
            let message = format!("{target} is denied by the config: remove it there, then `weir reload`");
            return Err(Failure::new(Code::Refused, message));
        }
        let wider = self.entries.keys().find(|entry| {
            entry.vip == target.vip && entry.prefix.contains(&target.prefix) || entry.prefix == target.prefix
        });
        let hint = wider.map(|wider| format!("; there is {wider}")).unwrap_or_default();
        Err(Failure::new(Code::NotFound, format!("{target} is not denied at run time{hint}")))
    }
}

fn check(request: &DenyRequest) -> Result<(), Failure> {
    let usage = |message: String| Err(Failure::new(Code::Usage, message));
    if request.action == DenyAction::Remove && request.for_s.is_some() {
        return usage("--for: only a denial can end by itself".to_owned());
    }
    if request.prefixes.is_empty() {
        return usage("no prefix given".to_owned());
    }
    check_record(&request.reason, request.for_s)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_795_000_000, 0);

    fn config() -> Config {
        let text = "interfaces = [\"eth0\"]\ndeny = [\"192.0.2.0/24\"]\n[[vip]]\nname = \"edge\"\n\
                    address = \"198.51.100.1\"\n[[service]]\nname = \"web\"\nvip = \"edge\"\nport = 80\n\
                    protocol = \"tcp\"\nmode = \"ipip\"\n[[service.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"\n";
        crate::config::parse(text, Path::new("weir.toml")).expect("a config").config
    }

    fn request(action: DenyAction, vip: Option<&str>, prefixes: &[&str]) -> DenyRequest {
        DenyRequest {
            action,
            prefixes: prefixes.iter().map(|prefix| (*prefix).to_owned()).collect(),
            vip: vip.map(str::to_owned),
            reason: "scans".to_owned(),
            for_s: None,
            force: false,
            on_behalf_of: None,
        }
    }

    fn run(denied: &Denied, request: &DenyRequest) -> Result<Denied, Failure> {
        denied.change(&config(), request, "root", NOW).map(|(next, _)| next)
    }

    fn texts(denied: &Denied, now: Timestamp) -> Vec<String> {
        denied.in_force(now).map(|(target, _)| target.to_string()).collect()
    }

    #[test]
    fn prefixes_come_and_go_with_who_and_why() {
        let add = request(DenyAction::Add, None, &["203.0.113.0/24", "2001:db8::1"]);
        let denied = run(&Denied::default(), &add).expect("adds");
        assert_eq!(texts(&denied, NOW), ["203.0.113.0/24 at every vip", "2001:db8::1/128 at every vip"]);
        let denial = denied.entries.values().next().expect("one");
        assert_eq!((&*denial.note.by, &*denial.note.reason), ("root", "scans"));
        let denied =
            run(&denied, &request(DenyAction::Add, Some("edge"), &["203.0.113.0/24"])).expect("adds");
        let denied = run(&denied, &request(DenyAction::Remove, None, &["203.0.113.0/24"])).expect("removes");
        assert_eq!(texts(&denied, NOW), ["2001:db8::1/128 at every vip", "203.0.113.0/24 at vip edge"]);
    }

    #[test]
    fn a_denial_with_a_time_ends_by_itself() {
        let add = DenyRequest { for_s: Some(60), ..request(DenyAction::Add, None, &["203.0.113.0/24"]) };
        let mut denied = run(&Denied::default(), &add).expect("adds");
        let end = NOW + Duration::from_secs(60);
        assert_eq!(denied.next_expiry(), Some(end));
        assert_eq!((texts(&denied, NOW).len(), texts(&denied, end).len()), (1, 0));
        assert_eq!(denied.prune(end).len(), 1);
        assert_eq!(denied, Denied::default());
    }

    #[test]
    fn what_cannot_be_changed_is_told_and_changes_nothing() {
        let denied =
            run(&Denied::default(), &request(DenyAction::Add, None, &["203.0.113.0/24"])).expect("adds");
        let cases = [
            (request(DenyAction::Add, None, &["203.0.113.1/24"]), Code::Usage, "write \"203.0.113.0/24\""),
            (request(DenyAction::Add, None, &[]), Code::Usage, "no prefix given"),
            (request(DenyAction::Add, Some("egde"), &["203.0.113.1"]), Code::NotFound, "edge"),
            (request(DenyAction::Add, None, &["10.0.0.0/8", "::/0"]), Code::Refused, "that is everybody"),
            (request(DenyAction::Remove, None, &["192.0.2.0/24"]), Code::Refused, "denied by the config"),
            (
                request(DenyAction::Remove, None, &["203.0.113.7"]),
                Code::NotFound,
                "there is 203.0.113.0/24 at every vip",
            ),
            (
                request(DenyAction::Remove, None, &["203.0.113.0/24", "10.0.0.0/8"]),
                Code::NotFound,
                "10.0.0.0/8",
            ),
        ];
        for (request, code, text) in cases {
            let failure = run(&denied, &request).expect_err(text);
            assert_eq!(failure.code, code, "{}", failure.message);
            assert!(failure.message.contains(text), "{}", failure.message);
        }
        let everybody = DenyRequest { force: true, ..request(DenyAction::Add, None, &["::/0"]) };
        run(&denied, &everybody).expect("forced");
    }
}
