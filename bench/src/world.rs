//! The tables that weir and the references run over: one VIP of each family, pools of 100 backends, full-size
//! Maglev tables.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use lb_common::filter::BuiltList;
use lb_common::forward::constant_sum;
use lb_common::hash;
use lb_common::layout::{
    AdminBits, BackendState, EgressWord, FailureBits, Family, ForwardWord, Geometry, HealthBits, HotWord,
    INDEX_WAYS, IndexLine, Listed, Lists, MAX_ADMIT, Mode, NextHop, NextHopCopy, OnDown, SLOTS_PER_LINE,
    Span, TimeoutsWord, VipPorts,
};
use lb_common::service::port_key;
use lb_common::wire::{self, Protocol, halves};
use lb_userspace::maps::mapping::Mapping;
use lb_userspace::maps::set::MapSet;

use crate::frame::{DSR_PORT, GUE_PORT, IPIP_PORT, LISTED_PORT, VIP_V4, VIP_V6};

/// Backends of a pool.
pub(crate) const BACKENDS: u16 = 100;
/// Slots of a Maglev table.
pub(crate) const SLOTS: u32 = 65_537;

/// The interface that test runs arrive by: the loopback device.
const INGRESS: u32 = 1;
/// Ticks that entries live: longer than a run.
const LONG: u16 = 1000;

/// The service that asks its VIP's lists.
const LISTED: u32 = 7;
/// Prefixes that are denied.
const DENIED: usize = 100_000;

const VIP_V4_ID: u32 = 1;
const VIP_V6_ID: u32 = 2;

/// A pool and what its backends look like.
struct Plan {
    id: u16,
    family: Family,
    mode: Mode,
}

const POOLS: [Plan; 4] = [
    Plan { id: 1, family: Family::V4, mode: Mode::Ipip },
    Plan { id: 2, family: Family::V6, mode: Mode::Ipip },
    Plan { id: 3, family: Family::V4, mode: Mode::DsrL2 },
    Plan { id: 4, family: Family::V4, mode: Mode::Gue },
];

/// The backend that a slot of a table names, 0..BACKENDS.
pub(crate) fn backend_of(slot: u32) -> u16 {
    // Which permutation it is does not matter to the cost, only that neighbours differ.
    (hash::scale(hash::again(u64::from(slot), 1), u32::from(BACKENDS))) as u16
}

/// Address of the n-th backend.
pub(crate) fn address_v4(n: u16) -> Ipv4Addr {
    let [high, low] = n.to_be_bytes();
    Ipv4Addr::new(10, 1, high, low)
}

/// Fills all tables but the flows.
///
/// # Errors
/// When an index line is full.
pub(crate) fn fill(set: &MapSet, geometry: &Geometry) -> Result<()> {
    let vip = u32::from(VIP_V4);
    insert(&set.vips_v4, hash::index(vip) & geometry.vip_v4_mask, vip, VIP_V4_ID)?;
    let (high, low) = halves(&VIP_V6.octets());
    set.vips_v6.update((hash::index_v6(high, low) & geometry.vip_v6_mask) as usize, |line| {
        line.high[0].set(high);
        line.low[0].set(low);
        line.ids[0].set(VIP_V6_ID);
    });
    for id in [VIP_V4_ID, VIP_V6_ID] {
        set.vips[id as usize].any.set(VipPorts::new(0, 0, 0).0);
    }
    let services = [
        (1, VIP_V4_ID, Protocol::Tcp, IPIP_PORT, &POOLS[0]),
        (2, VIP_V4_ID, Protocol::Udp, IPIP_PORT, &POOLS[0]),
        (3, VIP_V6_ID, Protocol::Tcp, IPIP_PORT, &POOLS[1]),
        (4, VIP_V6_ID, Protocol::Udp, IPIP_PORT, &POOLS[1]),
        (5, VIP_V4_ID, Protocol::Tcp, DSR_PORT, &POOLS[2]),
        (6, VIP_V4_ID, Protocol::Tcp, GUE_PORT, &POOLS[3]),
        (LISTED, VIP_V4_ID, Protocol::Tcp, LISTED_PORT, &POOLS[0]),
    ];
    for (id, vip, protocol, port, pool) in services {
        let service = &set.services[id as usize];
        service.timeouts.set(TimeoutsWord::new(LONG, LONG, LONG, LONG).0);
        let forward = ForwardWord::new(pool.id, pool.mode, OnDown::Auto, true).with_gue_port(wire::GUE_PORT);
        service.forward.set(if id == LISTED { forward.with_lists() } else { forward }.0);
        let key = port_key(vip, protocol, port);
        insert(&set.ports, hash::index(key) & geometry.port_mask, key, id)?;
    }
    for pool in &POOLS {
        fill_pool(set, pool);
    }
    deny(set);
    Ok(())
}

/// Gives the IPv4 VIP a deny list that holds no source of the frames; only service [`LISTED`] asks for it.
fn deny(set: &MapSet) {
    let mut state = 1_u64;
    let mut random = || {
        state = hash::again(state, 1);
        (state >> 32) as u32
    };
    let prefixes: Vec<(u128, u8)> = std::iter::repeat_with(|| {
        // As in a table of the Internet's routes: more than half are /24, the others from /16 to /32.
        let (address, kind) = (random(), random());
        (u128::from(address), if kind % 5 < 3 { 24 } else { 16 + (kind >> 8) as u8 % 17 })
    })
    .filter(|(address, _)| address >> 24 != 10)
    .take(DENIED)
    .collect();
    let list = BuiltList::new(Family::V4, prefixes);
    let mut lists = Lists::default();
    lists.set_list(Listed::DenyEverywhere, list.words(2), list.lines().len() as u32);
    set.filters.update(1, |line| *line = lists);
    for (number, value) in list.lines().iter().enumerate() {
        set.filters.update(2 + number, |line| *line = *value);
    }
    set.vips[VIP_V4_ID as usize].lists.set(1);
}

fn insert(lines: &Mapping<IndexLine>, line: u32, key: u32, value: u32) -> Result<()> {
    let entries = &lines[line as usize].entries;
    let free = (0..INDEX_WAYS).find(|way| entries[*way].get() == 0).context("an index line is full")?;
    entries[free].set(IndexLine::entry(key, value));
    Ok(())
}

fn fill_pool(set: &MapSet, plan: &Plan) {
    let first = (plan.id - 1) * BACKENDS + 1;
    for n in 0..BACKENDS {
        fill_backend(set, plan, first + n);
    }
    let lines_per_table = SLOTS.div_ceil(SLOTS_PER_LINE) + 8;
    let table = u32::from(plan.id - 1) * lines_per_table;
    let usable = table + lines_per_table - 8;
    for slot in 0..SLOTS {
        set.maglev.update((table + slot / SLOTS_PER_LINE) as usize, |line| {
            line.ids[(slot % SLOTS_PER_LINE) as usize] = first + backend_of(slot);
        });
    }
    for n in 0..u32::from(BACKENDS) {
        set.maglev.update((usable + n / SLOTS_PER_LINE) as usize, |line| {
            line.ids[(n % SLOTS_PER_LINE) as usize] = first + n as u16;
        });
    }
    let pool = &set.pools[plan.id as usize];
    pool.current.set(Span::new(table, SLOTS).0);
    pool.usable.set(Span::new(usable, u32::from(BACKENDS)).0);
    pool.seed.set(7);
}

fn fill_backend(set: &MapSet, plan: &Plan, id: u16) {
    // Tunnelled backends lie behind one router; those of dsr-l2 are neighbours, each its own next hop.
    let next_hop = if plan.mode == Mode::DsrL2 { id } else { 1 };
    set.next_hops.update(next_hop as usize, |hop| {
        let [high, low] = next_hop.to_be_bytes();
        let macs = [2, 0, 0, 0, high, low, 2, 0, 0, 0, 0, 1];
        hop.copies[0] = NextHopCopy { port: INGRESS, mtu: 1500, macs, ..NextHopCopy::default() };
        hop.select.set(NextHop::selector(0, true));
    });
    let (address, source) = match plan.family {
        Family::V4 => (IpAddr::from(address_v4(id)), IpAddr::from(Ipv4Addr::new(10, 0, 0, 1))),
        Family::V6 => (
            IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 0, id)),
            IpAddr::from(Ipv6Addr::new(0x2001, 0xdb8, 2, 0, 0, 0, 1, 1)),
        ),
    };
    let sum = match (source, address) {
        (IpAddr::V4(source), IpAddr::V4(address)) => constant_sum(source.octets(), address.octets()),
        _ => 0,
    };
    set.backends.update(id as usize, |backend| {
        backend.address = bytes(address);
        backend.sources[0] = bytes(source);
        backend.egress.set(EgressWord::new(next_hop, sum, 0, plan.family, 0).0);
        let (admin, health, failure) = (AdminBits::Active, HealthBits::Up, FailureBits::None);
        backend.hot.set(HotWord::new(BackendState::Active, 1, MAX_ADMIT, admin, health, failure).0);
    });
}

fn bytes(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&address.octets());
            bytes
        }
        IpAddr::V6(address) => address.octets(),
    }
}
