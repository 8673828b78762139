//! Answers of the admin API that are not lists.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::state::request::ChangedBackend;
use crate::view::{Api, Render};

/// `GET /v1/drain?backends=web/web-1,web/web-2`: how far drains have come.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainProgress {
    /// Version mark.
    pub api: Api,
    /// The backends asked for.
    pub backends: Vec<ChangedBackend>,
    /// Their live flows together.
    pub flows: u64,
}

/// `GET /v1/ready`: whether this instance's VIPs should be announced.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Version mark.
    pub api: Api,
    /// Fresh heartbeat, attached, every check has a verdict.
    pub ready: bool,
    /// What is missing; empty when ready.
    pub reasons: Vec<String>,
}

impl Render for Readiness {
    fn render(&self, _now: Timestamp) -> String {
        if self.ready {
            return "ready\n".to_owned();
        }
        let reasons: String = self.reasons.iter().map(|reason| format!("  {reason}\n")).collect();
        format!("not ready\n{reasons}")
    }
}

/// The answer to `POST /v1/reload`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Version mark.
    pub api: Api,
    /// What changed, one line each; empty when nothing did.
    pub changes: Vec<String>,
    /// Findings that did not keep the config from being used.
    pub warnings: Vec<String>,
}

impl Render for Reloaded {
    fn render(&self, _now: Timestamp) -> String {
        let mut text: String = self.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
        match self.changes.is_empty() {
            true => text.push_str("config read again, nothing changed\n"),
            false => self.changes.iter().for_each(|change| text.push_str(&format!("{change}\n"))),
        }
        text
    }
}
