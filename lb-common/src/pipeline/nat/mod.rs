//! Mode `nat`: packets of clients get a `snat` address and a port of their flow's own as source and the backend as
//! destination; answers come back to that port, and leave as the VIP's.
//!
//! Receives what other stages left, past the VIP's lists, as [`Reason::Translate`] (to a service in this mode) and [`Reason::NatReply`] (to a
//! `snat` address). Both directions of a flow are one record ([`crate::nat`]); packets whose flow has none and that
//! cannot begin one are answered with a reset instead of a port. Addresses may be of different families on the two
//! sides. An IP header is written anew, without options and extension headers; checksums change by what changed
//! (RFC 1624), so that damage on the way stays visible.
//!
//! Frames to a client leave the way that its own came (`docs/decisions/0010-nat-answers-leave-the-way-the-client-came.md`).

mod bind;
mod error;
mod reply;
mod translate;

pub(super) use error::error;
pub(super) use reply::reply;

use super::Outcome;
use super::filter::Look;
use super::ip::{V4, V6};
use super::link::Back;
use super::parse::{self, Walk};
use crate::forward;
use crate::layout::{
    Backend, EgressWord, Family, ForwardWord, Mode, NatAddress, NextHopCopy, Note, Scratch, TimeoutsWord,
    Translating,
};
use crate::nat::Return;
use crate::packet::Packet;
use crate::reason::Reason;
use crate::service;
use crate::tables::Tables;
use crate::trace::Mark;
use crate::wire::{Ethernet, Ports, Protocol, Segment, TaggedStart, VLAN_TAG_LEN};
use translate::{Ends, Moving, Side, translate};

/// Bytes of a TCP header without options.
const TCP_HEADER: usize = 20;

/// Finds the flow of a client's packet, which starts at `at`, or begins one, and notes what becomes of the packet:
/// [`Reason::Translate`] where that is [`send`], any other reason where it leaves.
#[inline(always)]
pub(super) fn find<const W: usize, I: Side<W>, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    at: usize,
    _bytes: u64,
) -> Result<Outcome, Reason> {
    let scratch = tables.scratch().ok_or(Reason::Inconsistent)?;
    let mut parsed = parse::parse::<W, I, P, T>(packet, tables, at, (Walk::All, Look::Front))?;
    parsed.transport = launder(scratch, parsed.transport);
    let id = service::service(tables, parsed.vip, parsed.protocol, parsed.ports.1)?;
    let record = tables.service(id).ok_or(Reason::Inconsistent)?;
    let word = ForwardWord(record.forward.get());
    tables.trace(Mark::Service, id, word.0);
    if word.mode() != Some(Mode::Nat) {
        return Err(Reason::Inconsistent);
    }
    let rules = bind::Rules {
        service: id,
        record,
        forward: word,
        timeouts: TimeoutsWord(record.timeouts.get()),
        scratch,
    };
    let bound = bind::bind::<W, I, T>(tables, &parsed, &rules)?;
    let back = Back::of(packet, at)?;
    if T::WRITES {
        Return { macs: back.macs, tags: back.tags, port: packet.ingress() }.write(bound.record);
    }
    let translating = Translating {
        offset: parsed.transport as u16,
        protocol: parsed.protocol as u8,
        segment: parsed.segment as u8,
        reason: bound.reason as u8,
        service: id as u16,
        backend: bound.id as u16,
        snat: bound.snat as u16,
        port: bound.port,
        backend_port: bound.backend_port,
    };
    for (word, value) in scratch.translating.iter().zip(translating.words()) {
        word.set(value);
    }
    Err(Reason::Translate)
}

/// An offset, of which the verifier knows no more than that; see [`Scratch::launder`].
#[inline(always)]
fn launder(scratch: &Scratch, offset: usize) -> usize {
    (scratch.launder(offset as u64) & 0xfff) as usize
}

/// Sends a packet on that [`find`] took a note of.
#[inline(always)]
pub(super) fn send<const W: usize, I: Side<W>, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    at: usize,
    bytes: u64,
) -> Result<Outcome, Reason> {
    let scratch = tables.scratch().ok_or(Reason::Inconsistent)?;
    let note = Translating::of([scratch.translating[0].get(), scratch.translating[1].get()]);
    let reason = Reason::from_number(note.reason).ok_or(Reason::Inconsistent)?;
    let network = I::read(packet, at).ok_or(Reason::Truncated)?;
    let offset = note.offset as usize;
    let ports: &Ports = packet.header(offset).ok_or(Reason::Malformed)?;
    let protocol = if note.protocol == Protocol::Tcp as u8 { Protocol::Tcp } else { Protocol::Udp };
    let moving = Moving {
        source: network.source,
        destination: network.destination,
        ports: ports.both(),
        protocol,
        offset,
        length: network.length,
    };
    let backend = tables.backend(note.backend as u32).ok_or(Reason::Inconsistent)?;
    let snat = tables.nat_address(note.snat as u32).ok_or(Reason::Inconsistent)?;
    let egress = EgressWord(backend.egress.get());
    let copy = forward::next_hop(tables, egress)?;
    // The host itself would answer from its own address, past weir.
    if copy.port == 0 {
        return Err(Reason::NoNextHop);
    }
    let to = Towards { backend, snat, ports: (note.port, note.backend_port), copy };
    let segment = Segment::from_code(note.segment);
    match egress.family() {
        Family::V4 => leave::<W, I, 1, V4, P, T>(packet, tables, at, &moving, &to, segment)?,
        Family::V6 => leave::<W, I, 3, V6, P, T>(packet, tables, at, &moving, &to, segment)?,
    }
    let egress = packet.leave_by(copy.port).map_err(|_| Reason::NoTxPort)?;
    if T::WRITES {
        tables.count(reason, bytes);
        tables.count_forwarded(note.service as u32, note.backend as u32, bytes);
    }
    tables.trace(Mark::Left, reason as u32, copy.port as u64);
    Ok(Outcome { reason, egress })
}

/// Where a client's packet goes.
struct Towards<'a> {
    backend: &'a Backend,
    snat: &'a NatAddress,
    /// Source and destination port, host order.
    ports: (u16, u16),
    copy: &'a NextHopCopy,
}

/// Makes the frame one to the backend, of its family.
#[inline(always)]
fn leave<const W: usize, I: Side<W>, const V: usize, O: Side<V>, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    at: usize,
    moving: &Moving<I::Address>,
    to: &Towards<'_>,
    segment: Segment,
) -> Result<(), Reason> {
    let new = Ends {
        source: O::of_bytes(&to.snat.address),
        destination: O::of_bytes(&to.backend.address),
        ports: to.ports,
    };
    let mss = match segment {
        Segment::Open => Some(mss::<W, I>(to.snat.client_mtu())),
        _ => None,
    };
    rewrite::<W, I, V, O, P, T>(packet, tables, at, moving, &new, (to.copy.mtu as u32, mss))?;
    forward::address(packet, to.copy, O::ETHERTYPE)
}

/// The MSS of packets that fit this MTU.
#[inline(always)]
fn mss<const W: usize, I: Side<W>>(mtu: u32) -> u16 {
    (mtu as usize).saturating_sub(I::HEADER + TCP_HEADER) as u16
}

/// Gives a packet other ends, of another family maybe, and lowers the MSS that it offers. One that would be longer than the
/// MTU stays as it is; what would fit is noted.
#[inline(always)]
fn rewrite<const W: usize, I: Side<W>, const V: usize, O: Side<V>, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    at: usize,
    moving: &Moving<I::Address>,
    new: &Ends<O::Address>,
    (mtu, mss): (u32, Option<u16>),
) -> Result<(), Reason> {
    let translated = moving.length - (moving.offset - at) as u32 + O::HEADER as u32;
    if translated > mtu {
        if let Some(scratch) = tables.scratch() {
            scratch.note.set(Note::too_big((mtu + moving.length).saturating_sub(translated) as u16).0);
        }
        return Err(Reason::TooBig);
    }
    if let Some(mss) = mss {
        translate::clamp(packet, moving.offset, mss)?;
    }
    translate::<W, I, V, O, P>(packet, at, moving, new)
}

/// Writes the Ethernet header of a frame to a client, whose IP packet starts behind 14 bytes, and its tags.
#[inline(always)]
fn address<P: Packet>(packet: &mut P, back: &Return, ethertype: u16) -> Result<(), Reason> {
    *packet.header_mut(0).ok_or(Reason::Inconsistent)? =
        Ethernet { macs: back.macs, ethertype: ethertype.to_be_bytes() };
    for tag in [back.tags[1], back.tags[0]] {
        if u32::from_ne_bytes(tag) != 0 {
            packet.grow_front(VLAN_TAG_LEN).map_err(|_| Reason::NoHeadroom)?;
            *packet.header_mut(0).ok_or(Reason::Inconsistent)? = TaggedStart { macs: back.macs, tag };
        }
    }
    Ok(())
}

/// Moves the front of the frame, such that what is at `offset` comes to be at `to`.
#[inline(always)]
fn move_front<P: Packet>(packet: &mut P, offset: usize, to: usize) -> Result<(), Reason> {
    if offset > to {
        packet.shrink_front(offset - to).map_err(|_| Reason::Inconsistent)
    } else if offset < to {
        packet.grow_front(to - offset).map_err(|_| Reason::NoHeadroom)
    } else {
        Ok(())
    }
}
