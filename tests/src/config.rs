//! The configuration that tests of operations start from: one service, its direct backends, quick checks.
#![forbid(unsafe_code)]

use std::fmt::Write as _;

use crate::plan::{self, DIRECT, FIRST_BACKEND};

/// Map sizes.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// IPv4 flows that fit.
    pub flows_v4: u32,
    /// Backends that fit.
    pub backends: u32,
}

impl Default for Limits {
    /// Small maps, which load quickly.
    fn default() -> Self {
        Self { flows_v4: 4096, backends: 64 }
    }
}

/// Service `web` (the first VIP, port 80, `dsr-l2`) on backends `direct-1` to `direct-N` of pool `web`, checked by
/// `tcp` every 50 ms. Backend N carries the host label `host-N`.
pub fn config(backends: u8, limits: Limits) -> String {
    let Limits { flows_v4, backends: most } = limits;
    let vip = plan::vip(0).v4;
    let mut text = format!(
        r#"interfaces = ["eth0", "eth1"]

[limits]
flows_v4 = {flows_v4}
flows_v6 = 1024
services = 16
backends = {most}
maglev_slots = 65_536

[[service]]
name = "web"
vip = "{vip}"
port = 80
protocol = "tcp"
mode = "dsr-l2"
pool = "web"

[[pool]]
name = "web"
[[pool.health]]
type = "tcp"
port = 80
interval = "50ms"
timeout = "1s"
"#
    );
    for index in 0..backends {
        let (number, address) = (index + 1, DIRECT.host(FIRST_BACKEND + index).v4);
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "[[pool.backend]]\nname = \"direct-{number}\"\naddress = \"{address}\"\nhost = \"host-{number}\"\n"
        );
    }
    text
}
