//! When every backend of a pool is down and its last resort is to keep.
#![cfg(not(loom))]

use lb_common::layout::{BackendState, Family, Mode};
use lb_common::reason::Reason;
use weir_model::{Host, PORTS_FIRST, PacketSpec, Plain, Scene, SceneSizes, Transport, client, vip};

/// The service of pool 2 that forwards by `ipip` and selects anew on a hard failure.
const SERVICE: u32 = 2;
const POOL: u32 = 2;

/// Address of the backend that a frame was sent to.
fn sent_to(host: &Host<'_>, flags: u8, source_port: u16) -> (Reason, Vec<u8>) {
    assert_eq!(Scene::rules(SERVICE).1, Mode::Ipip);
    let ports = (source_port, PORTS_FIRST + SERVICE as u16);
    let spec = PacketSpec::syn(client(Family::V4, 1), vip(Family::V4, 0), ports);
    let ran = host.run(&spec.carrying(Transport::Tcp { flags, options: 0 }).frame(), 256);
    (ran.outcome.reason, ran.output[30..34].to_vec())
}

#[test]
fn a_flow_stays_on_its_own_backend_while_all_are_down() {
    let geometry = SceneSizes::SMALL.geometry(Scene::START);
    let mut tables = Plain::new(&SceneSizes::SMALL);
    Scene::fill(&mut tables, &geometry);
    let ports = 50_000..50_032_u16;
    let set_all = |tables: &mut Plain, state| {
        for backend in Scene::backends_of(POOL) {
            Scene::set_state(tables, backend, state);
            Scene::next_hop_of(tables, backend, 1);
        }
    };
    // Only one backend takes the flows, which is not that of most of their slots.
    set_all(&mut tables, BackendState::Draining);
    Scene::set_state(&mut tables, Scene::backends_of(POOL).start, BackendState::Active);
    let host = Host::new(tables.slices(), geometry);
    let homes: Vec<_> = ports
        .clone()
        .map(|port| {
            let opened = sent_to(&host, 0x02, port);
            let (_, _) = (sent_to(&host, 0x10, port), sent_to(&host, 0x10, port));
            opened.1
        })
        .collect();
    set_all(&mut tables, BackendState::Down);
    let host = Host::new(tables.slices(), geometry);
    for (port, home) in ports.clone().zip(&homes) {
        assert_eq!(sent_to(&host, 0x10, port), (Reason::FlowKnown, home.clone()), "port {port}");
    }
    // And once they are back.
    set_all(&mut tables, BackendState::Active);
    let host = Host::new(tables.slices(), geometry);
    for (port, home) in ports.zip(&homes) {
        assert_eq!(sent_to(&host, 0x10, port), (Reason::FlowKnown, home.clone()), "port {port}");
    }
}
