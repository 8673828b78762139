//! Views from the pinned maps alone.
//!
//! Receives mapped memory, summed counters and decoded flow entries; gives the same values that the daemon answers
//! with, without what only the daemon knows (probes, changes with their reasons). Never writes. A value that the
//! daemon rewrites meanwhile may show its old and new fields mixed.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use jiff::Timestamp;
use lb_common::flow::Class;
use lb_common::layout::{
    AdminBits, BackendInfo, BackendState, Counter, EgressWord, FailureBits, ForwardWord, HealthBits, HotWord,
    Mode, Scheduler, ServiceInfo,
};
use lb_common::reason::Reason;
use lb_common::wire::Protocol;

use super::Api;
use super::backends::{Admin, Backend, Backends, FailureKind, Health};
use super::filter::{FlowFilter, Pattern, known};
use super::flows::{Flow, Flows};
use super::services::{Service, Services};
use super::status::{FlowUse, Interface, PortUse, Status};
use crate::failure::Failure;
use crate::maps::set::MapSet;

/// Counters summed over all CPUs; the index is the id, for `reasons` the reason's number.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// By reason.
    pub reasons: Vec<Counter>,
    /// By service id.
    pub services: Vec<Counter>,
    /// By backend id.
    pub backends: Vec<Counter>,
}

/// A live flow entry as the flow table's reader decodes it. Expired entries are not flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRow {
    /// Source address.
    pub client: IpAddr,
    /// Source port.
    pub client_port: u16,
    /// VIP id.
    pub vip: u32,
    /// Destination port.
    pub port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Id of the service that claims the destination; 0 where none does.
    pub service: u32,
    /// Backend id.
    pub backend: u32,
    /// Class.
    pub class: Class,
    /// Seconds since the last refresh.
    pub idle_s: u64,
}

/// Live flows, counted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowCounts {
    /// IPv4 flows.
    pub v4: u64,
    /// IPv6 flows.
    pub v6: u64,
    /// By service id.
    pub services: Vec<u64>,
    /// By backend id.
    pub backends: Vec<u64>,
}

impl FlowCounts {
    /// Counts `rows`, which name ids of `maps`.
    #[must_use]
    pub fn of(maps: &MapSet, rows: impl Iterator<Item = FlowRow>) -> Self {
        let mut counts = Self {
            services: vec![0; maps.services.len()],
            backends: vec![0; maps.backends.len()],
            ..Self::default()
        };
        for row in rows {
            match row.client {
                IpAddr::V4(_) => counts.v4 += 1,
                IpAddr::V6(_) => counts.v6 += 1,
            }
            if let Some(count) = counts.services.get_mut(row.service as usize) {
                *count += 1;
            }
            if let Some(count) = counts.backends.get_mut(row.backend as usize) {
                *count += 1;
            }
        }
        counts
    }
}

/// All services, by name.
#[must_use]
pub fn services(maps: &MapSet, counters: &Counters, flows: &FlowCounts) -> Services {
    let backends = backends(maps, counters, flows).backends;
    let mut pools: BTreeMap<&str, Vec<&Backend>> = BTreeMap::new();
    for backend in backends.iter().filter(|backend| !backend.removed) {
        pools.entry(&backend.pool).or_default().push(backend);
    }
    let mut services: Vec<Service> = named_services(maps)
        .map(|(id, info)| {
            let pool = maps.pool_info.get(usize::from(info.pool));
            let pool_name = pool.map_or("", |pool| pool.name.as_str());
            let members = || pools.get(pool_name).into_iter().flatten();
            let counter = counters.services.get(id).copied().unwrap_or_default();
            Service {
                name: info.name.as_str().to_owned(),
                vip: info.vip.as_str().to_owned(),
                addresses: addresses(maps, info.vip.as_str()),
                port: info.ports.as_str().to_owned(),
                protocol: protocols(info.protocols),
                mode: mode(maps, id).to_owned(),
                scheduler: scheduler(info.scheduler).to_owned(),
                pool: pool_name.to_owned(),
                active_tier: pool.map_or(0, |pool| pool.active_tier),
                backends_up: members().filter(|backend| backend.health == Health::Up).count() as u64,
                backends_total: members().count() as u64,
                backends_usable: members().filter(|backend| backend.takes_new_flows()).count() as u64,
                flows: flows.services.get(id).copied().unwrap_or_default(),
                packets: counter.packets,
                bytes: counter.bytes,
            }
        })
        .collect();
    services.sort_by(|a, b| a.name.cmp(&b.name));
    Services { api: Api, services }
}

/// All backends, by pool and name.
#[must_use]
pub fn backends(maps: &MapSet, counters: &Counters, flows: &FlowCounts) -> Backends {
    let mut services: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for (_, service) in named_services(maps) {
        services.entry(service.pool).or_default().push(service.name.as_str());
    }
    services.values_mut().for_each(|names| names.sort_unstable());
    let of_pool = |info: &BackendInfo| services.get(&info.pool).map(Vec::as_slice).unwrap_or_default();
    let mut backends: Vec<Backend> = named_backends(maps)
        .map(|(id, info)| backend(maps, counters, flows, id, info, of_pool(info)))
        .collect();
    backends.sort_by(|a, b| (&a.pool, &a.name).cmp(&(&b.pool, &b.name)));
    Backends { api: Api, backends }
}

/// `services` are those of its pool.
fn backend(
    maps: &MapSet,
    counters: &Counters,
    flows: &FlowCounts,
    id: usize,
    info: &BackendInfo,
    services: &[&str],
) -> Backend {
    let (hot, egress) = maps.backends.get(id).map_or((HotWord(0), EgressWord(0)), |backend| {
        (HotWord(backend.hot.get()), EgressWord(backend.egress.get()))
    });
    let counter = counters.backends.get(id).copied().unwrap_or_default();
    let host = info.host.as_str();
    Backend {
        name: info.name.as_str().to_owned(),
        pool: pool_name(maps, info).to_owned(),
        services: services.iter().map(|name| (*name).to_owned()).collect(),
        address: address(&info.address, info.family),
        host: (!host.is_empty()).then(|| host.to_owned()),
        admin: admin(hot),
        health: health(hot),
        failure_kind: failure_kind(hot),
        weight: info.weight,
        tier: info.tier,
        admit_permille: hot.admit(),
        removed: info.removed != 0,
        reachable: maps
            .next_hops
            .get(egress.next_hop() as usize)
            .is_some_and(|next_hop| egress.next_hop() != 0 && next_hop.current().is_some()),
        flows: flows.backends.get(id).copied().unwrap_or_default(),
        packets: counter.packets,
        bytes: counter.bytes,
        since: i64::try_from(info.since_ms)
            .ok()
            .filter(|ms| *ms > 0)
            .and_then(|ms| Timestamp::from_millisecond(ms).ok()),
        why: info.why.as_str().to_owned(),
        handshakes: None,
        last_probe: None,
    }
}

/// The flows that match, at most `filter.limit` of them, and how many there are.
///
/// # Errors
/// A name that does not exist, with the nearest one; a filter that cannot be read.
pub fn flows(
    maps: &MapSet,
    rows: impl Iterator<Item = FlowRow>,
    filter: &FlowFilter,
) -> Result<Flows, Failure> {
    let services: BTreeMap<usize, &str> =
        named_services(maps).map(|(id, info)| (id, info.name.as_str())).collect();
    let backends: BTreeMap<usize, (&str, &str)> =
        named_backends(maps).map(|(id, info)| (id, (pool_name(maps, info), info.name.as_str()))).collect();
    known("service", filter.service.as_deref(), services.values().copied())?;
    let pattern = filter.backend.as_deref().map(Pattern::new);
    if let Some(pattern) = &pattern {
        pattern.must_match(backends.values().copied())?;
    }
    filter.check_state()?;
    let client = filter.client_prefix()?;
    let limit = match (filter.count, filter.limit) {
        (true, _) => 0,
        (false, None | Some(0)) => usize::MAX,
        (false, Some(limit)) => usize::try_from(limit).unwrap_or(usize::MAX),
    };
    let mut found = Flows::default();
    for row in rows {
        let service = services.get(&(row.service as usize)).copied().unwrap_or_default();
        let (pool, name) = backends.get(&(row.backend as usize)).copied().unwrap_or_default();
        let wanted = filter.service.as_deref().is_none_or(|wanted| wanted == service)
            && pattern.is_none_or(|pattern| pattern.matches(pool, name))
            && filter.state.as_deref().is_none_or(|state| state == row.class.name())
            && client.is_none_or(|prefix| prefix.contains(&row.client));
        if !wanted {
            continue;
        }
        found.total += 1;
        if found.flows.len() < limit {
            found.flows.push(Flow {
                client: row.client,
                client_port: row.client_port,
                vip: vip_address(maps, row.vip),
                port: row.port,
                protocol: protocol_name(row.protocol).to_owned(),
                service: service.to_owned(),
                pool: pool.to_owned(),
                backend: name.to_owned(),
                state: row.class.name().to_owned(),
                idle_s: row.idle_s,
            });
        }
    }
    Ok(found)
}

/// The status page, all but the daemon and the runtime changes.
#[must_use]
pub fn status(maps: &MapSet, counters: &Counters, flows: &FlowCounts, interfaces: Vec<Interface>) -> Status {
    let (capacity_v4, capacity_v6) =
        maps.meta.first().map_or((0, 0), |meta| (meta.flows_v4.into(), meta.flows_v6.into()));
    let packets =
        |reason: &Reason| counters.reasons.get(*reason as usize).copied().unwrap_or_default().packets;
    Status {
        interfaces,
        flows: FlowUse { v4: flows.v4, v6: flows.v6, capacity_v4, capacity_v6 },
        snat: crate::flows::nat::ports(maps).map(port_use).collect(),
        counters: Reason::ALL.iter().map(|reason| (reason.name().to_owned(), packets(reason))).collect(),
        ..Status::default()
    }
    .with_lists(services(maps, counters, flows), backends(maps, counters, flows))
}

fn named_services(maps: &MapSet) -> impl Iterator<Item = (usize, &ServiceInfo)> {
    maps.service_info.iter().enumerate().filter(|(_, info)| !info.name.as_str().is_empty())
}

fn named_backends(maps: &MapSet) -> impl Iterator<Item = (usize, &BackendInfo)> {
    maps.backend_info.iter().enumerate().filter(|(_, info)| !info.name.as_str().is_empty())
}

pub(crate) fn pool_name<'a>(maps: &'a MapSet, info: &BackendInfo) -> &'a str {
    maps.pool_info.get(usize::from(info.pool)).map_or("", |pool| pool.name.as_str())
}

fn addresses(maps: &MapSet, vip: &str) -> Vec<IpAddr> {
    let records = maps.vip_info.iter().filter(|info| !vip.is_empty() && info.name.as_str() == vip);
    let mut addresses: Vec<IpAddr> = records.map(|info| address(&info.address, info.family)).collect();
    addresses.sort();
    addresses
}

/// The address of a VIP id; the unspecified one for a free id.
fn port_use(ports: crate::flows::nat::PortUse) -> PortUse {
    PortUse {
        address: ports.address,
        protocol: protocol_name(ports.protocol).to_owned(),
        used: ports.used.into(),
        capacity: ports.size.into(),
    }
}

/// The address that mode `nat` sends from, by its id.
pub(crate) fn snat_address(maps: &MapSet, id: u32) -> IpAddr {
    let unknown = IpAddr::from([0, 0, 0, 0]);
    maps.nat_addresses.get(id as usize).and_then(crate::flows::nat::address).unwrap_or(unknown)
}

pub(crate) fn vip_address(maps: &MapSet, id: u32) -> IpAddr {
    maps.vip_info
        .get(id as usize)
        .map_or(Ipv6Addr::UNSPECIFIED.into(), |info| address(&info.address, info.family))
}

fn address(bytes: &[u8; 16], family: u8) -> IpAddr {
    match (family, bytes) {
        (4, [a, b, c, d, ..]) => Ipv4Addr::new(*a, *b, *c, *d).into(),
        _ => Ipv6Addr::from(*bytes).into(),
    }
}

fn mode(maps: &MapSet, id: usize) -> &'static str {
    let mode = maps.services.get(id).and_then(|service| ForwardWord(service.forward.get()).mode());
    mode.map_or("", Mode::name)
}

fn scheduler(code: u8) -> &'static str {
    Scheduler::ALL.get(usize::from(code)).map_or("", |scheduler| scheduler.name())
}

fn protocols(bits: u8) -> String {
    let names = [(1, "tcp"), (2, "udp"), (4, "sctp")];
    let set: Vec<&str> = names.into_iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| name).collect();
    set.join(",")
}

pub(crate) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
        Protocol::Sctp => "sctp",
    }
}

fn admin(hot: HotWord) -> Admin {
    match hot.admin() {
        AdminBits::Active => Admin::Active,
        AdminBits::Draining => Admin::Draining,
        AdminBits::Maintenance => Admin::Maintenance,
    }
}

fn health(hot: HotWord) -> Health {
    match hot.health() {
        HealthBits::Unknown => Health::Unknown,
        HealthBits::Up => Health::Up,
        HealthBits::Suspect => Health::Suspect,
        HealthBits::Down => Health::Down,
        HealthBits::Trial => Health::Trial,
    }
}

/// The failure kind matters while the failure lasts.
fn failure_kind(hot: HotWord) -> Option<FailureKind> {
    match (hot.failure(), hot.state(), hot.health()) {
        (_, BackendState::Active, HealthBits::Up) | (FailureBits::None, _, _) => None,
        (FailureBits::Hard, ..) => Some(FailureKind::Hard),
        (FailureBits::Soft, ..) => Some(FailureKind::Soft),
    }
}
