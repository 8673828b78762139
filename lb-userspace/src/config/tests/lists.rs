//! Lists of prefixes, written out and in files; limits of new flows; the program that is called next.

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

#[test]
fn limits_of_new_flows_come_from_the_service_or_its_vip() {
    let with = |defaults: &str, own: &str| {
        let text = changed("[[service]]", &format!("{defaults}\n[[service]]\n{own}"));
        accepted(&text).config.services["web"].new_flow_limit
    };
    assert_eq!(with("", ""), None);
    let limit =
        "[defaults]\nnew_flow_limit = { per_source = \"100/s\", prefix_v4 = 24, total = \"5_000/m\" }";
    let found = with(limit, "").unwrap();
    assert_eq!((found.prefix_v4, found.prefix_v6), (24, 64));
    let shown = [found.per_source, found.total].map(|rate| rate.unwrap().to_string());
    assert_eq!(shown, ["100/s", "5000/m"]);
    assert_eq!(with(limit, "new_flow_limit = \"none\""), None, "its own wins");
    let own = with(limit, "new_flow_limit = { total = \"7/h\" }").unwrap();
    assert_eq!((own.per_source, own.total.unwrap().to_string().as_str()), (None, "7/h"));
    assert_eq!(with(limit, "track = false"), None, "without entries nothing is a new flow");
}

#[test]
fn limits_and_programs_that_cannot_be_are_refused() {
    for (written, expected) in [
        ("new_flow_limit = \"100/s\"", "must be \"none\" or a table"),
        ("new_flow_limit = { per_source = \"100\" }", "\"100\" is no rate"),
        ("new_flow_limit = { per_source = \"0/s\" }", "\"0/s\" is no rate"),
        ("new_flow_limit = { total = \"5/d\" }", "\"5/d\" is no rate"),
        ("new_flow_limit = { prefix_v4 = 24 }", "limits nothing"),
        ("new_flow_limit = { total = \"5/s\", prefix_v6 = 65 }", "prefix_v6 must be an integer from 1 to 64"),
        ("new_flow_limit = { rate = \"5/s\" }", "unknown key `rate`"),
        ("track = false\nnew_flow_limit = { total = \"5/s\" }", "needs track = true"),
    ] {
        let text = changed("[[service]]", &format!("[[service]]\n{written}"));
        let message = super::parse(&text).unwrap_err().to_string();
        assert!(message.contains(expected), "{written}: {message}");
    }
    let next = |path: &str| {
        super::parse(&changed("[[service]]", &format!("next_program = \"{path}\"\n[[service]]")))
    };
    assert!(next("filter").unwrap_err().to_string().contains("must be an absolute path"));
    let path = next("/sys/fs/bpf/filter").unwrap().config.next_program.unwrap();
    assert_eq!(path.to_str(), Some("/sys/fs/bpf/filter"));
}
