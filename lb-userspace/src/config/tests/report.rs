//! What `weir check` says of a valid configuration.

use super::super::check_report;
use super::{accepted, changed};

#[test]
fn memory_follows_from_the_limits() {
    let limits = "[limits]\nflows_v4 = 65_537\nflows_v6 = 64\nservices = 10\nbackends = 100\nmaglev_slots = 4096\n[[service]]";
    let config = accepted(&changed("[[service]]", limits)).config;
    let report = check_report(&config);
    let bytes = |map: &str| report.maps.iter().find(|m| m.map == map).map(|m| m.bytes);
    assert_eq!(bytes("flows_v4"), Some(262_144 * 16));
    assert_eq!(bytes("flows_v6"), Some(128 * 32));
    assert_eq!(bytes("backends"), Some(101 * 64));
    assert_eq!(report.total_bytes, report.maps.iter().map(|m| m.bytes).sum::<u64>());
}

#[test]
fn detection_times_are_bounded_by_the_fastest_check() {
    let health = r#"[[service.health]]
type = "ping"
interval = "1ms"
timeout = "3ms"
fall = 3
[[service.health]]
type = "tcp"
interval = "5ms"
timeout = "10ms"
fall = 2
[[service.health]]
type = "syn"
interval = "10ms"
timeout = "50ms"
fall = 2
[[service.health]]
type = "http"
interval = "20ms"
timeout = "30ms"
fall = 3
[[service.health]]
type = "none"
[[service.backend]]"#;
    let config = accepted(&changed("[[service.backend]]", health)).config;
    let report = check_report(&config);
    let pool = &report.pools[0];
    let worst: Vec<_> = pool.checks.iter().map(|check| check.worst_ms).collect();
    assert_eq!(worst, [Some(4), Some(20), Some(60), Some(90), None]);
    assert_eq!((pool.silent_host_ms, pool.silent_server_ms), (Some(4), Some(90)));
}
