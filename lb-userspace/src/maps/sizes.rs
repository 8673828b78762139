//! How many values each map has, from the configured limits.

use lb_common::layout::{Geometry, SLOTS_PER_LINE, SOURCE_LINES};

use crate::config::model::Limits;

/// VIP addresses that fit, of each family.
pub const MAX_VIPS: u32 = 16_383;

/// Values of each map; every map is an array from index 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the map of that name")]
pub struct Sizes {
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

/// Lines per service in the port index: with 4 exact ports a service, two neighbouring lines hold 2 of 14 on average.
const PORT_LINES: u32 = 4;
/// Lines per service in the IPv6 VIP index (3 entries a line).
const VIP_V6_LINES: u32 = 8;
/// Port-range lines per service.
const RANGE_LINES: u32 = 2;
/// Fewest lines of an index: in fewer, neighbouring addresses crowd into one pair of lines.
const MIN_LINES: u32 = 16;
/// Lines of the fragment table: 1 MiB, for 32,768 packets in fragments at a time.
const FRAGMENT_LINES: u32 = 16_384;
/// Lines per backend in the server index: with three server ids each, two neighbouring lines hold 3 of 14 on average.
const SERVER_LINES: u32 = 2;
/// Lines that the lists of few prefixes take whatever they are.
const FEWEST_FILTER_LINES: u32 = 256;
/// Addresses that mode `nat` sends from.
const SNAT_ADDRESSES: u32 = 256;
/// Ways of a flow bucket.
const WAYS: u32 = 4;

/// Lines of lists: the keys of a prefix and the groups that it is in take half a line to one, and a changed list is made
/// beside the old one.
const fn filter_lines(prefixes: u32) -> u32 {
    FEWEST_FILTER_LINES + prefixes + prefixes / 2
}

impl Sizes {
    /// No values: for what is the same at every size.
    pub const NONE: Self = Self {
        vips_v4: 0,
        vips_v6: 0,
        ports: 0,
        ranges: 0,
        vips: 0,
        services: 0,
        pools: 0,
        maglev: 0,
        backends: 0,
        next_hops: 0,
        flows_v4: 0,
        flows_v6: 0,
        fragments: 0,
        servers: 0,
        filters: 0,
        sources: 0,
        nat_addresses: 0,
        nat_ports: 0,
        nat_lines: 0,
    };

    /// The sizes for `limits`. Index tables and flow tables are powers of two; flow tables have at least twice as many
    /// ways as flows fit.
    #[must_use]
    pub fn of(limits: &Limits) -> Self {
        let ids = |count: u32| count + 1;
        let services = limits.services.max(MIN_LINES).next_power_of_two();
        let buckets = |flows: u32| (flows.saturating_mul(2).div_ceil(WAYS)).next_power_of_two().max(2);
        Self {
            vips_v4: services.max(2),
            vips_v6: (services * VIP_V6_LINES).max(2),
            ports: (services * PORT_LINES).max(2),
            ranges: services * RANGE_LINES,
            vips: ids(limits.services.saturating_mul(2).min(MAX_VIPS)),
            services: ids(limits.services),
            pools: ids(limits.services.saturating_mul(2).min(65_535)),
            // The lists of usable backends, two for each pool under replacement, share the map with the tables.
            maglev: limits.maglev_slots.div_ceil(SLOTS_PER_LINE) + limits.services + limits.backends / 4,
            backends: ids(limits.backends),
            // A change of routes needs new ones before the old ones are free.
            next_hops: ids(limits.backends.saturating_mul(2).min(65_535)),
            flows_v4: buckets(limits.flows_v4),
            flows_v6: buckets(limits.flows_v6),
            fragments: FRAGMENT_LINES,
            servers: limits.backends.max(MIN_LINES).next_power_of_two() * SERVER_LINES,
            filters: filter_lines(limits.prefixes),
            sources: SOURCE_LINES,
            nat_addresses: ids(SNAT_ADDRESSES),
            nat_ports: limits.nat_ports.max(1),
            // Two ports a line of eight, of two lines that a flow may be in.
            nat_lines: (limits.nat_ports / 2).next_power_of_two().max(2),
        }
    }

    /// The masks that go with these sizes.
    #[must_use]
    pub fn geometry(&self, secret: u64) -> Geometry {
        Geometry {
            secret,
            fixed_now_ns: 0,
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
