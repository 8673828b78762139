//! The network state as plain data, and the changes that move it.
//!
//! Receives [`Change`]s in the kernel's order; guarantees that the same changes lead to the same state and the
//! same [`NetEvent`]s; does no I/O.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use crate::config::model::Mac;

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// The kernel's number; a re-created interface gets another one.
    pub ifindex: u32,
    /// The kernel's name; may change.
    pub name: String,
    /// Ethernet address; `None` on links without one (loopback, IP tunnels).
    pub mac: Option<Mac>,
    /// Largest IP packet, in bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Up and operational.
    pub running: bool,
    /// A signal from the other end.
    pub carrier: bool,
    /// What kind of device it is.
    pub kind: LinkKind,
    /// The bond, bridge or VRF that it is a port of.
    pub master: Option<u32>,
    /// The link below (VLAN, macvlan) or the peer (veth), where that is in the same namespace.
    pub lower: Option<u32>,
    /// XDP programs attached to it.
    pub xdp: Vec<XdpProgram>,
}

/// The kinds of link that weir treats apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// A network card's port, or a virtual machine's.
    Device,
    /// `lo`.
    Loopback,
    /// One end of a virtual cable.
    Veth,
    /// A VLAN over [`Link::lower`].
    Vlan(VlanTag),
    /// A link aggregate.
    Bond {
        /// The one port in use, where the bond's mode has one (active-backup and the like).
        active: Option<u32>,
    },
    /// A software switch.
    Bridge,
    /// Any other, by the kernel's name for it.
    Other(String),
}

/// A VLAN tag that a packet gets on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VlanTag {
    /// Tag protocol identifier: 0x8100 or 0x88a8.
    pub protocol: u16,
    /// 1..=4094.
    pub id: u16,
}

/// An XDP program on a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct XdpProgram {
    /// The kernel's program id.
    pub id: u32,
    /// Where it runs.
    pub place: XdpPlace,
}

/// Where an attached XDP program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum XdpPlace {
    /// In the driver.
    Native,
    /// On socket buffers.
    Generic,
    /// On the network card.
    Offload,
}

impl XdpPlace {
    /// The name used in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offload => "offload",
        }
    }
}

/// An address of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Address {
    /// The link that it is configured on.
    pub ifindex: u32,
    /// The address itself.
    pub ip: IpAddr,
    /// Length of its prefix, in bits.
    pub prefix: u8,
    /// Where it means something.
    pub scope: Scope,
    /// Whether packets may carry it as source.
    pub usability: Usability,
}

/// Where an address means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everywhere (or in the site).
    Global,
    /// On its link only.
    Link,
    /// Inside the host only.
    Host,
}

/// Whether an address may be a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usability {
    /// For new and old connections.
    Preferred,
    /// For old connections.
    Deprecated,
    /// Its duplicate detection runs or failed.
    Tentative,
}

/// What the kernel knows about a neighbour's MAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// The link it is a neighbour on.
    pub ifindex: u32,
    /// Its address.
    pub ip: IpAddr,
    /// Its MAC; `None` unless [`Resolution`] says that there is one.
    pub mac: Option<Mac>,
    /// How far resolution is.
    pub resolution: Resolution,
    /// Who keeps it fresh.
    pub upkeep: Upkeep,
}

/// How far a neighbour's resolution is. The kernel's reachable, stale, delay and probe are all `Resolved`: the
/// MAC is usable in each, and the kernel moves between them without always saying so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// A usable MAC.
    Resolved,
    /// A MAC set by the operator, never probed.
    Permanent,
    /// Asked, not answered yet.
    Incomplete,
    /// Asked, never answered.
    Failed,
}

/// Who keeps a neighbour fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// Nobody: it ages.
    None,
    /// The kernel, because weir asked for it.
    Weir,
    /// The kernel, because somebody else asked for it.
    Foreign,
}

/// A neighbour's key: link and address.
pub type NeighbourKey = (u32, IpAddr);

/// What a netlink message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A link is like this.
    Link(Link),
    /// A link is gone.
    LinkGone(u32),
    /// An address is like this.
    Address(Address),
    /// An address is gone: link, address, prefix length.
    AddressGone(u32, IpAddr, u8),
    /// A neighbour is like this.
    Neighbour(Neighbour),
    /// A neighbour is gone.
    NeighbourGone(NeighbourKey),
    /// Some route, routing rule or next-hop object changed.
    Routes,
}

/// The object that a [`Change`] is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Subject {
    /// A link.
    Link(u32),
    /// An address.
    Address(u32, IpAddr, u8),
    /// A neighbour.
    Neighbour(NeighbourKey),
    /// The routes as a whole.
    Routes,
}

impl Change {
    /// The object that this is about.
    #[must_use]
    pub fn subject(&self) -> Subject {
        match self {
            Self::Link(link) => Subject::Link(link.ifindex),
            Self::LinkGone(ifindex) => Subject::Link(*ifindex),
            Self::Address(address) => Subject::Address(address.ifindex, address.ip, address.prefix),
            Self::AddressGone(ifindex, ip, prefix) => Subject::Address(*ifindex, *ip, *prefix),
            Self::Neighbour(neighbour) => Subject::Neighbour((neighbour.ifindex, neighbour.ip)),
            Self::NeighbourGone(key) => Subject::Neighbour(*key),
            Self::Routes => Subject::Routes,
        }
    }
}

/// Something that changed, told to the daemon. The state already includes it when the event is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetEvent {
    /// A link appeared, or came back under a new ifindex.
    LinkAppeared {
        /// Its number.
        ifindex: u32,
        /// Its name.
        name: String,
    },
    /// A link is gone, with its addresses and neighbours.
    LinkVanished {
        /// The number it had.
        ifindex: u32,
        /// The name it had.
        name: String,
    },
    /// A link has another name.
    LinkRenamed {
        /// Its number.
        ifindex: u32,
        /// The name it had.
        from: String,
        /// The name it has.
        to: String,
    },
    /// The other end went silent, or the link was set down.
    CarrierLost {
        /// The link's number.
        ifindex: u32,
        /// The link's name.
        name: String,
    },
    /// The other end is back.
    CarrierGained {
        /// The link's number.
        ifindex: u32,
        /// The link's name.
        name: String,
    },
    /// MAC, MTU, master, kind, administrative state or XDP programs of a link changed.
    LinkChanged {
        /// The link's number.
        ifindex: u32,
    },
    /// The host has another address, or one changed its usability.
    AddressChanged {
        /// The link's number.
        ifindex: u32,
        /// The address.
        ip: IpAddr,
    },
    /// The host lost an address.
    AddressGone {
        /// The link's number.
        ifindex: u32,
        /// The address.
        ip: IpAddr,
    },
    /// A neighbour's MAC or resolution changed, or its entry is gone.
    NeighbourChanged {
        /// The link's number.
        ifindex: u32,
        /// The neighbour's address.
        ip: IpAddr,
    },
    /// Routes may lead elsewhere: a route, rule, address, or a link's usability changed.
    RoutesChanged,
    /// A full resync found differences that no event had told; each was also told as an event of its own.
    Repaired {
        /// The number of objects that differed.
        objects: usize,
    },
}

/// Links, addresses and neighbours of one network namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NetState {
    links: BTreeMap<u32, Link>,
    addresses: BTreeMap<(u32, IpAddr, u8), Address>,
    neighbours: BTreeMap<NeighbourKey, Neighbour>,
}

impl NetState {
    /// All links by ifindex.
    pub fn links(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }

    /// The link with this number.
    #[must_use]
    pub fn link(&self, ifindex: u32) -> Option<&Link> {
        self.links.get(&ifindex)
    }

    /// The link with this name.
    #[must_use]
    pub fn link_named(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// All addresses of the host, `lo`'s included.
    pub fn addresses(&self) -> impl Iterator<Item = &Address> {
        self.addresses.values()
    }

    /// All neighbours.
    pub fn neighbours(&self) -> impl Iterator<Item = &Neighbour> {
        self.neighbours.values()
    }

    /// The neighbour with this address on this link.
    #[must_use]
    pub fn neighbour(&self, key: NeighbourKey) -> Option<&Neighbour> {
        self.neighbours.get(&key)
    }

    /// Applies one change and tells what it means; a change that changes nothing tells nothing.
    pub fn apply(&mut self, change: Change) -> Vec<NetEvent> {
        match change {
            Change::Link(link) => self.apply_link(link),
            Change::LinkGone(ifindex) => self.remove_link(ifindex),
            Change::Address(address) => {
                let key = (address.ifindex, address.ip, address.prefix);
                if self.addresses.insert(key, address) == Some(address) {
                    return Vec::new();
                }
                let event = NetEvent::AddressChanged { ifindex: address.ifindex, ip: address.ip };
                vec![event, NetEvent::RoutesChanged]
            }
            Change::AddressGone(ifindex, ip, prefix) => match self.addresses.remove(&(ifindex, ip, prefix)) {
                Some(_) => vec![NetEvent::AddressGone { ifindex, ip }, NetEvent::RoutesChanged],
                None => Vec::new(),
            },
            Change::Neighbour(neighbour) => {
                let (ifindex, ip) = (neighbour.ifindex, neighbour.ip);
                match self.neighbours.insert((ifindex, ip), neighbour) == Some(neighbour) {
                    true => Vec::new(),
                    false => vec![NetEvent::NeighbourChanged { ifindex, ip }],
                }
            }
            Change::NeighbourGone((ifindex, ip)) => match self.neighbours.remove(&(ifindex, ip)) {
                Some(_) => vec![NetEvent::NeighbourChanged { ifindex, ip }],
                None => Vec::new(),
            },
            Change::Routes => vec![NetEvent::RoutesChanged],
        }
    }

    fn apply_link(&mut self, link: Link) -> Vec<NetEvent> {
        let (ifindex, name) = (link.ifindex, link.name.clone());
        let Some(old) = self.links.insert(ifindex, link.clone()) else {
            return vec![NetEvent::LinkAppeared { ifindex, name }, NetEvent::RoutesChanged];
        };
        let mut events = Vec::new();
        if old.name != name {
            events.push(NetEvent::LinkRenamed { ifindex, from: old.name.clone(), to: name.clone() });
        }
        match (old.carrier, link.carrier) {
            (true, false) => events.push(NetEvent::CarrierLost { ifindex, name }),
            (false, true) => events.push(NetEvent::CarrierGained { ifindex, name }),
            _ => {}
        }
        let told =
            Link { name: old.name.clone(), carrier: old.carrier, running: old.running, ..link.clone() };
        if told != old {
            events.push(NetEvent::LinkChanged { ifindex });
        }
        // IPv4 routes that a link's going down removes are not announced by themselves.
        // Ways over a bond follow its ports.
        let usable =
            |link: &Link| (link.up, link.running, link.carrier, link.mtu, link.master, link.kind.clone());
        if usable(&old) != usable(&link) {
            events.push(NetEvent::RoutesChanged);
        }
        events
    }

    fn remove_link(&mut self, ifindex: u32) -> Vec<NetEvent> {
        let Some(link) = self.links.remove(&ifindex) else { return Vec::new() };
        let mut events = vec![NetEvent::LinkVanished { ifindex, name: link.name }];
        let gone: Vec<_> = self.addresses.keys().filter(|key| key.0 == ifindex).copied().collect();
        for key in gone {
            self.addresses.remove(&key);
            events.push(NetEvent::AddressGone { ifindex, ip: key.1 });
        }
        self.neighbours.retain(|key, _| key.0 != ifindex);
        events.push(NetEvent::RoutesChanged);
        events
    }

    /// Makes the state equal to a full dump, except for the subjects in `newer`, about which a change arrived
    /// while the dump was taken. Returns the events, and the subjects that differed.
    pub fn reconcile(
        &mut self,
        dump: Vec<Change>,
        newer: &HashSet<Subject>,
    ) -> (Vec<NetEvent>, Vec<Subject>) {
        let present: BTreeSet<Subject> = dump.iter().map(Change::subject).collect();
        let gone = self.subjects().into_iter().filter(|subject| !present.contains(subject));
        let removals: Vec<Change> = gone
            .filter_map(|subject| match subject {
                Subject::Link(ifindex) => Some(Change::LinkGone(ifindex)),
                Subject::Address(ifindex, ip, prefix) => Some(Change::AddressGone(ifindex, ip, prefix)),
                Subject::Neighbour(key) => Some(Change::NeighbourGone(key)),
                Subject::Routes => None,
            })
            .collect();
        let mut events = Vec::new();
        let mut repaired = Vec::new();
        for change in removals.into_iter().chain(dump) {
            let subject = change.subject();
            if newer.contains(&subject) {
                continue;
            }
            let before = self.mac_of(subject);
            let told = self.apply(change);
            // The kernel does not announce every neighbour entry that has no MAC (yet, or any more).
            let silent = matches!(subject, Subject::Neighbour(_)) && before == self.mac_of(subject);
            if !told.is_empty() && !silent {
                repaired.push(subject);
            }
            events.extend(told);
        }
        (events, repaired)
    }

    fn mac_of(&self, subject: Subject) -> Option<Mac> {
        let Subject::Neighbour(key) = subject else { return None };
        self.neighbours.get(&key)?.mac
    }

    fn subjects(&self) -> Vec<Subject> {
        let links = self.links.keys().map(|ifindex| Subject::Link(*ifindex));
        let addresses = self.addresses.keys().map(|key| Subject::Address(key.0, key.1, key.2));
        links.chain(addresses).chain(self.neighbours.keys().map(|key| Subject::Neighbour(*key))).collect()
    }
}
