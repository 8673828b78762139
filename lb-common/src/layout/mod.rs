//! Map values: what the control plane writes and the data plane reads, or the other way round.
//!
//! Values hold integers, shared words and byte arrays only. A 64-byte value is one cache line. Fields that
//! change together share one 64-bit word, so that a reader sees the old or the new, never a mix; larger records
//! keep two copies and a word that selects one. Integers are in native byte order unless a field says otherwise.

mod backend;
mod counter;
mod filter;
mod flow;
mod fragment;
mod index;
mod info;
mod limit;
mod load;
mod maglev;
mod meta;
mod nat;
mod next_hop;
mod pool;
mod scratch;
mod server_id;
mod service;
mod vip;

pub use backend::{
    AdminBits, Backend, BackendState, EgressWord, FailureBits, Family, HealthBits, HotWord, MAX_ADMIT,
};
pub use counter::{Counter, HandshakeStep, Handshakes};
pub use filter::{FILTER_WORDS, FilterLine, ListParts, ListWords, Listed, Lists, Refusals, keys_per_line};
pub use flow::{Bucket, MARKS_PER_LINE, OverflowLine, Way};
pub use fragment::{FRAGMENT_WAYS, FragmentLine, FragmentWay};
pub use index::{INDEX_WAYS, IndexLine, V6_WAYS, VipLineV6};
pub use info::{BackendInfo, NAME_LEN, PORTS_LEN, PoolInfo, ServiceInfo, Text, VipInfo};
pub use limit::{Charged, Charges, LIMITED_SLOTS, Limit, Limited, SOURCE_LINES, SOURCE_WAYS, SourceLine};
pub use load::{Load, LoadsWord};
pub use maglev::{MaglevLine, SLOTS_PER_LINE};
pub use meta::{CARRIED_SINCE, Geometry, LAYOUT_VERSION, MAGIC, Meta, MetaHead};
pub use nat::{NAT_WAYS, NatAddress, NatLine, NatPort, NatQueue, NatRange, SnatWord};
pub use next_hop::{NextHop, NextHopCopy};
pub use pool::{LastResort, Pool, Span};
pub use scratch::{Asked, Asking, Chosen, Datagram, Note, Scratch, Translating};
pub use server_id::{CID_CONFIGS, CidConfigs, SERVER_ID_BYTES, SERVER_IDS, ServerId, ServerIds};
pub use service::{ForwardWord, Mode, OnDown, Scheduler, Service, TimeoutsWord};
pub use vip::{RANGES_PER_LINE, RangeLine, RangeWord, Unmatched, Vip, VipPorts};
