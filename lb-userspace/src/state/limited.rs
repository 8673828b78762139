//! Limits of new flows that were set at run time: what a request means. Pure: time is a parameter.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::overlay::{Note, live};
use super::request::check_record;
use crate::config::model::{Config, NewFlowLimit, Rate, Service};
use crate::failure::{Code, Failure};
use crate::view::nearest::not_found;

/// What holds for a service instead of its config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LimitChange {
    /// The limit; none where it was lifted.
    #[serde(default)]
    pub limit: Option<NewFlowLimit>,
    /// When it ends by itself.
    #[serde(default)]
    pub until: Option<Timestamp>,
    /// Who, when, why.
    #[serde(flatten)]
    pub note: Note,
}

/// All limits of run time, by the names of services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limited {
    pub(super) entries: BTreeMap<String, LimitChange>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LimitAction {
    /// Limit new flows so, whatever the config says.
    Add,
    /// Limit nothing, whatever the config says.
    Lift,
    /// Let the config hold again.
    Remove,
}

/// `POST /v1/limits`: limits of services at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LimitRequest {
    /// What to do.
    pub action: LimitAction,
    /// Names of services.
    pub services: Vec<String>,
    /// Of each source: `100/s`.
    #[serde(default)]
    pub per_source: Option<String>,
    /// Leading bits of an IPv4 address that make a source; without it as in the service's config.
    #[serde(default)]
    pub prefix_v4: Option<u8>,
    /// The same of IPv6.
    #[serde(default)]
    pub prefix_v6: Option<u8>,
    /// Of the service.
    #[serde(default)]
    pub total: Option<String>,
    /// Why, for the record.
    #[serde(default)]
    pub reason: String,
    /// Seconds after which it ends by itself.
    #[serde(default)]
    pub for_s: Option<u64>,
    /// The user behind a root shell (`SUDO_USER`); believed of root alone.
    #[serde(default)]
    pub on_behalf_of: Option<String>,
}

impl Limited {
    /// What was changed of a service, at `now`.
    #[must_use]
    pub fn change_of(&self, service: &str, now: Timestamp) -> Option<&LimitChange> {
        self.entries.get(service).filter(|change| live(change.until, now))
    }

    /// The limit of a service in force at `now`. What remembers no flows has none.
    #[must_use]
    pub fn of(&self, service: &Service, now: Timestamp) -> Option<NewFlowLimit> {
        let limit = match self.change_of(&service.name, now) {
            Some(change) => change.limit,
            None => service.new_flow_limit,
        };
        limit.filter(|_| service.track)
    }

    /// Removes what has ended; gives the services.
    pub fn prune(&mut self, now: Timestamp) -> Vec<String> {
        let ended = self.entries.extract_if(.., |_, change| !live(change.until, now));
        ended.map(|(service, _)| service).collect()
    }

    /// When the next one ends by itself.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.entries.values().filter_map(|change| change.until).min()
    }

    /// The limits once `request` is granted. `by` is the user on record. All or nothing.
    ///
    /// # Errors
    /// Usage; not found; refused, for a service that remembers no flows.
    pub fn change(
        &self,
        config: &Config,
        request: &LimitRequest,
        by: &str,
        now: Timestamp,
    ) -> Result<Self, Failure> {
        check(request)?;
        let mut next = self.clone();
        for name in &request.services {
            if request.action == LimitAction::Remove {
                next.remove(config, name)?;
                continue;
            }
            let service = find(config, name)?;
            let limit = match request.action {
                LimitAction::Add => Some(limit(service, request)?),
                LimitAction::Lift | LimitAction::Remove => None,
            };
            let until = request.for_s.map(|seconds| now + Duration::from_secs(seconds));
            let note = Note { by: by.to_owned(), since: now, reason: request.reason.clone() };
            next.entries.insert(name.clone(), LimitChange { limit, until, note });
        }
        Ok(next)
    }

    fn remove(&mut self, config: &Config, name: &str) -> Result<(), Failure> {
        if self.entries.remove(name).is_some() {
            return Ok(());
        }
        let configured = find(config, name)?.new_flow_limit.is_some();
        let message = if configured {
            format!(
                "service {name}: its limit is from the config: change it there, or `weir limits lift {name}`"
            )
        } else {
            format!("service {name}: no limit was set at run time")
        };
        Err(Failure::new(if configured { Code::Refused } else { Code::NotFound }, message))
    }
}

fn find<'c>(config: &'c Config, name: &str) -> Result<&'c Service, Failure> {
    let found = config.services.values().find(|service| service.name == name);
    found.ok_or_else(|| {
        not_found("service", name, config.services.values().map(|service| service.name.as_str()))
    })
}

fn limit(service: &Service, request: &LimitRequest) -> Result<NewFlowLimit, Failure> {
    let usage = |message: String| Failure::new(Code::Usage, message);
    if !service.track {
        let message =
            format!("service {}: has track = false; without flow entries no flow is new", service.name);
        return Err(Failure::new(Code::Refused, message));
    }
    let rate = |option: &str, text: &Option<String>| {
        let parsed = text.as_deref().map(str::parse::<Rate>).transpose();
        parsed.map_err(|problem| usage(format!("--{option}: {problem}")))
    };
    let (per_source, total) = (rate("per-source", &request.per_source)?, rate("total", &request.total)?);
    if per_source.is_none() && total.is_none() {
        return Err(usage("limits nothing: give --per-source, --total, or both".to_owned()));
    }
    let configured = service.new_flow_limit;
    let bits = |option: &str, given: Option<u8>, configured: Option<u8>, most: u8| {
        let bits = given.or(configured).unwrap_or(most);
        let wrong = || usage(format!("--{option}: allowed are 1 to {most}, got {bits}"));
        (1..=most).contains(&bits).then_some(bits).ok_or_else(wrong)
    };
    Ok(NewFlowLimit {
        per_source,
        prefix_v4: bits("prefix-v4", request.prefix_v4, configured.map(|limit| limit.prefix_v4), 32)?,
        prefix_v6: bits("prefix-v6", request.prefix_v6, configured.map(|limit| limit.prefix_v6), 64)?,
        total,
    })
}

fn check(request: &LimitRequest) -> Result<(), Failure> {
    let usage = |message: String| Err(Failure::new(Code::Usage, message));
    if request.action == LimitAction::Remove && request.for_s.is_some() {
        return usage("--for: only a change can end by itself".to_owned());
    }
    if request.services.is_empty() {
        return usage("no service given".to_owned());
    }
    check_record(&request.reason, request.for_s)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const NOW: Timestamp = Timestamp::constant(1_795_000_000, 0);

    fn config() -> Config {
        let service = |name: &str, port: u16, more: &str| {
            format!(
                "[[service]]\nname = \"{name}\"\nvip = \"198.51.100.1\"\nport = {port}\nprotocol = \"tcp\"\n\
                 mode = \"ipip\"\n{more}\n[[service.backend]]\nname = \"{name}-a\"\naddress = \"10.0.0.{port}\"\n"
            )
        };
        let limit = "new_flow_limit = { per_source = \"10/s\", prefix_v4 = 24 }";
        let text = format!(
            "interfaces = [\"eth0\"]\n{}{}{}",
            service("web", 80, limit),
            service("api", 81, ""),
            service("dns", 53, "track = false")
        );
        crate::config::parse(&text, Path::new("weir.toml")).expect("a config").config
    }

    fn request(action: LimitAction, service: &str, per_source: Option<&str>) -> LimitRequest {
        LimitRequest {
            action,
            services: vec![service.to_owned()],
            per_source: per_source.map(str::to_owned),
            prefix_v4: None,
            prefix_v6: None,
            total: None,
            reason: "scans".to_owned(),
            for_s: None,
            on_behalf_of: None,
        }
    }

    fn run(limited: &Limited, request: &LimitRequest) -> Result<Limited, Failure> {
        limited.change(&config(), request, "root", NOW)
    }

    fn in_force(limited: &Limited, name: &str, now: Timestamp) -> Option<(Option<String>, u8)> {
        let config = config();
        let limit = limited.of(find(&config, name).expect("it exists"), now)?;
        Some((limit.per_source.map(|rate| rate.to_string()), limit.prefix_v4))
    }

    #[test]
    fn run_time_goes_before_the_config_until_it_is_removed() {
        let shown = |rate: &str, bits| Some((Some(rate.to_owned()), bits));
        let none = Limited::default();
        assert_eq!((in_force(&none, "web", NOW), in_force(&none, "api", NOW)), (shown("10/s", 24), None));
        let set = run(&none, &request(LimitAction::Add, "web", Some("3/m"))).expect("is set");
        assert_eq!(in_force(&set, "web", NOW), shown("3/m", 24), "the prefixes stay the config's");
        let lifted = run(&set, &request(LimitAction::Lift, "web", None)).expect("is lifted");
        assert_eq!(in_force(&lifted, "web", NOW), None);
        let removed = run(&lifted, &request(LimitAction::Remove, "web", None)).expect("is removed");
        assert_eq!((in_force(&removed, "web", NOW), &removed), (shown("10/s", 24), &none));
        let wide = LimitRequest { prefix_v4: Some(16), ..request(LimitAction::Add, "api", Some("3/m")) };
        assert_eq!(in_force(&run(&none, &wide).expect("is set"), "api", NOW), shown("3/m", 16));
    }

    #[test]
    fn a_limit_with_a_time_ends_by_itself() {
        let with_end = LimitRequest { for_s: Some(60), ..request(LimitAction::Add, "api", Some("3/m")) };
        let mut limited = run(&Limited::default(), &with_end).expect("is set");
        let end = NOW + Duration::from_secs(60);
        assert_eq!(limited.next_expiry(), Some(end));
        assert!(in_force(&limited, "api", NOW).is_some() && in_force(&limited, "api", end).is_none());
        assert_eq!(limited.prune(NOW), [""; 0]);
        assert_eq!(limited.prune(end), ["api"]);
        assert_eq!(limited, Limited::default());
    }

    #[test]
    fn what_cannot_be_limited_is_told_and_changes_nothing() {
        let add = |service, rate| request(LimitAction::Add, service, Some(rate));
        let cases = [
            (add("wbe", "3/m"), Code::NotFound, "web"),
            (add("web", "3"), Code::Usage, "--per-source: \"3\" is no rate"),
            (add("dns", "3/s"), Code::Refused, "track = false"),
            (request(LimitAction::Add, "web", None), Code::Usage, "limits nothing"),
            (LimitRequest { prefix_v6: Some(65), ..add("web", "3/m") }, Code::Usage, "allowed are 1 to 64"),
            (LimitRequest { for_s: Some(0), ..add("web", "3/m") }, Code::Usage, "--for"),
            (LimitRequest { services: Vec::new(), ..add("web", "3/m") }, Code::Usage, "no service"),
            (request(LimitAction::Remove, "web", None), Code::Refused, "from the config"),
            (request(LimitAction::Remove, "api", None), Code::NotFound, "no limit was set"),
        ];
        for (request, code, text) in cases {
            let failure = run(&Limited::default(), &request).expect_err(text);
            assert_eq!(failure.code, code, "{}", failure.message);
            assert!(failure.message.contains(text), "{}", failure.message);
        }
    }
}
