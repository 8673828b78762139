//! Whole configurations: what is accepted, and what is said about the rest.

mod accepted;
mod checks;
mod conflicts;
mod examples;
mod fuzz;
mod hooks;
mod lists;
mod nonsense;
mod refused;
mod report;

use std::path::Path;

use super::{Loaded, Problems};

/// A configuration with one service; its text is what the tables of cases start from.
const BASE: &str = r#"interfaces = ["eth0"]
[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
mode = "ipip"
[[service.backend]]
name = "web-1"
address = "10.0.0.11"
"#;

fn parse(text: &str) -> Result<Loaded, Problems> {
    super::parse(text, Path::new("/etc/weir/weir.toml"))
}

#[track_caller]
fn accepted(text: &str) -> Loaded {
    parse(text).unwrap_or_else(|problems| panic!("refused:\n{problems}\n--- in\n{text}"))
}

/// `BASE` with one replacement, which must apply.
#[track_caller]
fn changed(from: &str, to: &str) -> String {
    assert!(BASE.contains(from), "{from:?} is not in the base");
    BASE.replacen(from, to, 1)
}
