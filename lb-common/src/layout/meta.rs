//! What the pinned maps say about themselves, and the numbers the program is loaded with.

/// Marks maps as weir's: "weirmaps" as a big-endian number.
pub const MAGIC: u64 = 0x7765_6972_6d61_7073;

/// Version of the layouts in this module. An adopter of maps with another version builds new maps.
pub const LAYOUT_VERSION: u32 = 6;

/// The oldest version whose flows a start takes over into new maps. What it reads there is laid out as here: [`MetaHead`],
/// the labels, [`super::HotWord`] in [`super::Backend`], the flow tables, [`super::Counter`]. Whoever changes one of these
/// sets it to the version of the change.
pub const CARRIED_SINCE: u32 = 3;

/// Sizes and secrets that the program needs; constants of the loaded program (`.rodata`), a copy is in [`Meta`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Geometry {
    /// Key of the bucket hash.
    pub secret: u64,
    /// `CLOCK_MONOTONIC` nanoseconds that the program takes for now; 0 reads the clock.
    pub fixed_now_ns: u64,
    /// Lines of the IPv4 VIP index, less one. All masks are powers of two less one.
    pub vip_v4_mask: u32,
    /// Lines of the IPv6 VIP index, less one.
    pub vip_v6_mask: u32,
    /// Lines of the port index, less one.
    pub port_mask: u32,
    /// Buckets of the IPv4 flow table, less one.
    pub flows_v4_mask: u32,
    /// Buckets of the IPv6 flow table, less one.
    pub flows_v6_mask: u32,
    /// Lines of the fragment table, less one.
    pub fragments_mask: u32,
    /// Lines of the server index, less one.
    pub servers_mask: u32,
    /// Lines of the index of translated flows, less one.
    pub nat_mask: u32,
}

/// How [`Meta`] begins in every version.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MetaHead {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`LAYOUT_VERSION`] of the maps.
    pub layout_version: u32,
    /// Differs.
    pub limits: [u32; 7],
    /// [`Geometry::secret`].
    pub secret: u64,
}

const _: () = assert!(
    core::mem::offset_of!(MetaHead, secret)
        == core::mem::offset_of!(Meta, geometry) + core::mem::offset_of!(Geometry, secret)
);

/// The one value of the `meta` map.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// [`MAGIC`].
    pub magic: u64,
    /// [`LAYOUT_VERSION`].
    pub layout_version: u32,
    /// Backends that fit, id 0 not counted.
    pub backends: u32,
    /// Services that fit, id 0 not counted.
    pub services: u32,
    /// Slots of all Maglev tables, as configured.
    pub maglev_slots: u32,
    /// IPv4 flows that fit, as configured.
    pub flows_v4: u32,
    /// IPv6 flows that fit, as configured.
    pub flows_v6: u32,
    /// Prefixes of lists that fit, as configured.
    pub prefixes: u32,
    /// Ports of `snat` addresses that fit, as configured.
    pub nat_ports: u32,
    /// Of the loaded program.
    pub geometry: Geometry,
    /// Digest of the loaded object, to tell whether an upgrade replaces it.
    pub object: u64,
}
