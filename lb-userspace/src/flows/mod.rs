//! The flow tables, read and tidied from outside.
//!
//! The data plane writes entries at any time; a torn one is recognised like the data plane does it, by its key, or as
//! far as that goes by what cannot be, and is skipped.

#![forbid(unsafe_code)]

mod carry;
mod entry;
mod list;
mod loads;
pub mod nat;
mod overflow;
mod sweep;

use lb_common::flow::FlowKey;
use lb_common::layout::{Bucket, Geometry, OverflowLine};
use lb_common::memory::Memory;
use lb_common::time::Tick;

pub use carry::{Carried, Translation, carry};
pub use list::{Flow, list};
pub use loads::{LoadCount, PARTS};
pub use overflow::Settling;
pub use sweep::{FlowCount, Purge, Sweep, forget_old, sweep};

use crate::maps::set::MapSet;

/// Nanoseconds of the data plane's clock (`CLOCK_MONOTONIC_COARSE`, at most a few milliseconds behind).
#[must_use]
pub fn now_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::MonotonicCoarse);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}

/// The maps as tables of the packet logic: sizes from the maps themselves, counts discarded, time at tick 0.
#[must_use]
pub fn memory(maps: &MapSet) -> Memory<'_> {
    let mask = |len: usize| (len as u32).saturating_sub(1);
    Memory {
        slices: maps.slices(),
        geometry: Geometry {
            vip_v4_mask: mask(maps.vips_v4.len()),
            vip_v6_mask: mask(maps.vips_v6.len()),
            port_mask: mask(maps.ports.len()),
            flows_v4_mask: mask(maps.flows_v4.len()),
            flows_v6_mask: mask(maps.flows_v6.len()),
            servers_mask: mask(maps.servers.len()),
            nat_mask: mask(maps.nat_lines.len()),
            ..maps.meta[0].geometry
        },
        now: Tick::from_bits(0),
        scratch: None,
        on_count: &|_, _| {},
        on_forwarded: &|_, _, _| {},
        on_handshake: &|_, _| {},
        on_refused: &|_, _| {},
        on_charged: &|_, _| {},
        limited: &[],
    }
}

/// A family's flow table.
pub(crate) trait FlowTable<const W: usize> {
    /// Its buckets.
    fn buckets(maps: &MapSet) -> &[Bucket<W>];
    /// The marks of buckets whose flows may be in their second one.
    fn overflow(maps: &MapSet) -> &[OverflowLine];
    /// The key of a flow under a secret.
    fn key(secret: u64, entry: &entry::Entry) -> FlowKey<W>;
}

/// IPv4 flows.
pub(crate) struct V4;
/// IPv6 flows.
pub(crate) struct V6;

impl FlowTable<1> for V4 {
    fn buckets(maps: &MapSet) -> &[Bucket<1>] {
        &maps.flows_v4
    }

    fn overflow(maps: &MapSet) -> &[OverflowLine] {
        &maps.overflow_v4
    }

    fn key(secret: u64, entry: &entry::Entry) -> FlowKey<1> {
        FlowKey::v4(secret, entry.source.1 as u32, entry.ports, entry.vip, entry.protocol)
    }
}

impl FlowTable<3> for V6 {
    fn buckets(maps: &MapSet) -> &[Bucket<3>] {
        &maps.flows_v6
    }

    fn overflow(maps: &MapSet) -> &[OverflowLine] {
        &maps.overflow_v6
    }

    fn key(secret: u64, entry: &entry::Entry) -> FlowKey<3> {
        FlowKey::v6(secret, entry.source, entry.ports, entry.vip, entry.protocol)
    }
}
