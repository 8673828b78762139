//! Fragments: the first one selects and is remembered, the others follow it. Each is sent on whole.
//!
//! A fragment that comes before its packet's first one is dropped as [`Reason::FragmentUnknown`]: its flow, and so its
//! backend, cannot be told. The first one must hold the whole transport header (RFC 7112; for IPv4 it is the answer to
//! the attacks of RFC 1858), and no other may overlap that. What claims to be all of a packet (RFC 6946) is treated so.

use super::filter::{self, Look};
use super::ip::{Ip, Network, Payload, Piece};
use super::parse::{self, Extent};
use super::steer::{self, Choice, Steered};
use super::{Outcome, send};
use crate::forward::Inner;
use crate::fragment::{self, Key, Value};
use crate::layout::{ForwardWord, HotWord, Unmatched};
use crate::packet::Packet;
use crate::reason::Reason;
use crate::select;
use crate::service;
use crate::tables::Tables;
use crate::trace::Mark;

/// Longest payload of an IP packet in bytes.
const LONGEST: u32 = u16::MAX as u32;

/// Balances the fragment whose IP header is at `at`.
#[inline(always)]
pub(super) fn balance<const W: usize, I: Ip<W>, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    at: usize,
    bytes: u64,
) -> Result<Outcome, Reason> {
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
    let piece = I::piece(packet, &network, at)?;
    check(&piece, end)?;
    let key = Key::new(tables.secret(), I::halves(network.source), vip, piece.id, piece.protocol);
    if piece.start > 0 {
        let steered = follow::<W, I, T>(tables, &network, vip, &piece, &key)?;
        return send(packet, tables, at, &steered, bytes);
    }
    let transport = parse::transport::<W, I, T>(tables, vip, network.source, &piece.payload, Look::Whole)?;
    let whole_end = if piece.more { at + LONGEST as usize } else { end };
    let parsed =
        parse::read::<W, I, P, T>(packet, tables, &network, vip, transport, Extent { end, whole_end })?
            .laundered(tables.scratch().ok_or(Reason::Inconsistent)?)?;
    let mut steered = steer::steer::<W, I, T>(tables, &parsed, (Look::Whole, Choice::Table))?;
    if !piece.more {
        return send(packet, tables, at, &steered, bytes);
    }
    // All fragments of a packet take one path.
    steered.inner.hash = key.hash;
    let generation = HotWord(steered.backend.hot.get()).generation();
    let now = tables.now();
    let line = key.line(tables).ok_or(Reason::Inconsistent)?;
    if T::WRITES {
        fragment::remember(line, &key, Value::new(steered.id, generation, steered.service, now), now);
    }
    send(packet, tables, at, &steered, bytes)
}

/// Refuses a fragment whose lengths are impossible; `end` is where its IP packet ends in the frame.
#[inline(always)]
fn check(piece: &Piece, end: usize) -> Result<(), Reason> {
    if piece.at >= end {
        return Err(Reason::Malformed);
    }
    let length = (end - piece.at) as u32;
    let ragged = piece.more && length & 7 != 0;
    if ragged || piece.start + length > LONGEST { Err(Reason::Malformed) } else { Ok(()) }
}

/// Where a later fragment goes: to its packet's backend, while that serves known flows.
#[inline(always)]
fn follow<'a, const W: usize, I: Ip<W>, T: Tables>(
    tables: &'a T,
    network: &Network<I::Address>,
    vip: u32,
    piece: &Piece,
    key: &Key,
) -> Result<Steered<'a>, Reason> {
    match piece.payload {
        Payload::Transport(protocol, _) if piece.start < protocol.header_length() as u32 => {
            return Err(Reason::Malformed);
        }
        Payload::Transport(..) | Payload::Extensions => {}
        Payload::Icmp(_) => return Err(Reason::Icmp),
        Payload::Other(_) | Payload::Nothing => {
            filter::check::<W, I, T>(tables, vip, network.source, Look::Whole)?;
            return Err(service::unmatched_protocol(tables, vip));
        }
    }
    let line = key.line(tables).ok_or(Reason::Inconsistent)?;
    let value = fragment::find(line, key, tables.now()).ok_or(Reason::FragmentUnknown)?;
    let record = tables.service(value.service()).ok_or(Reason::Inconsistent)?;
    let forward = ForwardWord(record.forward.get());
    if forward.mode().is_none() {
        return Err(Reason::FragmentUnknown);
    }
    let backend = tables.backend(value.backend()).ok_or(Reason::Inconsistent)?;
    let hot = HotWord(backend.hot.get());
    tables.trace(Mark::Service, value.service(), forward.0);
    tables.trace(Mark::Selected, value.backend(), hot.0);
    if hot.generation() != value.generation() || !select::serves_known(hot, forward.on_down()) {
        return Err(Reason::FragmentUnknown);
    }
    Ok(Steered {
        service: value.service(),
        id: value.backend(),
        backend,
        forward,
        inner: Inner {
            family: I::FAMILY,
            traffic_class: network.traffic_class,
            length: network.length,
            hash: key.hash,
        },
        reason: Reason::Fragment,
    })
}

/// Why a fragment that was left for `reason` leaves, where the whole packet would have been translated: it cannot be. To a
/// `snat` address that the host has too, it is the host's.
///
/// Not on the way of the others: the verifier would follow all that comes after once more.
#[inline(always)]
pub(super) fn untranslated<const W: usize, I: Ip<W>, P: Packet, T: Tables>(
    packet: &P,
    tables: &T,
    at: usize,
    reason: Reason,
) -> Reason {
    let policy = I::read(packet, at)
        .and_then(|network| I::vip(tables, network.destination))
        .and_then(|vip| tables.vip(vip))
        .filter(|vip| vip.snat.get() != 0)
        .map(|vip| Unmatched::from_word(vip.unmatched.get()));
    match (policy, reason) {
        (Some(Unmatched::Pass), _) => Reason::UnmatchedPass,
        (_, Reason::FragmentUnknown) => Reason::FragmentUnknown,
        _ => Reason::NatFragment,
    }
}
