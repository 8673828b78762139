//! Lists and the status page from maps filled by hand.

use std::net::IpAddr;

use jiff::Timestamp;
use lb_common::flow::Class;
use lb_common::layout::{
    AdminBits, Backend as Slot, BackendInfo, BackendState, Counter, EgressWord, FailureBits, Family,
    ForwardWord, HealthBits, HotWord, Mode, NextHop, OnDown, PoolInfo, ServiceInfo, Text, VipInfo,
};
use lb_common::reason::Reason;
use lb_common::wire::Protocol;

use super::backends::{Admin, FailureKind, Health};
use super::filter::{BackendFilter, FlowFilter, ServiceFilter};
use super::from_maps::{self, Counters, FlowCounts, FlowRow};
use super::status::{Change, Daemon, Interface};
use super::{Api, Render};
use crate::config::model::Limits;
use crate::failure::Code;
use crate::maps::set::MapSet;
use crate::maps::sizes::Sizes;

const NOW: Timestamp = Timestamp::constant(1_795_000_000, 0);

fn v4(octets: [u8; 4]) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..4].copy_from_slice(&octets);
    bytes
}

struct Member {
    name: &'static str,
    octets: [u8; 4],
    hot: HotWord,
    next_hop: u16,
    ago_s: u64,
    why: &'static str,
}

fn hot(
    state: BackendState,
    admit: u16,
    admin: AdminBits,
    health: HealthBits,
    failure: FailureBits,
) -> HotWord {
    HotWord::new(state, 1, admit, admin, health, failure)
}

/// Pool `web` (id 1) of three backends, service `web` on VIP `edge`: one up, one draining, one down.
pub(crate) fn maps() -> MapSet {
    let limits = Limits {
        flows_v4: 1024,
        flows_v6: 256,
        services: 8,
        backends: 8,
        maglev_slots: 65_536,
        prefixes: 1024,
        nat_ports: 64,
    };
    let maps = MapSet::anonymous(&Sizes::of(&limits)).expect("memory");
    maps.meta.update(0, |meta| {
        meta.flows_v4 = limits.flows_v4;
        meta.flows_v6 = limits.flows_v6;
    });
    maps.pool_info.update(1, |pool| *pool = PoolInfo { name: Text::new("web"), ..PoolInfo::default() });
    maps.next_hops[1].select.set(NextHop::selector(0, true));
    for (id, octets) in [(1, [198, 51, 100, 10]), (2, [198, 51, 100, 11])] {
        maps.vip_info.update(id, |vip| {
            *vip = VipInfo { name: Text::new("edge"), address: v4(octets), family: 4, reserved: [0; 7] };
        });
    }
    maps.services[1].forward.set(ForwardWord::new(1, Mode::Ipip, OnDown::Auto, true).0);
    maps.service_info.update(1, |service| {
        *service = ServiceInfo {
            name: Text::new("web"),
            vip: Text::new("edge"),
            ports: Text::new("80,443"),
            protocols: 3,
            scheduler: 0,
            pool: 1,
            table_size: 1021,
        };
    });
    let members = [
        Member {
            name: "web-1",
            octets: [10, 0, 0, 11],
            hot: hot(BackendState::Active, 1000, AdminBits::Active, HealthBits::Up, FailureBits::None),
            next_hop: 1,
            ago_s: 7_800,
            why: "",
        },
        Member {
            name: "web-2",
            octets: [10, 0, 0, 12],
            hot: hot(BackendState::Draining, 1000, AdminBits::Draining, HealthBits::Up, FailureBits::None),
            next_hop: 1,
            ago_s: 300,
            why: "drained by root",
        },
        Member {
            name: "web-3",
            octets: [10, 0, 0, 13],
            hot: hot(BackendState::Down, 1000, AdminBits::Active, HealthBits::Down, FailureBits::Hard),
            next_hop: 1,
            ago_s: 12,
            why: "tcp 10.0.0.13:80 refused",
        },
    ];
    for (index, member) in members.into_iter().enumerate() {
        add(&maps, index + 1, &member);
    }
    maps
}

fn add(maps: &MapSet, id: usize, member: &Member) {
    let slot: &Slot = &maps.backends[id];
    slot.hot.set(member.hot.0);
    slot.egress.set(EgressWord::new(member.next_hop, 0, 0, Family::V4, 0).0);
    maps.backend_info.update(id, |info| {
        *info = BackendInfo {
            name: Text::new(member.name),
            host: Text::new("rack3-h7"),
            address: v4(member.octets),
            family: 4,
            pool: 1,
            weight: 100,
            since_ms: (NOW.as_millisecond() as u64) - member.ago_s * 1000,
            why: Text::new(member.why),
            ..BackendInfo::default()
        };
    });
}

pub(crate) fn counters() -> Counters {
    let mut counters = Counters {
        reasons: vec![Counter::default(); Reason::COUNT],
        services: vec![Counter::default(); 9],
        backends: vec![Counter::default(); 9],
    };
    counters.reasons[Reason::FlowKnown as usize].packets = 1_204_881;
    counters.reasons[Reason::FlowNew as usize].packets = 90_210;
    counters.reasons[Reason::Malformed as usize].packets = 3;
    counters.services[1] = Counter { packets: 1_295_091, bytes: 845_203_112 };
    counters.backends[1] = Counter { packets: 1_000_000, bytes: 600_000_000 };
    counters.backends[2] = Counter { packets: 295_091, bytes: 245_203_112 };
    counters
}

fn row(client: &str, backend: u32, class: Class) -> FlowRow {
    FlowRow {
        client: client.parse().expect("address"),
        client_port: 51_000,
        vip: 2,
        port: 80,
        protocol: Protocol::Tcp,
        service: 1,
        backend,
        class,
        idle_s: 12,
    }
}

pub(crate) fn rows() -> Vec<FlowRow> {
    vec![
        row("203.0.113.9", 1, Class::Proven),
        row("203.0.113.10", 1, Class::Answered),
        row("192.0.2.1", 2, Class::Proven),
        row("2001:db8::9", 2, Class::Ended),
    ]
}

fn counts(maps: &MapSet) -> FlowCounts {
    FlowCounts::of(maps, rows().into_iter())
}

fn plain(view: &impl Render) -> String {
    anstream::adapter::strip_str(&view.render(NOW)).to_string()
}

#[test]
fn backends_come_from_the_maps_alone() {
    let maps = maps();
    let backends = from_maps::backends(&maps, &counters(), &counts(&maps));
    insta::assert_snapshot!(plain(&backends), @r"
    BACKEND    ADDRESS    STATE            FOR  WEIGHT  FLOWS    PACKETS    BYTES  WHY
    web/web-1  10.0.0.11  up            2h 10m     100      2  1,000,000  572 MiB
    web/web-2  10.0.0.12  draining, up      5m     100      2    295,091  234 MiB  drained by root
    web/web-3  10.0.0.13  down (hard)      12s     100      0          0      0 B  tcp 10.0.0.13:80 refused
    ");
    let third = &backends.backends[2];
    assert_eq!(
        (third.admin, third.health, third.failure_kind),
        (Admin::Active, Health::Down, Some(FailureKind::Hard))
    );
    assert_eq!((&*third.services, third.host.as_deref()), (&["web".to_owned()][..], Some("rack3-h7")));
}

#[test]
fn backends_are_json_with_the_promised_fields() {
    let maps = maps();
    let mut backends = from_maps::backends(&maps, &counters(), &counts(&maps));
    backends.backends.truncate(2);
    backends.backends.remove(0);
    insta::assert_snapshot!(serde_json::to_string_pretty(&backends).expect("serialises"), @r#"
    {
      "api": "weir/v1",
      "backends": [
        {
          "name": "web-2",
          "pool": "web",
          "services": [
            "web"
          ],
          "address": "10.0.0.12",
          "host": "rack3-h7",
          "admin": "draining",
          "health": "up",
          "failure_kind": null,
          "weight": 100,
          "tier": 0,
          "admit_permille": 1000,
          "removed": false,
          "reachable": true,
          "flows": 2,
          "packets": 295091,
          "bytes": 245203112,
          "since": "2026-11-18T11:01:40Z",
          "why": "drained by root",
          "handshakes": null,
          "last_probe": null
        }
      ]
    }
    "#);
}

#[test]
fn services_count_their_backends_and_flows() {
    let maps = maps();
    let services = from_maps::services(&maps, &counters(), &counts(&maps));
    insta::assert_snapshot!(plain(&services), @r"
    SERVICE  VIP   PORT    PROTOCOL  MODE  POOL   UP  FLOWS    PACKETS    BYTES
    web      edge  80,443  tcp,udp   ipip  web   2/3      4  1,295,091  806 MiB
    ");
    insta::assert_snapshot!(serde_json::to_string_pretty(&services).expect("serialises"), @r#"
    {
      "api": "weir/v1",
      "services": [
        {
          "name": "web",
          "vip": "edge",
          "addresses": [
            "198.51.100.10",
            "198.51.100.11"
          ],
          "port": "80,443",
          "protocol": "tcp,udp",
          "mode": "ipip",
          "scheduler": "maglev",
          "pool": "web",
          "active_tier": 0,
          "backends_up": 2,
          "backends_total": 3,
          "backends_usable": 1,
          "flows": 4,
          "packets": 1295091,
          "bytes": 845203112
        }
      ]
    }
    "#);
}

#[test]
fn flows_are_listed_with_names_and_counted() {
    let maps = maps();
    let all = from_maps::flows(&maps, rows().into_iter(), &FlowFilter::default()).expect("lists");
    insta::assert_snapshot!(plain(&all), @r"
    CLIENT               VIP               PROTOCOL  SERVICE  BACKEND    STATE    IDLE
    203.0.113.9:51000    198.51.100.11:80  tcp       web      web/web-1  proven    12s
    203.0.113.10:51000   198.51.100.11:80  tcp       web      web/web-1  young     12s
    192.0.2.1:51000      198.51.100.11:80  tcp       web      web/web-2  proven    12s
    [2001:db8::9]:51000  198.51.100.11:80  tcp       web      web/web-2  closing   12s
    ");
    insta::assert_snapshot!(serde_json::to_string(&all.flows[0]).expect("serialises"), @r#"{"client":"203.0.113.9","client_port":51000,"vip":"198.51.100.11","port":80,"protocol":"tcp","service":"web","pool":"web","backend":"web-1","state":"proven","idle_s":12}"#);
}

#[test]
fn flow_filters_keep_what_matches() {
    let maps = maps();
    let total = |filter: FlowFilter| {
        let flows = from_maps::flows(&maps, rows().into_iter(), &filter).expect("lists");
        (flows.flows.len(), flows.total)
    };
    let none = FlowFilter::default;
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(total(FlowFilter { client: text("203.0.113.0/24"), ..none() }), (2, 2));
    assert_eq!(total(FlowFilter { backend: text("web/web-2"), ..none() }), (2, 2));
    assert_eq!(total(FlowFilter { state: text("closing"), ..none() }), (1, 1));
    assert_eq!(total(FlowFilter { limit: Some(1), ..none() }), (1, 4));
    assert_eq!(total(FlowFilter { limit: Some(0), ..none() }), (4, 4));
    assert_eq!(total(FlowFilter { count: true, ..none() }), (0, 4));
    assert_eq!(total(FlowFilter { service: text("web"), client: text("192.0.2.1"), ..none() }), (1, 1));
}

#[test]
fn filters_name_the_nearest_object() {
    let maps = maps();
    let flows =
        |filter: FlowFilter| from_maps::flows(&maps, rows().into_iter(), &filter).expect_err("refused");
    let failure = flows(FlowFilter { backend: Some("web-9".to_owned()), ..FlowFilter::default() });
    assert_eq!(failure.code, Code::NotFound);
    assert_eq!(failure.message, r#"no such backend "web-9"; nearest: web-1, web-2, web-3"#);
    let failure = flows(FlowFilter { state: Some("open".to_owned()), ..FlowFilter::default() });
    assert_eq!(failure.code, Code::Usage);

    let services = from_maps::services(&maps, &counters(), &counts(&maps));
    let filter = ServiceFilter { service: Some("wev".to_owned()), pool: None };
    assert_eq!(
        filter.apply(services).expect_err("refused").message,
        r#"no such service "wev"; nearest: web"#
    );
}

#[test]
fn backend_filters_keep_what_matches() {
    let maps = maps();
    let names = |filter: BackendFilter| {
        let backends = from_maps::backends(&maps, &counters(), &counts(&maps));
        let kept = filter.apply(backends).expect("filters");
        kept.backends.into_iter().map(|backend| backend.name).collect::<Vec<_>>().join(" ")
    };
    let none = BackendFilter::default;
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(names(BackendFilter { state: text("draining"), ..none() }), "web-2");
    assert_eq!(names(BackendFilter { state: text("up"), ..none() }), "web-1 web-2");
    assert_eq!(names(BackendFilter { backend: text("*-3"), ..none() }), "web-3");
    assert_eq!(
        names(BackendFilter { host: text("rack3-h7"), service: text("web"), ..none() }),
        "web-1 web-2 web-3"
    );
}

#[test]
fn status_puts_what_is_wrong_first() {
    let maps = maps();
    maps.next_hops[1].select.set(0);
    let interfaces = vec![
        Interface { name: "eth0".to_owned(), mode: "native".to_owned(), attached: true },
        Interface { name: "eth1".to_owned(), mode: String::new(), attached: false },
    ];
    let mut status = from_maps::status(&maps, &counters(), &counts(&maps), interfaces);
    status.changes.push(Change {
        resets: false,
        pool: "web".to_owned(),
        backend: "web-2".to_owned(),
        kind: "draining".to_owned(),
        weight: None,
        by: "root".to_owned(),
        since: NOW - std::time::Duration::from_secs(300),
        reason: "kernel update".to_owned(),
        until: Some(NOW + std::time::Duration::from_secs(6_900)),
        configured: true,
    });
    status.daemon = Daemon {
        running: true,
        pid: Some(4711),
        version: Some("0.1.0".to_owned()),
        started: Some(NOW - std::time::Duration::from_secs(90_000)),
        config: Some("/etc/weir/weir.toml".to_owned()),
        config_loaded: Some(NOW - std::time::Duration::from_secs(60)),
    };
    insta::assert_snapshot!(plain(&status), @r"
    PROBLEMS
      interface eth1: the program is not attached
      backend web/web-1: no route or neighbour towards 10.0.0.11
      backend web/web-2: no route or neighbour towards 10.0.0.12
      backend web/web-3 is down (hard), no next hop: tcp 10.0.0.13:80 refused

    RUNTIME CHANGES
      web/web-2  draining by root, 5m ago, 1h 55m left: kernel update

    daemon      running, version 0.1.0, pid 4711, for 1d 1h, config /etc/weir/weir.toml (read 1m ago)
    interfaces  eth0 (native), eth1 (not attached)
    flows       3 of 1,024 IPv4, 1 of 256 IPv6
    backends    2 up of 3; services: 1

    SERVICE  VIP   PORT    PROTOCOL  MODE  POOL   UP  FLOWS    PACKETS    BYTES
    web      edge  80,443  tcp,udp   ipip  web   2/3      4  1,295,091  806 MiB

    BACKEND    ADDRESS    STATE                         FOR  WEIGHT  FLOWS    PACKETS    BYTES  WHY
    web/web-1  10.0.0.11  up, no next hop            2h 10m     100      2  1,000,000  572 MiB
    web/web-2  10.0.0.12  draining, up, no next hop      5m     100      2    295,091  234 MiB  drained by root
    web/web-3  10.0.0.13  down (hard), no next hop      12s     100      0          0      0 B  tcp 10.0.0.13:80 refused

    REASON        PACKETS  VERDICT
    flow_known  1,204,881  forward
    flow_new       90,210  forward
    malformed           3  drop
    ");
}

#[test]
fn status_of_a_sound_instance_reports_no_problem() {
    let maps = maps();
    for id in [2, 3] {
        maps.backend_info.update(id, |info| *info = BackendInfo::default());
    }
    let interfaces = vec![Interface { name: "eth0".to_owned(), mode: "native".to_owned(), attached: true }];
    let status = from_maps::status(&maps, &counters(), &FlowCounts::default(), interfaces);
    assert_eq!(status.problems, Vec::<String>::new());
    assert_eq!((status.backends_up, status.backends_total, status.services_total), (1, 1, 1));
    assert_eq!(status.counters[Reason::FlowKnown.name()], 1_204_881);
}

#[test]
fn a_full_flow_table_and_a_pool_without_usable_backends_are_problems() {
    let maps = maps();
    maps.backends[1]
        .hot
        .set(hot(BackendState::Suspect, 1000, AdminBits::Active, HealthBits::Suspect, FailureBits::None).0);
    let flows = FlowCounts { v4: 1_000, ..counts(&maps) };
    let status = from_maps::status(&maps, &counters(), &flows, Vec::new());
    assert_eq!(status.problems[0], "service web: none of 3 backends takes new flows");
    assert_eq!(
        status.problems.last().map(String::as_str),
        Some("IPv4 flow table: 1,000 of 1,024 flows; raise [limits] and restart")
    );
}

#[test]
fn readers_tolerate_unknown_fields_and_values_but_not_another_version() {
    let backend = r#"{"name":"web-1","pool":"web","services":[],"address":"10.0.0.11","host":null,"admin":"resting",
        "health":"dreaming","failure_kind":"odd","weight":1,"admit_permille":1000,"flows":0,"packets":0,"bytes":0,
        "since":null,"why":"","last_probe":null,"colour":"green"}"#;
    let backend: super::backends::Backend = serde_json::from_str(backend).expect("tolerated");
    assert_eq!((backend.admin, backend.health), (Admin::Other, Health::Other));
    assert_eq!(backend.address, "10.0.0.11".parse::<IpAddr>().expect("address"));
    assert!(serde_json::from_str::<Api>(r#""weir/v2""#).is_err());
}
