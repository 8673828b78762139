//! ICMP and ICMPv6 to a VIP: errors go to the backend of the flow that they are about, echo requests are answered.
//!
//! Receives what other stages left as [`Reason::Icmp`]. An error goes on whole, as any packet of its flow would, and
//! leaves the flow table as it is: nobody but a flow's own packets enters, refreshes or ends it. A VIP's lists judge it
//! by the flow's client, whoever sent it: a client that is let in needs the errors of routers that are not.

use super::filter::{self, Look};
use super::ip::{Ip, Payload};
use super::link::Back;
use super::parse::{Parsed, Walk};
use super::{Outcome, send, steer};
use crate::forward::Egress;
use crate::packet::Packet;
use crate::reason::Reason;
use crate::service;
use crate::tables::Tables;
use crate::trace::Mark;
use crate::wire::{Icmp, Message, Ports, checksum};

/// Bit of a VIP's flags: echo requests are answered.
const ECHO: u64 = 1;

/// A message for a VIP, at `offset` in the frame; it ends with its IP packet at `end`.
pub(super) struct Found<A> {
    pub(super) source: A,
    /// The address of the VIP.
    pub(super) destination: A,
    pub(super) vip: u32,
    pub(super) traffic_class: u8,
    pub(super) length: u32,
    pub(super) offset: usize,
    pub(super) end: usize,
}

/// Takes the ICMP message in the IP packet that starts at `at`.
#[inline(always)]
pub(super) fn icmp<const W: usize, I: Ip<W>, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    at: usize,
    bytes: u64,
) -> Result<Outcome, Reason> {
    let (found, message) = message::<W, I, P, T>(packet, tables, at)?;
    if matches!(message, Message::EchoRequest | Message::Other) {
        filter::check::<W, I, T>(tables, found.vip, found.source, Look::Whole)?;
    }
    match message {
        Message::EchoRequest => echo::<W, I, P, T>(packet, tables, at, &found, bytes),
        Message::Error => error::<W, I, P, T>(packet, tables, at, &found, bytes),
        Message::Neighbour => Err(Reason::Icmp),
        Message::Other => Err(by_policy(tables, found.vip, Reason::UnmatchedDrop)),
    }
}

/// Finds the message in the IP packet that starts at `at`.
#[inline(always)]
pub(super) fn message<const W: usize, I: Ip<W>, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    at: usize,
) -> Result<(Found<I::Address>, Message), Reason> {
    let network = I::read(packet, at).ok_or(Reason::Truncated)?;
    let vip = I::vip(tables, network.destination).ok_or(Reason::NotVip)?;
    tables.trace(Mark::Vip, vip, 0);
    let end = at + network.length as usize;
    if !network.sound || end > packet.length() {
        return Err(Reason::Malformed);
    }
    if network.ttl == 0 {
        return Err(Reason::TtlExpired);
    }
    let Payload::Icmp(offset) = I::payload(packet, &network, at, Walk::All)? else {
        return Err(Reason::Inconsistent);
    };
    if offset + size_of::<Icmp>() > end {
        return Err(Reason::Malformed);
    }
    let header: &Icmp = packet.header(offset).ok_or(Reason::Malformed)?;
    let found = Found {
        source: network.source,
        destination: network.destination,
        vip,
        traffic_class: network.traffic_class,
        length: network.length,
        offset,
        end,
    };
    Ok((found, I::message(header.kind)))
}

/// What is not weir's passes where the VIP's policy is to pass; nothing is ever answered to it.
#[inline(always)]
pub(super) fn by_policy<T: Tables>(tables: &T, vip: u32, otherwise: Reason) -> Reason {
    match service::unmatched_protocol(tables, vip) {
        Reason::UnmatchedPass => Reason::Icmp,
        Reason::Inconsistent => Reason::Inconsistent,
        _ => otherwise,
    }
}

/// Turns an echo request into its reply: types, addresses and hop count change, and the checksums by what changed, so
/// that a request damaged on the way makes a reply that is known for damaged.
///
/// Not limited: a reply is as long as its request and costs less than forwarding it.
#[inline(always)]
fn echo<const W: usize, I: Ip<W>, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    at: usize,
    found: &Found<I::Address>,
    bytes: u64,
) -> Result<Outcome, Reason> {
    let vip = tables.vip(found.vip).ok_or(Reason::Inconsistent)?;
    if vip.flags.get() & ECHO == 0 {
        // What else a `snat` address is asked is not for weir where the host has it too.
        let otherwise =
            if vip.snat.get() == 0 { Reason::EchoOff } else { by_policy(tables, found.vip, Reason::EchoOff) };
        return Err(otherwise);
    }
    let back = Back::of(packet, at)?;
    if found.offset != at + I::HEADER || !I::is_host(found.source) {
        return Err(Reason::Unanswerable);
    }
    let header: &mut Icmp = packet.header_mut(at + I::HEADER).ok_or(Reason::Inconsistent)?;
    let old = u16::from_be_bytes([header.kind, header.code]);
    let new = u16::from_be_bytes([I::ECHO_REPLY, header.code]);
    header.checksum = checksum::never_zero(checksum::update(header.checksum, old, new));
    header.kind = I::ECHO_REPLY;
    I::turn_back(packet, at)?;
    back.write(packet, I::ETHERTYPE)?;
    if T::WRITES {
        tables.count(Reason::EchoAnswered, bytes);
    }
    tables.trace(Mark::Left, Reason::EchoAnswered as u32, 0);
    Ok(Outcome { reason: Reason::EchoAnswered, egress: Egress::BACK })
}

/// Sends an error to the backend of the flow whose packet it quotes.
///
/// The quote is of a backend's packet to the client, sent from the VIP: turned round it names the flow. Its ports are
/// enough, which is what eight bytes hold; its flags are never looked at.
#[inline(always)]
fn error<const W: usize, I: Ip<W>, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    at: usize,
    found: &Found<I::Address>,
    bytes: u64,
) -> Result<Outcome, Reason> {
    let Some(flow) = quoted::<W, I, P>(packet, found) else {
        return Err(by_policy(tables, found.vip, Reason::IcmpErrorUnmatched));
    };
    let flow = flow.laundered(tables.scratch().ok_or(Reason::Inconsistent)?)?;
    let mut steered = match steer::look_up::<W, I, T>(tables, &flow) {
        Ok(steered) => steered,
        Err(Reason::UnmatchedPass) => return Err(Reason::Icmp),
        Err(Reason::UnmatchedDrop | Reason::UnmatchedReject) => return Err(Reason::IcmpErrorUnmatched),
        Err(Reason::NoBackendReset) => return Err(Reason::NoBackend),
        Err(reason) => return Err(reason),
    };
    steered.reason = Reason::IcmpError;
    send(packet, tables, at, &steered, bytes)
}

/// A packet of the flow that the error is about, in the client's direction; `None` where the error quotes none that the
/// VIP can have sent.
#[inline(always)]
pub(super) fn quoted<const W: usize, I: Ip<W>, P: Packet>(
    packet: &P,
    found: &Found<I::Address>,
) -> Option<Parsed<I::Address>> {
    let at = found.offset + size_of::<Icmp>();
    let network = I::read(packet, at)?;
    if !network.sound || network.source != found.destination {
        return None;
    }
    let (protocol, offset) = I::quoted(packet, &network, at)?;
    if offset + size_of::<Ports>() > found.end {
        return None;
    }
    let ports: &Ports = packet.header(offset)?;
    let (source, destination) = ports.both();
    Some(Parsed {
        source: network.destination,
        destination: found.destination,
        vip: found.vip,
        protocol,
        ports: (destination, source),
        segment: protocol.steady(),
        traffic_class: found.traffic_class,
        length: found.length,
        transport: offset,
    })
}
