//! What the applier keeps in mind besides the maps.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use super::entries::Entries;
use super::ids::Ids;
use super::lines::{Lines, Region};
use super::lists::Filters;
use crate::desired::{Desired, HopKey};

/// What a backend id stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct BackendKey {
    pub(super) pool: Arc<str>,
    pub(super) name: Arc<str>,
    pub(super) address: IpAddr,
}

/// An address that mode `nat` sends from; with other ports it is another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct SnatKey {
    pub(super) address: IpAddr,
    pub(super) ports: (u16, u16),
}

/// Copied for every plan, so what there is much of is shared.
#[derive(Clone)]
pub(super) struct State {
    pub(super) vips: Ids<IpAddr>,
    pub(super) services: Ids<Arc<str>>,
    pub(super) pools: Ids<Arc<str>>,
    pub(super) backends: Ids<BackendKey>,
    pub(super) hops: Ids<HopKey>,
    pub(super) snats: Ids<SnatKey>,
    /// Next hops of an earlier daemon whose keys are not known.
    pub(super) unnamed_hops: Vec<u16>,
    pub(super) lines: Lines,
    pub(super) range_lines: Lines,
    pub(super) filters: Arc<Filters>,
    pub(super) nat_ports: Lines,
    pub(super) tables: Entries<Arc<str>, PoolState>,
    /// Shared with the slot writers.
    pub(super) slots: Arc<Slots>,
    pub(super) leaving: Leaving,
    pub(super) retired: Vec<Retired>,
    /// The desired state that was last applied; `None` until the first time.
    pub(super) applied: Option<Arc<Desired>>,
}

/// Objects that are no longer desired but keep their id, and since when, in nanoseconds of the monotonic clock.
#[derive(Clone, Default)]
pub(super) struct Leaving {
    pub(super) vips: HashMap<IpAddr, u64>,
    pub(super) pools: HashMap<Arc<str>, u64>,
    pub(super) backends: HashMap<BackendKey, LeavingBackend>,
    pub(super) hops: HashMap<HopKey, u64>,
    pub(super) unnamed_hops: HashMap<u16, u64>,
    pub(super) snats: HashMap<SnatKey, u64>,
}

#[derive(Clone, Copy)]
pub(super) struct LeavingBackend {
    pub(super) since_ns: u64,
    /// When its slot was cleared.
    pub(super) absent_ns: Option<u64>,
}

/// What is free again after [`super::REUSE_GRACE`].
#[derive(Clone, Copy)]
pub(super) struct Retired {
    pub(super) at_ns: u64,
    pub(super) what: Unused,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Unused {
    Lines(Region),
    RangeLines(Region),
    FilterLines(Region),
    /// Records of a `snat` address's ports.
    NatPorts(Region),
    Service(u16),
    /// Line and way of the IPv6 VIP index.
    WayV6(u32, usize),
}

/// What slot writers need to know, by pool.
pub(super) type Slots = HashMap<Arc<str>, Arc<PoolSlots>>;

/// A pool's tables.
#[derive(Clone)]
pub(super) struct PoolState {
    pub(super) id: u16,
    pub(super) current: Arc<Table>,
    pub(super) previous: Option<(Arc<Table>, u64)>,
    /// The list that an earlier daemon published, until it is replaced.
    pub(super) adopted_list: Option<Region>,
}

/// A published Maglev table.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) region: Region,
    pub(super) len: u32,
    /// What it was made from; `None` when an earlier daemon made it.
    pub(super) inputs: Option<TableInputs>,
    /// The ids that it names.
    pub(super) ids: Vec<u16>,
}

/// What decides a table's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TableInputs {
    pub(super) seed: u64,
    pub(super) size: u32,
    /// Name, weight, id, in the order of the names.
    pub(super) members: Vec<(Arc<str>, u16, u16)>,
}

/// What a slot writer needs to know of a pool.
#[derive(Debug, Default)]
pub(super) struct PoolSlots {
    pub(super) pool: u16,
    /// Name, id, generation, in the order of the names.
    pub(super) backends: Vec<(Arc<str>, u16, u8)>,
    /// Where lists of usable backends go in turn.
    pub(super) buffers: [Region; 2],
    /// Held while a list is written.
    pub(super) publishing: Mutex<()>,
}

impl PoolState {
    /// A pool without a table.
    pub(super) fn new(id: u16) -> Self {
        Self { id, current: Arc::default(), previous: None, adopted_list: None }
    }
}

impl State {
    /// Takes in what a plan changed, once it is in force.
    pub(super) fn settle(&mut self) {
        self.vips.settle();
        self.services.settle();
        self.pools.settle();
        self.backends.settle();
        self.hops.settle();
        self.snats.settle();
        self.tables.settle();
    }

    pub(super) fn retire(&mut self, now_ns: u64, what: Unused) {
        let unused = match what {
            Unused::Lines(region)
            | Unused::RangeLines(region)
            | Unused::FilterLines(region)
            | Unused::NatPorts(region) => region.lines == 0,
            Unused::Service(_) | Unused::WayV6(..) => false,
        };
        if !unused {
            self.retired.push(Retired { at_ns: now_ns, what });
        }
    }
}
