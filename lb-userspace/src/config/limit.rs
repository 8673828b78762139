//! `new_flow_limit`: how many new flows a source, and a service, may start.

use std::str::FromStr;
use std::time::Duration;

use super::keys;
use super::model::{NewFlowLimit, Rate};
use super::reader::Node;

/// Most flows of a period.
const MOST: u64 = 10_000_000;

/// Reads `new_flow_limit`; `None` is none.
pub(crate) fn read(node: &Node<'_>) -> Option<NewFlowLimit> {
    if !node.is_table() {
        if node.as_string() != Some("none") {
            node.fail(format_args!(
                "must be \"none\" or a table such as {{ per_source = \"100/s\", total = \"50000/s\" }}, got {}",
                node.written()
            ));
        }
        return None;
    }
    let table = node.table("new_flow_limit".to_owned(), keys::NEW_FLOW_LIMIT)?;
    let rate = |key| table.value(key).and_then(|node| rate(&node));
    let bits = |key, most, otherwise: u8| {
        table.value(key).and_then(|node| node.integer(1..=most)).unwrap_or(otherwise)
    };
    let limit = NewFlowLimit {
        per_source: rate("per_source"),
        prefix_v4: bits("prefix_v4", 32, 32),
        prefix_v6: bits("prefix_v6", 64, 64),
        total: rate("total"),
    };
    if table.value("per_source").is_none() && table.value("total").is_none() {
        node.fail("limits nothing: give per_source, total, or \"none\"");
    }
    Some(limit)
}

fn rate(node: &Node<'_>) -> Option<Rate> {
    let text = node.string("a rate such as \"100/s\"")?;
    text.parse().map_err(|problem: String| node.fail(problem)).ok()
}

impl FromStr for Rate {
    type Err = String;

    /// `100/s`, `20/m`, `500/h`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(flows, period)| {
            let period = match period.trim() {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            };
            let flows = flows.trim().replace('_', "").parse::<u64>().ok()?;
            (1..=MOST).contains(&flows).then(|| Self { flows, period: Duration::from_secs(period) })
        });
        parsed.ok_or_else(|| {
            format!("{text:?} is no rate; write \"100/s\", \"20/m\" or \"500/h\", at most {MOST}")
        })
    }
}

impl TryFrom<String> for Rate {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Rate> for String {
    fn from(rate: Rate) -> Self {
        rate.to_string()
    }
}
