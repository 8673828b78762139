//! The maps of the packet program: names, kinds, sizes.

use lb_common::flow::overflow_lines;
use lb_common::layout::{
    Backend, BackendInfo, Bucket, Charges, Counter, FilterLine, FragmentLine, Handshakes, IndexLine,
    LIMITED_SLOTS, Limit, Limited, Load, MaglevLine, Meta, NatAddress, NatLine, NatPort, NextHop,
    OverflowLine, Pool, PoolInfo, RangeLine, Refusals, Scratch, ServerIds, Service, ServiceInfo, SourceLine,
    Vip, VipInfo, VipLineV6,
};
use lb_common::reason::Reason;
use lb_common::trace::Trace;

use super::sizes::Sizes;

/// What a map is to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `BPF_MAP_TYPE_ARRAY` with `BPF_F_MMAPABLE`.
    Shared,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpu,
    /// `BPF_MAP_TYPE_DEVMAP_HASH`.
    Ports,
    /// `BPF_MAP_TYPE_PROG_ARRAY`.
    Programs,
}

/// One map.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec {
    /// Its symbol in the object.
    pub symbol: &'static str,
    /// Its pin below `maps/`.
    pub pin: &'static str,
    /// Kind.
    pub kind: Kind,
    /// Bytes of a value.
    pub value_size: u32,
    /// Values.
    pub entries: u32,
}

/// Interfaces that `tx_ports` holds.
pub const MAX_TX_PORTS: u32 = 256;

/// All maps of an instance with these sizes.
#[must_use]
pub fn maps(sizes: &Sizes) -> Vec<MapSpec> {
    fn spec<T>(symbol: &'static str, pin: &'static str, kind: Kind, entries: u32) -> MapSpec {
        MapSpec { symbol, pin, kind, value_size: size_of::<T>() as u32, entries }
    }
    use Kind::{PerCpu, Shared};
    vec![
        spec::<Meta>("META", "meta", Shared, 1),
        spec::<IndexLine>("VIPS_V4", "vips_v4", Shared, sizes.vips_v4),
        spec::<VipLineV6>("VIPS_V6", "vips_v6", Shared, sizes.vips_v6),
        spec::<IndexLine>("PORTS", "ports", Shared, sizes.ports),
        spec::<RangeLine>("RANGES", "ranges", Shared, sizes.ranges),
        spec::<Vip>("VIPS", "vips", Shared, sizes.vips),
        spec::<Service>("SERVICES", "services", Shared, sizes.services),
        spec::<Pool>("POOLS", "pools", Shared, sizes.pools),
        spec::<MaglevLine>("MAGLEV", "maglev", Shared, sizes.maglev),
        spec::<Backend>("BACKENDS", "backends", Shared, sizes.backends),
        spec::<Load>("LOADS", "loads", Shared, sizes.backends),
        spec::<IndexLine>("SERVERS", "servers", Shared, sizes.servers),
        spec::<ServerIds>("SERVER_IDS", "server_ids", Shared, sizes.backends),
        spec::<NextHop>("NEXT_HOPS", "next_hops", Shared, sizes.next_hops),
        spec::<Bucket<1>>("FLOWS_V4", "flows_v4", Shared, sizes.flows_v4),
        spec::<Bucket<3>>("FLOWS_V6", "flows_v6", Shared, sizes.flows_v6),
        spec::<OverflowLine>("OVERFLOW_V4", "overflow_v4", Shared, overflow_lines(sizes.flows_v4)),
        spec::<OverflowLine>("OVERFLOW_V6", "overflow_v6", Shared, overflow_lines(sizes.flows_v6)),
        spec::<FragmentLine>("FRAGMENTS", "fragments", Shared, sizes.fragments),
        spec::<FilterLine>("FILTERS", "filters", Shared, sizes.filters),
        spec::<Limit>("LIMITS", "limits", Shared, sizes.services),
        spec::<SourceLine>("SOURCES", "sources", Shared, sizes.sources),
        spec::<NatAddress>("NAT_ADDRESSES", "nat_addresses", Shared, sizes.nat_addresses),
        spec::<NatPort>("NAT_PORTS", "nat_ports", Shared, sizes.nat_ports),
        spec::<NatLine>("NAT_LINES", "nat_lines", Shared, sizes.nat_lines),
        spec::<BackendInfo>("BACKEND_INFO", "backend_info", Shared, sizes.backends),
        spec::<ServiceInfo>("SERVICE_INFO", "service_info", Shared, sizes.services),
        spec::<PoolInfo>("POOL_INFO", "pool_info", Shared, sizes.pools),
        spec::<VipInfo>("VIP_INFO", "vip_info", Shared, sizes.vips),
        spec::<Trace>("TRACE", "trace", Shared, 1),
        spec::<Counter>("REASON_COUNTERS", "reason_counters", PerCpu, Reason::COUNT as u32),
        spec::<Counter>("SERVICE_COUNTERS", "service_counters", PerCpu, sizes.services),
        spec::<Counter>("BACKEND_COUNTERS", "backend_counters", PerCpu, sizes.backends),
        spec::<Handshakes>("BACKEND_HANDSHAKES", "backend_handshakes", PerCpu, sizes.backends),
        spec::<Refusals>("REFUSALS", "refusals", PerCpu, sizes.vips),
        spec::<Scratch>("SCRATCH", "scratch", PerCpu, 1),
        spec::<Charges>("CHARGES", "charges", PerCpu, sizes.services),
        spec::<Limited>("LIMITED", "limited", PerCpu, LIMITED_SLOTS),
        spec::<u32>("NEXT_PROGRAM", "next_program", Kind::Programs, 1),
        spec::<[u32; 2]>("TX_PORTS", "tx_ports", Kind::Ports, MAX_TX_PORTS),
    ]
}
