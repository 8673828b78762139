//! A set of tables with every kind of record.

mod lists;

pub use lists::{ALLOWED, DENIED, DENIED_THERE};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::forward::constant_sum;
use lb_common::hash;
use lb_common::layout::{
    AdminBits, BackendState, CidConfigs, EgressWord, FailureBits, Family, ForwardWord, Geometry, HealthBits,
    HotWord, INDEX_WAYS, IndexLine, LastResort, Load, LoadsWord, Mode, NextHop, NextHopCopy, OnDown,
    RangeWord, SLOTS_PER_LINE, SOURCE_LINES, Scheduler, ServerId, SnatWord, Span, TimeoutsWord, V6_WAYS,
    VipPorts,
};
use lb_common::service::port_key;
use lb_common::time::Tick;
use lb_common::wire::{Protocol, halves};

use crate::choice::{Choice, Splitmix};
use crate::nat;
use crate::store::Store;

/// The interface that frames come in by.
pub const INGRESS: u32 = 1;
/// A key of `tx_ports` that names an interface.
pub const OTHER_PORT: u32 = 77;
/// A port of a next hop that is not in `tx_ports`.
pub const MISSING_PORT: u32 = 78;

/// Service `n` has port `PORTS_FIRST + n` of the VIPs with exact ports.
pub const PORTS_FIRST: u16 = 1000;

const POOLS: u32 = 10;
const BACKENDS_PER_POOL: u32 = 8;
const MODES: [Mode; 2] = [Mode::Ipip, Mode::DsrL2];
/// The UDP port of services by GUE.
pub const GUE_PORT: u16 = 6080;
const ON_DOWN: [OnDown; 4] = [OnDown::Auto, OnDown::Reselect, OnDown::Keep, OnDown::Reset];
/// Services by IPIP and DSR, then those by GUE, then those of other schedulers.
const PLAIN_SERVICES: u32 = POOLS * 16;
const SCHEDULED: u32 = PLAIN_SERVICES + POOLS * 8;
const QUIC: u32 = SCHEDULED + POOLS * 2;
const TRANSLATED: u32 = QUIC + POOLS;
/// Then those in mode `nat`.
const SERVICES: u32 = TRANSLATED + POOLS * 4;
/// Configurations of connection IDs of the QUIC services: number, length of the server ids.
pub const CID_CONFIG: (u8, u8) = (2, 3);
/// The other one.
pub const OTHER_CID_CONFIG: (u8, u8) = (5, 12);
/// VIPs of each family with records of their own; as many again share nothing but fill the index.
const VIPS: u32 = 4;
const FILLERS: u32 = 16;
/// Slots of a Maglev table here, and lines that a pool has in the map: current, previous, usable.
const SLOTS: u32 = 61;
const POOL_LINES: u32 = 6;
/// Every sixteenth service limits new flows, from this one on, but none in mode `nat`.
const LIMITED: u32 = 10;
/// Pool whose services with least connections, with QUIC connection IDs and one in mode `nat` limit them too.
const LIMITED_POOL: u32 = 3;
/// A service id past the end of the table, which some ranges name.
const NO_SERVICE: u16 = 5000;
const PROTOCOLS: [Protocol; 3] = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];

/// How many values each table has.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each field is the table of that name")]
pub struct SceneSizes {
    pub vips_v4: u32,
    pub vips_v6: u32,
    pub ports: u32,
    pub ranges: u32,
    pub vips: u32,
    pub services: u32,
    pub pools: u32,
    pub maglev: u32,
    pub backends: u32,
    pub next_hops: u32,
    pub flows_v4: u32,
    pub flows_v6: u32,
    pub fragments: u32,
    pub servers: u32,
    pub filters: u32,
    pub sources: u32,
    pub nat_addresses: u32,
    pub nat_ports: u32,
    pub nat_lines: u32,
}

impl SceneSizes {
    /// What the scene needs, with flow tables that a test fills.
    pub const SMALL: Self = Self {
        vips_v4: 16,
        vips_v6: 16,
        ports: 1024,
        ranges: 16,
        vips: 2 * (VIPS + FILLERS) + nat::ADDRESSES + 1,
        services: SERVICES + 1,
        pools: POOLS + 1,
        maglev: POOL_LINES * (POOLS + 1),
        backends: POOLS * BACKENDS_PER_POOL + 2,
        next_hops: 9,
        flows_v4: 64,
        flows_v6: 32,
        fragments: 16,
        servers: 64,
        filters: 512,
        sources: SOURCE_LINES,
        nat_addresses: nat::ADDRESSES + 1,
        nat_ports: nat::PORTS,
        nat_lines: 128,
    };

    /// The masks that go with these sizes, a fixed secret, and this time.
    #[must_use]
    pub fn geometry(&self, now: Tick) -> Geometry {
        Geometry {
            secret: 0x5eed_5eed_5eed_5eed,
            fixed_now_ns: u64::from(now.bits()) << 32,
            vip_v4_mask: self.vips_v4 - 1,
            vip_v6_mask: self.vips_v6 - 1,
            port_mask: self.ports - 1,
            flows_v4_mask: self.flows_v4 - 1,
            flows_v6_mask: self.flows_v6 - 1,
            fragments_mask: self.fragments - 1,
            servers_mask: self.servers - 1,
            nat_mask: self.nat_lines - 1,
        }
    }
}

/// The `n`-th VIP of a family: 0 passes what no service claims, 1 drops, 2 rejects it, 3 has any-port services only.
#[must_use]
pub fn vip(family: Family, n: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(0x0a01_0001 + n).into(),
        Family::V6 => Ipv6Addr::from(0xfd00_0001_u128 << 96 | u128::from(n + 1)).into(),
    }
}

/// An address that is no VIP.
#[must_use]
pub fn not_vip(family: Family) -> IpAddr {
    vip(family, 4096)
}

/// The `n`-th client of a family.
#[must_use]
pub fn client(family: Family, n: u32) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::from(0xc000_0200 + n).into(),
        // Every second one shares the upper half of its address with its neighbour.
        Family::V6 => Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n / 2) << 64 | u128::from(n)).into(),
    }
}

/// The tables' contents, told by ids.
///
/// VIPs 0 and 1 of each family have the exact ports of all services; VIPs 0 and 2 have ranges from port 2000 and 3000;
/// VIPs 0 and 3 have any-port services. Service `n` is of pool `1 + (n - 1) % 10`, the other digits of `n - 1` give its
/// mode, its `on_down`, and whether it remembers flows: from 161 on all are `gue`, from 241 on each pool has a service by
/// source, then one by least connections;
/// from 261 on one that goes by QUIC connection IDs, from 271 on all are `nat`. Pool 1 has backends in every state and a previous table; 2 and 3
/// have active backends of one family; 4, 5, 6 have only down ones and keep, drop, reset; 7 has no table; 8 has active
/// ones with admit shares; 9 names ids that no backend has; 10 has draining and suspect ones with one usable.
pub struct Scene;

impl Scene {
    /// The tick at which the scene starts.
    pub const START: Tick = Tick::from_bits(1000);

    /// Fills empty tables.
    ///
    /// # Panics
    /// Where they are too small.
    pub fn fill<S: Store>(store: &mut S, geometry: &Geometry) {
        Self::next_hops(store);
        for pool in 1..=POOLS {
            Self::pool(store, pool);
        }
        for service in 1..=SERVICES {
            Self::service(store, service);
        }
        for family in [Family::V4, Family::V6] {
            for n in 0..VIPS + FILLERS {
                Self::vip(store, geometry, family, n);
            }
        }
        lists::fill(store);
        nat::fill(store, geometry, 1 + 2 * (VIPS + FILLERS));
    }

    /// Makes all ports of mode `nat` free.
    pub fn free_ports<S: Store>(store: &mut S) {
        nat::free(store);
    }

    /// The service with this id: pool, mode, what happens to flows of down backends, whether it remembers flows.
    #[must_use]
    pub fn rules(service: u32) -> (u16, Mode, OnDown, bool) {
        let rest = (service - 1) / POOLS;
        let pool = 1 + (service - 1) % POOLS;
        if rest >= 24 {
            if rest >= 27 {
                return (pool as u16, Mode::Nat, ON_DOWN[rest as usize % 4], true);
            }
            return (pool as u16, Mode::Ipip, ON_DOWN[pool as usize % 4], true);
        }
        if rest >= 16 {
            return (pool as u16, Mode::Gue, ON_DOWN[rest as usize % 4], rest < 20);
        }
        (pool as u16, MODES[rest as usize % 2], ON_DOWN[rest as usize / 2 % 4], rest / 8 == 0)
    }

    /// How the service with this id picks backends.
    #[must_use]
    pub fn scheduler(service: u32) -> Scheduler {
        match (service - 1) / POOLS {
            24 => Scheduler::Source,
            25 => Scheduler::LeastConnections,
            _ => Scheduler::Maglev,
        }
    }

    /// Whether the service limits new flows.
    #[must_use]
    pub fn limited(service: u32) -> bool {
        let pool = LIMITED_POOL;
        let busy = Self::scheduled(Scheduler::LeastConnections, pool);
        (service % 16 == LIMITED && service <= TRANSLATED)
            || [busy, Self::quic(pool), Self::translated(pool)].contains(&service)
    }

    /// The service of a pool that goes by QUIC connection IDs.
    #[must_use]
    pub fn quic(pool: u32) -> u32 {
        QUIC + pool
    }

    /// A service of a pool in mode `nat`.
    #[must_use]
    pub fn translated(pool: u32) -> u32 {
        TRANSLATED + pool
    }

    /// The server id, in a configuration, of the `n`-th backend of a pool.
    ///
    /// # Panics
    /// Where the configuration is none of the scene's.
    #[must_use]
    pub fn server_id(pool: u32, n: u32, (_, length): (u8, u8)) -> ServerId {
        let bytes: Vec<u8> =
            (0..length).map(|byte| [pool as u8, n as u8, 0xaa ^ byte][usize::from(byte.min(2))]).collect();
        ServerId::new(&bytes).expect("the lengths are allowed")
    }

    /// The service of a pool that picks backends so.
    #[must_use]
    pub fn scheduled(scheduler: Scheduler, pool: u32) -> u32 {
        let first = match scheduler {
            Scheduler::Maglev => 0,
            Scheduler::Source => SCHEDULED,
            Scheduler::LeastConnections => SCHEDULED + POOLS,
        };
        first + pool
    }

    /// The `n`-th service, from 0 on and all over again, of those that remember flows.
    #[must_use]
    pub fn tracking(n: u32) -> u32 {
        match n % (POOLS * 19) {
            n if n < POOLS * 8 => 1 + n,
            n if n < POOLS * 12 => 1 + n + POOLS * 8,
            n => 1 + SCHEDULED + n - POOLS * 12,
        }
    }

    /// The number of services; their ids start at 1.
    #[must_use]
    pub fn services() -> u32 {
        SERVICES
    }

    /// Changes the state of some backends, the tables of some pools, the copy of some next hops.
    pub fn disturb<S: Store>(store: &mut S, seed: u64, now: Tick) {
        let mut choice = Splitmix(seed);
        for pool in [1, 2, 3, 8, 10] {
            for n in 0..BACKENDS_PER_POOL {
                if choice.chance(30) {
                    let word = hot(state(choice.below(6)), choice.below(3) as u8, choice.below(1001) as u16);
                    store.backend(Self::backend(pool, n), |backend| backend.hot.set(word.0));
                }
            }
        }
        store.pool(1 + choice.below(POOLS as usize) as u32, |pool| {
            let current = pool.current.get();
            if current != 0 && pool.previous.get() != 0 {
                pool.current.set(pool.previous.get());
                pool.previous.set(current);
                pool.changed.set(now.bits().into());
            }
        });
        let resolved = !choice.chance(10);
        let copy = choice.below(2);
        store.next_hop(1 + choice.below(4) as u32, |next_hop| {
            next_hop.select.set(NextHop::selector(copy, resolved));
        });
    }

    /// Gives an exact port of a VIP to a service.
    ///
    /// # Panics
    /// Where the port index has no place.
    pub fn add_port<S: Store>(
        store: &mut S,
        geometry: &Geometry,
        vip: u32,
        protocol: Protocol,
        port: u16,
        service: u32,
    ) {
        let key = port_key(vip, protocol, port);
        let line = hash::index(key) & geometry.port_mask;
        index(line, IndexLine::entry(key, service), |line, change| {
            let mut fits = false;
            store.port_line(line, |line| fits = change(line));
            fits
        });
    }

    /// The ids of a pool's backends.
    #[must_use]
    pub fn backends_of(pool: u32) -> std::ops::Range<u32> {
        Self::backend(pool, 0)..Self::backend(pool, BACKENDS_PER_POOL)
    }

    /// Gives a backend another state; it keeps its generation.
    pub fn set_state<S: Store>(store: &mut S, backend: u32, state: BackendState) {
        store.backend(backend, |record| {
            let word = record.hot.get() & !0xff | state as u64;
            record.hot.set(word);
        });
    }

    /// Sends a backend's packets by another next hop.
    pub fn next_hop_of<S: Store>(store: &mut S, backend: u32, next_hop: u16) {
        store.backend(backend, |record| {
            let word = record.egress.get() & !0xffff | u64::from(next_hop);
            record.egress.set(word);
        });
    }

    fn backend(pool: u32, n: u32) -> u32 {
        1 + (pool - 1) * BACKENDS_PER_POOL + n
    }

    fn next_hops<S: Store>(store: &mut S) {
        // Number 5 is not resolved, 7 does not exist, 8 is the host itself.
        let ports = [(1, INGRESS, 1500), (2, OTHER_PORT, 1500), (3, INGRESS, 9000), (4, OTHER_PORT, 600)];
        for (id, port, mtu) in
            ports.into_iter().chain([(5, INGRESS, 1500), (6, MISSING_PORT, 1500), (8, 0, 0)])
        {
            let copy = |salt| NextHopCopy {
                port,
                mtu,
                // Numbers 3 and 4 are behind one tag and two.
                tag_count: [0, 0, 0, 1, 2, 0, 0, 0, 0][id as usize],
                macs: std::array::from_fn(|byte| (id * 16 + byte as u32) as u8 ^ salt),
                tags: [[0x88, 0xa8, 0, 200], [0x81, 0, 0x60, 100]],
            };
            store.next_hop(id, |next_hop| {
                next_hop.copies = [copy(0), copy(0x80)];
                next_hop.select.set(NextHop::selector(id as usize, id != 5));
            });
        }
    }

    fn pool<S: Store>(store: &mut S, pool: u32) {
        for n in 0..BACKENDS_PER_POOL {
            Self::fill_backend(store, pool, n);
        }
        let line = pool * POOL_LINES;
        let id = |n: u32| Self::backend(pool, n % BACKENDS_PER_POOL) as u16;
        let current = fill_region(store, line, SLOTS, |slot| match pool {
            // 0 is no backend, the last id of the map is free, 60000 is past its end.
            9 => [0, 60_000, id(1), (POOLS * BACKENDS_PER_POOL + 1) as u16][slot as usize % 4],
            _ => id(slot.wrapping_mul(2_654_435_761) >> 13),
        });
        let previous = fill_region(store, line + 2, SLOTS - 8, |slot| id(slot * 3 + 1));
        let usable = match pool {
            4..=7 => Span::new(0, 0),
            9 => fill_region(store, line + 4, 3, |slot| [60_000, 0, id(2)][slot as usize]),
            10 => fill_region(store, line + 4, 1, |_| id(7)),
            _ => fill_region(store, line + 4, 11, id),
        };
        store.pool(pool, |record| {
            record.current.set(if pool == 7 { 0 } else { current.0 });
            record.previous.set(if matches!(pool, 1 | 2 | 8) { previous.0 } else { 0 });
            record.usable.set(usable.0);
            // Pool 2's table changed long ago.
            let changed = if pool == 2 { Self::START.plus(0xf_ff00) } else { Self::START };
            record.changed.set(changed.bits().into());
            record.seed.set(u64::from(pool) * 0x1234_5678_9abc);
            let last_resort = match pool {
                5 => LastResort::Drop,
                6 => LastResort::Reset,
                _ => LastResort::Keep,
            };
            record.last_resort.set(last_resort as u64);
            // Nobody counted pool 7's flows; pool 8's were counted too long ago.
            record.loads.set(match pool {
                7 => 0,
                8 => LoadsWord::new(Self::START.plus(0xf_ff00), 700, 1600).0,
                _ => LoadsWord::new(Self::START, 700, 1600).0,
            });
        });
    }

    fn fill_backend<S: Store>(store: &mut S, pool: u32, n: u32) {
        let family = match pool {
            2 => Family::V4,
            3 => Family::V6,
            _ if n.is_multiple_of(2) => Family::V4,
            _ => Family::V6,
        };
        let (state, admit) = match pool {
            1 => (state(n as usize), 1000),
            4..=6 => ([BackendState::Down, BackendState::DownSoft][n as usize / 4], 1000),
            8 => (BackendState::Active, [0, 1, 100, 500, 999, 1000, 250, 750][n as usize]),
            10 if n == 7 => (BackendState::Active, 300),
            10 => ([BackendState::Draining, BackendState::Suspect][n as usize / 4], 1000),
            _ => (BackendState::Active, 1000),
        };
        let next_hop = [1, 2, 1, 2, 3, 4, 2, 1, 5, 6, 7, 0][if pool == 1 { n + 4 } else { n } as usize];
        let next_hop = if (pool, n) == (8, 4) { 8 } else { next_hop };
        let (entropy, source) = (if n == 3 || n == 4 { 16 } else { 0 }, n as usize % 2);
        store.load(Self::backend(pool, n), |load| {
            load.cost.set(Load::cost_of(100 + n as u16 % 3 * 100));
            load.unseen.set(n * n * 10);
        });
        let id = Self::backend(pool, n);
        for (place, config) in [CID_CONFIG, OTHER_CID_CONFIG].into_iter().enumerate() {
            let server = Self::server_id(pool, n, config);
            store.server_ids(id, |ids| {
                ids.pool.set(pool.into());
                ids.ids[place][0].set(server.high);
                ids.ids[place][1].set(server.low);
            });
            let key = server.key(pool);
            let line = hash::index(key) & (SceneSizes::SMALL.servers - 1);
            index(line, IndexLine::entry(key, id), |line, change| {
                let mut fits = false;
                store.server_line(line, |line| fits = change(line));
                fits
            });
        }
        let number = 0x0a09_0000 + pool * 256 + n;
        let address = address(family, number);
        let sources = [0, 1].map(|copy| self::address(family, 0x0a08_0000 + copy * 0x1_0000));
        let sum = constant_sum(first4(&sources[source]), first4(&address));
        store.backend(Self::backend(pool, n), |backend| {
            backend.address = address;
            backend.sources = sources;
            backend.egress.set(EgressWord::new(next_hop, sum, source, family, entropy).0);
            backend.hot.set(hot(state, n as u8, admit).0);
        });
    }

    fn service<S: Store>(store: &mut S, service: u32) {
        let (pool, mode, on_down, track) = Self::rules(service);
        store.service(service, |record| {
            let forward = ForwardWord::new(pool, mode, on_down, track).with_gue_port(GUE_PORT);
            let forward = forward.with_scheduler(Self::scheduler(service)).with_lists();
            record.forward.set(if (QUIC + 1..=TRANSLATED).contains(&service) {
                forward.with_quic().0
            } else {
                forward.0
            });
            let configs = [CID_CONFIG, OTHER_CID_CONFIG].into_iter();
            let configs =
                configs.fold(CidConfigs(0), |configs, (number, length)| configs.with(number.into(), length));
            record.quic.set(if (QUIC + 1..=TRANSLATED).contains(&service) { configs.0 } else { 0 });
            record.timeouts.set(TimeoutsWord::new(2, 30, 4, 6).0);
            if Self::limited(service) {
                record.forward.set(ForwardWord(record.forward.get()).with_limit().0);
            }
            if mode == Mode::Nat {
                record.snat_v4.set(SnatWord::new([1].into_iter()).0);
                record.snat_v6.set(SnatWord::new([2].into_iter()).0);
            }
        });
        if Self::limited(service) {
            store.limit(service, |limit| {
                // 4 and 40 flows a tick; a tick is 4.29 s.
                let period = 1_u64 << 32;
                limit.source_interval.set(period / 4);
                limit.source_period.set(period);
                limit.total_interval.set(period / 40);
                limit.total_period.set(period);
                limit.prefixes.set(30 | 64 << 8);
            });
        }
    }

    /// Enters an address in its family's index.
    pub(crate) fn claim<S: Store>(store: &mut S, geometry: &Geometry, address: IpAddr, id: u32) {
        match address {
            IpAddr::V4(address) => {
                let line = hash::index(address.to_bits()) & geometry.vip_v4_mask;
                index(line, IndexLine::entry(address.to_bits(), id), |line, change| {
                    let mut fits = false;
                    store.vip_line_v4(line, |line| fits = change(line));
                    fits
                });
            }
            IpAddr::V6(address) => Self::vip_v6(store, geometry, address, id),
        }
    }

    fn vip<S: Store>(store: &mut S, geometry: &Geometry, family: Family, n: u32) {
        let id = Self::vip_id(family, n);
        Self::claim(store, geometry, vip(family, n), id);
        if matches!(n, 0 | 1) {
            for (service, protocol) in (1..=SERVICES).flat_map(|id| PROTOCOLS.map(|protocol| (id, protocol)))
            {
                Self::add_port(store, geometry, id, protocol, PORTS_FIRST + service as u16, service);
            }
        }
        // Five lines, the last of which is never read.
        let ranges = if n == 0 { 3 } else { 5 };
        let range_line = if family == Family::V4 { 0 } else { 8 } + if n == 0 { 0 } else { 3 };
        if matches!(n, 0 | 2) {
            Self::ranges(store, range_line, ranges, 2000 + 500 * n as u16);
        }
        store.vip(id, |record| {
            let any = if matches!(n, 0 | 3) { VipPorts::new(2, 13, 31) } else { VipPorts::new(0, 0, 0) };
            record.any.set(any.0);
            record.ranges.set(if matches!(n, 0 | 2) { Span::new(range_line, ranges).0 } else { 0 });
            record.unmatched.set(u64::from(n % 3));
            // Echo requests are answered by all VIPs but 1.
            record.flags.set(u64::from(n != 1));
        });
    }

    /// The id of the `n`-th VIP of a family.
    fn vip_id(family: Family, n: u32) -> u32 {
        n + if family == Family::V4 { 1 } else { 1 + VIPS + FILLERS }
    }

    fn vip_v6<S: Store>(store: &mut S, geometry: &Geometry, address: Ipv6Addr, id: u32) {
        let (high, low) = halves(&address.octets());
        let home = hash::index_v6(high, low) & geometry.vip_v6_mask;
        for line in [home, home ^ 1] {
            let mut fits = false;
            store.vip_line_v6(line, |line| {
                let Some(way) = (0..V6_WAYS).find(|way| line.ids[*way].get() == 0) else { return };
                line.high[way].set(high);
                line.low[way].set(low);
                line.ids[way].set(id);
                fits = true;
            });
            if fits {
                return;
            }
            store.vip_line_v6(home, |line| line.overflow.set(1));
        }
        panic!("no place for {address} in the IPv6 VIP index");
    }

    fn ranges<S: Store>(store: &mut S, first_line: u32, lines: u32, first_port: u16) {
        for number in 0..lines {
            store.range_line(first_line + number, |line| {
                for (slot, range) in line.ranges.iter().enumerate().filter(|(slot, _)| *slot != 4) {
                    let n = number as u16 * 8 + slot as u16;
                    let first = first_port + n * 10;
                    let protocol = PROTOCOLS[usize::from(n) % 3];
                    let service = if slot == 5 { NO_SERVICE } else { 1 + n * 3 };
                    range.set(RangeWord::new(protocol, first, first + 4, service).0);
                }
            });
        }
    }
}

fn state(code: usize) -> BackendState {
    [
        BackendState::Active,
        BackendState::Draining,
        BackendState::Suspect,
        BackendState::DownSoft,
        BackendState::Down,
        BackendState::Absent,
        BackendState::Active,
        BackendState::Active,
    ][code % 8]
}

fn hot(state: BackendState, generation: u8, admit: u16) -> HotWord {
    HotWord::new(state, generation, admit, AdminBits::Active, HealthBits::Up, FailureBits::None)
}

/// IPv4 in the first four bytes, or an IPv6 address with 16 zero bits at its end or that number there.
fn address(family: Family, number: u32) -> [u8; 16] {
    let mut address = [0; 16];
    match family {
        Family::V4 => address[..4].copy_from_slice(&number.to_be_bytes()),
        Family::V6 => {
            address[..2].copy_from_slice(&[0xfd, 0x01]);
            address[12..].copy_from_slice(&number.to_be_bytes());
        }
    }
    address
}

fn first4(address: &[u8; 16]) -> [u8; 4] {
    std::array::from_fn(|byte| address[byte])
}

/// Writes `len` ids from the start of `line` on.
fn fill_region<S: Store>(store: &mut S, line: u32, len: u32, id: impl Fn(u32) -> u16) -> Span {
    for slot in 0..len {
        store.maglev_line(line + slot / SLOTS_PER_LINE, |line| {
            line.ids[(slot % SLOTS_PER_LINE) as usize] = id(slot);
        });
    }
    Span::new(line, len)
}

/// Adds an entry to its line or, where that is full, to the neighbour.
fn index(home: u32, entry: u64, mut at: impl FnMut(u32, &dyn Fn(&IndexLine) -> bool) -> bool) {
    let add = |line: &IndexLine| match (0..INDEX_WAYS).find(|way| line.entries[*way].get() == 0) {
        Some(way) => {
            line.entries[way].set(entry);
            true
        }
        None => false,
    };
    if at(home, &add) {
        return;
    }
    at(home, &|line| {
        line.overflow.set(1);
        true
    });
    assert!(at(home ^ 1, &add), "no place in index lines {home} and {}", home ^ 1);
}
