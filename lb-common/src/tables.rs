//! Access to the maps.

use crate::layout::{
    Backend, Bucket, Charged, FilterLine, FragmentLine, HandshakeStep, IndexLine, Limit, Limited, Listed,
    Load, MaglevLine, NatAddress, NatLine, NatPort, NextHop, OverflowLine, Pool, RangeLine, Scratch,
    ServerIds, Service, SourceLine, Vip, VipLineV6,
};
use crate::reason::Reason;
use crate::time::Tick;
use crate::trace::Mark;

/// The maps that the packet logic reads and writes. A look-up past the end of a map gives `None`.
pub trait Tables {
    /// Whether packets leave anything behind: flow entries and counts. What only explains a decision leaves nothing.
    const WRITES: bool = true;

    /// Notes a step of the decision; see [`Mark`].
    #[inline(always)]
    fn trace(&self, _mark: Mark, _a: u32, _b: u64) {}

    /// Key of the bucket hash.
    fn secret(&self) -> u64;
    /// Lines of the IPv4 VIP index, less one; like all masks a power of two less one.
    fn vip_v4_mask(&self) -> u32;
    /// Lines of the IPv6 VIP index, less one.
    fn vip_v6_mask(&self) -> u32;
    /// Lines of the port index, less one.
    fn port_mask(&self) -> u32;
    /// Buckets of the IPv4 flow table, less one.
    fn flows_v4_mask(&self) -> u32;
    /// Buckets of the IPv6 flow table, less one.
    fn flows_v6_mask(&self) -> u32;
    /// Lines of the fragment table, less one.
    fn fragments_mask(&self) -> u32;
    /// Lines of the index of translated flows, less one.
    fn nat_mask(&self) -> u32;
    /// The current tick.
    fn now(&self) -> Tick;
    /// Nanoseconds of a clock that never goes back, by a few milliseconds exact: for rare packets.
    fn now_ns(&self) -> u64;
    /// What this CPU keeps.
    fn scratch(&self) -> Option<&Scratch>;
    /// A line of the IPv4 VIP index.
    fn vip_line_v4(&self, line: u32) -> Option<&IndexLine>;
    /// A line of the IPv6 VIP index.
    fn vip_line_v6(&self, line: u32) -> Option<&VipLineV6>;
    /// A line of the port index.
    fn port_line(&self, line: u32) -> Option<&IndexLine>;
    /// A line of port ranges.
    fn range_line(&self, line: u32) -> Option<&RangeLine>;
    /// A VIP's record by id.
    fn vip(&self, id: u32) -> Option<&Vip>;
    /// A line of the lists of prefixes.
    fn filter_line(&self, line: u32) -> Option<&FilterLine>;
    /// A service's record by id.
    fn service(&self, id: u32) -> Option<&Service>;
    /// A pool's record by id.
    fn pool(&self, id: u32) -> Option<&Pool>;
    /// A line of backend ids.
    fn maglev_line(&self, line: u32) -> Option<&MaglevLine>;
    /// A backend's record by id.
    fn backend(&self, id: u32) -> Option<&Backend>;
    /// Lines of the server index, less one.
    fn servers_mask(&self) -> u32;
    /// A line of the server index.
    fn server_line(&self, line: u32) -> Option<&IndexLine>;
    /// A backend's server ids by its id.
    fn server_ids(&self, id: u32) -> Option<&ServerIds>;
    /// A backend's load by its id.
    fn load(&self, id: u32) -> Option<&Load>;
    /// A next hop's record by id.
    fn next_hop(&self, id: u32) -> Option<&NextHop>;
    /// A bucket of the IPv4 flow table.
    fn flows_v4(&self, bucket: u32) -> Option<&Bucket<1>>;
    /// A bucket of the IPv6 flow table.
    fn flows_v6(&self, bucket: u32) -> Option<&Bucket<3>>;
    /// A line of marks of the IPv4 flow table.
    fn overflow_v4(&self, line: u32) -> Option<&OverflowLine>;
    /// A line of marks of the IPv6 flow table.
    fn overflow_v6(&self, line: u32) -> Option<&OverflowLine>;
    /// A line of the fragment table.
    fn fragments(&self, line: u32) -> Option<&FragmentLine>;
    /// A `snat` address by id.
    fn nat_address(&self, id: u32) -> Option<&NatAddress>;
    /// A port of a `snat` address by the number of its record.
    fn nat_port(&self, number: u32) -> Option<&NatPort>;
    /// A line of the index of translated flows.
    fn nat_line(&self, line: u32) -> Option<&NatLine>;
    /// Counts a packet that left for `reason`.
    fn count(&self, reason: Reason, bytes: u64);
    /// Counts a packet that was forwarded.
    fn count_forwarded(&self, service: u32, backend: u32, bytes: u64);
    /// A service's limits by id.
    fn limit(&self, id: u32) -> Option<&Limit>;
    /// A line of sources' allowances.
    fn source_line(&self, line: u32) -> Option<&SourceLine>;
    /// One of this CPU's records about sources that were limited.
    fn limited(&self, slot: u32) -> Option<&Limited>;
    /// Counts a packet that would start a flow of a limited service.
    fn count_charged(&self, service: u32, what: Charged);
    /// Counts a packet for a VIP that one of its lists refused.
    fn count_refused(&self, vip: u32, list: Listed);
    /// Counts a step of the opening of a backend's flow.
    fn count_handshake(&self, backend: u32, step: HandshakeStep);
}
