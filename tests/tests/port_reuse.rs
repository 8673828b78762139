//! A client that comes back from a port it used before: when its SYN is the old flow, and when a new one.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use weir_tests::{
    Lab, WeirProc, eventually,
    frame::{self, FrameSocket},
    plan,
};

const CONFIG: &str = r#"
interfaces = ["eth0", "eth1"]
[limits]
flows_v4 = 16_384
flows_v6 = 1024
maglev_slots = 65_536
[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
mode = "dsr-l2"
[[service.health]]
type = "tcp"
interval = "200ms"
timeout = "2s"
[[service.backend]]
name = "direct-1"
address = "10.0.1.11"
[[service.backend]]
name = "direct-2"
address = "10.0.1.12"
"#;

/// A time after which an entry has been idle for two ticks of 4.29 s, wherever in a tick it was refreshed.
const IDLE: Duration = Duration::from_millis(13_000);

/// Source ports of one history.
type Ports = std::ops::Range<u16>;
/// Only a SYN was sent.
const OPENING: Ports = 10_000..10_040;
/// Proven, then nothing more: the client lost power.
const ABANDONED: Ports = 11_000..11_040;
/// Proven, then reset.
const RESET: Ports = 12_000..12_040;
/// Proven, then the client's FIN.
const CLOSED: Ports = 13_000..13_040;

/// A client whose packets are made by hand; answers to it end at the edge.
struct Client<'a> {
    lab: &'a Lab,
    weir: &'a WeirProc,
    address: IpAddr,
}

impl Client<'_> {
    /// Sends a packet without data from each port.
    fn send(&self, ports: Ports, flags: u8) -> Result<()> {
        self.lab.edge().run(|| {
            let socket = FrameSocket::open("to-weir")?;
            for port in ports {
                let vip = SocketAddr::new(plan::vip(0).v4.into(), 80);
                let packet = frame::tcp(SocketAddr::new(self.address, port), vip, 1000, flags);
                let (to, from) = (plan::FRONT.mac(plan::BEHIND_GATEWAY), plan::FRONT.mac(plan::GATEWAY));
                socket.send(&frame::ethernet(to, from, &packet)).context("send frame")?;
            }
            Ok(())
        })
    }

    /// Backend and state of each of its flows, by source port.
    fn flows(&self) -> Result<BTreeMap<u16, (String, String)>> {
        let address = self.address.to_string();
        let document = self.weir.json(&["flows", "--client", &address, "--limit", "0"])?;
        let all = document["flows"].as_array().context("a list of flows")?;
        let flow = |one: &serde_json::Value| {
            let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
            let name = format!("{}/{}", text("pool"), text("backend"));
            Some((u16::try_from(one["client_port"].as_u64()?).ok()?, (name, text("state"))))
        };
        Ok(all.iter().filter_map(flow).collect())
    }

    /// The ports whose flows are on a backend.
    fn on(&self, backend: &str, ports: &Ports) -> Result<BTreeSet<u16>> {
        let flows = self.flows()?;
        let is_there = |port: &u16| flows.get(port).is_some_and(|(name, _)| name == backend);
        Ok(ports.clone().filter(is_there).collect())
    }

    /// Waits until all flows of some ports are in a state.
    fn wait(&self, ports: &Ports, state: &str) {
        eventually(state, || {
            let flows = self.flows().unwrap_or_default();
            ports.clone().all(|port| flows.get(&port).is_some_and(|(_, is)| is == state))
        });
    }
}

#[test]
fn a_syn_on_a_drained_backends_old_flow_opens_a_new_one_elsewhere() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let weir = lab.weir(CONFIG)?;
    let client = Client { lab: &lab, weir: &weir, address: Ipv4Addr::new(192, 0, 2, 7).into() };
    client.send(OPENING, frame::SYN)?;
    for ports in [ABANDONED, RESET, CLOSED] {
        client.send(ports.clone(), frame::SYN)?;
        client.send(ports.clone(), frame::ACK)?;
        client.send(ports.clone(), frame::ACK)?;
        client.wait(&ports, "proven");
    }
    const FIN: u8 = 0x01;
    client.send(RESET, frame::RST)?;
    client.send(CLOSED, FIN | frame::ACK)?;
    client.wait(&RESET, "closing");
    client.wait(&CLOSED, "closing");
    client.wait(&OPENING, "embryonic");
    let refreshed = Instant::now();
    let drained = "web/direct-1";
    let of = |ports: &Ports| client.on(drained, ports);
    let (abandoned, others) = (of(&ABANDONED)?, [of(&OPENING)?, of(&RESET)?, of(&CLOSED)?]);
    println!(
        "on {drained}: {} abandoned, others {:?}",
        abandoned.len(),
        others.each_ref().map(BTreeSet::len)
    );
    assert!(!abandoned.is_empty() && others.iter().all(|ports| !ports.is_empty()));

    weir.succeed(&["backend", "drain", "direct-1"])?;
    let syns = || -> Result<u64> { Ok(lab.backend("direct-1").witness()?.syns) };
    let before = syns()?;
    for ports in [RESET, CLOSED, OPENING] {
        client.send(ports.clone(), frame::SYN)?;
        client.wait(&ports, "embryonic");
        assert_eq!(of(&ports)?.len(), 0, "new flows, elsewhere");
    }
    assert_eq!(syns()?, before, "SYNs to the drained backend");

    // A proven flow's SYN may be an old one that comes late: it stays, until nothing has been heard for two ticks.
    thread::sleep(IDLE.saturating_sub(refreshed.elapsed()));
    assert_eq!(of(&ABANDONED)?, abandoned, "entries stay by themselves");
    client.send(ABANDONED, frame::SYN)?;
    eventually("the abandoned flows are new ones elsewhere", || {
        of(&ABANDONED).is_ok_and(|left| left.is_empty())
            && client.flows().is_ok_and(|flows| flows.len() == 160)
    });
    assert_eq!(syns()?, before, "SYNs to the drained backend");
    assert_eq!(weir.json(&["flows", "--backend", drained, "--count"])?["total"], 0, "the drain has ended");
    Ok(())
}

#[test]
fn a_syn_on_a_proven_flow_stays_on_its_backend_while_that_takes_new_flows() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let weir = lab.weir(CONFIG)?;
    let client = Client { lab: &lab, weir: &weir, address: Ipv4Addr::new(192, 0, 2, 8).into() };
    client.send(ABANDONED, frame::SYN)?;
    client.send(ABANDONED, frame::ACK)?;
    client.send(ABANDONED, frame::ACK)?;
    client.wait(&ABANDONED, "proven");
    let before = client.flows()?;
    // Another table: new flows would nearly all go to the second backend.
    weir.succeed(&["backend", "weight", "direct-1", "--to", "1"])?;
    client.send(ABANDONED, frame::SYN)?;
    client.send(OPENING, frame::SYN)?;
    client.wait(&OPENING, "embryonic");
    let after = client.flows()?;
    let moved: Vec<_> = ABANDONED.filter(|port| before.get(port) != after.get(port)).collect();
    assert_eq!(moved, [0_u16; 0], "a SYN neither moves nor demotes a proven flow");
    let (old, new) =
        (client.on("web/direct-1", &ABANDONED)?.len(), client.on("web/direct-1", &OPENING)?.len());
    println!("on direct-1: {old} known flows, {new} new ones");
    assert!(old >= 8 && new <= 5, "{old} known flows and {new} new ones on direct-1");
    Ok(())
}
