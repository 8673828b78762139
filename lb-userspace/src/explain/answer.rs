//! What `weir explain` asks and answers.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::view::{Api, Render};

/// `POST /v1/explain`: frames to explain, in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frames {
    /// Whole Ethernet frames in hexadecimal.
    pub frames: Vec<String>,
    /// The interface that they come in by; the first that weir is attached to where it is absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interface: Option<String>,
}

/// The answer to `POST /v1/explain`, in the order of the frames.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExplainedFrames {
    /// Version mark.
    pub api: Api,
    /// One each.
    pub explained: Vec<Explained>,
}

/// What happens to one frame, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explained {
    /// Version mark.
    pub api: Api,
    /// `tx`, `redirect`, `pass` or `drop`.
    pub verdict: String,
    /// Why, as in the counters of `status`.
    pub reason: String,
    /// The service that claims the packet.
    pub service: Option<String>,
    /// The backend that gets it.
    pub backend: Option<String>,
    /// The backend's pool.
    pub pool: Option<String>,
    /// `new`, `known` or `none`: what the flow table has to do with it.
    pub flow: String,
    /// The frame as it leaves, in hexadecimal.
    pub output: String,
    /// The decision, step by step.
    pub steps: Vec<Step>,
}

impl Explained {
    /// Says of a frame that passes that the next program would be called.
    pub(crate) fn hand_on(&mut self, next_program: Option<&Path>) {
        if let Some(path) = next_program.filter(|_| self.verdict == "pass") {
            let detail = format!("{} would be called; its verdict counts", path.display());
            self.steps.push(Step { step: "next program".to_owned(), detail });
        }
    }
}

/// A step of a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Which.
    pub step: String,
    /// What it found.
    pub detail: String,
}

impl Render for Explained {
    fn render(&self, _now: Timestamp) -> String {
        let to = match (&self.pool, &self.backend) {
            (Some(pool), Some(backend)) => format!(" to {pool}/{backend}"),
            _ => String::new(),
        };
        let mut text = format!("{} ({}){to}\n", self.verdict, self.reason);
        let width = self.steps.iter().map(|step| step.step.len()).max().unwrap_or_default();
        for Step { step, detail } in &self.steps {
            text.push_str(&format!("  {step:<width$}  {detail}\n"));
        }
        text.push_str(&format!("  {:<width$}  {}\n", "output", self.output));
        text
    }
}
