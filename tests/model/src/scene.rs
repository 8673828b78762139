//! A set of tables with every kind of record.

mod fill;
mod lists;

pub use lists::{ALLOWED, DENIED, DENIED_THERE};

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::hash;
use lb_common::layout::{
    BackendState, Family, Geometry, IndexLine, Mode, NextHop, OnDown, SOURCE_LINES, Scheduler, ServerId,
};
use lb_common::service::port_key;
use lb_common::time::Tick;
use lb_common::wire::Protocol;

use fill::{hot, index, state};

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
}
