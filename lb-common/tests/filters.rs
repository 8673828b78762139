//! What a VIP's lists let in: a description, a frame, the reason it leaves for.
#![cfg(not(loom))]

use lb_common::layout::{Family, Listed};
use lb_common::reason::Reason;
use weir_model::{
    ALLOWED, DENIED, DENIED_THERE, Extension, Host, IcmpSpec, PORTS_FIRST, PacketSpec, Plain, Scene,
    SceneSizes, Transport, check, client, vip,
};

/// Service 2: pool 2, whose backends are all active, by `ipip`.
const PORT: u16 = PORTS_FIRST + 2;
const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

fn tables() -> Plain {
    let mut tables = Plain::new(&SceneSizes::SMALL);
    Scene::fill(&mut tables, &SceneSizes::SMALL.geometry(Scene::START));
    tables
}

fn host(tables: &Plain) -> Host<'_> {
    Host::new(tables.slices(), SceneSizes::SMALL.geometry(Scene::START))
}

/// From the `n`-th client to the `to`-th VIP.
fn from(family: Family, n: u32, to: u32) -> PacketSpec {
    PacketSpec::syn(client(family, n), vip(family, to), (50_000, PORT))
}

fn expect_all(cases: Vec<(&str, Vec<u8>, Reason)>) {
    for (description, frame, expected) in cases {
        // Tables of its own for each: no case sees another's flow.
        let tables = tables();
        let ran = host(&tables).run(&frame, 256);
        assert_eq!(ran.outcome.reason, expected, "{description}");
        check(&frame, &ran.outcome, &ran.output).unwrap_or_else(|broken| panic!("{description}: {broken}"));
    }
}

#[test]
fn a_vip_refuses_whom_its_lists_name_and_lets_the_others_in() {
    for family in FAMILIES {
        let syn = |n, to| from(family, n, to).frame();
        expect_all(vec![
            ("of no list", syn(1, 0), Reason::FlowNew),
            ("denied everywhere", syn(DENIED, 0), Reason::Denied),
            ("the last of the prefix", syn(DENIED + 1, 0), Reason::Denied),
            ("before the prefix", syn(DENIED - 1, 0), Reason::FlowNew),
            ("behind the prefix", syn(DENIED + 4, 0), Reason::FlowNew),
            ("denied elsewhere", syn(DENIED_THERE, 0), Reason::FlowNew),
            ("denied there", syn(DENIED_THERE, 1), Reason::Denied),
            ("denied everywhere, at a VIP with a list", syn(DENIED, 1), Reason::Denied),
            ("next to the one denied there", syn(DENIED_THERE + 1, 1), Reason::FlowNew),
            ("a VIP without lists", syn(DENIED, 2), Reason::UnmatchedReject),
            ("allowed", syn(ALLOWED - 1, 3), Reason::FlowNew),
            ("not allowed", syn(ALLOWED, 3), Reason::NotAllowed),
            ("denied before allowed is asked", syn(DENIED_THERE, 3), Reason::Denied),
        ]);
    }
}

#[test]
fn lists_are_asked_whatever_the_packet_is() {
    for family in FAMILIES {
        let denied = |to| from(family, DENIED, to);
        let mut cases = vec![
            ("a datagram", denied(0).carrying(Transport::Udp).frame(), Reason::Denied),
            ("a port of no service", PacketSpec { ports: (50_000, 9), ..denied(1) }.frame(), Reason::Denied),
            ("a protocol of no service", denied(1).carrying(Transport::Other(47)).frame(), Reason::Denied),
            ("an echo request", denied(0).carrying(Transport::Icmp).frame(), Reason::Denied),
        ];
        let mut tagged = denied(0).frame();
        tagged.splice(12..12, [0x81, 0, 0, 100]);
        cases.push(("a tagged frame", tagged, Reason::Denied));
        let long = PacketSpec { payload: 600, ..denied(0) }.carrying(Transport::Udp);
        cases.push(("a first fragment", long.fragments(7, 512)[0].clone(), Reason::Denied));
        let odd = match family {
            Family::V4 => PacketSpec { options: 3, ..denied(0) },
            Family::V6 => PacketSpec { extensions: vec![Extension::HopByHop(0)], ..denied(0) },
        };
        cases.push(("options or extension headers", odd.frame(), Reason::Denied));
        expect_all(cases);
    }
}

#[test]
fn an_error_about_a_flow_is_judged_by_the_flows_client() {
    for family in FAMILIES {
        let (kind, code) = if family == Family::V4 { (3, 1) } else { (1, 0) };
        let error = |router, n, to| {
            let about = from(family, n, to).reversed();
            let mut error = IcmpSpec::about(client(family, router), &about, (kind, code, 0), 48);
            error.destination = vip(family, to);
            error.frame_like(&from(family, router, to))
        };
        expect_all(vec![
            (
                "about a client that is let in, by a router that is not",
                error(DENIED, 1, 0),
                Reason::IcmpError,
            ),
            ("about a client that is allowed", error(ALLOWED + 9, 1, 3), Reason::IcmpError),
            ("about a client that is denied", error(1, DENIED, 0), Reason::Denied),
            ("about a client that is not allowed", error(1, ALLOWED, 3), Reason::NotAllowed),
        ]);
    }
}

#[test]
fn what_a_list_refuses_is_counted_for_it() {
    let tables = tables();
    let host = host(&tables);
    for (n, to) in [(DENIED, 1), (DENIED_THERE, 1), (DENIED_THERE, 1), (ALLOWED, 3), (1, 1)] {
        let _ = host.run(&from(Family::V4, n, to).frame(), 256);
    }
    let refusals = host.totals().refusals;
    let of =
        |vip: usize| [Listed::DenyEverywhere, Listed::Deny, Listed::Allow].map(|list| refusals[vip].of(list));
    assert_eq!((of(2), of(4), of(1)), ([1, 2, 0], [0, 0, 1], [0; 3]));
}

#[test]
fn a_known_flow_of_a_client_that_is_denied_ends() {
    let tables = tables();
    let geometry = SceneSizes::SMALL.geometry(Scene::START);
    let with_lists = tables.slices().vips[1].lists.get();
    tables.slices().vips[1].lists.set(0);
    let data = from(Family::V4, DENIED, 0).carrying(Transport::Tcp { flags: 0x10, options: 0 });
    let run = |tables: &Plain, spec: &PacketSpec| {
        Host::new(tables.slices(), geometry).run(&spec.frame(), 256).outcome.reason
    };
    assert_eq!(run(&tables, &from(Family::V4, DENIED, 0)), Reason::FlowNew);
    assert_eq!(run(&tables, &data), Reason::FlowKnown);
    tables.slices().vips[1].lists.set(with_lists);
    assert_eq!(run(&tables, &data), Reason::Denied);
    tables.slices().vips[1].lists.set(0);
    assert_eq!(run(&tables, &data), Reason::FlowKnown, "let in again, it goes on");
}
