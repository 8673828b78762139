//! Has the kernel resolve the neighbours in use and keep them fresh.
//!
//! XDP forwards past the kernel's stack, so nothing else would ever ask for them. Since Linux 5.16 a *managed*
//! entry (`NTF_EXT_MANAGED`) is probed by the kernel itself, also while the daemon is away. The same request
//! carries `NTF_USE`, which asks once: all that an older kernel does, where [`NeighbourKeeper::keep`] has to be
//! called every few seconds. Never touches entries that the operator set (making one managed would clear its
//! `permanent`), nor those that somebody else manages.
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
use super::requests::Requests;
use super::snapshot::{NeighbourKey, NetState, Resolution, Upkeep};

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
        Ok(Self { requests: Requests::open()?, ours })
    }

    /// Asks for the `wanted` neighbours that nobody keeps fresh yet, and ends the upkeep of those that are
    /// wanted no longer. Repeat it after link and neighbour events: the kernel forgets entries when a carrier
    /// is lost. Returns those that the kernel refused; they are tried again the next time.
    ///
    /// # Errors
    /// When the netlink socket fails as a whole.
    pub fn keep(&mut self, net: &NetState, wanted: &BTreeSet<NeighbourKey>) -> io::Result<Vec<KeepError>> {
        self.end_upkeep(net, wanted)?;
        let missing: Vec<_> = wanted.iter().filter(|key| needs_asking(net, **key)).copied().collect();
        let requests = missing.iter().map(|key| request(*key, Wish::Keep));
        let answers = self.requests.exchange(requests, NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE)?;
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

    /// Ends the upkeep of all entries that weir asked for; they stay in the kernel's table and age there.
    ///
    /// # Errors
    /// When the netlink socket fails as a whole.
    pub fn release_all(&mut self, net: &NetState) -> io::Result<()> {
        self.end_upkeep(net, &BTreeSet::new())
    }

    fn end_upkeep(&mut self, net: &NetState, wanted: &BTreeSet<NeighbourKey>) -> io::Result<()> {
        let permanent =
            |key: &NeighbourKey| net.neighbour(*key).is_some_and(|it| it.resolution == Resolution::Permanent);
        let surplus: Vec<_> = self.ours.difference(wanted).copied().filter(|key| !permanent(key)).collect();
        // A request without the managed flag clears it; without NLM_F_CREATE it makes no new entry. An entry or
        // link that is gone needs nothing, so the answers do not matter.
        let requests = surplus.iter().map(|key| request(*key, Wish::LetGo));
        self.requests.exchange(requests, NLM_F_ACK | NLM_F_REPLACE)?;
        self.ours.retain(|key| wanted.contains(key));
        Ok(())
    }
}

fn needs_asking(net: &NetState, key: NeighbourKey) -> bool {
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

#[derive(Clone, Copy, PartialEq)]
enum Wish {
    Keep,
    LetGo,
}

fn request((ifindex, ip): NeighbourKey, wish: Wish) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header = NeighbourHeader {
        family: if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 },
        ifindex,
        state: NeighbourState::None,
        // Without it, a request would set the entry's state rather than leave it.
        flags: NeighbourFlags::Use,
        ..NeighbourHeader::default()
    };
    message.attributes = vec![NeighbourAttribute::Destination(ip.into())];
    if wish == Wish::Keep {
        message.attributes.push(NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed));
        message.attributes.push(NeighbourAttribute::Protocol(OWNER));
    }
    RouteNetlinkMessage::NewNeighbour(message)
}
