//! What is refused: each case is a change to the base text, the line, and the message in full.

use super::super::Severity;
use super::{BASE, changed, parse};

/// Checks that a change to the base gives exactly these `line: message` errors.
#[track_caller]
pub(super) fn refused(from: &str, to: &str, expected: &[&str]) {
    assert_text(&changed(from, to), expected);
}

#[track_caller]
pub(super) fn assert_text(text: &str, expected: &[&str]) {
    let problems = match parse(text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(problems) => problems,
    };
    let shown: Vec<String> = problems
        .errors()
        .map(|problem| {
            let whole = problem.to_string();
            let first = whole.lines().next().unwrap_or_default();
            first.trim_start_matches("/etc/weir/weir.toml:").to_owned()
        })
        .collect();
    assert_eq!(shown, expected, "--- in\n{text}");
}

#[test]
fn only_checks_whose_packets_weir_builds_go_through_the_tunnel() {
    refused(
        "[[service.backend]]",
        "[service.health]\ntype = \"tcp\"\nthrough = \"tunnel\"\n[[service.backend]]",
        &[
            "10: service \"web\" health: through \"tunnel\" is for types ping and syn: weir builds their packets itself",
        ],
    );
}

#[test]
fn unknown_keys_name_the_nearest_known_one() {
    refused(
        "protocol",
        "prot",
        &[
            "2: service \"web\": `protocol` is missing: add protocol = \"tcp\"",
            "6: service \"web\": unknown key `prot`: did you mean `protocol`?",
        ],
    );
    for (from, to, expected) in [
        (
            "interfaces = [\"eth0\"]",
            "interfaces = [\"eth0\"]\nmtuu = 3",
            "2: unknown key `mtuu`: did you mean `mtu`?",
        ),
        (
            "address = \"10.0.0.11\"",
            "address = \"10.0.0.11\"\nwieght = 3",
            "11: service \"web\" backend \"web-1\": unknown key `wieght`: did you mean `weight`?",
        ),
        (
            "mode = \"ipip\"",
            "mode = \"ipip\"\nslow_start = \"1s\"",
            "8: service \"web\": unknown key `slow_start`: it is a key of [[pool]]",
        ),
        (
            "[[service]]",
            "[limits]\nflows = 3\n[[service]]",
            "3: [limits]: unknown key `flows`: did you mean `flows_v4`?",
        ),
        (
            "[[service]]",
            "[tunnel]\nxyzzy = 3\n[[service]]",
            "3: [tunnel]: unknown key `xyzzy`: known keys: source, gue_port",
        ),
        (
            "[[service]]",
            "[defaults]\nname = \"x\"\n[[service]]",
            "3: [defaults]: unknown key `name`: it is a key of [[service]]",
        ),
    ] {
        refused(from, to, &[expected]);
    }
}

#[test]
fn wrong_types_and_values_say_what_is_allowed() {
    for (from, to, expected) in [
        (
            "port = 80",
            "port = 0",
            "5: service \"web\": port 0 is no port: 1 to 65535, a range such as \"8000-8100\", or port = \"any\"",
        ),
        (
            "port = 80",
            "port = 65536",
            "5: service \"web\": port 65536 is no port: 1 to 65535, a range such as \"8000-8100\", or port = \"any\"",
        ),
        (
            "port = 80",
            "port = \"0-9\"",
            "5: service \"web\": port \"0-9\" is no port: 1 to 65535, a range such as \"8000-8100\", or port = \"any\"",
        ),
        (
            "port = 80",
            "port = \"+80\"",
            "5: service \"web\": port \"+80\" is no port: 1 to 65535, a range such as \"8000-8100\", or port = \"any\"",
        ),
        (
            "port = 80",
            "port = \"90-80\"",
            "5: service \"web\": port \"90-80\" ends before it begins; write \"80-90\"",
        ),
        (
            "port = 80",
            "port = [80]",
            "5: service \"web\": port takes one port; write ports = […] for several",
        ),
        (
            "port = 80",
            "ports = []",
            "5: service \"web\": ports must hold at least one port; write port = \"any\" for every port",
        ),
        (
            "port = 80",
            "ports = [80, \"70-90\"]",
            "5: service \"web\": ports \"70-90\" overlaps 80 in the same list: remove one",
        ),
        (
            "port = 80",
            "port = 80\nports = [81]",
            "6: service \"web\": ports and port are both given: keep one of them",
        ),
        (
            "port = 80\n",
            "",
            "2: service \"web\": `port` is missing: add port = 80, port = \"any\" or ports = [80, 443]",
        ),
        (
            "\"tcp\"",
            "\"tpc\"",
            "6: service \"web\": protocol \"tpc\" is unknown (did you mean \"tcp\"?); available: tcp, udp, sctp",
        ),
        ("\"tcp\"", "[\"tcp\", \"tcp\"]", "6: service \"web\": protocol \"tcp\" is given twice: remove one"),
        ("\"tcp\"", "[]", "6: service \"web\": protocol must hold at least one of: tcp, udp, sctp"),
        ("\"tcp\"", "6", "6: service \"web\": protocol must be one of: tcp, udp, sctp, got 6"),
        (
            "mode = \"ipip\"\n",
            "",
            "2: service \"web\": `mode` is missing: add mode = \"nat\", mode = \"ipip\" or mode = \"dsr-l2\"",
        ),
        (
            "name = \"web\"",
            "name = \"Web\"",
            "3: service \"Web\": name \"Web\" is no valid name: 1 to 63 of [a-z0-9-]",
        ),
        (
            "\"web-1\"",
            "\"web 1\"",
            "9: service \"web\" backend \"web 1\": name \"web 1\" is no valid name: 1 to 63 of [A-Za-z0-9._-]",
        ),
        (
            "\"10.0.0.11\"",
            "\"10.0.0.300\"",
            "10: service \"web\" backend \"web-1\": address \"10.0.0.300\" is no valid address; give an IP address",
        ),
        (
            "\"10.0.0.11\"",
            "\"10.0.0.0/8\"",
            "10: service \"web\" backend \"web-1\": address \"10.0.0.0/8\" is no valid address; give an address without a prefix length",
        ),
        (
            "\"10.0.0.11\"",
            "\"127.0.0.1\"",
            "10: service \"web\" backend \"web-1\": address \"127.0.0.1\" is refused: it is a loopback address; give an address of one of the host's interfaces",
        ),
        (
            "\"10.0.0.11\"",
            "\"ff02::1\"",
            "10: service \"web\" backend \"web-1\": address \"ff02::1\" is refused: it is a multicast address",
        ),
        (
            "\"10.0.0.11\"",
            "\"::ffff:10.0.0.1\"",
            "10: service \"web\" backend \"web-1\": address \"::ffff:10.0.0.1\" is refused: it is an IPv4 address mapped into IPv6; write the IPv4 address",
        ),
        (
            "\"198.51.100.10\"",
            "\"0.0.0.0\"",
            "4: service \"web\": vip \"0.0.0.0\" is refused: it is the unspecified address",
        ),
        (
            "\"198.51.100.10\"",
            "\"224.0.0.1\"",
            "4: service \"web\": vip \"224.0.0.1\" is refused: it is a multicast address",
        ),
        (
            "\"10.0.0.11\"",
            "\"10.0.0.11\"\nweight = 1001",
            "11: service \"web\" backend \"web-1\": weight must be an integer from 0 to 1000, got 1001",
        ),
        (
            "\"10.0.0.11\"",
            "\"10.0.0.11\"\nweight = -1",
            "11: service \"web\" backend \"web-1\": weight must be an integer from 0 to 1000, got -1",
        ),
        (
            "\"10.0.0.11\"",
            "\"10.0.0.11\"\nweight = \"1\"",
            "11: service \"web\" backend \"web-1\": weight must be an integer from 0 to 1000, got \"1\"",
        ),
        (
            "\"10.0.0.11\"",
            "\"10.0.0.11\"\ntier = 256",
            "11: service \"web\" backend \"web-1\": tier must be an integer from 0 to 255, got 256",
        ),
        (
            "\"10.0.0.11\"",
            "\"10.0.0.11\"\nmac = \"ff:ff:ff:ff:ff:ff\"",
            "11: service \"web\" backend \"web-1\": mac \"ff:ff:ff:ff:ff:ff\" is no station's address (zero, multicast or broadcast)",
        ),
        (
            "\"10.0.0.11\"",
            "\"10.0.0.11\"\nmac = \"2:0:0:0:0:1\"",
            "11: service \"web\" backend \"web-1\": mac \"2:0:0:0:0:1\" is no MAC address; write it as \"02:00:00:00:00:01\"",
        ),
        (
            "\"10.0.0.11\"",
            "\"10.0.0.11\"\nport = 8080",
            "11: service \"web\" backend \"web-1\": port 8080 is for mode \"nat\"; mode \"ipip\" of service \"web\" keeps the packet's port: remove it",
        ),
        ("\"ipip\"", "\"ipip\"\ntrack = 1", "8: service \"web\": track must be true or false, got 1"),
        (
            "\"ipip\"",
            "\"ipip\"\ntable_size = 65536",
            "8: service \"web\": table_size 65536 is not a prime; the next one is 65537",
        ),
        ("[\"eth0\"]", "[]", "1: no interfaces: add interfaces = [\"eth0\"]"),
        ("[\"eth0\"]", "[\"eth0\", \"eth0\"]", "1: interface \"eth0\" is given twice, first at weir.toml:1"),
        (
            "[\"eth0\"]",
            "[\"much-too-long-name\"]",
            "1: interfaces \"much-too-long-name\" is no interface name: 1 to 15 printable characters without / and :",
        ),
        (
            "[[service]]",
            "xdp_mode = \"fast\"\n[[service]]",
            "2: xdp_mode \"fast\" is unknown; available: native, auto, generic",
        ),
        ("[[service]]", "mtu = 100\n[[service]]", "2: mtu must be an integer from 576 to 65535, got 100"),
        (
            "[[service]]",
            "hash_seed = -1\n[[service]]",
            "2: hash_seed must be an integer from 0 to 18446744073709551615, got -1",
        ),
        (
            "[[service]]",
            "hash_seed = { fil = \"x\" }\n[[service]]",
            "2: hash_seed: `file` is missing: add file = \"seed\"",
        ),
        ("[[service]]", "limits = 3\n[[service]]", "2: limits must be a table, got 3"),
        (
            "[[service]]",
            "[limits]\nbackends = 65_536\n[[service]]",
            "3: [limits]: backends must be an integer from 1 to 65535, got 65536",
        ),
        (
            "[[service]]",
            "[tunnel]\nsource = [\"10.0.0.1\", \"10.1.0.0/24\"]\n[[service]]",
            "3: [tunnel]: source has two of one family (10.0.0.1 and 10.1.0.0/24); give at most one IPv4 and one IPv6 source",
        ),
        (
            "[[service]]",
            "[tunnel]\nsource = \"10.0.0.1/24\"\n[[service]]",
            "3: [tunnel]: source \"10.0.0.1/24\" has bits behind its prefix length; write \"10.0.0.0/24\"",
        ),
        (
            "[[service]]",
            "[defaults]\nmax_ejected = 1.5\n[[service]]",
            "3: [defaults]: max_ejected must be a number from 0.0 to 1.0, got 1.5",
        ),
        (
            "[[service]]",
            "[defaults]\nhold_down = \"10m\"\n[[service]]",
            "3: [defaults]: hold_down 10m is longer than hold_down_max 5m: lower it or raise the other",
        ),
        (
            "[[service]]",
            "[defaults]\ninterval = \"soon\"\n[[service]]",
            "3: [defaults]: interval \"soon\" is no duration; write it as \"500ms\", \"10s\" or \"2h10m\"",
        ),
        (
            "[[service]]",
            "include = [\"nowhere.toml\"]\n[[service]]",
            "2: include \"nowhere.toml\" cannot be used: read /etc/weir/nowhere.toml: no such file or directory (os error 2)",
        ),
    ] {
        let mut all = vec![expected];
        if to.contains("{ fil =") {
            all.push("2: hash_seed: unknown key `fil`: did you mean `file`?");
            all.sort_unstable();
        }
        refused(from, to, &all);
    }
}

#[test]
fn health_checks_say_what_does_not_fit() {
    for (health, expected) in [
        ("port = 80", "8: service \"web\" health: `type` is missing: add type = \"tcp\""),
        (
            "type = \"htpp\"",
            "9: service \"web\" health: type \"htpp\" is unknown (did you mean \"http\"?); available: none, tcp, syn, http, https, ping, udp, dns, exec, tripwire, bfd",
        ),
        (
            "type = \"tcp\"\npath = \"/\"",
            "10: service \"web\" health: path is for type \"http\" or \"https\"; this check's type is \"tcp\"",
        ),
        (
            "type = \"ping\"\nport = 7",
            "10: service \"web\" health: port is not used by type \"ping\": remove it",
        ),
        (
            "type = \"tripwire\"\nrise = 2",
            "10: service \"web\" health: rise is not used by type \"tripwire\": remove it",
        ),
        (
            "type = \"bfd\"\nport = 3784",
            "10: service \"web\" health: port is not used by type \"bfd\": remove it",
        ),
        (
            "type = \"bfd\"\ntimeout = \"1s\"",
            "10: service \"web\" health: timeout is not used by type \"bfd\": remove it",
        ),
        (
            "type = \"bfd\"\nfall = 256",
            "10: service \"web\" health: fall must be an integer from 1 to 255 for type \"bfd\", got 256",
        ),
        (
            "type = \"http\"\npath = \"healthz\"",
            "10: service \"web\" health: path \"healthz\" must begin with /",
        ),
        (
            "type = \"http\"\npath = \"/a b\"",
            "10: service \"web\" health: path \"/a b\" must be printable ASCII without spaces",
        ),
        (
            "type = \"http\"\nexpect_status = \"299-200\"",
            "10: service \"web\" health: expect_status \"299-200\" must be status codes from 100 to 599, such as 200, \"200-299\" or \"200,204\"",
        ),
        (
            "type = \"tcp\"\ninterval = 5",
            "10: service \"web\" health: interval must be a duration such as \"500ms\" or \"2h10m\", got 5",
        ),
        (
            "type = \"tcp\"\ninterval = \"0s\"",
            "10: service \"web\" health: interval must be from 1ms to 24h, got \"0s\"",
        ),
        (
            "type = \"tcp\"\ninterval = \"-1s\"",
            "10: service \"web\" health: interval \"-1s\" is no duration; write it as \"500ms\", \"10s\" or \"2h10m\"",
        ),
        (
            "type = \"tcp\"\ninterval = \"1500us\"",
            "10: service \"web\" health: interval \"1500us\" is finer than a millisecond; use whole milliseconds",
        ),
        (
            "type = \"tcp\"\nfall = 0",
            "10: service \"web\" health: fall must be an integer from 1 to 1000, got 0",
        ),
        (
            "type = \"ping\"\ninterval = \"1ms\"\ntimeout = \"2s\"",
            "11: service \"web\" health: timeout 2s with interval 1ms keeps 2000 probes waiting; at most 1000: raise interval or lower timeout",
        ),
    ] {
        let to = format!("[service.health]\n{health}\n[[service.backend]]");
        refused("[[service.backend]]", &to, &[expected]);
    }
}

#[test]
fn a_scheduler_that_counts_flows_needs_them_remembered() {
    refused(
        "\"ipip\"",
        "\"ipip\"\ntrack = false\nscheduler = \"least-connections\"",
        &[
            "9: service \"web\": scheduler \"least-connections\" counts the flows that are remembered, and track = false \
             remembers none: remove track = false, or take scheduler = \"maglev\"",
        ],
    );
    refused(
        "\"ipip\"",
        "\"ipip\"\nscheduler = \"sources\"",
        &[
            "8: service \"web\": scheduler \"sources\" is unknown (did you mean \"source\"?); available: maglev, source, least-connections",
        ],
    );
}

#[test]
fn connection_ids_name_one_server_each_in_every_configuration() {
    let udp = |keys: &str, ids: [&str; 2]| {
        BASE.replace("\"tcp\"", "\"udp\"").replace("\"ipip\"", &format!("\"ipip\"\n{keys}"))
            + &format!(
                "server_id = {}\n[[service.backend]]\nname = \"web-2\"\naddress = \"10.0.0.12\"\nserver_id = {}\n",
                ids[0], ids[1]
            )
    };
    let given =
        "quic_cid = [{ config_id = 0, server_id_length = 2 }, { config_id = 1, server_id_length = 3 }]";
    for (keys, ids, expected) in [
        (
            "quic_cid = true",
            ["\"0a0b\"", "\"0A0B\""],
            "16: service \"web\" backend \"web-2\": server_id 0a0b is backend \"web-1\"'s too: a connection ID must name one server",
        ),
        (
            "quic_cid = true",
            ["\"0a0b\"", "\"0a\""],
            "8: service \"web\": quic_cid = true goes by server ids of one length, and backends of pool \"web\" have some of 1 to \
             2 bytes: say which configuration has which, like quic_cid = [{ config_id = 0, server_id_length = 1 }, …]",
        ),
        (
            given,
            ["[\"0a0b\", \"010203\"]", "\"0a0c\""],
            "16: service \"web\" backend \"web-2\": no server_id of 3 bytes, which configuration 1 of service \"web\" goes by: add one",
        ),
        (
            "quic_cid = { config_id = 7, server_id_length = 2 }",
            ["\"0a0b\"", "\"0a0c\""],
            "8: service \"web\" quic_cid: config_id must be an integer from 0 to 6, got 7",
        ),
        (
            "quic_cid = { config_id = 0, server_id_length = 16 }",
            ["\"0a0b\"", "\"0a0c\""],
            "8: service \"web\" quic_cid: server_id_length must be an integer from 1 to 15, got 16",
        ),
        (
            "quic_cid = [{ config_id = 0, server_id_length = 2 }, { config_id = 0, server_id_length = 2 }]",
            ["\"0a0b\"", "\"0a0c\""],
            "8: service \"web\": quic_cid has config_id 0 twice: number each configuration otherwise",
        ),
        (
            "quic_cid = true",
            ["\"0a0b\"", "\"0a0\""],
            "16: service \"web\" backend \"web-2\": server_id must be 1 to 15 bytes in hexadecimal, got \"0a0\"",
        ),
        (
            "quic_cid = true",
            ["\"0a0b\"", "[\"0a0c\", \"0a0d\"]"],
            "16: service \"web\" backend \"web-2\": server_id has two ids of 2 bytes: a backend has one of each length",
        ),
    ] {
        assert_first(&udp(keys, ids), expected);
    }
    refused(
        "\"ipip\"",
        "\"ipip\"\nquic_cid = true",
        &[
            "8: service \"web\": quic_cid is for protocol \"udp\", which this service does not have: remove it",
        ],
    );
}

/// The first problem of a config.
#[track_caller]
fn assert_first(text: &str, expected: &str) {
    let problems = parse(text).expect_err("the config is wrong");
    let first = problems.errors().next().map(|problem| problem.to_string()).unwrap_or_default();
    let first = first.lines().next().unwrap_or_default();
    assert_eq!(first.trim_start_matches("/etc/weir/weir.toml:"), expected, "{text}");
}

#[test]
fn a_translated_service_has_addresses_to_send_from_that_nobody_else_uses() {
    for (to, expected) in [
        (
            "\"nat\"",
            "7: service \"web\": mode \"nat\" needs an IPv4 address to send to backend \"web-1\" (10.0.0.11) from: \
             add snat = [\"10.0.0.1\"], with an address that leads back to this host",
        ),
        (
            "\"ipip\"\nsnat = [\"10.0.0.1\"]",
            "8: service \"web\": snat is for mode \"nat\"; this is mode \"ipip\": remove it",
        ),
        (
            "\"nat\"\nsnat = [\"10.0.0.1\", \"10.0.0.1\"]",
            "8: service \"web\": snat 10.0.0.1 is given twice: remove one",
        ),
        (
            "\"nat\"\nsnat = [\"10.0.0.11\"]",
            "8: service \"web\": snat 10.0.0.11 is the address of backend \"web-1\": give one of this host",
        ),
        (
            "\"nat\"\nsnat = [{ address = \"10.0.0.1\", ports = \"50000-40000\" }]",
            "8: service \"web\" snat: ports \"50000-40000\" ends before it begins; write \"40000-50000\"",
        ),
        (
            "\"nat\"\nsnat = [{ address = \"10.0.0.1\", port = 5 }]",
            "8: service \"web\" snat: unknown key `port`: did you mean `ports`?",
        ),
        (
            "\"nat\"\nsnat = [\"10.0.0.1\"]\ntrack = false",
            "7: service \"web\": mode \"nat\" remembers every flow: remove track = false",
        ),
        (
            "\"nat\"\nsnat = [\"10.0.0.1\", \"10.0.0.2\"]",
            "8: service \"web\": the snat addresses up to here have 258048 ports (for TCP and UDP together), but [limits] \
             nat_ports = 131072: raise it, or give ports = \"…\" to some",
        ),
    ] {
        refused("\"ipip\"", to, &[expected]);
    }
}

#[test]
fn what_later_versions_take_is_not_called_unknown() {
    let expected = "2: metrics is not available in this version: remove the table";
    refused("[[service]]", "[metrics]\n[[service]]", &[expected]);
}

#[test]
fn syntax_errors_have_their_line() {
    refused(
        "port = 80",
        "port = ",
        &["5: not valid TOML: string values must be quoted, expected literal string"],
    );
    refused("port = 80", "port = 80\nport = 81", &["6: not valid TOML: duplicate key"]);
}

#[test]
fn all_problems_are_reported_at_once_in_the_order_of_lines() {
    let text =
        BASE.replace("80", "0").replace("tcp", "icmp").replace("ipip", "gre").replace("10.0.0.11", "x");
    let problems = parse(&text).unwrap_err();
    let lines: Vec<_> = problems.errors().filter_map(|problem| problem.line).collect();
    assert_eq!(lines, [5, 6, 7, 10]);
}

#[test]
fn problems_are_shown_with_their_line_and_as_json() {
    let problems = parse(&changed("protocol", "prot")).unwrap_err();
    let problem = problems.0.iter().find(|problem| problem.key == "prot").unwrap();
    assert_eq!(
        problem.to_string(),
        "/etc/weir/weir.toml:6: service \"web\": unknown key `prot`: did you mean `protocol`?\n     6 | prot = \"tcp\""
    );
    assert_eq!(problem.severity, Severity::Error);
    let json = serde_json::to_value(problem).unwrap();
    let expected = serde_json::json!({
        "severity": "error", "file": "/etc/weir/weir.toml", "line": 6, "column": 1, "subject": "service \"web\"",
        "key": "prot", "message": "unknown key `prot`: did you mean `protocol`?", "source_line": "prot = \"tcp\"",
    });
    assert_eq!(json, expected);
}
