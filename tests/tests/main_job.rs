//! The main job: HTTP through weir to nginx, in every mode and family.

use std::net::SocketAddr;
use std::time::Duration;

use weir_tests::Lab;

const CONFIG: &str = r#"
interfaces = ["eth0", "eth1"]

[limits]
flows_v4 = 65_536
flows_v6 = 16_384
maglev_slots = 65_536

[[pool]]
name = "direct"
[[pool.health]]
type = "tcp"
port = 80
interval = "50ms"
timeout = "50ms"
[[pool.backend]]
name = "direct-1"
address = "10.0.1.11"
[[pool.backend]]
name = "direct-2"
address = "10.0.1.12"

[[service]]
name = "l2"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
mode = "dsr-l2"
pool = "direct"

[[service]]
name = "tunnel"
vip = "198.51.100.11"
port = 80
protocol = "tcp"
mode = "ipip"
[[service.health]]
type = "syn"
interval = "50ms"
timeout = "50ms"
[[service.health]]
type = "ping"
interval = "20ms"
timeout = "60ms"
[[service.backend]]
name = "routed-1"
address = "10.0.2.11"
[[service.backend]]
name = "routed-2"
address = "10.0.2.12"
[[service.backend]]
name = "direct-1"
address = "10.0.1.11"
"#;

#[test]
fn http_requests_reach_every_backend_and_come_back() -> anyhow::Result<()> {
    let lab = Lab::builder().direct(2).routed(2).vips(2).start()?;
    let weir = lab.weir(CONFIG)?;
    for (vip, backends) in [("198.51.100.10", 2), ("198.51.100.11", 3)] {
        let target: SocketAddr = format!("{vip}:80").parse()?;
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..60 {
            let response = lab.client().get(&weir_tests::Get::new(target).timeout(Duration::from_secs(2)))?;
            seen.insert(response.backend);
        }
        assert_eq!(seen.len(), backends, "{vip}: {seen:?}");
    }
    println!("{}", weir.succeed(&["status"])?);
    println!("{}", weir.succeed(&["backends"])?);
    println!("{}", weir.succeed(&["services"])?);
    println!("{}", weir.succeed(&["flows"])?);
    println!("{}", weir.log());
    Ok(())
}
