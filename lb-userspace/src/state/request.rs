//! A change of backends as it is asked for and answered.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::failure::{Code, Failure};
use crate::view::table::{Align, Table};
use crate::view::{Api, Render, number};

/// What to do to backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Keep known flows, take no new ones.
    Drain,
    /// Out of service for work on it.
    Maintenance,
    /// Reset the flows that are left, of what drains or is in maintenance.
    Reset,
    /// Back to active.
    Ready,
    /// Another weight; `None` is the config's.
    Weight {
        /// 0..=1000.
        weight: Option<u16>,
    },
}

/// Which backends a request means: those that match everything given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Targets {
    /// `web-1`, `web/web-1`, `web-*`; several are joined, none means all of the pool or host.
    pub names: Vec<String>,
    /// Name of a pool.
    pub pool: Option<String>,
    /// Host label.
    pub host: Option<String>,
}

impl Targets {
    /// The pools that all targets are of, where they say so without `*`.
    #[must_use]
    pub fn pools_named(&self) -> Option<BTreeSet<&str>> {
        let pools = self.names.iter().map(|name| Some(name.split_once('/')?.0));
        match &self.pool {
            Some(pool) => Some(BTreeSet::from([pool.as_str()])),
            None if self.names.is_empty() => None,
            None => pools.map(|pool| pool.filter(|pool| !pool.contains('*'))).collect(),
        }
    }
}

/// Longest `--for` in seconds: ten years.
const LONGEST_S: u64 = 10 * 365 * 86_400;
/// Longest `--reason` in bytes.
const LONGEST_REASON: usize = 500;

/// Refuses what cannot go on record: a time that a change cannot last, a reason that is too long.
pub(super) fn check_record(reason: &str, for_s: Option<u64>) -> Result<(), Failure> {
    let usage = |message: String| Err(Failure::new(Code::Usage, message));
    if for_s.is_some_and(|seconds| seconds == 0 || seconds > LONGEST_S) {
        return usage("--for: allowed are 1s to 3650d".to_owned());
    }
    if reason.len() > LONGEST_REASON {
        return usage(format!("--reason: {} bytes, at most {LONGEST_REASON}", reason.len()));
    }
    Ok(())
}

/// Whether guards are overridden.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Force {
    /// Guards refuse.
    Unforced,
    /// Guards are silent.
    Forced,
}

/// `POST /v1/backends`: a change of backends at run time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "BackendBody", into = "BackendBody")]
pub struct BackendRequest {
    /// What to do.
    pub action: Action,
    /// To which backends.
    pub targets: Targets,
    /// Why, for the record.
    pub reason: String,
    /// Seconds after which the change ends by itself.
    pub for_s: Option<u64>,
    /// Whether guards are overridden.
    pub force: Force,
    /// The user behind a root shell (`SUDO_USER`); believed of root alone.
    pub on_behalf_of: Option<String>,
}

/// The JSON form of a [`BackendRequest`]: flat, every key known.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct BackendBody {
    action: Verb,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u16>,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    pool: Option<String>,
    #[serde(default)]
    host: Option<String>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    for_s: Option<u64>,
    #[serde(default)]
    force: bool,
    #[serde(default)]
    on_behalf_of: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Verb {
    Drain,
    Maintenance,
    Reset,
    Ready,
    Weight,
}

impl TryFrom<BackendBody> for BackendRequest {
    type Error = String;

    fn try_from(body: BackendBody) -> Result<Self, String> {
        let action = match (body.action, body.weight) {
            (Verb::Weight, weight) => Action::Weight { weight },
            (_, Some(_)) => return Err("weight: only the action `weight` takes one".to_owned()),
            (Verb::Drain, None) => Action::Drain,
            (Verb::Maintenance, None) => Action::Maintenance,
            (Verb::Reset, None) => Action::Reset,
            (Verb::Ready, None) => Action::Ready,
        };
        Ok(Self {
            action,
            targets: Targets { names: body.names, pool: body.pool, host: body.host },
            reason: body.reason,
            for_s: body.for_s,
            force: if body.force { Force::Forced } else { Force::Unforced },
            on_behalf_of: body.on_behalf_of,
        })
    }
}

impl From<BackendRequest> for BackendBody {
    fn from(request: BackendRequest) -> Self {
        let (action, weight) = match request.action {
            Action::Drain => (Verb::Drain, None),
            Action::Maintenance => (Verb::Maintenance, None),
            Action::Reset => (Verb::Reset, None),
            Action::Ready => (Verb::Ready, None),
            Action::Weight { weight } => (Verb::Weight, weight),
        };
        let Targets { names, pool, host } = request.targets;
        Self {
            action,
            weight,
            names,
            pool,
            host,
            reason: request.reason,
            for_s: request.for_s,
            force: request.force == Force::Forced,
            on_behalf_of: request.on_behalf_of,
        }
    }
}

/// The answer to a [`BackendRequest`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// Version mark.
    pub api: Api,
    /// What it does, one sentence a pool: `drains 1 of 3 backends of pool web, 812 live flows`.
    pub effects: Vec<String>,
    /// The backends that it means, as they are after it.
    pub backends: Vec<ChangedBackend>,
}

/// A backend after a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedBackend {
    /// Name of its pool.
    pub pool: String,
    /// Name.
    pub name: String,
    /// `active`, `draining` or `maintenance`.
    pub admin: String,
    /// Weight in force.
    pub weight: u16,
    /// Live flows.
    pub flows: u64,
}

impl Render for Changed {
    fn render(&self, _now: Timestamp) -> String {
        let mut text: String = self.effects.iter().map(|effect| format!("{effect}\n")).collect();
        let mut table = Table::new(&[
            ("BACKEND", Align::Left),
            ("ADMIN", Align::Left),
            ("WEIGHT", Align::Right),
            ("FLOWS", Align::Right),
        ]);
        for backend in &self.backends {
            table.row([
                format!("{}/{}", backend.pool, backend.name).into(),
                backend.admin.as_str().into(),
                backend.weight.to_string().into(),
                number(backend.flows).into(),
            ]);
        }
        text.push_str(&table.render());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backend_requests_are_flat_json_and_read_back() {
        let request = BackendRequest {
            action: Action::Weight { weight: Some(50) },
            targets: Targets { names: vec!["web-1".to_owned()], pool: None, host: None },
            reason: String::new(),
            for_s: Some(60),
            force: Force::Forced,
            on_behalf_of: None,
        };
        let json = serde_json::to_string(&request).expect("serialises");
        assert_eq!(
            json,
            r#"{"action":"weight","weight":50,"names":["web-1"],"pool":null,"host":null,"reason":"","for_s":60,"force":true,"on_behalf_of":null}"#
        );
        assert_eq!(serde_json::from_str::<BackendRequest>(&json).expect("reads"), request);
    }

    #[test]
    fn targets_that_all_name_a_pool_are_of_those_pools() {
        let names = |names: &[&str]| names.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (of, pool, expected) in [
            (names(&["web/web-1", "api/*"]), None, Some(BTreeSet::from(["api", "web"]))),
            (names(&["web-1"]), Some("web"), Some(BTreeSet::from(["web"]))),
            (names(&[]), Some("web"), Some(BTreeSet::from(["web"]))),
            (names(&["web/web-1", "web-2"]), None, None),
            (names(&["w*/web-1"]), None, None),
            (names(&[]), None, None),
        ] {
            let targets = Targets { names: of, pool: pool.map(str::to_owned), host: Some("h".to_owned()) };
            assert_eq!(targets.pools_named(), expected, "{targets:?}");
        }
    }

    #[test]
    fn a_request_with_an_unknown_key_or_a_stray_weight_is_refused() {
        for body in [
            r#"{"action":"drain","names":["web-1"],"pol":"web"}"#,
            r#"{"action":"drain","names":["web-1"],"weight":5}"#,
            r#"{"action":"remove","names":["web-1"]}"#,
            r#"{"names":["web-1"]}"#,
        ] {
            assert!(serde_json::from_str::<BackendRequest>(body).is_err(), "{body}");
        }
    }
}
