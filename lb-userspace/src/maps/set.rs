//! All array maps of an instance, mapped.

use std::io;

use lb_common::layout::{
    Backend, BackendInfo, Bucket, FragmentLine, IndexLine, MaglevLine, Meta, NextHop, Pool, PoolInfo,
    RangeLine, Service, ServiceInfo, Vip, VipInfo, VipLineV6,
};
use lb_common::memory::Slices;

use super::mapping::Mapping;
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
    pub next_hops: Mapping<NextHop>,
    pub flows_v4: Mapping<Bucket<1>>,
    pub flows_v6: Mapping<Bucket<3>>,
    pub fragments: Mapping<FragmentLine>,
    pub backend_info: Mapping<BackendInfo>,
    pub service_info: Mapping<ServiceInfo>,
    pub pool_info: Mapping<PoolInfo>,
    pub vip_info: Mapping<VipInfo>,
}

impl MapSet {
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
            next_hops: Mapping::anonymous(sizes.next_hops as usize)?,
            flows_v4: Mapping::anonymous(sizes.flows_v4 as usize)?,
            flows_v6: Mapping::anonymous(sizes.flows_v6 as usize)?,
            fragments: Mapping::anonymous(sizes.fragments as usize)?,
            backend_info: Mapping::anonymous(sizes.backends as usize)?,
            service_info: Mapping::anonymous(sizes.services as usize)?,
            pool_info: Mapping::anonymous(sizes.pools as usize)?,
            vip_info: Mapping::anonymous(sizes.vips as usize)?,
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
            next_hops: &self.next_hops,
            flows_v4: &self.flows_v4,
            flows_v6: &self.flows_v6,
            fragments: &self.fragments,
        }
    }
}
