//! Writes the records of a scene into empty tables.

use std::net::{IpAddr, Ipv6Addr};

use lb_common::forward::constant_sum;
use lb_common::hash;
use lb_common::layout::{
    AdminBits, BackendState, CidConfigs, EgressWord, FailureBits, Family, ForwardWord, Geometry, HealthBits,
    HotWord, INDEX_WAYS, IndexLine, LastResort, Load, LoadsWord, Mode, NextHop, NextHopCopy, RangeWord,
    SLOTS_PER_LINE, SnatWord, Span, TimeoutsWord, V6_WAYS, VipPorts,
};
use lb_common::wire::halves;

use super::{
    BACKENDS_PER_POOL, CID_CONFIG, FILLERS, GUE_PORT, INGRESS, MISSING_PORT, NO_SERVICE, OTHER_CID_CONFIG,
    OTHER_PORT, POOL_LINES, POOLS, PORTS_FIRST, PROTOCOLS, QUIC, SERVICES, SLOTS, Scene, SceneSizes,
    TRANSLATED, VIPS, vip,
};
use crate::store::Store;

impl Scene {
    pub(super) fn next_hops<S: Store>(store: &mut S) {
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

    pub(super) fn pool<S: Store>(store: &mut S, pool: u32) {
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

    pub(super) fn service<S: Store>(store: &mut S, service: u32) {
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

    pub(super) fn vip<S: Store>(store: &mut S, geometry: &Geometry, family: Family, n: u32) {
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
    pub(super) fn vip_id(family: Family, n: u32) -> u32 {
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

pub(super) fn state(code: usize) -> BackendState {
    [
        BackendState::Active,
        BackendState::Draining,
        BackendState::Suspect,
        BackendState::DownSoft,
        BackendState::Down,
        BackendState::Absent,
        BackendState::Resetting,
        BackendState::Active,
    ][code % 8]
}

pub(super) fn hot(state: BackendState, generation: u8, admit: u16) -> HotWord {
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
pub(super) fn index(home: u32, entry: u64, mut at: impl FnMut(u32, &dyn Fn(&IndexLine) -> bool) -> bool) {
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
