//! Which rows of a list are wanted: options of the CLI, query of the admin API.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::backends::{Backend, Backends};
use super::nearest::not_found;
use super::services::Services;
use crate::failure::{Code, Failure};

/// Filters of `weir services`; empty ones let everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceFilter {
    /// Name of a service.
    pub service: Option<String>,
    /// Name of a pool.
    pub pool: Option<String>,
}

/// Filters of `weir backends`; empty ones let everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackendFilter {
    /// `web-1`, `web/web-1`, `web-*`.
    pub backend: Option<String>,
    /// Name of a pool.
    pub pool: Option<String>,
    /// Name of a service that uses the pool.
    pub service: Option<String>,
    /// Host label.
    pub host: Option<String>,
    /// An admin state or a health state.
    pub state: Option<String>,
}

/// Filters of `weir flows`; empty ones let everything through.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlowFilter {
    /// Name of a service.
    pub service: Option<String>,
    /// `web-1`, `web/web-1`, `web-*`.
    pub backend: Option<String>,
    /// An address or a prefix.
    pub client: Option<String>,
    /// `embryonic`, `young`, `proven` or `closing`.
    pub state: Option<String>,
    /// Most rows to list; 0 lists all. The total counts all that match.
    pub limit: Option<u64>,
    /// Whether only the total is wanted.
    #[serde(default)]
    pub count: bool,
}

/// States that `--state` of `weir backends` knows.
pub const BACKEND_STATES: [&str; 8] =
    ["active", "draining", "maintenance", "unknown", "up", "suspect", "down", "trial"];

/// States that `--state` of `weir flows` knows.
pub const FLOW_STATES: [&str; 4] = ["embryonic", "young", "proven", "closing"];

impl ServiceFilter {
    /// The services that match.
    ///
    /// # Errors
    /// A name that does not exist, with the nearest one.
    pub fn apply(&self, mut services: Services) -> Result<Services, Failure> {
        let all = &services.services;
        known("service", self.service.as_deref(), all.iter().map(|service| service.name.as_str()))?;
        known("pool", self.pool.as_deref(), all.iter().map(|service| service.pool.as_str()))?;
        services.services.retain(|service| {
            is(self.service.as_deref(), &service.name) && is(self.pool.as_deref(), &service.pool)
        });
        Ok(services)
    }
}

impl BackendFilter {
    /// The backends that match.
    ///
    /// # Errors
    /// A name that does not exist, with the nearest one; an unknown state.
    pub fn apply(&self, mut backends: Backends) -> Result<Backends, Failure> {
        self.names_exist(&backends.backends)?;
        one_of("state", self.state.as_deref(), &BACKEND_STATES)?;
        backends.backends.retain(|backend| self.matches(backend));
        Ok(backends)
    }

    fn names_exist(&self, all: &[Backend]) -> Result<(), Failure> {
        known("pool", self.pool.as_deref(), all.iter().map(|backend| backend.pool.as_str()))?;
        let services = all.iter().flat_map(|backend| &backend.services);
        known("service", self.service.as_deref(), services.map(String::as_str))?;
        known("host", self.host.as_deref(), all.iter().filter_map(|backend| backend.host.as_deref()))?;
        match &self.backend {
            Some(pattern) => {
                Pattern::new(pattern).must_match(all.iter().map(|b| (b.pool.as_str(), b.name.as_str())))
            }
            None => Ok(()),
        }
    }

    fn matches(&self, backend: &Backend) -> bool {
        is(self.pool.as_deref(), &backend.pool)
            && self.service.as_ref().is_none_or(|service| backend.services.contains(service))
            && self.host.as_ref().is_none_or(|host| backend.host.as_ref() == Some(host))
            && self
                .state
                .as_deref()
                .is_none_or(|state| state == backend.admin.name() || state == backend.health.name())
            && self
                .backend
                .as_deref()
                .is_none_or(|pattern| Pattern::new(pattern).matches(&backend.pool, &backend.name))
    }
}

impl FlowFilter {
    /// The prefix of `client`.
    ///
    /// # Errors
    /// When it is neither an address nor a prefix.
    pub fn client_prefix(&self) -> Result<Option<IpNet>, Failure> {
        let Some(text) = &self.client else { return Ok(None) };
        let parsed = text.parse::<IpAddr>().map(IpNet::from).ok().or_else(|| text.parse::<IpNet>().ok());
        match parsed {
            Some(prefix) => Ok(Some(prefix)),
            None => Err(Failure::new(
                Code::Usage,
                format!("client `{text}` is neither an address nor a prefix such as 203.0.113.0/24"),
            )),
        }
    }

    /// Checks `state`.
    ///
    /// # Errors
    /// An unknown state, with the known ones.
    pub fn check_state(&self) -> Result<(), Failure> {
        one_of("state", self.state.as_deref(), &FLOW_STATES)
    }
}

/// A backend's name in a command: `web-1` in all pools, `web/web-1` in one; `*` stands for any characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern<'a> {
    pool: Option<&'a str>,
    name: &'a str,
}

impl<'a> Pattern<'a> {
    /// The pattern as written.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        match text.split_once('/') {
            Some((pool, name)) => Self { pool: Some(pool), name },
            None => Self { pool: None, name: text },
        }
    }

    /// Whether it names backend `name` of `pool`.
    #[must_use]
    pub fn matches(&self, pool: &str, name: &str) -> bool {
        self.pool.is_none_or(|pattern| glob(pattern, pool)) && glob(self.name, name)
    }

    /// Checks that it names one of `backends`, given as pool and name.
    ///
    /// # Errors
    /// Not found, with the nearest name, or the nearest pool where it is the pool that is unknown.
    pub fn must_match<'b>(
        &self,
        backends: impl Iterator<Item = (&'b str, &'b str)> + Clone,
    ) -> Result<(), Failure> {
        if backends.clone().any(|(pool, name)| self.matches(pool, name)) {
            return Ok(());
        }
        let Some(pattern) = self.pool else {
            return Err(not_found("backend", self.name, backends.map(|(_, name)| name)));
        };
        let in_pool = |pool: &str| glob(pattern, pool);
        if !backends.clone().any(|(pool, _)| in_pool(pool)) {
            return Err(not_found("pool", pattern, backends.map(|(pool, _)| pool)));
        }
        let full: Vec<String> = backends.map(|(pool, name)| format!("{pool}/{name}")).collect();
        Err(not_found("backend", &format!("{pattern}/{}", self.name), full.iter().map(String::as_str)))
    }
}

/// Whether `pattern`, in which `*` stands for any characters, covers all of `text`.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(end)
}

fn is(wanted: Option<&str>, name: &str) -> bool {
    wanted.is_none_or(|wanted| wanted == name)
}

pub(super) fn known<'a>(
    object: &str,
    name: Option<&str>,
    all: impl Iterator<Item = &'a str> + Clone,
) -> Result<(), Failure> {
    match name {
        Some(name) if !all.clone().any(|known| known == name) => Err(not_found(object, name, all)),
        _ => Ok(()),
    }
}

fn one_of(option: &str, value: Option<&str>, allowed: &[&str]) -> Result<(), Failure> {
    match value {
        Some(value) if !allowed.contains(&value) => Err(Failure::new(
            Code::Usage,
            format!("{option} `{value}`: expected one of {}", allowed.join(", ")),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        let cases = [
            ("web-1", "web-1", true),
            ("web-1", "web-10", false),
            ("web-*", "web-10", true),
            ("*-1", "web-1", true),
            ("*", "", true),
            ("w*b*1", "web-1", true),
            ("w*b*1", "web-2", false),
            ("a*a", "a", false),
            ("ab*ba", "aba", false),
        ];
        for (pattern, text, matches) in cases {
            assert_eq!(glob(pattern, text), matches, "{pattern} {text}");
        }
    }

    #[test]
    fn a_name_with_a_pool_names_one_backend() {
        let all = [("web", "a"), ("api", "a"), ("api", "b")];
        let named =
            |text: &str| all.iter().filter(|(pool, name)| Pattern::new(text).matches(pool, name)).count();
        assert_eq!((named("a"), named("web/a"), named("api/*"), named("*/b")), (2, 1, 2, 1));
    }

    #[test]
    fn an_unknown_pool_and_an_unknown_backend_are_told_apart() {
        let all = [("web", "web-1"), ("api", "api-1")];
        let message = |text| Pattern::new(text).must_match(all.into_iter()).expect_err("unknown").message;
        assert_eq!(message("web-9"), r#"no such backend "web-9"; nearest: web-1"#);
        assert_eq!(message("web/web-9"), r#"no such backend "web/web-9"; nearest: web/web-1"#);
        assert_eq!(message("webb/web-1"), r#"no such pool "webb"; nearest: web"#);
    }

    #[test]
    fn a_client_is_an_address_or_a_prefix() {
        let prefix = |client: &str| {
            FlowFilter { client: Some(client.to_owned()), ..FlowFilter::default() }.client_prefix()
        };
        assert_eq!(prefix("203.0.113.9").ok().flatten(), "203.0.113.9/32".parse().ok());
        assert_eq!(prefix("2001:db8::/32").ok().flatten(), "2001:db8::/32".parse().ok());
        assert_eq!(prefix("203.0.113").expect_err("no address").code, Code::Usage);
    }
}
