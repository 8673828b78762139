//! What the maps should say: config, runtime weights, detection's view, routes.
//!
//! Records have stable keys (names, addresses) and no ids. Everything is behind shared pointers, so that a change of one
//! pool leaves the others, the services, VIPs and next hops recognisably as they were.

#![forbid(unsafe_code)]

mod build;
mod next_hop;
mod view;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use lb_common::filter::BuiltList;
use lb_common::layout::{CidConfigs, LastResort, Mode, OnDown, Scheduler, ServerId, TimeoutsWord, Unmatched};

pub use crate::net::HopKey;
pub use build::{Inputs, ticks};
pub use next_hop::{Egress, HopRecord};
pub use view::{BackendView, PoolView};

use crate::config::model::{NewFlowLimit, Ports, Protocol};

/// The whole desired state.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Desired {
    /// One record an address.
    pub vips: Arc<BTreeMap<IpAddr, VipRecord>>,
    /// Addresses that mode `nat` sends from; each is also one of `vips`, for what comes back.
    pub snats: Arc<BTreeMap<IpAddr, SnatRecord>>,
    /// By name.
    pub services: Arc<BTreeMap<Arc<str>, Arc<ServiceRecord>>>,
    /// By name.
    pub pools: BTreeMap<Arc<str>, Arc<PoolRecord>>,
    /// Every next hop that a backend's [`Egress`] names, and no others.
    pub next_hops: Arc<BTreeMap<HopKey, HopRecord>>,
}

/// An address that mode `nat` sends from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnatRecord {
    /// First and last port.
    pub ports: (u16, u16),
    /// Largest IP packet towards clients.
    pub mtu: u16,
}

/// A VIP's address, or one that mode `nat` sends from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VipRecord {
    /// Name of the VIP.
    pub name: Arc<str>,
    /// Policy for packets of no service, resolved.
    pub unmatched: Unmatched,
    /// Whether echo requests are answered.
    pub icmp_echo: bool,
    /// The lists that judge sources, each at its [`Listed`](lb_common::layout::Listed).
    pub lists: [Option<Arc<BuiltList>>; 3],
    /// The ports that are flows' own, of an address that mode `nat` sends from.
    pub snat: Option<(u16, u16)>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRecord {
    /// Name.
    pub name: Arc<str>,
    /// Name of its VIP.
    pub vip: Arc<str>,
    /// The VIP's addresses.
    pub addresses: Vec<IpAddr>,
    /// Ports.
    pub ports: Ports,
    /// Protocols.
    pub protocols: Vec<Protocol>,
    /// Name of its pool.
    pub pool: Arc<str>,
    /// How packets reach the backend.
    pub mode: Mode,
    /// UDP port of backends' tunnels; without effect where the mode has none.
    pub gue_port: u16,
    /// How a backend is picked for a new flow.
    pub scheduler: Scheduler,
    /// Configurations of QUIC connection IDs that datagrams go by.
    pub quic: CidConfigs,
    /// Addresses that mode `nat` sends from.
    pub snat: Vec<IpAddr>,
    /// Known flows of a backend that is down.
    pub on_down: OnDown,
    /// Whether flows are remembered.
    pub track: bool,
    /// Idle times.
    pub timeouts: TimeoutsWord,
    /// Whether the VIP has lists.
    pub has_lists: bool,
    /// Limit of new flows.
    pub limit: Option<NewFlowLimit>,
}

/// A pool and its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolRecord {
    /// Name.
    pub name: Arc<str>,
    /// Seed of the selection hash and of the table.
    pub seed: u64,
    /// What selection does when no backend is usable.
    pub last_resort: LastResort,
    /// Slots of the Maglev table.
    pub table_size: u32,
    /// The tier that takes new flows.
    pub active_tier: u8,
    /// By name.
    pub backends: BTreeMap<Arc<str>, BackendRecord>,
    /// Positions in `backends` of those that take new flows, ascending.
    pub usable: Vec<u32>,
}

/// A backend of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRecord {
    /// Where its packets go.
    pub address: IpAddr,
    /// Destination port in mode `nat`; `None` keeps the service's.
    pub port: Option<u16>,
    /// Label.
    pub host: Option<Arc<str>>,
    /// Tier.
    pub tier: u8,
    /// Weight in force.
    pub weight: u16,
    /// What QUIC connection IDs call it.
    pub server_ids: Vec<ServerId>,
    /// Whether it has slots in the table: it is of the active tier, has a weight above 0 and is not in maintenance.
    pub in_table: bool,
    /// How its packets leave; `None` while there is no route.
    pub egress: Option<Egress>,
    /// State in which a new id starts; afterwards [`crate::apply::SlotWriter`] has the say.
    pub view: BackendView,
}
