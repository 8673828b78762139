//! A neighbour that no longer answers ARP raises doubt in the backends behind it, long before a slow check would.

use std::time::Duration;

use anyhow::Result;
use serde_json::Value;
use weir_tests::{Lab, WeirProc, eventually};

/// A check that would not notice within the time of a test.
const CONFIG: &str = r#"
interfaces = ["eth0", "eth1"]

[limits]
flows_v4 = 4096
flows_v6 = 1024
maglev_slots = 65_536

[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
mode = "ipip"
[service.health]
type = "ping"
interval = "500ms"
timeout = "5m"
fall = 500
[[service.backend]]
name = "direct-1"
address = "10.0.1.11"
[[service.backend]]
name = "routed-1"
address = "10.0.2.11"
"#;

fn backend(weir: &WeirProc, name: &str) -> Value {
    let list = weir.json(&["backends"]).unwrap_or_default();
    let found = list["backends"].as_array().into_iter().flatten().find(|one| one["name"] == name);
    found.cloned().unwrap_or_default()
}

fn is(weir: &WeirProc, name: &str, health: &str) -> bool {
    backend(weir, name)["health"] == health
}

#[test]
fn backend_that_does_not_answer_arp_is_suspect_until_it_answers_a_probe() -> Result<()> {
    let lab = Lab::builder().direct(1).routed(1).start()?;
    let host = lab.weir_host();
    // The kernel's patience is half a minute by default.
    for setting in ["base_reachable_time_ms 300", "delay_first_probe_time 0", "retrans_time_ms 100"] {
        let (name, value) = setting.split_once(' ').unwrap_or_default();
        host.sysctl(&format!("ipv4/neigh/eth1/{name}"), value)?;
    }
    host.sysctl("ipv4/neigh/eth1/interval_probe_time_ms", "500")?;
    let weir = lab.weir(CONFIG)?;
    eventually("both are up", || ["direct-1", "routed-1"].iter().all(|name| is(&weir, name, "up")));
    let frozen = lab.backend("direct-1");
    frozen.freeze()?;
    eventually("it is suspect", || is(&weir, "direct-1", "suspect"));
    let one = backend(&weir, "direct-1");
    println!("{}: {}", one["health"], one["why"]);
    assert_eq!(one["why"], "it does not answer ARP or ND", "{one}");
    assert!(is(&weir, "routed-1", "up"), "its router answers");
    std::thread::sleep(Duration::from_millis(300));
    assert!(is(&weir, "direct-1", "suspect"), "nothing has cleared it");
    frozen.thaw()?;
    eventually("it is up again", || is(&weir, "direct-1", "up"));
    Ok(())
}
