//! Keys of each kind of health check.

use std::time::Duration;

use super::super::model::{
    Check, CheckKind, DnsCheck, DnsRcode, DnsType, ExecCheck, HttpCheck, PhaseLimits, TlsCheck, Trust,
    UdpCheck,
};
use super::refused::refused;
use super::{accepted, changed};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// The first check of the base with this health table.
#[track_caller]
fn check(health: &str) -> Check {
    let health = format!("[service.health]\n{health}\n[[service.backend]]");
    accepted(&changed("[[service.backend]]", &health)).config.pools["web"].checks[0].clone()
}

/// The errors of the base with this health table, which begins on line 8.
#[track_caller]
fn wrong(health: &str, expected: &[&str]) {
    let expected: Vec<String> = expected
        .iter()
        .map(|error| {
            let (line, text) = error.split_once(": ").expect("line: text");
            format!("{line}: service \"web\" health: {text}")
        })
        .collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    refused("[[service.backend]]", &format!("[service.health]\n{health}\n[[service.backend]]"), &expected);
}

#[test]
fn https_checks_believe_the_system_unless_told_otherwise() {
    let tls = |keys: &str| match check(&format!("type = \"https\"\n{keys}")).kind {
        CheckKind::Https(_, tls) => tls,
        other => panic!("{other:?}"),
    };
    assert_eq!(tls(""), TlsCheck { name: None, trust: Trust::System });
    let named = TlsCheck { name: Some("www.example".to_owned()), trust: Trust::Anyone };
    assert_eq!(tls("tls_name = \"www.example\"\ninsecure = true"), named);
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("ca.pem");
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAEC\n-----END CERTIFICATE-----\n").expect("write");
    let from_file = tls(&format!("ca_file = \"{}\"", path.display()));
    assert_eq!(from_file.trust, Trust::File { path: path.clone(), certificates: vec![vec![0, 1, 2]] });
    std::fs::write(&path, "").expect("write");
    let path = path.display();
    wrong(
        &format!("type = \"https\"\nca_file = \"{path}\""),
        &[&format!("10: ca_file {path} holds no certificate in PEM")],
    );
}

#[test]
fn phases_have_limits_of_their_own() {
    let keys = "connect_timeout = \"100ms\"\nfirst_byte_timeout = \"200ms\"\nhost = \"www.example\"";
    let CheckKind::Http(http) = check(&format!("type = \"http\"\n{keys}")).kind else { panic!("http") };
    let phases = PhaseLimits { connect: Some(MS(100)), tls: None, first_byte: Some(MS(200)) };
    assert_eq!(
        http,
        HttpCheck {
            path: "/".to_owned(),
            host: Some("www.example".to_owned()),
            expect_status: vec![(200, 299)],
            expect_body: None,
            phases
        }
    );
    wrong(
        "type = \"https\"\ntimeout = \"100ms\"\ntls_timeout = \"200ms\"",
        &["11: tls_timeout 200ms is longer than timeout 100ms, which bounds the whole probe"],
    );
}

#[test]
fn udp_payloads_are_texts_or_hexadecimal() {
    let keys = "type = \"udp\"\nsend = \"ping\"\nexpect = { hex = \"00 ff\" }";
    let wanted = UdpCheck { send: b"ping".to_vec(), expect: Some(vec![0, 0xff]) };
    let read = check(keys);
    assert_eq!((read.kind, read.port, read.fall), (CheckKind::Udp(wanted), Some(80), 3));
}

#[test]
fn dns_checks_ask_for_addresses_unless_told_otherwise() {
    let plain = DnsCheck {
        query: "www.example".to_owned(),
        query_type: DnsType::A,
        expect_rcode: DnsRcode::NoError,
        expect_answer: None,
    };
    assert_eq!(check("type = \"dns\"\nquery = \"www.example.\"").kind, CheckKind::Dns(plain.clone()));
    let full = "type = \"dns\"\nquery = \".\"\nquery_type = \"NS\"\nexpect_answer = \"a.root-servers.net\"";
    let wanted = DnsCheck {
        query: String::new(),
        query_type: DnsType::Ns,
        expect_answer: Some("a.root-servers.net".to_owned()),
        ..plain
    };
    assert_eq!(check(full).kind, CheckKind::Dns(wanted));
}

#[test]
fn udp_and_dns_checks_take_the_port_of_the_udp_services() {
    let second = r#"[[service]]
name = "dns"
vip = "198.51.100.10"
port = 53
protocol = "udp"
mode = "ipip"
pool = "both"
[[pool]]
name = "both"
[[pool.health]]
type = "dns"
query = "www.example"
[[pool.health]]
type = "tcp"
[[pool.backend]]"#;
    let text = changed("[[service.backend]]", second)
        .replace("mode = \"ipip\"\n[[", "mode = \"ipip\"\npool = \"both\"\n[[");
    let config = accepted(&text).config;
    let ports: Vec<_> = config.pools["both"].checks.iter().map(|check| check.port).collect();
    assert_eq!(ports, [Some(53), Some(80)]);
}

#[test]
fn exec_checks_name_a_program_and_may_do_without_a_port() {
    let read = check("type = \"exec\"\ncommand = [\"/bin/check\", \"-v\"]");
    let wanted = ExecCheck { program: "/bin/check".into(), arguments: vec!["-v".to_owned()] };
    assert_eq!((read.kind, read.port), (CheckKind::Exec(wanted), Some(80)));
    let health = "[service.health]\ntype = \"exec\"\ncommand = \"/bin/check\"\n[[service.backend]]";
    let any_port = changed("[[service.backend]]", health).replace("port = 80", "port = \"any\"");
    assert_eq!(accepted(&any_port).config.pools["web"].checks[0].port, None);
}

#[test]
fn keys_that_do_not_fit_say_so() {
    for (health, expected) in [
        (
            "type = \"https\"\ninterval = \"5ms\"",
            "10: interval 5ms is too short for type \"https\": at least 10ms",
        ),
        (
            "type = \"http\"\ninterval = \"9ms\"",
            "10: interval 9ms is too short for type \"http\": at least 10ms",
        ),
        (
            "type = \"exec\"\ncommand = [\"/bin/true\"]\ninterval = \"50ms\"\ntimeout = \"50ms\"",
            "11: interval 50ms is too short for type \"exec\": at least 100ms",
        ),
        (
            "type = \"exec\"\ncommand = [\"/bin/true\"]\ninterval = \"1s\"",
            "8: timeout 3s is longer than interval 1s: programs of one check do not run at the same time",
        ),
        (
            "type = \"exec\"\ncommand = [\"true\"]",
            "10: command must begin with a program's absolute path: there is no shell and no search path",
        ),
        ("type = \"exec\"", "8: `command` is missing: add command = [\"/usr/local/bin/check\"]"),
        (
            "type = \"http\"\ninsecure = true",
            "10: insecure is for type \"https\"; this check's type is \"http\"",
        ),
        (
            "type = \"https\"\ninsecure = true\nca_file = \"ca.pem\"",
            "10: insecure believes any certificate, and ca_file says which to believe: leave out one of them",
        ),
        (
            "type = \"https\"\ntls_name = \"a b\"",
            "10: tls_name \"a b\" is no host name or address that a certificate can bear",
        ),
        ("type = \"udp\"", "8: `send` is missing: add send = \"ping\""),
        ("type = \"udp\"\nsend = \"\"", "10: send must be 1 to 1200 bytes, got 0"),
        ("type = \"udp\"\nsend = \"a\"\nexpect = 7", "11: expect must be a text, or { hex = \"…\" }, got 7"),
        ("type = \"tcp\"\nsend = \"a\"", "10: send is for type \"udp\"; this check's type is \"tcp\""),
        ("type = \"dns\"", "8: `query` is missing: add query = \"www.example.com\""),
        (
            "type = \"dns\"\nquery = \"a..b\"",
            "10: query \"a..b\" is no domain name: labels of 1 to 63 characters, at most 253 in all",
        ),
        (
            "type = \"dns\"\nquery = \"a\"\nexpect_answer = \"::1\"",
            "11: expect_answer \"::1\" is nothing that a record of the type asked for can say",
        ),
        (
            "type = \"dns\"\nquery = \"a\"\nexpect_rcode = \"NXDOMAIN\"\nexpect_answer = \"192.0.2.1\"",
            "12: expect_answer an answer NXDOMAIN has no records: leave it out",
        ),
        (
            "type = \"dns\"\nquery = \"a\"\nquery_type = \"ANY\"",
            "11: query_type \"ANY\" is unknown (did you mean \"A\"?); available: A, AAAA, CNAME, MX, NS, PTR, SOA, TXT",
        ),
    ] {
        wrong(health, &[expected]);
    }
}

#[test]
fn payloads_must_be_pairs_of_hexadecimal_digits() {
    refused(
        "[[service.backend]]",
        "[service.health]\ntype = \"udp\"\nsend = { hex = \"0\" }\n[[service.backend]]",
        &["10: send: hex \"0\" must be pairs of hexadecimal digits, with or without spaces"],
    );
}
