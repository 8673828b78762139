//! Has the kernel resolve the neighbours in use and keep them fresh.
//!
//! XDP forwards past the kernel's stack, so nothing else would ever ask for them. Since Linux 5.16 a *managed*
//! entry (`NTF_EXT_MANAGED`) is probed by the kernel itself, also while the daemon is away; before, `NTF_USE`
//! asks once and has to be repeated. Never touches entries that the operator set (making one managed would
//! clear its `permanent`), nor those that somebody else manages.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;

use netlink_packet_route::neighbour::{
    NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourHeader, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE};

use super::decode::OWNER;
use super::requests::{Answer, Requests};
use super::snapshot::{NeighbourKey, NetState, Resolution, Upkeep};

/// How the kernel is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// By managed entries.
    Managed,
    /// By single requests, which [`NeighbourKeeper::keep`] repeats: call it every few seconds.
    Repeated,
}

/// A neighbour that the kernel would not resolve.
#[derive(Debug, thiserror::Error)]
#[error("resolve neighbour {ip} on interface {ifindex}: {cause}")]
pub struct KeepError {
    /// The link.
    pub ifindex: u32,
    /// The neighbour's address.
    pub ip: IpAddr,
    /// The kernel's answer.
    pub cause: io::Error,
}

/// Keeps neighbours resolved, in the namespace of the thread that opened it.
pub struct NeighbourKeeper {
    requests: Requests,
    means: Means,
    ours: BTreeSet<NeighbourKey>,
}

impl NeighbourKeeper {
    /// Opens the socket and takes over the entries that an earlier daemon asked for.
    ///
    /// # Errors
    /// When the kernel refuses a netlink socket.
    pub fn open(net: &NetState) -> io::Result<Self> {
        let ours = net.neighbours().filter(|neighbour| neighbour.upkeep == Upkeep::Weir);
        let ours = ours.map(|neighbour| (neighbour.ifindex, neighbour.ip)).collect();
        Ok(Self { requests: Requests::open()?, means: Means::Managed, ours })
    }

    /// How the kernel is asked; known for sure after the first [`NeighbourKeeper::keep`].
    #[must_use]
    pub fn means(&self) -> Means {
        self.means
    }

    /// Asks for the `wanted` neighbours that nobody keeps fresh yet, and ends the upkeep of those that are
    /// wanted no longer. Repeat it after link and neighbour events: the kernel forgets entries when a carrier
    /// is lost. Returns those that the kernel refused; they are tried again the next time.
    ///
    /// # Errors
    /// When the netlink socket fails as a whole.
    pub fn keep(&mut self, net: &NetState, wanted: &BTreeSet<NeighbourKey>) -> io::Result<Vec<KeepError>> {
        let surplus: BTreeSet<_> = self.ours.difference(wanted).copied().collect();
        self.end_upkeep(&surplus)?;
        let missing: Vec<_> = wanted.iter().filter(|key| self.needs_asking(net, **key)).copied().collect();
        let mut answers = self.ask(&missing)?;
        let unsupported =
            |answer: &Answer| matches!(answer, Err(e) if e.raw_os_error() == Some(libc::EOPNOTSUPP));
        if self.means == Means::Managed && answers.iter().any(unsupported) {
            self.means = Means::Repeated;
            answers = self.ask(&missing)?;
        }
        let mut refused = Vec::new();
        for ((ifindex, ip), answer) in missing.into_iter().zip(answers) {
            match answer {
                Ok(_) => {
                    self.ours.insert((ifindex, ip));
                }
                Err(cause) => refused.push(KeepError { ifindex, ip, cause }),
            }
        }
        Ok(refused)
    }

    fn needs_asking(&self, net: &NetState, key: NeighbourKey) -> bool {
        // Asking for a neighbour on a link that is down is an error each time.
        if !net.link(key.0).is_some_and(|link| link.up) {
            return false;
        }
        match net.neighbour(key) {
            None => true,
            Some(neighbour) if neighbour.resolution == Resolution::Permanent => false,
            Some(neighbour) => neighbour.upkeep == Upkeep::None,
        }
    }

    /// Ends the upkeep of all entries that weir asked for; they stay in the kernel's table and age there.
    ///
    /// # Errors
    /// When the netlink socket fails as a whole.
    pub fn release_all(&mut self) -> io::Result<()> {
        self.end_upkeep(&self.ours.clone())
    }

    fn ask(&mut self, neighbours: &[NeighbourKey]) -> io::Result<Vec<Answer>> {
        let means = self.means;
        let requests = neighbours.iter().map(|key| request(*key, means));
        self.requests.exchange(requests, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)
    }

    fn end_upkeep(&mut self, neighbours: &BTreeSet<NeighbourKey>) -> io::Result<()> {
        // A request without the managed flag clears it; without NLM_F_CREATE it makes no new entry. An entry or
        // link that is gone needs nothing, so the answers do not matter.
        let requests = neighbours.iter().map(|key| request(*key, Means::Repeated));
        self.requests.exchange(requests, NLM_F_ACK | NLM_F_REPLACE)?;
        self.ours.retain(|key| !neighbours.contains(key));
        Ok(())
    }
}

fn request((ifindex, ip): NeighbourKey, means: Means) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader {
        family: if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 },
        ifindex,
        state: NeighbourState::None,
        flags: match means {
            Means::Managed => NeighbourFlags::empty(),
            Means::Repeated => NeighbourFlags::Use,
        },
        ..NeighbourHeader::default()
    };
    message.attributes = vec![NeighbourAttribute::Destination(ip.into())];
    if means == Means::Managed {
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        message.attributes.push(NeighbourAttribute::Protocol(OWNER));
    }
    RouteNetlinkMessage::NewNeighbour(message)
}
