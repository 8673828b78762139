//! From a packet to a `snat` address to the flow that has its port, and on to the client.

use super::translate::{Ends, Moving, Side};
use super::{address, launder, mss, rewrite};
use crate::flow::{Class, Code, Meta};
use crate::forward;
use crate::layout::{
    Backend, EgressWord, HandshakeStep, HotWord, NatAddress, NatPort, NatRange, TimeoutsWord,
};
use crate::nat::{self, Held, Return};
use crate::packet::Packet;
use crate::pipeline::Outcome;
use crate::pipeline::filter::Look;
use crate::pipeline::ip::{V4, V6};
use crate::pipeline::parse::{self, Parsed, Walk};
use crate::reason::Reason;
use crate::service;
use crate::tables::Tables;
use crate::trace::Mark;
use crate::wire::{Protocol, Segment, TcpFlags, TcpStart};

/// The flow that has a port of a `snat` address.
pub(super) struct Owned<'a> {
    pub(super) record: &'a NatPort,
    pub(super) held: Held,
    pub(super) address: &'a NatAddress,
    pub(super) backend: &'a Backend,
}

/// Number of the record of a port, and its address, where a VIP is a `snat` address with that port.
#[inline(always)]
pub(in crate::pipeline) fn record_of<T: Tables>(
    tables: &T,
    vip: u32,
    protocol: Protocol,
    port: u16,
) -> Option<(u32, &NatAddress)> {
    let id = tables.vip(vip)?.snat.get() as u32;
    let address = if id == 0 { None } else { tables.nat_address(id) }?;
    let number = NatRange(address.range.get()).record_of(protocol, port)?;
    Some((number, address))
}

/// The flow that has a port, where `peer` is its backend's end.
#[inline(always)]
pub(super) fn owner<'a, const W: usize, I: Side<W>, T: Tables>(
    tables: &'a T,
    vip: u32,
    protocol: Protocol,
    port: u16,
    (peer, peer_port): (I::Address, u16),
) -> Option<Owned<'a>> {
    let (number, address) = record_of(tables, vip, protocol, port)?;
    let record = tables.nat_port(number)?;
    let held = nat::read(record)?;
    let backend = tables.backend(held.backend())?;
    let egress = EgressWord(backend.egress.get());
    let hot = HotWord(backend.hot.get());
    let same_backend = hot.generation() == held.meta().generation()
        && egress.family() == I::FAMILY
        && I::of_bytes(&backend.address) == peer
        && held.owner.backend_port == peer_port;
    if !same_backend {
        return None;
    }
    tables.trace(Mark::NatPort, port as u32, held.owner.snat as u64 | (number as u64) << 32);
    tables.trace(Mark::Service, held.owner.service as u32, service_word(tables, held.owner.service));
    tables.trace(Mark::Found, held.backend(), held.meta().0 as u64);
    tables.trace(Mark::Selected, held.backend(), hot.0);
    Some(Owned { record, held, address, backend })
}

/// The rules of a service, for explanations; 0 where it is gone.
#[inline(always)]
fn service_word<T: Tables>(tables: &T, service: u16) -> u64 {
    tables.service(service as u32).map_or(0, |service| service.forward.get())
}

/// Sends a packet to a `snat` address, which starts at `at`, to the client of the flow that has its port. Any other leaves
/// by the address's policy.
#[inline(always)]
pub(in crate::pipeline) fn reply<const W: usize, I: Side<W>, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    at: usize,
    bytes: u64,
) -> Result<Outcome, Reason> {
    let scratch = tables.scratch().ok_or(Reason::Inconsistent)?;
    let mut parsed = parse::parse::<W, I, P, T>(packet, tables, at, (Walk::All, Look::Front))?;
    parsed.transport = launder(scratch, parsed.transport);
    let peer = (parsed.source, parsed.ports.0);
    let Some(owned) = owner::<W, I, T>(tables, parsed.vip, parsed.protocol, parsed.ports.1, peer) else {
        return Err(service::unmatched_protocol(tables, parsed.vip));
    };
    let flags = match parsed.protocol {
        Protocol::Tcp => packet.header::<TcpStart>(parsed.transport).ok_or(Reason::Malformed)?.flags,
        _ => 0,
    };
    if T::WRITES {
        refresh(tables, &owned, parsed.segment, flags);
    }
    let mss = offered::<W, I, T>(tables, &owned, flags);
    let back = Return::of(owned.record);
    if owned.held.owner.v6 {
        leave::<W, I, 3, V6, P, T>(packet, tables, at, &parsed, &owned, &back, mss)?;
    } else {
        leave::<W, I, 1, V4, P, T>(packet, tables, at, &parsed, &owned, &back, mss)?;
    }
    let egress = packet.leave_by(back.port).map_err(|_| Reason::NoTxPort)?;
    if T::WRITES {
        tables.count(Reason::NatReply, bytes);
    }
    tables.trace(Mark::Left, Reason::NatReply as u32, back.port as u64);
    Ok(Outcome { reason: Reason::NatReply, egress })
}

/// Makes the frame one to the client, of its family.
#[inline(always)]
fn leave<const W: usize, I: Side<W>, const V: usize, O: Side<V>, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    at: usize,
    parsed: &Parsed<I::Address>,
    owned: &Owned<'_>,
    back: &Return,
    mss: Option<u16>,
) -> Result<(), Reason> {
    let (flow, owner) = (&owned.held.flow, &owned.held.owner);
    let new = Ends {
        source: O::of_halves(owner.vip),
        destination: O::of_halves(flow.client),
        ports: (flow.ports.1, flow.ports.0),
    };
    let moving = Moving {
        source: parsed.source,
        destination: parsed.destination,
        ports: parsed.ports,
        protocol: parsed.protocol,
        offset: parsed.transport,
        length: parsed.length,
    };
    let mtu = owned.address.client_mtu();
    rewrite::<W, I, V, O, P, T>(packet, tables, at, &moving, &new, (mtu, mss))?;
    address(packet, back, O::ETHERTYPE)
}

/// A backend's packet keeps its flow, and its FIN or RST ends it like the client's; nothing of it proves a flow. What it
/// says of the backend is counted.
#[inline(always)]
fn refresh<T: Tables>(tables: &T, owned: &Owned<'_>, segment: Segment, flags: u8) {
    let Some(service) = tables.service(owned.held.owner.service as u32) else { return };
    let timeouts = TimeoutsWord(service.timeouts.get());
    // A service that is gone: its flows run out.
    if timeouts.0 == 0 {
        return;
    }
    let meta = owned.held.meta();
    let class: Code = match segment {
        Segment::Close | Segment::Abort => meta.code().after(segment, 0),
        Segment::Data | Segment::Open | Segment::Datagram => meta.code(),
    };
    let deadline = tables.now().plus(class.ticks(timeouts, segment));
    let step = step(meta, segment, flags);
    let next = Meta::of(deadline, class, meta.generation());
    let next = if step.is_some() { next.answered() } else { next.answered_as(meta) };
    if next != meta
        && nat::refresh(owned.record, &owned.held, next)
        && let Some(step) = step
    {
        tables.count_handshake(owned.held.backend(), step);
    }
}

/// What a backend's packet is to its flow's opening, where it is the first such one. Whatever the client has sent
/// meanwhile: it cannot make its backend one that did not answer.
#[inline(always)]
fn step(meta: Meta, segment: Segment, flags: u8) -> Option<HandshakeStep> {
    match segment {
        Segment::Data if flags & TcpFlags::SYN != 0 && !meta.is_answered() => Some(HandshakeStep::Answered),
        Segment::Abort if !meta.is_answered() => Some(HandshakeStep::Refused),
        Segment::Abort if meta.code().is_in(Class::GOING_ON) => Some(HandshakeStep::Reset),
        _ => None,
    }
}

/// The MSS that a backend's SYN-ACK may offer, so that what the client sends still fits once it is translated.
#[inline(always)]
fn offered<const W: usize, I: Side<W>, T: Tables>(tables: &T, owned: &Owned<'_>, flags: u8) -> Option<u16> {
    if flags & TcpFlags::SYN == 0 {
        return None;
    }
    let copy = forward::next_hop(tables, EgressWord(owned.backend.egress.get())).ok()?;
    Some(mss::<W, I>(copy.mtu as u32))
}
