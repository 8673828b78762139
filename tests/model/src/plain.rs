//! Tables in vectors.

use lb_common::cell::{SharedU32, SharedU64};
use lb_common::flow;
use lb_common::layout::{
    Backend, Bucket, FilterLine, FragmentLine, IndexLine, Limit, Load, MaglevLine, NatAddress, NatLine,
    NatPort, NatQueue, NextHop, NextHopCopy, OverflowLine, Pool, RangeLine, ServerIds, Service, SourceLine,
    Vip, VipLineV6,
};
use lb_common::memory::Slices;

use crate::scene::SceneSizes;
use crate::store::Store;

/// Tables in vectors, empty at first.
pub struct Plain {
    vips_v4: Vec<IndexLine>,
    vips_v6: Vec<VipLineV6>,
    ports: Vec<IndexLine>,
    ranges: Vec<RangeLine>,
    vips: Vec<Vip>,
    services: Vec<Service>,
    pools: Vec<Pool>,
    maglev: Vec<MaglevLine>,
    backends: Vec<Backend>,
    loads: Vec<Load>,
    servers: Vec<IndexLine>,
    server_ids: Vec<ServerIds>,
    next_hops: Vec<NextHop>,
    flows_v4: Vec<Bucket<1>>,
    flows_v6: Vec<Bucket<3>>,
    overflow_v4: Vec<OverflowLine>,
    overflow_v6: Vec<OverflowLine>,
    fragments: Vec<FragmentLine>,
    filters: Vec<FilterLine>,
    limits: Vec<Limit>,
    sources: Vec<SourceLine>,
    nat_addresses: Vec<NatAddress>,
    nat_ports: Vec<NatPort>,
    nat_lines: Vec<NatLine>,
}

fn repeat<T>(count: u32, value: impl Fn() -> T) -> Vec<T> {
    (0..count).map(|_| value()).collect()
}

fn words<const N: usize>() -> [SharedU64; N] {
    std::array::from_fn(|_| SharedU64::new(0))
}

fn word() -> SharedU64 {
    SharedU64::new(0)
}

impl Plain {
    /// Empty tables of these sizes.
    #[must_use]
    pub fn new(sizes: &SceneSizes) -> Self {
        let line = || IndexLine { entries: words(), overflow: word() };
        Self {
            vips_v4: repeat(sizes.vips_v4, line),
            vips_v6: repeat(sizes.vips_v6, || VipLineV6 {
                high: words(),
                low: words(),
                ids: std::array::from_fn(|_| SharedU32::new(0)),
                overflow: SharedU32::new(0),
            }),
            ports: repeat(sizes.ports, line),
            ranges: repeat(sizes.ranges, || RangeLine { ranges: words() }),
            vips: repeat(sizes.vips, || Vip {
                any: word(),
                ranges: word(),
                unmatched: word(),
                flags: word(),
                lists: word(),
                snat: word(),
                reserved: [0; 2],
            }),
            services: repeat(sizes.services, || Service {
                forward: word(),
                timeouts: word(),
                quic: word(),
                snat_v4: word(),
                snat_v6: word(),
                reserved: [0; 3],
            }),
            pools: repeat(sizes.pools, || Pool {
                current: word(),
                previous: word(),
                usable: word(),
                changed: word(),
                seed: word(),
                last_resort: word(),
                loads: word(),
                reserved: 0,
            }),
            maglev: repeat(sizes.maglev, || MaglevLine { ids: [0; 32] }),
            backends: repeat(sizes.backends, || Backend {
                hot: word(),
                egress: word(),
                address: [0; 16],
                sources: [[0; 16]; 2],
            }),
            loads: repeat(sizes.backends, Load::default),
            servers: repeat(sizes.servers, line),
            server_ids: repeat(sizes.backends, ServerIds::default),
            next_hops: repeat(sizes.next_hops, || NextHop {
                select: word(),
                copies: [NextHopCopy::default(); 2],
            }),
            flows_v4: repeat(sizes.flows_v4, Bucket::empty),
            flows_v6: repeat(sizes.flows_v6, Bucket::empty),
            overflow_v4: repeat(flow::overflow_lines(sizes.flows_v4), OverflowLine::empty),
            overflow_v6: repeat(flow::overflow_lines(sizes.flows_v6), OverflowLine::empty),
            fragments: repeat(sizes.fragments, FragmentLine::empty),
            filters: repeat(sizes.filters, FilterLine::default),
            limits: repeat(sizes.services, || Limit {
                source_interval: word(),
                source_period: word(),
                total_interval: word(),
                total_period: word(),
                prefixes: word(),
                total_whole: word(),
                reserved: [0; 2],
            }),
            sources: repeat(sizes.sources, || SourceLine { ways: words() }),
            nat_addresses: repeat(sizes.nat_addresses, || NatAddress {
                address: [0; 16],
                range: word(),
                facts: word(),
                queues: std::array::from_fn(|_| NatQueue { head: word(), tail: word(), hand: word() }),
                reserved: [0; 6],
            }),
            nat_ports: repeat(sizes.nat_ports, NatPort::empty),
            nat_lines: repeat(sizes.nat_lines, NatLine::empty),
        }
    }

    /// The tables as the packet logic sees them.
    #[must_use]
    pub fn slices(&self) -> Slices<'_> {
        Slices {
            vips_v4: &self.vips_v4,
            vips_v6: &self.vips_v6,
            ports: &self.ports,
            ranges: &self.ranges,
            vips: &self.vips,
            services: &self.services,
            pools: &self.pools,
            maglev: &self.maglev,
            backends: &self.backends,
            loads: &self.loads,
            servers: &self.servers,
            server_ids: &self.server_ids,
            next_hops: &self.next_hops,
            flows_v4: &self.flows_v4,
            flows_v6: &self.flows_v6,
            overflow_v4: &self.overflow_v4,
            overflow_v6: &self.overflow_v6,
            fragments: &self.fragments,
            filters: &self.filters,
            limits: &self.limits,
            sources: &self.sources,
            nat_addresses: &self.nat_addresses,
            nat_ports: &self.nat_ports,
            nat_lines: &self.nat_lines,
        }
    }
}

macro_rules! store {
    ($($name:ident: $value:ty = $field:ident;)*) => {
        impl Store for Plain {
            $(fn $name(&mut self, index: u32, change: impl FnOnce(&mut $value)) {
                change(&mut self.$field[index as usize]);
            })*
        }
    };
}

store! {
    vip_line_v4: IndexLine = vips_v4;
    vip_line_v6: VipLineV6 = vips_v6;
    port_line: IndexLine = ports;
    range_line: RangeLine = ranges;
    vip: Vip = vips;
    service: Service = services;
    pool: Pool = pools;
    maglev_line: MaglevLine = maglev;
    backend: Backend = backends;
    load: Load = loads;
    server_line: IndexLine = servers;
    server_ids: ServerIds = server_ids;
    next_hop: NextHop = next_hops;
    filter_line: FilterLine = filters;
    limit: Limit = limits;
    nat_address: NatAddress = nat_addresses;
    nat_port: NatPort = nat_ports;
    nat_line: NatLine = nat_lines;
}
