//! Follows the carrier of links, for a thread that must learn of its loss at once.
//!
//! A socket of its own, in the namespace of the thread that opened it: [`NetWatch`](super::NetWatch) follows everything,
//! this one only links, so that nothing else delays it.
#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use rtnetlink::packet_core::NetlinkPayload;
use rtnetlink::sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::decode;
use super::requests::{Requests, parse};
use super::snapshot::Change;

/// Longest datagram of notifications.
const DATAGRAM: usize = 64 * 1024;

/// Whether something is at the other end of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// There is a signal.
    Present,
    /// There is none, or the link is down or gone.
    Lost,
}

/// What the kernel says of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinkCarrier {
    /// The link.
    pub ifindex: u32,
    /// Its name; a number for a link that is gone.
    pub name: String,
    /// Its carrier.
    pub carrier: Carrier,
}

/// A socket that tells of links.
pub struct CarrierWatch {
    socket: Socket,
    requests: Requests,
    told: VecDeque<LinkCarrier>,
    buffer: Vec<u8>,
}

impl CarrierWatch {
    /// Subscribes, and reads all links.
    ///
    /// # Errors
    /// When the kernel refuses a socket or the list.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind(&SocketAddr::new(0, 0))?;
        socket.add_membership(MulticastGroup::Link as u32)?;
        socket.set_non_blocking(true)?;
        let requests = Requests::open()?;
        let mut watch =
            Self { socket, requests, told: VecDeque::new(), buffer: Vec::with_capacity(DATAGRAM) };
        watch.read_all()?;
        Ok(watch)
    }

    /// The next message, in the kernel's order; `None` when there is none at present.
    pub fn take(&mut self) -> Option<LinkCarrier> {
        while self.told.is_empty() {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => {
                    let messages = parse(&self.buffer).0;
                    let objects = messages.into_iter().filter_map(|message| match message.payload {
                        NetlinkPayload::InnerMessage(message) => Some(message),
                        _ => None,
                    });
                    self.told.extend(objects.filter_map(carrier));
                }
                // Messages were lost: what they said is in the list.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    if let Err(error) = self.read_all() {
                        tracing::warn!("read links by netlink: {error}");
                        return None;
                    }
                }
                Err(_) => return None,
            }
        }
        self.told.pop_front()
    }

    fn read_all(&mut self) -> io::Result<()> {
        let links = self.requests.dump(&RouteNetlinkMessage::GetLink(Default::default()))?;
        self.told.extend(links.into_iter().filter_map(carrier));
        Ok(())
    }
}

impl AsFd for CarrierWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// What a message says of a link's carrier.
fn carrier(message: RouteNetlinkMessage) -> Option<LinkCarrier> {
    match decode::change(message)? {
        Change::Link(link) => {
            let carrier = if link.up && link.carrier { Carrier::Present } else { Carrier::Lost };
            Some(LinkCarrier { ifindex: link.ifindex, name: link.name, carrier })
        }
        Change::LinkGone(ifindex) => {
            Some(LinkCarrier { ifindex, name: format!("interface {ifindex}"), carrier: Carrier::Lost })
        }
        _ => None,
    }
}
