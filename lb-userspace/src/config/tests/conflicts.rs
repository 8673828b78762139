//! Tables that do not fit together, or into the limits.

use super::refused::{assert_text, refused};
use super::{BASE, changed};

/// A second service, `other`, on the base's VIP.
fn second_service(ports: &str, protocol: &str) -> String {
    let other = changed("interfaces = [\"eth0\"]\n", "").replace("web", "other");
    format!("{BASE}{}", other.replace("port = 80", ports).replace("\"tcp\"", protocol))
}

#[test]
fn names_are_unique_and_references_resolve() {
    assert_text(
        &format!("{BASE}{}", changed("interfaces = [\"eth0\"]\n", "")),
        &["11: service \"web\": name is given twice, first at weir.toml:2: choose another"],
    );
    refused(
        "\"10.0.0.11\"",
        "\"10.0.0.11\"\n[[service.backend]]\nname = \"web-1\"\naddress = \"10.0.0.12\"",
        &["12: service \"web\" backend \"web-1\": name is given twice, first at weir.toml:9: choose another"],
    );
    refused(
        "[[service]]",
        "[[vip]]\nname = \"a\"\naddress = \"192.0.2.1\"\n[[vip]]\nname = \"a\"\naddress = \"192.0.2.1\"\n[[service]]",
        &[
            "5: vip \"a\": name is given twice, first at weir.toml:2: choose another",
            "7: vip \"a\": address 192.0.2.1 is given twice, first at weir.toml:4",
        ],
    );
    refused(
        "\"198.51.100.10\"",
        "\"edge\"",
        &[
            "4: service \"web\": vip \"edge\" is neither an address nor the name of a [[vip]]: add a [[vip]] with that name",
        ],
    );
    refused(
        "mode = \"ipip\"",
        "mode = \"ipip\"\npool = \"x\"",
        &[
            "8: service \"web\": pool and a nested backend table are both given: move the table to the [[pool]], or remove pool",
        ],
    );
    let edge = "[[vip]]\nname = \"edge\"\naddress = [\"198.51.100.10\", \"2001:db8::1\"]\n[[service]]";
    refused(
        "[[service]]",
        edge,
        &[
            "7: service \"web\": vip 198.51.100.10 is one of several addresses of vip \"edge\": name that, or give the address a [[vip]] of its own",
        ],
    );
    let other = second_service("port = 81", "\"tcp\"");
    assert_text(
        &other.replace("name = \"other-1\"", "name = \"web-1\"").replacen("10.0.0.11", "10.0.0.12", 1),
        &[
            "19: service \"other\" backend \"web-1\": address 10.0.0.11 differs from backend \"web-1\" at weir.toml:10 (10.0.0.12): one name is one address in all pools",
        ],
    );
    refused(
        "\"10.0.0.11\"",
        "\"198.51.100.10\"",
        &[
            "10: service \"web\" backend \"web-1\": address 198.51.100.10 is an address of vip \"198.51.100.10\": give the server's own address",
        ],
    );
}

#[test]
fn a_misspelt_pool_is_recognised() {
    let text = "interfaces = [\"eth0\"]\n[[pool]]\nname = \"web\"\n[[pool.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"\n\
                [[service]]\nname = \"s\"\nvip = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\nmode = \"ipip\"\npool = \"wbe\"\n";
    assert_text(text, &["13: service \"s\": pool \"wbe\" does not exist: did you mean \"web\"?"]);
}

#[test]
fn services_need_backends() {
    refused(
        "[[service.backend]]\nname = \"web-1\"\naddress = \"10.0.0.11\"\n",
        "",
        &["2: service \"web\": no backends: add [[service.backend]] tables, or pool = \"…\""],
    );
    refused(
        "[[service.backend]]\nname = \"web-1\"\naddress = \"10.0.0.11\"\n",
        "[service.health]\ntype = \"tcp\"\n",
        &["2: service \"web\": no backends: add at least one backend table"],
    );
}

#[test]
fn services_of_one_kind_of_port_may_not_overlap() {
    for (first, second, message) in [
        (
            "port = 80",
            "port = 80",
            "tcp port 80 of vip \"198.51.100.10\" overlaps service \"web\" (tcp port 80 at weir.toml:5): change the ports of one of them",
        ),
        (
            "port = \"any\"",
            "port = \"any\"",
            "tcp port any of vip \"198.51.100.10\" overlaps service \"web\" (tcp port any at weir.toml:5): change the ports of one of them",
        ),
        (
            "port = \"80-90\"",
            "port = \"1-80\"",
            "tcp port 1-80 of vip \"198.51.100.10\" overlaps service \"web\" (tcp port 80-90 at weir.toml:5): change the ports of one of them",
        ),
        (
            "port = \"1-1000\"",
            "port = \"80-90\"",
            "tcp port 80-90 of vip \"198.51.100.10\" overlaps service \"web\" (tcp port 1-1000 at weir.toml:5): change the ports of one of them",
        ),
    ] {
        let text = second_service(second, "\"tcp\"").replacen("port = 80", first, 1);
        assert_text(&text, &[&format!("14: service \"other\": {message}")]);
    }
    for (second, protocol) in
        [("port = 81", "\"tcp\""), ("port = 80", "\"udp\""), ("port = \"80-90\"", "\"tcp\"")]
    {
        super::accepted(&second_service(second, protocol));
    }
}

#[test]
fn dsr_l2_needs_one_family() {
    let message = |line: &str, family: &str, vip: &str, backend: &str| {
        format!(
            "{line}: service \"web\": mode \"dsr-l2\" cannot send {family} packets for {vip} to backend \"web-1\" ({backend}): \
             give each family a service and pool of its own, or use mode = \"ipip\""
        )
    };
    let text = changed("\"ipip\"", "\"dsr-l2\"");
    super::accepted(&text);
    let v6 = text.replace("10.0.0.11", "2001:db8::11");
    assert_text(&v6, &[&message("7", "IPv4", "198.51.100.10", "2001:db8::11")]);
    let edge = "[[vip]]\nname = \"edge\"\naddress = [\"198.51.100.10\", \"2001:db8::10\"]\n[[service]]";
    let both = text.replace("vip = \"198.51.100.10\"", "vip = \"edge\"").replacen("[[service]]", edge, 1);
    assert_text(&both, &[&message("10", "IPv6", "2001:db8::10", "10.0.0.11")]);
    super::accepted(&changed("10.0.0.11", "2001:db8::11"));
}

#[test]
fn checks_of_backends_are_bounded() {
    let many = |backends: usize| {
        let checks = "[[pool.health]]\ntype = \"ping\"\n".repeat(512);
        let backend = |n: usize| {
            format!("[[pool.backend]]\nname = \"{n}\"\naddress = \"10.1.{}.{}\"\n", n / 200, n % 200 + 1)
        };
        let backends: String = (0..backends).map(backend).collect();
        format!("{BASE}[[pool]]\nname = \"many\"\n{checks}{backends}")
    };
    super::accepted(&many(511));
    assert_text(
        &many(513),
        &[
            "11: pool \"many\": 262656 checks of backends up to here (each per backend, through a tunnel per VIP too); at most 262144: give pools fewer checks or backends",
        ],
    );
}

#[test]
fn limits_bind() {
    let limited =
        |limit: &str, text: &str| text.replacen("[[service]]", &format!("[limits]\n{limit}\n[[service]]"), 1);
    let two = second_service("port = 81", "\"tcp\"");
    assert_text(
        &limited("services = 1", &two),
        &["13: service \"other\": 2 services, but [limits] services = 1: raise it to 2 or more"],
    );
    assert_text(
        &limited("backends = 1", &two),
        &[
            "13: service \"other\": 2 backends (one per backend of a pool), but [limits] backends = 1: raise it to 2 or more",
        ],
    );
    assert_text(
        &limited("maglev_slots = 2048", &two),
        &[
            "13: service \"other\": Maglev tables need 4096 slots (twice their sizes, for replacement), but [limits] maglev_slots = 2048: raise it to 4096 or more, or lower table_size",
        ],
    );
    super::accepted(&limited("services = 2\nbackends = 2\nmaglev_slots = 4096", &two));
    assert_text(
        &limited("services = 1", &changed("port = 80", "ports = [80, 81, 82, 83, 84]")),
        &[
            "7: service \"web\": 5 exact ports (each per VIP address and protocol) up to here, but [limits] services = 1 has room for 4: raise it, or write ports as ranges",
        ],
    );
    let ranges: Vec<_> = (0..33).map(|n| format!("\"{}-{}\"", 1000 + 10 * n, 1005 + 10 * n)).collect();
    refused(
        "port = 80",
        &format!("ports = [{}]", ranges.join(", ")),
        &[
            "5: service \"web\": 33 port ranges (each per protocol) on vip \"198.51.100.10\" up to here; at most 32: merge ranges or use port = \"any\"",
        ],
    );
}

#[test]
fn a_table_holds_every_backend_and_is_the_same_for_all_services_of_a_pool() {
    let many: String =
        (0..4).map(|n| format!("[[service.backend]]\nname = \"b{n}\"\naddress = \"10.1.0.{n}\"\n")).collect();
    let text = changed("\"ipip\"", "\"ipip\"\ntable_size = 3");
    assert_text(
        &format!("{text}{many}"),
        &["8: service \"web\": table_size 3 is smaller than the 5 backends of pool \"web\""],
    );
    let shared = "[[service]]\nname = \"b\"\nvip = \"192.0.2.1\"\nport = 80\nprotocol = \"tcp\"\nmode = \"ipip\"\npool = \"web\"\ntable_size = 1021\n";
    assert_text(
        &format!("{}{shared}", text.replace("= 3", "= 4093")),
        &[
            "19: service \"b\": table_size 1021 differs from service \"web\" (4093), which shares pool \"web\": a pool has one table",
        ],
    );
}

#[test]
fn checks_of_shared_pools_need_a_port_where_services_differ() {
    let shared = |health: &str, first: &str| {
        format!(
            "interfaces = [\"eth0\"]\n[defaults]\nvip = \"192.0.2.1\"\nprotocol = \"tcp\"\nmode = \"ipip\"\npool = \"web\"\n\
             [[pool]]\nname = \"web\"\n{health}[[pool.backend]]\nname = \"a\"\naddress = \"10.0.0.1\"\n\
             [[service]]\nname = \"http\"\nport = {first}\n[[service]]\nname = \"tls\"\nport = 443\n"
        )
    };
    assert_text(
        &shared("", "80"),
        &[
            "7: pool \"web\": the default check needs one port, but services \"http\" (80) and \"tls\" (443) differ: add a health table with type and port",
        ],
    );
    assert_text(
        &shared("[[pool.health]]\ntype = \"tcp\"\n", "80"),
        &[
            "9: pool \"web\" health 1: port is needed for type \"tcp\": services \"http\" (80) and \"tls\" (443) differ; add port = …",
        ],
    );
    super::accepted(&shared("[[pool.health]]\ntype = \"tcp\"\nport = 8080\n", "80"));
    super::accepted(&shared("[[pool.health]]\ntype = \"ping\"\n", "80"));
    refused(
        "port = 80",
        "port = \"any\"\nhealth = { type = \"tcp\" }",
        &[
            "6: service \"web\" health: port is needed for type \"tcp\": its service takes any port; add port = …",
        ],
    );
}

#[test]
fn bfd_checks_of_one_address_are_equal() {
    let bfd = |text: &str, fall: u8| {
        let health = format!("[service.health]\ntype = \"bfd\"\nfall = {fall}\n[[service.backend]]");
        text.replace("[[service.backend]]", &health)
            .replace("\"web-1\"", "\"one\"")
            .replace("\"other-1\"", "\"one\"")
    };
    let other = second_service("port = 81", "\"tcp\"").replace(BASE, "");
    assert_text(
        &(bfd(BASE, 3) + &bfd(&other, 5)),
        &[
            "20: service \"other\" health: 10.0.0.11 has a bfd check with interval 50ms and fall 3 at weir.toml:8: two hosts have one session, so all their bfd checks must be equal",
        ],
    );
}
