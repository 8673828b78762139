//! The validated configuration: what every later step works from.
//!
//! Values here have passed every check that does not need the running host. Text, defaults and sugar
//! (a service's nested pool, `[defaults]`, `include`) are resolved; names are unique; ranges do not overlap.

mod check;
mod probe;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

pub use check::{Check, CheckKind, Inside, MOST_CHECKS, PortOf, ProbeSize, Through};
pub use lb_common::layout::{Scheduler, ServerId};
pub use probe::{DnsCheck, DnsRcode, DnsType, ExecCheck, HttpCheck, PhaseLimits, TlsCheck, Trust, UdpCheck};

use crate::filter::Prefixes;

/// A complete, consistent configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Interfaces to attach to, in the order of the file.
    pub interfaces: Vec<Interface>,
    /// Next hop of routed backends where neighbour resolution is not wanted.
    pub gateway_mac: Option<Mac>,
    /// Largest IP packet towards the backends, in bytes; `None` takes the egress interface's.
    pub mtu: Option<u16>,
    /// Seed of the selection hash, equal on all instances that share VIPs.
    pub hash_seed: u64,
    /// Map sizes, fixed when the program is loaded.
    pub limits: Limits,
    /// Sources that are refused at every VIP.
    pub deny: Prefixes,
    /// Pinned XDP program that gets what weir passes.
    pub next_program: Option<PathBuf>,
    /// Outer headers.
    pub tunnel: Tunnel,
    /// When weir stops believing its own findings.
    pub guard: Guard,
    /// VIPs by name; a service that names an address directly has a VIP named like that address.
    pub vips: BTreeMap<String, Vip>,
    /// Pools by name; a service's own pool is named like the service.
    pub pools: BTreeMap<String, Pool>,
    /// Services by name.
    pub services: BTreeMap<String, Service>,
    /// The record of what happened.
    pub events: Events,
    /// What is told of events, in the order of the file; names are unique.
    pub hooks: Vec<Hook>,
}

/// The record of what happened (`[events]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Events {
    /// Bytes that it may take on disk.
    pub max_bytes: u64,
}

/// Something that is told of events (`[[hook]]`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hook {
    /// Unique name.
    pub name: String,
    /// What is told.
    pub target: HookTarget,
    /// Of which kinds; empty is all.
    pub kinds: Vec<crate::events::Kind>,
    /// Longest time for one event.
    pub timeout: Duration,
    /// Events that may wait; beyond them the oldest is dropped.
    pub queue: usize,
}

/// What a hook tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HookTarget {
    /// A command and its arguments, with the event on its standard input.
    Exec(Vec<String>),
    /// An HTTP server, to which the event is posted.
    Post {
        /// Name or address, the latter in brackets where it is IPv6.
        host: String,
        /// Port.
        port: u16,
        /// Path and query.
        path: String,
    },
}

/// An Ethernet address, in wire order.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An interface that the program is attached to.
#[derive(Clone, Debug, PartialEq)]
pub struct Interface {
    /// Kernel name, for example `eth0`.
    pub name: String,
    /// Where the program runs.
    pub xdp_mode: XdpMode,
    /// Overrides [`Config::mtu`] for packets that leave here.
    pub mtu: Option<u16>,
    /// Overrides [`Config::gateway_mac`] for routed backends behind this interface.
    pub gateway_mac: Option<Mac>,
}

/// How the program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver; an interface that cannot is an error.
    Native,
    /// In the driver, else generic, said loudly.
    Auto,
    /// On socket buffers.
    Generic,
}

impl XdpMode {
    /// The name of the mode that it has to be; `None` where either will do.
    #[must_use]
    pub fn required(self) -> Option<&'static str> {
        match self {
            Self::Native => Some("native"),
            Self::Auto => None,
            Self::Generic => Some("generic"),
        }
    }
}

/// Map sizes (`[limits]`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// IPv4 flows that fit.
    pub flows_v4: u32,
    /// IPv6 flows that fit.
    pub flows_v6: u32,
    /// Services, at most 65,535.
    pub services: u32,
    /// Backends (one per backend of a pool), at most 65,535.
    pub backends: u32,
    /// Slots of all Maglev tables together, with room for tables under replacement.
    pub maglev_slots: u32,
    /// Prefixes of all deny and allow lists together, with room for lists under replacement.
    pub prefixes: u32,
    /// Ports of all `snat` addresses together, each for TCP and for UDP.
    pub nat_ports: u32,
}

/// Outer header settings (`[tunnel]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Tunnel {
    /// Outer sources: at most one per family; a prefix shorter than the address gives entropy.
    pub source: Vec<IpNet>,
    /// UDP destination port of `gue`.
    pub gue_port: u16,
}

/// When weir stops believing its own findings (`[guard]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Guard {
    /// Share of the backends' addresses beyond which silence is not believed while a self-check fails, 0..=1.
    pub panic_threshold: f64,
    /// Longest time for which it is not.
    pub freeze_max: Duration,
    /// Neighbours whose silence is a failed self-check; `None` takes the routers towards the backends.
    pub gateway: Option<Vec<IpAddr>>,
}

impl Default for Guard {
    fn default() -> Self {
        Self { panic_threshold: 0.5, freeze_max: Duration::from_secs(30), gateway: None }
    }
}

/// Addresses that weir answers for (`[[vip]]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Vip {
    /// Unique name.
    pub name: String,
    /// At least one address, no duplicates over all VIPs.
    pub addresses: Vec<IpAddr>,
    /// Whether echo requests are answered.
    pub icmp_echo: bool,
    /// What happens to packets for no service.
    pub unmatched: Unmatched,
    /// Sources that alone are accepted; empty is all.
    pub allow: Prefixes,
    /// Sources that are refused.
    pub deny: Prefixes,
    /// Limit of new flows for services that do not have their own.
    pub new_flow_limit: Option<NewFlowLimit>,
}

/// How many flows may start in a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Rate {
    /// Flows, also those that may start at once.
    pub flows: u64,
    /// A second, a minute, or an hour.
    pub period: Duration,
}

impl fmt::Display for Rate {
    /// As in the config: `100/s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let period = match self.period.as_secs() {
            60 => "m",
            3600 => "h",
            _ => "s",
        };
        write!(f, "{}/{period}", self.flows)
    }
}

/// A limit of new flows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewFlowLimit {
    /// Of each source.
    pub per_source: Option<Rate>,
    /// Leading bits of an IPv4 address that make a source, 1 to 32.
    pub prefix_v4: u8,
    /// Leading bits of an IPv6 address that make a source, 1 to 64.
    pub prefix_v6: u8,
    /// Of the service.
    pub total: Option<Rate>,
}

/// What happens to a VIP's packets that no service claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmatched {
    /// Pass when the VIP is an address of the host, else reject.
    Auto,
    /// To the host's stack.
    Pass,
    /// Dropped.
    Drop,
    /// Answered with RST or port unreachable.
    Reject,
}

/// Backends with weights and health checks (`[[pool]]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Pool {
    /// Unique name.
    pub name: String,
    /// Share of a tier's usable weight below which the next tier replaces it, 0..=1.
    pub tier_takeover_below: f64,
    /// What selection does when no backend is usable.
    pub last_resort: LastResort,
    /// Largest share of the pool's weight that soft and passive findings may take out, 0..=1.
    pub max_ejected: f64,
    /// SYNs within 5 s below which a backend's handshakes, or answers where they pass weir, are not compared with the
    /// pool's; 0 turns that off.
    pub passive_sample: u32,
    /// How much larger than the pool's a backend's share of failed handshakes must be to stand out, 0..=1.
    pub passive_excess: f64,
    /// Time over which a backend's admit share ramps up after it came back.
    pub slow_start: Duration,
    /// First hold-down, from the third down within 60 s.
    pub hold_down: Duration,
    /// Longest hold-down.
    pub hold_down_max: Duration,
    /// Checks; a backend is up when all are.
    pub checks: Vec<Check>,
    /// Backends by name, the order that the Maglev tables are built in.
    pub backends: BTreeMap<String, Backend>,
}

/// What selection does when no backend of a pool is usable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastResort {
    /// Sends to the backends as if all were up.
    Keep,
    /// Answers TCP with RST.
    Reset,
    /// Drops.
    Drop,
}

/// A server of a pool (`[[pool.backend]]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Backend {
    /// Unique in its pool.
    pub name: String,
    /// Where packets and probes go.
    pub address: IpAddr,
    /// Destination port in `nat` mode; `None` keeps the service's.
    pub port: Option<u16>,
    /// 0..=1000; 0 takes no new flows.
    pub weight: u16,
    /// Lower tiers serve first.
    pub tier: u8,
    /// Label for `--host`.
    pub host: Option<String>,
    /// Skips neighbour resolution.
    pub mac: Option<Mac>,
    /// What QUIC connection IDs call it, at most one of each length.
    pub server_ids: Vec<ServerId>,
}

/// A configuration of QUIC connection IDs (draft-ietf-quic-load-balancers-21).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CidConfig {
    /// The upper three bits of a connection ID's first octet, 0..=6.
    pub config_id: u8,
    /// Bytes of its server id, 1..=15.
    pub server_id_length: u8,
}

/// VIP, ports, protocols, and how packets are forwarded (`[[service]]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Unique, `[a-z0-9-]`.
    pub name: String,
    /// Key into [`Config::vips`].
    pub vip: String,
    /// Destination ports.
    pub ports: Ports,
    /// At least one, no duplicates.
    pub protocols: Vec<Protocol>,
    /// Key into [`Config::pools`].
    pub pool: String,
    /// How packets reach the backend.
    pub mode: Mode,
    /// Mode `nat`: what packets to backends are sent from; elsewhere empty.
    pub snat: Vec<Snat>,
    /// How a backend is picked.
    pub scheduler: Scheduler,
    /// Slots of the pool's Maglev table, a prime; `None` derives it from the number of backends.
    pub table_size: Option<u32>,
    /// What happens to known flows of a backend that goes down.
    pub on_down: OnDown,
    /// Configurations of QUIC connection IDs that datagrams go by; empty where they do not.
    pub quic: Vec<CidConfig>,
    /// Whether flows are remembered.
    pub track: bool,
    /// Idle times after which a flow entry may be reused.
    pub timeouts: Timeouts,
    /// Limit of new flows; its own, or its VIP's.
    pub new_flow_limit: Option<NewFlowLimit>,
}

/// An address that packets to backends are sent from (`snat`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Snat {
    /// The address.
    pub address: IpAddr,
    /// First and last port; all services that name the address have the same.
    pub ports: (u16, u16),
}

/// A service's destination ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ports {
    /// Every port that no other service of the VIP claims.
    Any,
    /// Inclusive ranges, sorted, disjoint; a single port is a range of one.
    Ranges(Vec<(u16, u16)>),
}

impl fmt::Display for Ports {
    /// As in the config: `any`, `80`, `80,443,8000-8100`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Ranges(ranges) = self else { return f.write_str("any") };
        for (index, (first, last)) in ranges.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            match first == last {
                true => write!(f, "{comma}{first}")?,
                false => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

/// Transport protocols that weir balances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// IP protocol 6.
    Tcp,
    /// IP protocol 17.
    Udp,
    /// IP protocol 132.
    Sctp,
}

impl Protocol {
    /// The name used in config, tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// How packets reach a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mode {
    /// MAC addresses rewritten, the packet left as it came.
    DsrL2,
    /// IP in IP, any pair of families.
    Ipip,
    /// IP in GUE in UDP, any pair of families.
    Gue,
    /// Addresses and ports rewritten in both directions, any pair of families.
    Nat,
}

impl Mode {
    /// The name used in config, tables and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::DsrL2 => "dsr-l2",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::Nat => "nat",
        }
    }

    /// As the maps have it.
    #[must_use]
    pub fn layout(self) -> lb_common::layout::Mode {
        match self {
            Self::DsrL2 => lb_common::layout::Mode::DsrL2,
            Self::Ipip => lb_common::layout::Mode::Ipip,
            Self::Gue => lb_common::layout::Mode::Gue,
            Self::Nat => lb_common::layout::Mode::Nat,
        }
    }
}

/// What happens to known flows of a backend that goes down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDown {
    /// Hard failure: selected anew; soft failure: they stay.
    Auto,
    /// Always selected anew.
    Reselect,
    /// Always stay.
    Keep,
    /// Hard failure: TCP is reset, the rest selected anew; soft failure: they stay.
    Reset,
}

/// Idle times after which a flow entry may be reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Only a SYN was seen.
    pub tcp_embryonic: Duration,
    /// An established connection (TCP and SCTP).
    pub tcp_established: Duration,
    /// After the client's FIN.
    pub tcp_closing: Duration,
    /// UDP.
    pub udp: Duration,
}
