//! What else than checks says that backends cannot be reached: links without a carrier, and [`hearsay`].
//!
//! [`hearsay`]: crate::health::hearsay

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::{Board, StreamId};
use crate::config::model::Through;
use crate::health::command::Targets;
use crate::health::event::Evidence;
use crate::health::hearsay::{Complaint, Turned};
use crate::health::machine::Finding;
use crate::health::time::Moment;
use crate::net::carrier::{Carrier, LinkCarrier};

/// What weir sends to a backend inside tunnels; an error that quotes something else is none about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnelled {
    /// Sources of the outer header.
    pub source: IpNet,
    /// Destination port in `gue` mode.
    pub gue_port: u16,
    /// Destinations of the packets inside.
    pub vips: BTreeSet<IpAddr>,
}

/// Ways to the backends, and the links among them that are cut.
#[derive(Debug, Default)]
pub(super) struct Ways {
    /// Where backends are.
    addresses: HashSet<IpAddr>,
    /// The link that the route to an address names.
    links: HashMap<IpAddr, u32>,
    tunnels: HashMap<IpAddr, Tunnelled>,
    /// Names of the links without a carrier, and since when.
    lost: HashMap<u32, (String, Moment)>,
}

impl Ways {
    /// Takes the ways of an update. The way to an address that has none at present stays: losing a link often takes its
    /// routes along.
    fn follow(&mut self, targets: &Targets) {
        let backends = targets.pools.values().flat_map(|pool| pool.backends.values());
        self.addresses = backends.map(|backend| backend.address).collect();
        self.links.retain(|address, _| self.addresses.contains(address));
        self.links.extend(&targets.ways);
        self.tunnels.clone_from(&targets.tunnels);
    }

    /// The link that cuts an address off, and since when.
    pub(super) fn cut(&self, address: IpAddr) -> Option<(&str, Moment)> {
        if self.lost.is_empty() {
            return None;
        }
        let (name, since) = self.lost.get(self.links.get(&address)?)?;
        Some((name, *since))
    }
}

/// What else than its checks speaks against a backend.
pub(super) struct Objection {
    /// In words.
    pub(super) text: String,
    since: Moment,
}

impl Objection {
    /// Evidence for a decision that rests on it.
    pub(super) fn evidence(self, now: Moment) -> Evidence {
        Evidence {
            check: self.text,
            signal_at: self.since,
            decided_at: now,
            probes: vec![],
            unanswered: vec![],
        }
    }
}

impl Board {
    /// Takes the ways of an update.
    pub(super) fn follow_ways(&mut self, targets: &Targets) {
        self.ways.follow(targets);
        let Self { hearsay, ways, .. } = self;
        hearsay.retain(|about| ways.addresses.contains(&about));
    }

    /// Notes a link's carrier. All backends behind a link that lost it are taken out together.
    pub(in crate::health) fn set_carrier(&mut self, link: LinkCarrier, now: Moment) {
        let LinkCarrier { ifindex, name, carrier } = link;
        let known = self.ways.lost.contains_key(&ifindex);
        match carrier {
            Carrier::Lost if !known => drop(self.ways.lost.insert(ifindex, (name, now))),
            Carrier::Present if known => drop(self.ways.lost.remove(&ifindex)),
            Carrier::Lost | Carrier::Present => return,
        }
        for (pool, member) in self.all_members() {
            let address = self.pools[pool].members[member].address;
            if self.ways.links.get(&address) != Some(&ifindex) {
                continue;
            }
            let Some(finding) = self.finding(pool, member) else { continue };
            if let Some(change) = self.pools[pool].members[member].machine.on_finding(finding, now) {
                self.note(pool, member, change, None, now);
                self.schedule(pool, member, now);
            }
        }
        self.flush(now);
    }

    /// Whether weir sends such packets to a backend: from this outer source, to this port where they are inside UDP,
    /// for this VIP.
    pub(in crate::health) fn tunnels(
        &self,
        to: IpAddr,
        source: IpAddr,
        port: Option<u16>,
        vip: IpAddr,
    ) -> bool {
        self.ways.tunnels.get(&to).is_some_and(|tunnelled| {
            tunnelled.source.contains(&source)
                && port.is_none_or(|port| port == tunnelled.gue_port)
                && tunnelled.vips.contains(&vip)
        })
    }

    /// Takes what somebody says of a backend's address.
    pub(in crate::health) fn complained(&mut self, about: IpAddr, complaint: Complaint, now: Moment) {
        if self.ways.addresses.contains(&about) && self.hearsay.take(about, complaint, now) == Turned::Yes {
            let streams = self.members_at(about).into_iter().flat_map(|(pool, member)| {
                let member = &self.pools[pool].members[member];
                member.streams.clone()
            });
            let streams: BTreeSet<StreamId> = streams.collect();
            self.urgent.extend(streams);
            self.reconsider_address(about, now);
        }
    }

    /// Lets the answer to a stream's probe refute what is said.
    pub(super) fn refute(&mut self, id: StreamId, now: Moment) {
        if self.hearsay.is_empty() {
            return;
        }
        let Some(stream) = self.stream(id) else { return };
        let Some(sent_at) = stream.judge.last_answered() else { return };
        let about = stream.address;
        let through = if stream.check.inside.is_some() { Through::Tunnel } else { Through::Direct };
        if self.hearsay.answered(about, through, sent_at, now) == Turned::Yes {
            self.reconsider_address(about, now);
        }
    }

    /// Forgets what was said long ago.
    pub(super) fn expire_hearsay(&mut self, now: Moment) {
        if self.hearsay.next_deadline().is_some_and(|at| at <= now) {
            for address in self.hearsay.expire(now) {
                self.reconsider_address(address, now);
            }
        }
    }

    fn reconsider_address(&mut self, address: IpAddr, now: Moment) {
        for (pool, member) in self.members_at(address) {
            self.reconsider(pool, member, now);
        }
    }

    fn members_at(&self, address: IpAddr) -> Vec<(usize, usize)> {
        let at = |(pool, member): &(usize, usize)| self.pools[*pool].members[*member].address == address;
        self.all_members().into_iter().filter(at).collect()
    }

    /// What decides about a backend, where its checks do not.
    pub(super) fn objection(&self, pool: usize, member: usize) -> Option<Objection> {
        let member = &self.pools[pool].members[member];
        if let Some((link, since)) = self.ways.cut(member.address) {
            return Some(Objection { text: format!("no carrier on {link}"), since });
        }
        let (text, since) = self.hearsay.doubt(member.address)?;
        let mut streams = member.streams.iter().filter_map(|id| self.stream(*id));
        let told = |finding: Finding| finding.gravity() >= Finding::Doubtful.gravity();
        if streams.any(|stream| told(stream.judge.finding())) {
            return None;
        }
        Some(Objection { text, since })
    }
}
