//! What valid configurations mean.

use std::fs;
use std::time::Duration;

use super::super::model::{
    CheckKind, Guard, HookTarget, Inside, LastResort, Limits, Mac, Mode, OnDown, Ports, ProbeSize, Protocol,
    Unmatched, XdpMode,
};
use super::super::{Severity, load};
use super::{BASE, accepted, changed};
use crate::events::Kind;

const MS: fn(u64) -> Duration = Duration::from_millis;

#[test]
fn the_short_form_takes_every_default() {
    let config = accepted(BASE).config;
    assert_eq!(config.interfaces[0].name, "eth0");
    assert_eq!(config.interfaces[0].xdp_mode, XdpMode::Native);
    assert_eq!(config.limits, Limits::default());
    assert_eq!((config.hash_seed, config.mtu, config.gateway_mac), (0, None, None));
    assert_eq!(config.guard, Guard { panic_threshold: 0.5, freeze_max: MS(30_000), gateway: None });
    let service = &config.services["web"];
    assert_eq!((service.vip.as_str(), service.pool.as_str()), ("198.51.100.10", "web"));
    assert_eq!(service.ports, Ports::Ranges(vec![(80, 80)]));
    assert_eq!(service.protocols, [Protocol::Tcp]);
    assert_eq!((service.mode, service.on_down, service.track), (Mode::Ipip, OnDown::Auto, true));
    assert_eq!(service.timeouts.tcp_established, MS(7_800_000));
    let vip = &config.vips["198.51.100.10"];
    assert_eq!((vip.icmp_echo, vip.unmatched), (true, Unmatched::Auto));
    let pool = &config.pools["web"];
    assert_eq!((pool.last_resort, pool.hold_down), (LastResort::Keep, MS(1000)));
    let backend = &pool.backends["web-1"];
    assert_eq!((backend.weight, backend.tier, backend.port), (100, 0, None));
}

#[test]
fn a_check_through_the_tunnel_asks_every_vip_with_small_and_with_full_packets() {
    let health =
        "[service.health]\ntype = \"syn\"\ninterval = \"10ms\"\nthrough = \"tunnel\"\n[[service.backend]]";
    let checks = accepted(&changed("[[service.backend]]", health)).config.pools["web"].checks.clone();
    let vip = [198, 51, 100, 10].into();
    let inside = |size| Some(Inside { vip, mode: Mode::Ipip, gue_port: 6080, size });
    let asked: Vec<_> =
        checks.iter().map(|check| (check.inside, check.port, check.interval, check.fall)).collect();
    assert_eq!(
        asked,
        [(inside(ProbeSize::Small), Some(80), MS(10), 2), (inside(ProbeSize::Full), Some(80), MS(1000), 2)]
    );
    // From `[defaults]` it is for the types that can.
    let text = changed("[[service]]", "[defaults]\nthrough = \"tunnel\"\n[[service]]");
    let text = text.replace("[[service.backend]]", "[service.health]\ntype = \"tcp\"\n[[service.backend]]");
    assert_eq!(accepted(&text).config.pools["web"].checks[0].inside, None);
}

#[test]
fn guard_takes_its_keys() {
    let with = "interfaces = [\"eth0\"]\n[guard]\npanic_threshold = 0.3\nfreeze_max = \"0s\"\ngateway = [\"10.0.0.254\"]\n";
    let guard = accepted(&changed("interfaces = [\"eth0\"]\n", with)).config.guard;
    let gateway = Some(vec![[10, 0, 0, 254].into()]);
    assert_eq!(guard, Guard { panic_threshold: 0.3, freeze_max: Duration::ZERO, gateway });
    let with = with.replace("[\"10.0.0.254\"]", "[]");
    assert_eq!(accepted(&changed("interfaces = [\"eth0\"]\n", &with)).config.guard.gateway, Some(vec![]));
}

#[test]
fn default_checks_are_syn_and_ping_where_a_tcp_port_is_known() {
    let kinds = |text: &str| {
        let config = accepted(text).config;
        let checks = &config.pools["web"].checks;
        checks.iter().map(|check| (check.kind.name(), check.port)).collect::<Vec<_>>()
    };
    assert_eq!(kinds(BASE), [("syn", Some(80)), ("ping", None)]);
    assert_eq!(kinds(&changed("\"tcp\"", "\"udp\"")), [("ping", None)]);
    assert_eq!(kinds(&changed("port = 80", "port = \"any\"")), [("ping", None)]);
    assert_eq!(kinds(&changed("port = 80", "ports = [443, 80]")), [("syn", Some(443)), ("ping", None)]);
}

#[test]
fn default_checks_have_the_documented_settings() {
    let config = accepted(BASE).config;
    let shown: Vec<_> =
        config.pools["web"].checks.iter().map(|c| (c.interval, c.timeout, c.fall, c.rise)).collect();
    assert_eq!(shown, [(MS(100), MS(100), 2, 2), (MS(10), MS(30), 3, 2)]);
}

#[test]
fn a_check_takes_the_port_of_its_service_unless_it_has_one() {
    for (health, port) in [("type = \"tcp\"", Some(80)), ("type = \"tcp\"\nport = 8080", Some(8080))] {
        let text =
            changed("[[service.backend]]", &format!("[service.health]\n{health}\n[[service.backend]]"));
        assert_eq!(accepted(&text).config.pools["web"].checks[0].port, port);
    }
}

#[test]
fn ports_are_sorted_and_keep_their_ranges() {
    for (written, shown) in [
        ("port = \"any\"", "any"),
        ("port = \"8000-8100\"", "8000-8100"),
        ("ports = [443, \"8000-8100\", 80]", "80,443,8000-8100"),
        ("ports = [443]", "443"),
        ("port = 1_000", "1000"),
        ("port = 0x50", "80"),
    ] {
        let config = accepted(&changed("port = 80", written)).config;
        assert_eq!(config.services["web"].ports.to_string(), shown, "{written}");
    }
}

#[test]
fn durations_are_read_in_their_usual_spellings() {
    for (written, ms) in
        [("1ms", 1), ("500ms", 500), ("2h10m", 7_800_000), ("1m 30s", 90_000), ("1.5s", 1500)]
    {
        let health = format!(
            "[service.health]\ntype = \"tcp\"\ninterval = \"{written}\"\ntimeout = \"1ms\"\n[[service.backend]]"
        );
        let config = accepted(&changed("[[service.backend]]", &health)).config;
        assert_eq!(config.pools["web"].checks[0].interval, MS(ms), "{written}");
    }
}

#[test]
fn http_checks_read_statuses_in_every_form() {
    for (written, ranges) in [
        ("200", vec![(200, 200)]),
        ("\"200-299\"", vec![(200, 299)]),
        ("\"204, 200\"", vec![(200, 200), (204, 204)]),
        ("[301, \"200-204\"]", vec![(200, 204), (301, 301)]),
    ] {
        let health =
            format!("[service.health]\ntype = \"http\"\nexpect_status = {written}\n[[service.backend]]");
        let config = accepted(&changed("[[service.backend]]", &health)).config;
        let CheckKind::Http(http) = &config.pools["web"].checks[0].kind else { panic!("no http check") };
        assert_eq!((&http.expect_status, http.path.as_str()), (&ranges, "/"), "{written}");
    }
}

#[test]
fn defaults_fill_what_tables_leave_out_and_nothing_else() {
    let text = r#"
interfaces = ["eth0"]
[defaults]
mode = "dsr-l2"
protocol = "udp"
port = 53
last_resort = "drop"
unmatched = "drop"
interval = "20ms"
path = "/ready"
[defaults.timeouts]
udp = "10s"
tcp_closing = "5s"
[[defaults.health]]
type = "ping"
[[service]]
name = "a"
vip = "192.0.2.1"
[service.timeouts]
udp = "20s"
[[service.backend]]
name = "a-1"
address = "10.0.0.1"
[[service]]
name = "b"
vip = "192.0.2.2"
ports = [80]
protocol = "tcp"
mode = "ipip"
pool = "b"
[[pool]]
name = "b"
last_resort = "keep"
[[pool.health]]
type = "tcp"
interval = "1s"
[[pool.backend]]
name = "b-1"
address = "10.0.0.2"
"#;
    let config = accepted(text).config;
    let (a, b) = (&config.services["a"], &config.services["b"]);
    assert_eq!((a.mode, b.mode), (Mode::DsrL2, Mode::Ipip));
    assert_eq!((a.ports.to_string(), b.ports.to_string()), ("53".to_owned(), "80".to_owned()));
    assert_eq!((a.timeouts.udp, a.timeouts.tcp_closing), (MS(20_000), MS(5000)));
    assert_eq!(b.timeouts.udp, MS(10_000));
    assert_eq!(config.pools["a"].last_resort, LastResort::Drop);
    assert_eq!(config.pools["b"].last_resort, LastResort::Keep);
    assert_eq!(config.vips["192.0.2.1"].unmatched, Unmatched::Drop);
    let [check] = config.pools["a"].checks.as_slice() else { panic!("one check") };
    assert_eq!((&check.kind, check.interval), (&CheckKind::Ping, MS(20)));
    let [check] = config.pools["b"].checks.as_slice() else { panic!("one check") };
    assert_eq!((&check.kind, check.interval, check.port), (&CheckKind::Tcp, MS(1000), Some(80)));
}

#[test]
fn a_tripwire_watches_the_services_port_and_one_open_connection_is_a_success_whatever_the_default() {
    let health = "[service.health]\ntype = \"tripwire\"\n[[service.backend]]";
    let text =
        changed("[[service.backend]]", health).replace("[[service]]", "[defaults]\nrise = 2\n[[service]]");
    let config = accepted(&text).config;
    let [check] = config.pools["web"].checks.as_slice() else { panic!("one check") };
    assert_eq!((&check.kind, check.port, check.rise, check.fall), (&CheckKind::Tripwire, Some(80), 1, 3));
}

#[test]
fn a_bfd_checks_timeout_is_its_detection_time() {
    let health = "[service.health]\ntype = \"bfd\"\ninterval = \"20ms\"\nfall = 5\n[[service.backend]]";
    let config = accepted(&changed("[[service.backend]]", health)).config;
    let [check] = config.pools["web"].checks.as_slice() else { panic!("one check") };
    assert_eq!((&check.kind, check.port, check.rise), (&CheckKind::Bfd, None, 1));
    assert_eq!((check.interval, check.timeout, check.fall), (MS(20), MS(100), 5));
}

#[test]
fn interfaces_come_from_the_list_and_from_tables() {
    let tables = "[[interface]]\nname = \"eth1\"\nxdp_mode = \"generic\"\nmtu = 9000\ngateway_mac = \"02:00:00:00:00:0A\"\n[[service]]";
    let config = accepted(&changed("[[service]]", &format!("xdp_mode = \"auto\"\n{tables}"))).config;
    let [eth0, eth1] = config.interfaces.as_slice() else { panic!("two interfaces") };
    assert_eq!((eth0.xdp_mode, eth0.mtu), (XdpMode::Auto, None));
    assert_eq!((eth1.xdp_mode, eth1.mtu), (XdpMode::Generic, Some(9000)));
    assert_eq!(eth1.gateway_mac, Some(Mac([2, 0, 0, 0, 0, 10])));
}

#[test]
fn an_exact_port_may_lie_in_a_range_and_a_range_beside_any() {
    let other = |name: &str, port: &str| {
        let base = changed("interfaces = [\"eth0\"]\n", "");
        base.replace("web", name).replace("port = 80", port)
    };
    let text = format!("{BASE}{}{}", other("range", "port = \"1-100\""), other("any", "port = \"any\""));
    assert_eq!(accepted(&text).config.services.len(), 3);
}

#[test]
fn services_share_a_pool_and_a_vip_given_by_its_only_address() {
    let text = r#"
interfaces = ["eth0"]
[[vip]]
name = "edge"
address = "198.51.100.10"
[[pool]]
name = "web"
[[pool.backend]]
name = "web-1"
address = "10.0.0.11"
[[service]]
name = "a"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
mode = "ipip"
pool = "web"
[[service]]
name = "b"
vip = "edge"
port = 80
protocol = "udp"
mode = "ipip"
pool = "web"
table_size = 4093
"#;
    let config = accepted(text).config;
    assert_eq!((config.services["a"].vip.as_str(), config.vips.len()), ("edge", 1));
    assert_eq!(config.pools["web"].checks[0].port, Some(80));
    assert_eq!(config.table_sizes().of(&config.pools["web"]), 4093);
}

#[test]
fn keep_on_down_and_unused_tables_are_warned_of() {
    let text = changed("mode = \"ipip\"", "mode = \"ipip\"\non_down = \"keep\"");
    let unused = "[[vip]]\nname = \"spare\"\naddress = \"192.0.2.9\"\n[[pool]]\nname = \"spare\"\n[[pool.backend]]\nname = \"s\"\naddress = \"10.0.0.99\"\n";
    let warnings = accepted(&format!("{text}{unused}")).warnings;
    assert!(warnings.0.iter().all(|warning| warning.severity == Severity::Warning));
    assert_eq!(
        warnings.to_string(),
        "/etc/weir/weir.toml:8: warning: service \"web\": on_down \"keep\" goes on sending known flows to a backend that is down
     8 | on_down = \"keep\"
/etc/weir/weir.toml:12: warning: vip \"spare\": no service uses this VIP
    12 | [[vip]]
/etc/weir/weir.toml:15: warning: pool \"spare\": no service uses this pool
    15 | [[pool]]"
    );
}

#[test]
fn included_files_and_the_seed_file_are_found_beside_the_main_file() {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).unwrap();
    fs::create_dir(dir.path().join("conf.d")).unwrap();
    write("seed", "0xdeadbeefdeadbeef\n");
    write("conf.d/b.toml", &changed("interfaces = [\"eth0\"]\n", ""));
    write("conf.d/ignored.txt", "not toml at all [");
    write(
        "weir.toml",
        "interfaces = [\"eth0\"]\nhash_seed = { file = \"seed\" }\ninclude = [\"conf.d/*.toml\"]\n",
    );
    let config = load(&dir.path().join("weir.toml")).unwrap().config;
    assert_eq!(config.hash_seed, 0xdead_beef_dead_beef);
    assert!(config.services.contains_key("web"));

    write("conf.d/c.toml", "xdp_mode = \"auto\"\n[[service]]\nname = \"web\"\n");
    let problems = load(&dir.path().join("weir.toml")).unwrap_err();
    let shown = problems.to_string();
    assert!(shown.contains("conf.d/c.toml:1: unknown key `xdp_mode`"), "{shown}");
    assert!(shown.contains("service \"web\": name is given twice, first at b.toml:1"), "{shown}");
}

#[test]
fn a_missing_file_says_so() {
    let problems = load(std::path::Path::new("/nonexistent/weir.toml")).unwrap_err();
    let shown = problems.to_string();
    assert!(shown.contains("read /nonexistent/weir.toml: no such file or directory"), "{shown}");
}

#[test]
fn hooks_and_the_size_of_the_record_have_defaults() {
    assert_eq!((accepted(BASE).config.events.max_bytes, accepted(BASE).config.hooks.len()), (16 << 20, 0));
    let hooks = "[events]\nmax_bytes = 2_000_000\n\
         [[hook]]\nname = \"pager\"\nexec = [\"/usr/local/bin/page\", \"--now\"]\nkinds = [\"health\", \"freeze\"]\n\
         [[hook]]\nname = \"web\"\nurl = \"http://[2001:db8::1]:9000/weir?to=me\"\ntimeout = \"250ms\"\nqueue = 7\n\
         [[hook]]\nname = \"short\"\nurl = \"http://example.com\"\n[[service]]";
    let config = accepted(&changed("[[service]]", hooks)).config;
    assert_eq!(config.events.max_bytes, 2_000_000);
    let [pager, web, short] = config.hooks.as_slice() else { panic!("{:?}", config.hooks) };
    assert_eq!(pager.target, HookTarget::Exec(vec!["/usr/local/bin/page".into(), "--now".into()]));
    assert_eq!(
        (pager.kinds.as_slice(), pager.timeout, pager.queue),
        (&[Kind::Health, Kind::Freeze][..], MS(5000), 256)
    );
    let post = |host: &str, port, path: &str| HookTarget::Post { host: host.into(), port, path: path.into() };
    assert_eq!(web.target, post("[2001:db8::1]", 9000, "/weir?to=me"));
    assert_eq!((web.kinds.len(), web.timeout, web.queue), (0, MS(250), 7));
    assert_eq!(short.target, post("example.com", 80, "/"));
}

#[test]
fn flows_of_a_down_backend_and_packets_without_a_backend_can_be_reset() {
    let text = changed("mode = \"ipip\"", "mode = \"ipip\"\non_down = \"reset\"");
    let config = accepted(&format!("{text}\n[defaults]\nlast_resort = \"reset\"\n")).config;
    assert_eq!(config.services["web"].on_down, OnDown::Reset);
    assert_eq!(config.pools["web"].last_resort, LastResort::Reset);
}
