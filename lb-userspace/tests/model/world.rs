//! Maps, the applier that writes them, and packets that go through them.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::layout::{NextHopCopy, Scratch};
use lb_common::memory::{Frame, Memory};
use lb_common::reason::Reason;
use lb_common::time::{TICK_NS, Tick};
use lb_userspace::apply::{Applier, ApplyError, Summary};
use lb_userspace::config::model::{
    Backend, Config, Guard, LastResort, Limits, Mode, OnDown, Pool, Ports, Protocol, Scheduler, Service,
    Timeouts, Tunnel, Unmatched, Vip,
};
use lb_userspace::desired::{Desired, Egress, HopKey, HopRecord, Inputs, PoolView};
use lb_userspace::filter::{Lists, Prefixes};
use lb_userspace::flows;
use lb_userspace::maps::set::MapSet;
use lb_userspace::maps::sizes::Sizes;

use crate::frames::{HEADROOM, Kind, Packet};

pub(crate) const VIP: &str = "198.51.100.10";
pub(crate) const SECRET: u64 = 0x5ec2_e7a1_1b2c_3d4e;

pub(crate) fn limits() -> Limits {
    Limits {
        flows_v4: 4096,
        flows_v6: 1024,
        services: 16,
        backends: 128,
        maglev_slots: 1 << 18,
        prefixes: 1024,
        nat_ports: 64,
    }
}

/// A config without VIPs, pools and services.
pub(crate) fn config(limits: Limits) -> Config {
    Config {
        interfaces: Vec::new(),
        gateway_mac: None,
        mtu: None,
        hash_seed: 7,
        limits,
        deny: Prefixes::default(),
        next_program: None,
        tunnel: Tunnel { source: Vec::new(), gue_port: 6080 },
        guard: Guard::default(),
        vips: BTreeMap::new(),
        pools: BTreeMap::new(),
        services: BTreeMap::new(),
        events: lb_userspace::config::model::Events { max_bytes: 1 << 20 },
        hooks: Vec::new(),
    }
}

pub(crate) fn vip(name: &str, addresses: &[&str]) -> Vip {
    Vip {
        name: name.into(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        icmp_echo: true,
        unmatched: Unmatched::Drop,
        allow: Prefixes::default(),
        deny: Prefixes::default(),
        new_flow_limit: None,
    }
}

pub(crate) fn backend(name: &str, address: IpAddr) -> Backend {
    Backend {
        name: name.into(),
        address,
        port: None,
        weight: 100,
        tier: 0,
        host: None,
        mac: None,
        server_ids: Vec::new(),
    }
}

/// Backends `b-000`, `b-001`, … at `10.<block>.x.y`.
pub(crate) fn pool(name: &str, block: u8, count: usize) -> Pool {
    let address = |number: usize| IpAddr::from([10, block, (number / 250) as u8, (number % 250) as u8 + 1]);
    let backends = (0..count).map(|number| backend(&format!("b-{number:03}"), address(number)));
    Pool {
        name: name.into(),
        tier_takeover_below: 0.0,
        last_resort: LastResort::Drop,
        max_ejected: 0.5,
        passive_sample: 20,
        passive_excess: 0.5,
        slow_start: Duration::ZERO,
        hold_down: Duration::ZERO,
        hold_down_max: Duration::ZERO,
        checks: Vec::new(),
        backends: backends.map(|backend| (backend.name.clone(), backend)).collect(),
    }
}

pub(crate) fn service(name: &str, vip: &str, ports: Ports, pool: &str) -> Service {
    Service {
        name: name.into(),
        vip: vip.into(),
        ports,
        protocols: vec![Protocol::Tcp, Protocol::Udp],
        pool: pool.into(),
        mode: Mode::Ipip,
        snat: Vec::new(),
        scheduler: Scheduler::Maglev,
        table_size: None,
        on_down: OnDown::Auto,
        quic: Vec::new(),
        new_flow_limit: None,
        track: true,
        timeouts: Timeouts {
            tcp_embryonic: Duration::from_secs(60),
            tcp_established: Duration::from_secs(7800),
            tcp_closing: Duration::from_secs(60),
            udp: Duration::from_secs(120),
        },
    }
}

pub(crate) fn port(port: u16) -> Ports {
    Ports::Ranges(vec![(port, port)])
}

/// One service `web` on port 80 over a pool `web` of so many backends.
pub(crate) fn web(limits: Limits, backends: usize) -> Config {
    let mut config = config(limits);
    config.vips.insert("edge".into(), vip("edge", &[VIP, "2001:db8::10"]));
    config.pools.insert("web".into(), pool("web", 1, backends));
    config.services.insert("web".into(), service("web", "edge", port(80), "web"));
    config
}

pub(crate) fn hop_key(address: IpAddr) -> HopKey {
    HopKey { ifindex: 2, ip: address, mac: None, mtu: 1500 }
}

pub(crate) fn hop_record(key: &HopKey) -> HopRecord {
    let last = match key.ip {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    };
    let macs = [2, 0, 0, 0, 0, last, 2, 0, 0, 0, 1, 1];
    HopRecord { copy: NextHopCopy { port: 3, mtu: 1500, macs, ..NextHopCopy::default() }, resolved: true }
}

fn egress(address: IpAddr) -> Egress {
    let source = match address {
        IpAddr::V4(_) => "10.0.0.1".parse().unwrap(),
        IpAddr::V6(_) => "2001:db8:ffff::1".parse().unwrap(),
    };
    Egress { next_hop: hop_key(address), source, entropy_bits: 0 }
}

pub(crate) fn desired_with(config: &Config, views: &BTreeMap<String, PoolView>) -> Arc<Desired> {
    Arc::new(with_inputs(config, views, |inputs| Desired::new(inputs, &BTreeSet::new())))
}

/// Runs `work` on the inputs of a desired state.
pub(crate) fn with_inputs<T>(
    config: &Config,
    views: &BTreeMap<String, PoolView>,
    work: impl FnOnce(&Inputs<'_>) -> T,
) -> T {
    let lists = Lists::new(config, std::iter::empty(), &Lists::default());
    work(&Inputs {
        config,
        lists: &lists,
        weight: &|_, backend| backend.weight,
        limit: &|service| service.new_flow_limit,
        views,
        egress: &|address, _| Some(egress(address)),
        client_mtu: 1500,
        next_hop: &hop_record,
    })
}

pub(crate) fn desired(config: &Config) -> Arc<Desired> {
    desired_with(config, &BTreeMap::new())
}

pub(crate) fn maps(limits: &Limits, secret: u64) -> Arc<MapSet> {
    let sizes = Sizes::of(limits);
    let maps = MapSet::anonymous(&sizes).unwrap();
    maps.meta.update(0, |meta| meta.geometry = sizes.geometry(secret));
    Arc::new(maps)
}

/// What became of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) reason: Reason,
    /// Ids of service and backend.
    pub(crate) to: Option<(u16, u16)>,
}

/// Sends a packet at a time.
pub(crate) fn send(maps: &MapSet, now_ns: u64, packet: &Packet) -> Seen {
    let (mut buffer, end) = packet.frame();
    send_frame(maps, now_ns, &Scratch::default(), &mut buffer[..end])
}

/// Sends a frame that begins behind its headroom.
fn send_frame(maps: &MapSet, now_ns: u64, scratch: &Scratch, frame: &mut [u8]) -> Seen {
    let (to, counted) = (Cell::new(None), Cell::new(0));
    let memory = Memory {
        now: Tick::from_ns(now_ns),
        scratch: Some(scratch),
        on_count: &|_, _| counted.set(counted.get() + 1),
        on_forwarded: &|service, backend, _| to.set(Some((service as u16, backend as u16))),
        ..flows::memory(maps)
    };
    let outcome = memory.process(&mut Frame::new(frame, HEADROOM));
    assert_eq!(counted.get(), 1, "counted under one reason");
    Seen { reason: outcome.reason, to: to.get() }
}

/// Sends a datagram with this payload.
fn send_datagram(maps: &MapSet, now_ns: u64, packet: &Packet, payload: &[u8]) -> Seen {
    let (buffer, end) = packet.frame();
    let mut frame = buffer[..end].to_vec();
    frame.extend_from_slice(payload);
    // IPv4 and UDP length.
    let ip = HEADROOM + 14;
    for (at, length) in [(ip + 2, 28 + payload.len()), (ip + 24, 8 + payload.len())] {
        frame[at..at + 2].copy_from_slice(&(length as u16).to_be_bytes());
    }
    send_frame(maps, now_ns, &Scratch::default(), &mut frame)
}

/// Maps, applier and clock.
pub(crate) struct World {
    pub(crate) maps: Arc<MapSet>,
    pub(crate) applier: Applier,
    pub(crate) now_ns: u64,
}

impl World {
    pub(crate) fn empty(limits: &Limits) -> Self {
        let maps = maps(limits, SECRET);
        let now_ns = 1000 * TICK_NS;
        Self { applier: Applier::adopt(maps.clone(), now_ns), maps, now_ns }
    }

    pub(crate) fn new(config: &Config) -> Self {
        let mut world = Self::empty(&config.limits);
        world.apply(config).unwrap();
        world
    }

    pub(crate) fn apply(&mut self, config: &Config) -> Result<Summary, ApplyError> {
        self.applier.apply(&desired(config), self.now_ns)
    }

    pub(crate) fn after_ticks(&mut self, ticks: u64) {
        self.now_ns += ticks * TICK_NS;
    }

    pub(crate) fn after(&mut self, duration: Duration) {
        self.now_ns += duration.as_nanos() as u64;
    }

    /// A housekeeping round: sweep and take back.
    pub(crate) fn tick(&mut self) -> Summary {
        let sweep = flows::sweep(&self.maps, self.now_ns, &self.applier.purge(self.now_ns));
        self.applier.tick(self.now_ns, Some(&sweep))
    }

    pub(crate) fn send(&self, packet: &Packet) -> Seen {
        send(&self.maps, self.now_ns, packet)
    }

    /// Sends a packet on a CPU that remembers others.
    pub(crate) fn send_on(&self, cpu: &Scratch, packet: &Packet) -> Seen {
        let (mut buffer, end) = packet.frame();
        send_frame(&self.maps, self.now_ns, cpu, &mut buffer[..end])
    }

    /// Looks through the tables for flows in their second buckets, with something that happens between look and end; gives how
    /// many marks were taken back.
    pub(crate) fn settle(&self, meanwhile: impl FnOnce()) -> usize {
        let now = Tick::from_ns(self.now_ns);
        let Some(mut settling) = flows::Settling::begin(&self.maps, now) else { return 0 };
        (0..flows::PARTS).for_each(|part| settling.part(&self.maps, part, now));
        meanwhile();
        settling.finish(&self.maps, now)
    }

    /// Buckets whose flows may be in their second ones.
    pub(crate) fn marks(&self) -> usize {
        let lines = [&self.maps.overflow_v4, &self.maps.overflow_v6];
        let marks = lines.into_iter().flat_map(|lines| lines.iter()).flat_map(|line| &line.marks);
        marks.filter(|mark| mark.get() != 0).count()
    }

    /// Sends a datagram of an IPv4 client with this payload, which must be forwarded; gives reason and backend name.
    pub(crate) fn datagram(&self, packet: &Packet, payload: &[u8]) -> (Reason, String) {
        let seen = send_datagram(&self.maps, self.now_ns, packet, payload);
        let (_, id) = seen.to.unwrap_or_else(|| panic!("{packet:?}: {:?}", seen.reason));
        (seen.reason, self.name(id))
    }

    /// Sends a packet that must be forwarded; gives reason and backend name.
    pub(crate) fn to(&self, packet: &Packet) -> (Reason, String) {
        let seen = self.send(packet);
        let (_, id) = seen.to.unwrap_or_else(|| panic!("{packet:?}: {:?}", seen.reason));
        (seen.reason, self.name(id))
    }

    pub(crate) fn name(&self, backend: u16) -> String {
        self.maps.backend_info[usize::from(backend)].name.as_str().to_owned()
    }
}

/// The packet of an IPv4 client, numbered, to port 80 of [`VIP`].
pub(crate) fn client(number: u32, kind: Kind) -> Packet {
    let [_, a, b, c] = (number / 50_000 + 1).to_be_bytes();
    Packet {
        client: IpAddr::from([203, a, b, c]),
        client_port: (number % 50_000) as u16 + 1024,
        vip: VIP.parse().unwrap(),
        port: 80,
        kind,
    }
}

impl Packet {
    pub(crate) fn with(self, kind: Kind) -> Self {
        Self { kind, ..self }
    }
}
