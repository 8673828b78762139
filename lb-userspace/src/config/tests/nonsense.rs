//! What is well-formed and cannot have been meant.

use super::refused::refused;
use super::{accepted, changed};

/// What is remarked on a config that is accepted, each as `line: message`.
fn warnings(from: &str, to: &str) -> Vec<String> {
    let loaded = accepted(&changed(from, to));
    let told = |warning: &super::super::Problem| {
        format!("{}: {}", warning.line.unwrap_or_default(), warning.message)
    };
    loaded.warnings.0.iter().map(told).collect()
}

#[test]
fn values_of_defaults_are_checked_also_where_nobody_takes_them() {
    for (line, expected) in [
        (
            "query = \"..bad\"",
            "query \"..bad\" is no domain name: labels of 1 to 63 characters, at most 253 in all",
        ),
        ("expect_answer = 5", "expect_answer must be a text such as \"192.0.2.1\", got 5"),
        (
            "command = \"x\"",
            "command must begin with a program's absolute path: there is no shell and no search path",
        ),
        ("vip = 5", "vip must be the name of a [[vip]], or an address, got 5"),
        ("pool = 5", "pool must be the name of a [[pool]], got 5"),
        ("protocol = []", "protocol must hold at least one of: tcp, udp, sctp"),
        (
            "port = 70_000",
            "port 70000 is no port: 1 to 65535, a range such as \"8000-8100\", or port = \"any\"",
        ),
    ] {
        let config = changed("[[service]]", &format!("[defaults]\n{line}\n[[service]]"));
        let problems = super::parse(&config).expect_err(line).to_string();
        assert!(problems.contains(&format!(":3: [defaults]: {expected}\n")), "{line}:\n{problems}");
    }
}

#[test]
fn a_service_without_a_pool_is_never_left_out_in_silence() {
    let text = changed("mode = \"ipip\"\n", "mode = \"ipip\"\npool = \"\"\n");
    let text = text.split("[[service.backend]]").next().unwrap();
    let problems = super::parse(text).expect_err("no pool has this name").to_string();
    assert!(
        problems.contains(":8: service \"web\": pool must be the name of a [[pool]], got \"\""),
        "{problems}"
    );
}

#[test]
fn settings_of_checks_in_defaults_want_a_health_table() {
    let alone = warnings("[[service]]", "[defaults]\ninterval = \"5s\"\n[[service]]");
    let expected =
        "3: interval is for health tables, and there is none: default checks keep their own settings";
    assert_eq!(alone, [expected]);
    let with = "[defaults]\ninterval = \"5s\"\n[[defaults.health]]\ntype = \"ping\"\n[[service]]";
    assert_eq!(warnings("[[service]]", with), [""; 0]);
}

#[test]
fn a_vip_that_looks_like_an_address_is_told_what_is_wrong_with_it() {
    for (vip, expected) in [
        ("198.51.100.10/32", "is no valid address; give an address without a prefix length"),
        ("198.051.100.010", "is no valid address; give an IP address"),
        ("fe80::1%eth0", "is no valid address; give an IP address"),
        ("", "is no valid address; give an IP address"),
        ("public", "is neither an address nor the name of a [[vip]]: add a [[vip]] with that name"),
    ] {
        let to = format!("vip = \"{vip}\"");
        refused("vip = \"198.51.100.10\"", &to, &[&format!("4: service \"web\": vip {vip:?} {expected}")]);
    }
}

#[test]
fn outer_headers_come_from_nobody_who_gets_them() {
    let told =
        |source: &str| warnings("[[service]]", &format!("[tunnel]\nsource = \"{source}\"\n[[service]]"));
    for (source, expected) in [
        ("198.51.100.10", "3: source 198.51.100.10 is an address of vip \"198.51.100.10\":"),
        ("10.0.0.11", "3: source 10.0.0.11 is an address of backend \"web-1\":"),
        ("10.0.0.0/24", "3: source 10.0.0.0/24 holds an address of backend \"web-1\":"),
    ] {
        let told = told(source);
        assert!(told.len() == 1 && told[0].starts_with(expected), "{told:?}");
    }
    assert_eq!(told("10.0.0.1"), [""; 0]);
    let other_mode =
        changed("[[service]]", "[tunnel]\nsource = \"10.0.0.11\"\n[[service]]").replace("ipip", "dsr-l2");
    assert_eq!(accepted(&other_mode).warnings.0, [], "nobody gets an outer header");
}

#[test]
fn checks_of_services_without_tunnels_go_through_none() {
    let health = "snat = [\"10.0.0.2\"]\n[[service.health]]\ntype = \"ping\"\nthrough = \"tunnel\"\n[[service.backend]]";
    let config = changed("[[service.backend]]", health).replace("\"ipip\"", "\"nat\"");
    let told = accepted(&config).warnings.to_string();
    assert!(
        told.contains(":11: warning: service \"web\" health 1: through \"tunnel\": no service of the pool"),
        "{told}"
    );
    let everywhere =
        changed("[[service]]", "[[defaults.health]]\ntype = \"ping\"\nthrough = \"tunnel\"\n[[service]]");
    let everywhere = everywhere.replace("mode = \"ipip\"", "mode = \"nat\"\nsnat = [\"10.0.0.2\"]");
    assert_eq!(accepted(&everywhere).warnings.0, [], "what is meant for all pools is for those that can");
    let ipip = health.replace("snat = [\"10.0.0.2\"]\n", "");
    assert_eq!(warnings("[[service.backend]]", &ipip), [""; 0]);
}

#[test]
fn programs_that_cannot_be_run_here_are_told() {
    for (command, expected) in [
        ("[\"/bin/true\"]", None),
        ("[\"/nowhere/check\"]", Some("command names /nowhere/check, which is not here:")),
        ("\"/nowhere/check --max 10\"", Some("which is not here; write its arguments as words of their own")),
        ("[\"/etc/passwd\"]", Some("command names /etc/passwd, which is not executable:")),
        ("[\"/etc\"]", Some("command names /etc, which is no file:")),
    ] {
        let health = format!("[[service.health]]\ntype = \"exec\"\ncommand = {command}\n[[service.backend]]");
        let told = warnings("[[service.backend]]", &health);
        match expected {
            None => assert_eq!(told, [""; 0]),
            Some(expected) => assert!(told.len() == 1 && told[0].contains(expected), "{told:?}"),
        }
    }
}
