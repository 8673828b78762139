//! ICMP errors go where their flows go and leave no trace; resets of flows whose backend is down.
#![cfg(not(loom))]

use std::net::IpAddr;

use lb_common::cell::SharedU64;
use lb_common::layout::{BackendState, Bucket, Family, OnDown};
use lb_common::reason::Reason;
use weir_model::{
    Extension, Host, IcmpSpec, PORTS_FIRST, PacketSpec, Plain, Scene, SceneSizes, Transport, check, client,
    vip,
};

/// Of pool 2, whose backends are all active.
const SERVICE: u16 = 2;

fn tables() -> Plain {
    let mut tables = Plain::new(&SceneSizes::SMALL);
    Scene::fill(&mut tables, &SceneSizes::SMALL.geometry(Scene::START));
    for backend in 1..SceneSizes::SMALL.backends {
        Scene::next_hop_of(&mut tables, backend, 1);
    }
    tables
}

fn host(tables: &Plain) -> Host<'_> {
    Host::new(tables.slices(), SceneSizes::SMALL.geometry(Scene::START))
}

/// Runs a frame; the reason it left for, and the backend that it was counted for.
fn run(tables: &Plain, frame: &[u8]) -> (Reason, Option<u32>) {
    let host = host(tables);
    let ran = host.run(frame, 256);
    check(frame, &ran.outcome, &ran.output).unwrap();
    let backend = host.totals().backends.iter().position(|counter| counter.packets > 0);
    (ran.outcome.reason, backend.map(|id| id as u32))
}

fn flow(family: Family, port: u16, service: u16) -> PacketSpec {
    PacketSpec::syn(client(family, 1), vip(family, 0), (port, PORTS_FIRST + service))
}

/// A router's error about a packet of the flow's backend, with this much of it quoted.
fn error(flow: &PacketSpec, quoted: usize) -> Vec<u8> {
    let router: IpAddr = client(if flow.source.is_ipv4() { Family::V4 } else { Family::V6 }, 20);
    IcmpSpec::too_big(router, &flow.reversed(), 1400, quoted).frame()
}

fn words<const W: usize>(buckets: &[Bucket<W>]) -> Vec<u64> {
    let ways = buckets.iter().flat_map(|bucket| &bucket.ways);
    let last = |meta: u32, binding: u32| u64::from(meta) << 32 | u64::from(binding);
    ways.flat_map(|way| {
        way.key
            .iter()
            .map(SharedU64::get)
            .chain([last(way.meta.get(), way.binding.get())])
            .collect::<Vec<_>>()
    })
    .collect()
}

/// Every word of both flow tables.
fn flows(tables: &Plain) -> (Vec<u64>, Vec<u64>) {
    (words(tables.slices().flows_v4), words(tables.slices().flows_v6))
}

#[test]
fn an_error_goes_to_the_backend_that_owns_the_flow_whatever_new_flows_do() {
    for family in [Family::V4, Family::V6] {
        for port in 50_000..50_040 {
            let mut tables = tables();
            let flow = flow(family, port, SERVICE);
            let (_, owner) = run(&tables, &flow.frame());
            let owner = owner.expect("the flow has a backend");
            // Draining, it would not be selected for a new flow.
            Scene::set_state(&mut tables, owner, BackendState::Draining);
            let before = flows(&tables);
            for quoted in [28, 48, 60, 1500] {
                let quoted = if family == Family::V4 { quoted } else { quoted.max(48) };
                let found = run(&tables, &error(&flow, quoted));
                assert_eq!(found, (Reason::IcmpError, Some(owner)), "{family:?} {port}, {quoted} quoted");
            }
            assert_eq!(flows(&tables), before, "an error changes no entry");
        }
    }
}

#[test]
fn an_error_without_an_entry_goes_where_a_packet_in_mid_flow_would() {
    for family in [Family::V4, Family::V6] {
        for port in 50_000..50_040 {
            let flow = flow(family, port, SERVICE);
            let (errors, resumed) = (tables(), tables());
            let data = flow.clone().carrying(Transport::Tcp { flags: 0x10, options: 0 });
            let (_, expected) = run(&resumed, &data.frame());
            assert_eq!(run(&errors, &error(&flow, 60)), (Reason::IcmpError, expected), "{family:?} {port}");
            assert!(flows(&errors).0.iter().chain(&flows(&errors).1).all(|word| *word == 0));
        }
    }
}

#[test]
fn a_quoted_syn_or_reset_is_never_taken_for_one() {
    for (family, flags) in [(Family::V4, 0x02), (Family::V4, 0x04), (Family::V6, 0x02), (Family::V6, 0x11)] {
        let tables = tables();
        let flow = flow(family, 50_000, SERVICE);
        let _ = run(&tables, &flow.frame());
        let before = flows(&tables);
        let quoting = flow.clone().carrying(Transport::Tcp { flags, options: 0 });
        for _ in 0..3 {
            assert_eq!(run(&tables, &error(&quoting, 100)).0, Reason::IcmpError);
        }
        assert_eq!(flows(&tables), before, "{family:?}, flags {flags:#x}");
    }
}

#[test]
fn an_error_about_a_first_fragment_reaches_the_backend_and_one_about_a_later_one_nobody() {
    let tables = tables();
    for family in [Family::V4, Family::V6] {
        let flow = flow(family, 50_000, SERVICE);
        let home = run(&tables, &flow.frame()).1;
        let fragment = |word: u16| match family {
            Family::V4 => PacketSpec { flags_offset: 0x2000 | word >> 3, ..flow.clone() },
            Family::V6 => PacketSpec { extensions: vec![Extension::Fragment(word | 1)], ..flow.clone() },
        };
        let told = run(&tables, &error(&fragment(0), 100));
        assert_eq!((told.0, told.1), (Reason::IcmpError, home), "{family:?}");
        assert_ne!(run(&tables, &error(&fragment(0x10), 100)).0, Reason::IcmpError, "{family:?}");
    }
}

#[test]
fn errors_that_no_packet_of_the_vip_can_have_caused_do_not_reach_a_backend() {
    for family in [Family::V4, Family::V6] {
        let flow = flow(family, 50_000, SERVICE);
        let tables = tables();
        // To VIP 1, which drops what no service claims; quoting the packet of another VIP, or of a port without service.
        let to = |quoted: &PacketSpec| {
            let mut error = IcmpSpec::too_big(client(family, 20), &quoted.reversed(), 1400, 100);
            error.destination = vip(family, 1);
            error.frame()
        };
        let nobody = PacketSpec { destination: vip(family, 1), ports: (50_000, 9), ..flow.clone() };
        for (what, frame) in [("another VIP's packet", to(&flow)), ("no service's port", to(&nobody))] {
            assert_eq!(run(&tables, &frame), (Reason::IcmpErrorUnmatched, None), "{family:?}: {what}");
        }
        let own = PacketSpec { destination: vip(family, 1), ..flow.clone() };
        assert_eq!(run(&tables, &to(&own)).0, Reason::IcmpError, "{family:?}: its own packet does");
    }
}

/// A service of pool 2 that resets flows of down backends and remembers flows.
fn resetting() -> u16 {
    tracking(OnDown::Reset)
}

/// A service of pool 2 with this `on_down` that remembers flows.
fn tracking(wanted: OnDown) -> u16 {
    let is_it = |id: &u32| {
        let (pool, _, on_down, track) = Scene::rules(*id);
        (pool, on_down, track) == (2, wanted, true)
    };
    (1..=Scene::services()).find(is_it).expect("the scene has one") as u16
}

#[test]
fn tcp_of_a_flow_whose_backend_is_down_is_reset_until_a_syn_finds_a_live_one() {
    // A backend whose connections the operator ends resets them whatever the service says.
    let ends = [
        (OnDown::Reset, BackendState::Down),
        (OnDown::Reset, BackendState::Resetting),
        (OnDown::Keep, BackendState::Resetting),
        (OnDown::Auto, BackendState::Resetting),
    ];
    let cases = ends.into_iter().flat_map(|end| [Family::V4, Family::V6].map(|family| (end, family)));
    for ((on_down, state), family) in cases {
        let mut tables = tables();
        let flow = flow(family, 50_000, tracking(on_down));
        let owner = run(&tables, &flow.frame()).1.expect("the flow has a backend");
        let data = flow.clone().carrying(Transport::Tcp { flags: 0x18, options: 3 });
        assert_eq!(run(&tables, &data.frame()), (Reason::FlowKnown, Some(owner)));
        Scene::set_state(&mut tables, owner, BackendState::DownSoft);
        assert_eq!(
            run(&tables, &data.frame()),
            (Reason::FlowKnown, Some(owner)),
            "a soft failure resets nobody"
        );

        Scene::set_state(&mut tables, owner, state);
        for _ in 0..3 {
            assert_eq!(run(&tables, &data.frame()), (Reason::FlowReset, None), "{on_down:?} {state:?}");
        }
        let close = flow.clone().carrying(Transport::Tcp { flags: 0x11, options: 0 });
        assert_eq!(run(&tables, &close.frame()), (Reason::FlowReset, None));
        let abort = flow.clone().carrying(Transport::Tcp { flags: 0x04, options: 0 });
        assert_eq!(run(&tables, &abort.frame()), (Reason::Unanswerable, None), "a reset is not reset");

        let (reason, next) = run(&tables, &flow.frame());
        assert_eq!(reason, Reason::FlowRehomed);
        assert!(next.is_some_and(|next| next != owner));
        assert_eq!(run(&tables, &data.frame()), (Reason::FlowKnown, next), "the new connection goes on");
    }
}

#[test]
fn udp_of_a_flow_whose_backend_is_down_is_selected_anew() {
    let mut tables = tables();
    let flow = flow(Family::V4, 50_000, resetting()).carrying(Transport::Udp);
    let owner = run(&tables, &flow.frame()).1.expect("the flow has a backend");
    Scene::set_state(&mut tables, owner, BackendState::Down);
    let (reason, next) = run(&tables, &flow.frame());
    assert_eq!(reason, Reason::FlowRehomed);
    assert!(next.is_some_and(|next| next != owner));
}

#[test]
fn what_exceeds_the_allowance_drops_and_leaves_other_kinds_theirs() {
    let tables = tables();
    let host = host(&tables);
    let reject = PacketSpec::syn(client(Family::V4, 1), vip(Family::V4, 2), (50_000, 9)).frame();
    let big = PacketSpec { payload: 1500, ..flow(Family::V4, 50_000, SERVICE) }.frame();
    let reasons: Vec<Reason> = (0..400).map(|_| host.run(&reject, 256).outcome.reason).collect();
    let answered = reasons.iter().take_while(|reason| **reason == Reason::UnmatchedReject).count();
    assert!(answered > 100, "{answered}");
    assert!(reasons[answered..].iter().all(|reason| *reason == Reason::AnswerLimited));
    assert_eq!(host.run(&big, 256).outcome.reason, Reason::TooBig);
}
