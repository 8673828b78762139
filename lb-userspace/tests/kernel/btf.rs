//! The maps describe themselves.

use std::process::Command;

use weir_model::{Scene, SceneSizes};

use crate::instance::Instance;

#[test]
fn bpftool_prints_the_names_of_the_fields_of_every_map() {
    let Some(instance) = Instance::new() else { return };
    let _loaded = instance.load(&SceneSizes::SMALL.geometry(Scene::START));
    let cases: [(&str, &[&str]); 21] = [
        ("meta", &["magic", "layout_version", "secret", "object"]),
        ("vips_v4", &["entries", "overflow"]),
        ("vips_v6", &["high", "low", "ids"]),
        ("vips", &["any", "ranges", "unmatched"]),
        ("services", &["forward", "timeouts"]),
        ("pools", &["current", "previous", "usable", "changed", "last_resort"]),
        ("maglev", &["ids"]),
        ("backends", &["hot", "egress", "address", "sources"]),
        ("loads", &["seen", "unseen", "cost"]),
        ("server_ids", &["pool", "ids"]),
        ("next_hops", &["select", "copies", "port", "mtu", "macs", "tags"]),
        ("flows_v4", &["ways", "key", "meta", "binding"]),
        ("flows_v6", &["ways", "key", "meta", "binding"]),
        ("overflow_v4", &["marks"]),
        ("overflow_v6", &["marks"]),
        ("fragments", &["ways", "key", "value"]),
        ("nat_addresses", &["address", "range", "queues", "head", "tail"]),
        ("nat_ports", &["state", "check", "ends", "client", "place"]),
        ("nat_lines", &["ways"]),
        ("backend_info", &["name", "host", "since_ms", "why"]),
        ("reason_counters", &["packets", "bytes"]),
    ];
    for (map, fields) in cases {
        let mut bpftool = Command::new("bpftool");
        bpftool
            .args(["map", "lookup", "pinned"])
            .arg(instance.pins.map(map))
            .args(["key", "0", "0", "0", "0"]);
        let dump = match bpftool.output() {
            Ok(dump) => dump,
            Err(error) => return println!("SKIPPED: bpftool ({error})"),
        };
        let text = String::from_utf8_lossy(&dump.stdout);
        for field in fields {
            let named = text.contains(&format!("\"{field}\":"));
            assert!(named, "{map} has no {field}: {text}{}", String::from_utf8_lossy(&dump.stderr));
        }
    }
}
