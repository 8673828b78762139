//! Lists of prefixes, written out and in files.

use std::fs;

use super::{BASE, accepted, changed};
use crate::filter::Prefixes;

fn texts(prefixes: &Prefixes) -> Vec<String> {
    prefixes.iter().map(ToString::to_string).collect()
}

#[test]
fn lists_are_read_at_the_top_level_in_vips_and_in_defaults() {
    let config = accepted(BASE).config;
    assert!(config.deny.is_empty() && config.vips.values().all(|vip| vip.allow.is_empty()));
    let lists = "deny = \"192.0.2.0/24\"\n[defaults]\nallow = [\"10.0.0.0/8\", \"2001:db8::1\"]\ndeny = [\"10.1.0.0/16\"]\n[[service]]";
    let config = accepted(&changed("[[service]]", lists)).config;
    assert_eq!(texts(&config.deny), ["192.0.2.0/24"]);
    let vip = config.vips.values().next().unwrap();
    assert_eq!(texts(&vip.allow), ["10.0.0.0/8", "2001:db8::1/128"]);
    assert_eq!(texts(&vip.deny), ["10.1.0.0/16"]);
}

#[test]
fn files_of_prefixes_lie_beside_the_config_and_name_their_bad_lines() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("weir.toml");
    let with =
        |list: &str| super::super::parse(&changed("[[service]]", &format!("{list}\n[[service]]")), &file);
    fs::write(dir.path().join("bad.txt"), "# seen lately\n203.0.113.0/24\n\n  2001:db8::/32 # all of it\n")
        .unwrap();
    let list = "deny = [\"192.0.2.0/24\", { file = \"bad.txt\" }]";
    let config = with(list).unwrap().config;
    assert_eq!(texts(&config.deny), ["192.0.2.0/24", "203.0.113.0/24", "2001:db8::/32"]);

    let refused = |text: &str, list: &str| {
        fs::write(dir.path().join("bad.txt"), text).unwrap();
        with(list).unwrap_err().to_string()
    };
    let message = refused("203.0.113.0/24\n203.0.113.1/24\n", list);
    assert!(message.contains("bad.txt:2: \"203.0.113.1/24\" has bits behind its prefix length"), "{message}");
    let message = refused("", "[defaults]\nallow = { file = \"bad.txt\" }");
    assert!(message.contains("an empty list lets everybody in"), "{message}");
    let message = refused("", "deny = [{ file = \"none.txt\" }]");
    assert!(message.contains("none.txt: no such file"), "{message}");
    let message = refused("", "deny = [\"example.org\"]");
    assert!(message.contains("\"example.org\" is neither an address nor a prefix"), "{message}");
}
