//! A drill as it is asked for and told.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::table::{Align, Table};
use super::{Api, Render};
use crate::health::drill::Fail;

/// `POST /v1/drills`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillRequest {
    /// `web/web-1`, or `web-1` where one pool has it.
    pub backend: String,
    /// How it fails.
    pub fail: Fail,
    /// For how long, in milliseconds.
    pub for_ms: u64,
    /// Whether guards are overridden.
    #[serde(default)]
    pub force: bool,
    /// The user behind a root shell (`SUDO_USER`); believed of root alone.
    #[serde(default)]
    pub on_behalf_of: Option<String>,
}

/// The document of `weir drill`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DrillReport {
    /// Version mark.
    pub api: Api,
    /// Name of the pool.
    pub pool: String,
    /// Name of the backend.
    pub backend: String,
    /// How it failed.
    pub fail: Fail,
    /// For how long, in milliseconds.
    pub for_ms: u64,
    /// Whether the backend is back, or nobody waits for it any longer.
    pub done: bool,
    /// When the failure began.
    pub injected_at: Timestamp,
    /// From the failure until the data plane kept new flows away; `null` if it never did.
    pub new_flows_stopped_after_us: Option<u64>,
    /// From the failure until the data plane sent it the last new TCP flow, to 0.2 ms; `null` if it sent none.
    pub last_new_flow_after_us: Option<u64>,
    /// From the failure until it was called down and the data plane had it; `null` if it never was.
    pub down_after_us: Option<u64>,
    /// From the end of the failure until it took new flows again; `null` if it did not within the time.
    pub readmitted_after_us: Option<u64>,
    /// What happened, in order.
    pub timeline: Vec<Step>,
}

/// A step of a drill.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Step {
    /// `injected`, `suspect`, `down`, `store`, `last new flow`, `restored`, `trial`, `up`.
    pub step: String,
    /// When.
    pub at: Timestamp,
    /// Since the failure began, in microseconds.
    pub after_us: i64,
    /// In words.
    pub detail: String,
}

impl Render for DrillReport {
    fn render(&self, _now: Timestamp) -> String {
        let mut table =
            Table::new(&[("STEP", Align::Left), ("AFTER", Align::Right), ("DETAIL", Align::Left)]);
        for step in &self.timeline {
            let after = format!("{:.3} ms", step.after_us as f64 / 1e3);
            table.row([step.step.as_str().into(), after.into(), step.detail.as_str().into()]);
        }
        let told = |what: &str, us: Option<u64>, never: &str| match us {
            Some(us) => format!("{what:<24}{:.3} ms\n", Duration::from_micros(us).as_secs_f64() * 1e3),
            None => format!("{what:<24}{never}\n"),
        };
        let mut text =
            format!("drill {}/{} --fail {} for {} ms\n", self.pool, self.backend, self.fail, self.for_ms);
        text.push_str(&table.render());
        text.push('\n');
        text.push_str(&told("new flows stopped after", self.new_flows_stopped_after_us, "not detected"));
        text.push_str(&told("last new flow after", self.last_new_flow_after_us, "none was sent"));
        text.push_str(&told("down after", self.down_after_us, "never"));
        text.push_str(&told("readmitted after", self.readmitted_after_us, "not yet"));
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drill_reads_as_a_timeline() {
        let at = Timestamp::constant(1_795_000_000, 0);
        let step = |step: &str, after_us, detail: &str| Step {
            step: step.to_owned(),
            at,
            after_us,
            detail: detail.to_owned(),
        };
        let report = DrillReport {
            api: Api,
            pool: "web".to_owned(),
            backend: "web-1".to_owned(),
            fail: Fail::Crash,
            for_ms: 5000,
            done: true,
            injected_at: at,
            new_flows_stopped_after_us: Some(3_120),
            last_new_flow_after_us: Some(3_030),
            down_after_us: Some(53_400),
            readmitted_after_us: None,
            timeline: vec![
                step("injected", 0, "crash"),
                step("suspect", 3_100, "tcp 10.0.0.11:80: connection refused (1 in a row)"),
                step("store", 3_120, "new flows stay away"),
            ],
        };
        let text = anstream::adapter::strip_str(&report.render(at)).to_string();
        insta::assert_snapshot!(text, @r"
        drill web/web-1 --fail crash for 5000 ms
        STEP         AFTER  DETAIL
        injected  0.000 ms  crash
        suspect   3.100 ms  tcp 10.0.0.11:80: connection refused (1 in a row)
        store     3.120 ms  new flows stay away

        new flows stopped after 3.120 ms
        last new flow after     3.030 ms
        down after              53.400 ms
        readmitted after        not yet
        ");
    }
}
