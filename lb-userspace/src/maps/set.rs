//! All array maps of an instance, mapped.

use std::io;

use lb_common::flow::overflow_lines;
use lb_common::layout::{
    Backend, BackendInfo, Bucket, FilterLine, FragmentLine, IndexLine, Limit, Load, MaglevLine, Meta,
    NatAddress, NatLine, NatPort, NextHop, OverflowLine, Pool, PoolInfo, RangeLine, ServerIds, Service,
    ServiceInfo, SourceLine, Vip, VipInfo, VipLineV6,
};
use lb_common::memory::Slices;
use lb_common::trace::Trace;

use super::mapping::{Access, MapValue, Mapping};
use super::pins::PinError;
use super::schema::{self, MapSpec};
use super::sizes::Sizes;

/// The array maps of an instance. The names of the pinned maps are those of the fields.
#[expect(missing_docs, reason = "each field is the map of that name in `schema`")]
pub struct MapSet {
    pub meta: Mapping<Meta>,
    pub vips_v4: Mapping<IndexLine>,
    pub vips_v6: Mapping<VipLineV6>,
    pub ports: Mapping<IndexLine>,
    pub ranges: Mapping<RangeLine>,
    pub vips: Mapping<Vip>,
    pub services: Mapping<Service>,
    pub pools: Mapping<Pool>,
    pub maglev: Mapping<MaglevLine>,
    pub backends: Mapping<Backend>,
    pub loads: Mapping<Load>,
    pub servers: Mapping<IndexLine>,
    pub server_ids: Mapping<ServerIds>,
    pub next_hops: Mapping<NextHop>,
    pub flows_v4: Mapping<Bucket<1>>,
    pub flows_v6: Mapping<Bucket<3>>,
    pub overflow_v4: Mapping<OverflowLine>,
    pub overflow_v6: Mapping<OverflowLine>,
    pub fragments: Mapping<FragmentLine>,
    pub filters: Mapping<FilterLine>,
    pub limits: Mapping<Limit>,
    pub sources: Mapping<SourceLine>,
    pub nat_addresses: Mapping<NatAddress>,
    pub nat_ports: Mapping<NatPort>,
    pub nat_lines: Mapping<NatLine>,
    pub backend_info: Mapping<BackendInfo>,
    pub service_info: Mapping<ServiceInfo>,
    pub pool_info: Mapping<PoolInfo>,
    pub vip_info: Mapping<VipInfo>,
    pub trace: Mapping<Trace>,
}

/// Where maps are.
pub trait MapSource {
    /// Maps the values of one.
    ///
    /// # Errors
    /// Where it is absent, unreadable, or of another type or size.
    fn open<T: MapValue>(&self, spec: &MapSpec, access: Access) -> Result<Mapping<T>, PinError>;
}

impl MapSet {
    /// Opens all array maps of these sizes.
    ///
    /// # Errors
    /// As [`MapSource::open`].
    pub fn open<S: MapSource>(source: &S, sizes: &Sizes, access: Access) -> Result<Self, PinError> {
        let specs = schema::maps(sizes);
        let find =
            |pin: &str| specs.iter().find(|spec| spec.pin == pin).expect("every field has a map of its name");
        Ok(Self {
            meta: source.open(find("meta"), access)?,
            vips_v4: source.open(find("vips_v4"), access)?,
            vips_v6: source.open(find("vips_v6"), access)?,
            ports: source.open(find("ports"), access)?,
            ranges: source.open(find("ranges"), access)?,
            vips: source.open(find("vips"), access)?,
            services: source.open(find("services"), access)?,
            pools: source.open(find("pools"), access)?,
            maglev: source.open(find("maglev"), access)?,
            backends: source.open(find("backends"), access)?,
            loads: source.open(find("loads"), access)?,
            servers: source.open(find("servers"), access)?,
            server_ids: source.open(find("server_ids"), access)?,
            next_hops: source.open(find("next_hops"), access)?,
            flows_v4: source.open(find("flows_v4"), access)?,
            flows_v6: source.open(find("flows_v6"), access)?,
            overflow_v4: source.open(find("overflow_v4"), access)?,
            overflow_v6: source.open(find("overflow_v6"), access)?,
            fragments: source.open(find("fragments"), access)?,
            filters: source.open(find("filters"), access)?,
            limits: source.open(find("limits"), access)?,
            sources: source.open(find("sources"), access)?,
            nat_addresses: source.open(find("nat_addresses"), access)?,
            nat_ports: source.open(find("nat_ports"), access)?,
            nat_lines: source.open(find("nat_lines"), access)?,
            backend_info: source.open(find("backend_info"), access)?,
            service_info: source.open(find("service_info"), access)?,
            pool_info: source.open(find("pool_info"), access)?,
            vip_info: source.open(find("vip_info"), access)?,
            trace: source.open(find("trace"), access)?,
        })
    }

    /// Empty maps in plain memory, for private instances and tests.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn anonymous(sizes: &Sizes) -> io::Result<Self> {
        Ok(Self {
            meta: Mapping::anonymous(1)?,
            vips_v4: Mapping::anonymous(sizes.vips_v4 as usize)?,
            vips_v6: Mapping::anonymous(sizes.vips_v6 as usize)?,
            ports: Mapping::anonymous(sizes.ports as usize)?,
            ranges: Mapping::anonymous(sizes.ranges as usize)?,
            vips: Mapping::anonymous(sizes.vips as usize)?,
            services: Mapping::anonymous(sizes.services as usize)?,
            pools: Mapping::anonymous(sizes.pools as usize)?,
            maglev: Mapping::anonymous(sizes.maglev as usize)?,
            backends: Mapping::anonymous(sizes.backends as usize)?,
            loads: Mapping::anonymous(sizes.backends as usize)?,
            servers: Mapping::anonymous(sizes.servers as usize)?,
            server_ids: Mapping::anonymous(sizes.backends as usize)?,
            next_hops: Mapping::anonymous(sizes.next_hops as usize)?,
            flows_v4: Mapping::anonymous(sizes.flows_v4 as usize)?,
            flows_v6: Mapping::anonymous(sizes.flows_v6 as usize)?,
            overflow_v4: Mapping::anonymous(overflow_lines(sizes.flows_v4) as usize)?,
            overflow_v6: Mapping::anonymous(overflow_lines(sizes.flows_v6) as usize)?,
            fragments: Mapping::anonymous(sizes.fragments as usize)?,
            filters: Mapping::anonymous(sizes.filters as usize)?,
            limits: Mapping::anonymous(sizes.services as usize)?,
            sources: Mapping::anonymous(sizes.sources as usize)?,
            nat_addresses: Mapping::anonymous(sizes.nat_addresses as usize)?,
            nat_ports: Mapping::anonymous(sizes.nat_ports as usize)?,
            nat_lines: Mapping::anonymous(sizes.nat_lines as usize)?,
            backend_info: Mapping::anonymous(sizes.backends as usize)?,
            service_info: Mapping::anonymous(sizes.services as usize)?,
            pool_info: Mapping::anonymous(sizes.pools as usize)?,
            vip_info: Mapping::anonymous(sizes.vips as usize)?,
            trace: Mapping::anonymous(1)?,
        })
    }

    /// The maps as the packet logic sees them.
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
