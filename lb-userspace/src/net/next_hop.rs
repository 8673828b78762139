//! From the way a packet leaves to the frame's MACs, and the table of next hops that backends share.
//!
//! Receives the state, ways out, configured MACs and `now`; tells each next hop that changed, so that one
//! record is rewritten; keeps the last MAC when a neighbour stops answering; does no I/O.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use super::egress::Egress;
use super::snapshot::{NeighbourKey, NetState, Resolution, VlanTag};
use crate::config::model::{Config, Mac};

/// MACs from the config, which replace neighbour resolution.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// The backend's `mac`; taken whether or not it is routed.
    pub backend: Option<Mac>,
    /// `gateway_mac` of the egress interface, else the global one; taken for routed backends.
    pub gateway: Option<Mac>,
}

impl Overrides {
    /// What the config says for a backend that is reached by `egress`.
    #[must_use]
    pub fn new(config: &Config, backend_mac: Option<Mac>, egress: &Egress) -> Self {
        let interface = config.interfaces.iter().find(|interface| interface.name == egress.ifname);
        let gateway = interface.and_then(|interface| interface.gateway_mac).or(config.gateway_mac);
        Self { backend: backend_mac, gateway }
    }

    fn mac(self, egress: &Egress) -> Option<Mac> {
        self.backend.or(self.gateway.filter(|_| egress.gateway.is_some()))
    }
}

/// A next hop that frames can be sent to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// Destination MAC.
    pub dst_mac: Mac,
    /// Source MAC.
    pub src_mac: Mac,
    /// The port that frames leave by.
    pub ifindex: u32,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Tags, outermost first.
    pub vlans: Vec<VlanTag>,
    /// Where `dst_mac` comes from.
    pub origin: MacOrigin,
}

/// Where a destination MAC comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MacOrigin {
    /// The config.
    Config,
    /// The kernel's neighbour table.
    Neighbour,
    /// The kernel's neighbour table, before the neighbour stopped answering.
    LastKnown,
}

/// Whether packets can be sent to a next hop.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NextHopState {
    /// They can.
    Resolved(NextHop),
    /// They cannot yet.
    Unresolved {
        /// What is missing.
        why: Unresolved,
        /// Since when.
        since: Instant,
    },
}

/// Why a next hop has no MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    /// The link is gone.
    #[error("its interface is gone")]
    NoLink,
    /// The link carries no Ethernet frames.
    #[error("its interface is not Ethernet")]
    NotEthernet,
    /// Resolution was not started, or is not finished.
    #[error("neighbour resolution (ARP, ND) has no answer yet")]
    Waiting,
    /// The neighbour never answered.
    #[error("the neighbour does not answer ARP or ND")]
    Silent,
}

/// The next hop of `egress` as the state has it. `previous` is what this function returned before for the same
/// [`HopKey`]: its MAC is kept when the neighbour stops answering, and its `since` when nothing changed.
#[must_use]
pub fn next_hop(
    net: &NetState,
    egress: &Egress,
    overrides: Overrides,
    previous: Option<&NextHopState>,
    now: Instant,
) -> NextHopState {
    if egress.is_local() {
        let (dst_mac, src_mac) = (egress.src_mac, egress.src_mac);
        let origin = MacOrigin::Config;
        return NextHopState::Resolved(NextHop {
            dst_mac,
            src_mac,
            ifindex: 0,
            mtu: 0,
            vlans: Vec::new(),
            origin,
        });
    }
    let found = destination(net, egress, overrides).or_else(|why| match previous {
        Some(NextHopState::Resolved(hop)) if why.keeps_last() && hop.origin != MacOrigin::Config => {
            Ok((hop.dst_mac, MacOrigin::LastKnown))
        }
        _ => Err(why),
    });
    let src_mac = net.link(egress.route_ifindex).and_then(|link| link.mac);
    match found.and_then(|found| Ok((found, src_mac.ok_or(Unresolved::NotEthernet)?))) {
        Ok(((dst_mac, origin), src_mac)) => NextHopState::Resolved(NextHop {
            dst_mac,
            src_mac,
            ifindex: egress.ifindex,
            mtu: egress.mtu,
            vlans: egress.vlans.clone(),
            origin,
        }),
        Err(why) => match previous {
            Some(NextHopState::Unresolved { why: before, since }) if *before == why => {
                NextHopState::Unresolved { why, since: *since }
            }
            _ => NextHopState::Unresolved { why, since: now },
        },
    }
}

impl Unresolved {
    fn keeps_last(self) -> bool {
        matches!(self, Self::Waiting | Self::Silent)
    }
}

fn destination(
    net: &NetState,
    egress: &Egress,
    overrides: Overrides,
) -> Result<(Mac, MacOrigin), Unresolved> {
    let known = [egress.ifindex, egress.route_ifindex].iter().all(|ifindex| net.link(*ifindex).is_some());
    if !known {
        return Err(Unresolved::NoLink);
    }
    if let Some(mac) = overrides.mac(egress) {
        return Ok((mac, MacOrigin::Config));
    }
    let neighbour = net.neighbour((egress.route_ifindex, egress.next_hop_ip)).ok_or(Unresolved::Waiting)?;
    match (neighbour.resolution, neighbour.mac) {
        (Resolution::Resolved | Resolution::Permanent, Some(mac)) => Ok((mac, MacOrigin::Neighbour)),
        (Resolution::Failed, _) => Err(Unresolved::Silent),
        _ => Err(Unresolved::Waiting),
    }
}

/// What one next-hop record stands for; backends with the same key share it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HopKey {
    /// The route's link.
    pub ifindex: u32,
    /// The neighbour's address.
    pub ip: IpAddr,
    /// The MAC that the config gives.
    pub mac: Option<Mac>,
    /// Largest IP packet: routes over one router may differ.
    pub mtu: u32,
}

impl HopKey {
    /// The key of the next hop that `egress` leads to.
    #[must_use]
    pub fn new(egress: &Egress, overrides: Overrides) -> Self {
        let mac = overrides.mac(egress);
        Self { ifindex: egress.route_ifindex, ip: egress.next_hop_ip, mac, mtu: egress.mtu }
    }
}

/// A next hop that appeared, changed or is not used any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HopChange {
    /// Which one.
    pub key: HopKey,
    /// What it is; `None` when no backend uses it.
    pub to: Option<NextHopState>,
}

struct Tracked {
    egress: Egress,
    overrides: Overrides,
    state: NextHopState,
}

/// The next hops in use.
#[derive(Default)]
pub struct NextHops {
    hops: BTreeMap<HopKey, Tracked>,
}

impl NextHops {
    /// Replaces the set of ways in use, after routes were resolved anew, and tells what changed.
    pub fn replace(
        &mut self,
        net: &NetState,
        used: impl IntoIterator<Item = (Egress, Overrides)>,
        now: Instant,
    ) -> Vec<HopChange> {
        let used: BTreeMap<HopKey, (Egress, Overrides)> =
            used.into_iter().map(|way| (HopKey::new(&way.0, way.1), way)).collect();
        let mut changes = Vec::new();
        self.hops.retain(|key, _| {
            let keep = used.contains_key(key);
            if !keep {
                changes.push(HopChange { key: *key, to: None });
            }
            keep
        });
        for (key, (egress, overrides)) in used {
            let previous = self.hops.get(&key).map(|tracked| &tracked.state);
            let state = next_hop(net, &egress, overrides, previous, now);
            if previous != Some(&state) {
                changes.push(HopChange { key, to: Some(state.clone()) });
            }
            self.hops.insert(key, Tracked { egress, overrides, state });
        }
        changes
    }

    /// Looks at links and neighbours again, after an event, and tells what changed.
    pub fn refresh(&mut self, net: &NetState, now: Instant) -> Vec<HopChange> {
        let mut changes = Vec::new();
        for (&key, Tracked { egress, overrides, state }) in &mut self.hops {
            let next = next_hop(net, egress, *overrides, Some(state), now);
            if next != *state {
                changes.push(HopChange { key, to: Some(next.clone()) });
                *state = next;
            }
        }
        changes
    }

    /// The state of one next hop.
    #[must_use]
    pub fn get(&self, key: &HopKey) -> Option<&NextHopState> {
        self.hops.get(key).map(|tracked| &tracked.state)
    }

    /// All next hops in use.
    pub fn iter(&self) -> impl Iterator<Item = (&HopKey, &NextHopState)> {
        self.hops.iter().map(|(key, tracked)| (key, &tracked.state))
    }

    /// The neighbours that must be resolved: those whose MAC the config does not give.
    #[must_use]
    pub fn neighbours(&self) -> BTreeSet<NeighbourKey> {
        let unconfigured = self.hops.keys().filter(|key| key.mac.is_none() && key.ifindex != 0);
        unconfigured.map(|key| (key.ifindex, key.ip)).collect()
    }
}
