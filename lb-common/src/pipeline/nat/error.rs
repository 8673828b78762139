//! ICMP and ICMPv6 errors about translated flows, in both directions.
//!
//! Receives errors to a VIP that quote a packet of a service in mode `nat` (which its client's side reports), and errors to
//! a `snat` address (which its backend's side reports). The quote is translated back to the packet as the other end
//! sent it. An error is sent on as weir's own, from the address that its receiver talks to: who found it has none in
//! the other family, or none that the receiver could reach. Its checksum is verified first, since all of it is written
//! anew; nobody but a flow's own packets refreshes or ends it.

use super::bind::flow;
use super::reply::{Owned, owner, record_of};
use super::translate::{Ends, Side, sum, transport};
use super::{address, launder, move_front};
use crate::forward;
use crate::layout::{Backend, EgressWord, Family, HotWord, NatAddress, NatRange, Scratch};
use crate::nat::{self, Return};
use crate::packet::Packet;
use crate::pipeline::Outcome;
use crate::pipeline::answer::sum_of;
use crate::pipeline::icmp::{Found, by_policy, message, quoted};
use crate::pipeline::ip::{Ip, Sent, V4, V6};
use crate::pipeline::parse::Parsed;
use crate::reason::Reason;
use crate::tables::Tables;
use crate::trace::Mark;
use crate::wire::{ETHERNET_LEN, Icmp, Message, Ports, Protocol, checksum};

/// Most 32-bit words of a message that is verified.
const MAX_WORDS: usize = 1500 / 4;
/// Bytes by which IPv6's header is longer than IPv4's.
const HEADERS_DIFFER: u32 = 20;
/// Least MTU of an IPv6 link (RFC 8200 section 5).
const MIN_MTU_V6: u32 = 1280;

/// An error as it leaves: who it is from and to, and the packet that it is about as its sender knows it.
struct Told<A> {
    source: A,
    destination: A,
    quoted: Ends<A>,
}

/// Sends the error in the IP packet that starts at `at` to the end of the flow that it is for.
#[inline(always)]
pub(in crate::pipeline) fn error<const W: usize, I: Side<W>, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    at: usize,
    bytes: u64,
) -> Result<Outcome, Reason> {
    let scratch = tables.scratch().ok_or(Reason::Inconsistent)?;
    let (mut found, kind) = message::<W, I, P, T>(packet, tables, at)?;
    if kind != Message::Error {
        return Err(Reason::Inconsistent);
    }
    let unmatched = by_policy(tables, found.vip, Reason::IcmpErrorUnmatched);
    // As a packet that would be answered with the one that the error is about: from the error's receiver's peer.
    let mut about = quoted::<W, I, P>(packet, &found).ok_or(unmatched)?;
    found.offset = launder(scratch, found.offset);
    about.transport = launder(scratch, about.transport);
    let port = match record_of(tables, found.vip, about.protocol, about.ports.1) {
        Some(_) => {
            let peer = (about.source, about.ports.0);
            let owned = owner::<W, I, T>(tables, found.vip, about.protocol, about.ports.1, peer);
            to_client::<W, I, P>(packet, scratch, &found, &about, &owned.ok_or(unmatched)?)?
        }
        None => to_backend::<W, I, P, T>(packet, tables, scratch, &found, &about)?.ok_or(unmatched)?,
    };
    let egress = packet.leave_by(port).map_err(|_| Reason::NoTxPort)?;
    if T::WRITES {
        tables.count(Reason::IcmpError, bytes);
    }
    tables.trace(Mark::Left, Reason::IcmpError as u32, port as u64);
    Ok(Outcome { reason: Reason::IcmpError, egress })
}

/// Refuses a message that was damaged on the way.
#[inline(always)]
fn verify<const W: usize, I: Ip<W>, P: Packet>(packet: &P, found: &Found<I::Address>) -> Result<(), Reason> {
    let length = found.end - found.offset;
    if length > MAX_WORDS * 4 {
        return Err(Reason::Malformed);
    }
    let sent = Sent {
        source: found.source,
        destination: found.destination,
        protocol: I::ICMP,
        payload: length as u32,
    };
    let sum = I::icmp_sum(&sent) + sum_of::<MAX_WORDS, P>(packet, found.offset, length)?;
    if checksum::fold(sum) == 0xffff { Ok(()) } else { Err(Reason::Malformed) }
}

/// An error about what a backend sent, told to the backend. Gives the interface by which it leaves; `None` for one about no
/// flow.
#[inline(always)]
fn to_backend<const W: usize, I: Side<W>, P: Packet, T: Tables>(
    packet: &mut P,
    tables: &T,
    scratch: &Scratch,
    found: &Found<I::Address>,
    about: &Parsed<I::Address>,
) -> Result<Option<u32>, Reason> {
    let key = I::key(tables.secret(), about.source, about.ports, about.vip, about.protocol);
    let Some((number, _, held)) = nat::find(tables, &flow::<W, I>(about), key.hash) else {
        return Ok(None);
    };
    let backend = tables.backend(held.backend()).ok_or(Reason::Inconsistent)?;
    if HotWord(backend.hot.get()).generation() != held.meta().generation() {
        return Ok(None);
    }
    tables.trace(Mark::Selected, held.backend(), backend.hot.get());
    let snat = tables.nat_address(held.owner.snat as u32).ok_or(Reason::Inconsistent)?;
    let port = NatRange(snat.range.get()).port_of(number);
    tables.trace(Mark::NatPort, port as u32, held.owner.snat as u64 | (number as u64) << 32);
    let egress = EgressWord(backend.egress.get());
    let copy = forward::next_hop(tables, egress)?;
    if copy.port == 0 {
        return Err(Reason::NoNextHop);
    }
    let ports = (held.owner.backend_port, port);
    match egress.family() {
        Family::V4 => {
            let told = between::<1, V4>(snat, backend, ports);
            write::<W, I, 1, V4, P>(packet, scratch, found, about, &told)?;
            forward::address(packet, copy, V4::ETHERTYPE)?;
        }
        Family::V6 => {
            let told = between::<3, V6>(snat, backend, ports);
            write::<W, I, 3, V6, P>(packet, scratch, found, about, &told)?;
            forward::address(packet, copy, V6::ETHERTYPE)?;
        }
    }
    Ok(Some(copy.port))
}

/// From a `snat` address to a backend, about what the backend sent there.
#[inline(always)]
fn between<const V: usize, O: Side<V>>(
    snat: &NatAddress,
    backend: &Backend,
    ports: (u16, u16),
) -> Told<O::Address> {
    let (snat, backend) = (O::of_bytes(&snat.address), O::of_bytes(&backend.address));
    Told { source: snat, destination: backend, quoted: Ends { source: backend, destination: snat, ports } }
}

/// An error about what a client sent, told to the client. Gives the interface by which it leaves.
#[inline(always)]
fn to_client<const W: usize, I: Side<W>, P: Packet>(
    packet: &mut P,
    scratch: &Scratch,
    found: &Found<I::Address>,
    about: &Parsed<I::Address>,
    owned: &Owned<'_>,
) -> Result<u32, Reason> {
    let back = Return::of(owned.record);
    if owned.held.owner.v6 {
        write::<W, I, 3, V6, P>(packet, scratch, found, about, &to_vip::<3, V6>(owned))?;
        address(packet, &back, V6::ETHERTYPE)?;
    } else {
        write::<W, I, 1, V4, P>(packet, scratch, found, about, &to_vip::<1, V4>(owned))?;
        address(packet, &back, V4::ETHERTYPE)?;
    }
    Ok(back.port)
}

/// From a VIP to a client, about what the client sent there.
#[inline(always)]
fn to_vip<const V: usize, O: Side<V>>(owned: &Owned<'_>) -> Told<O::Address> {
    let (vip, client) = (O::of_halves(owned.held.owner.vip), O::of_halves(owned.held.flow.client));
    let quoted = Ends { source: client, destination: vip, ports: owned.held.flow.ports };
    Told { source: vip, destination: client, quoted }
}

/// Makes the frame the error as its receiver understands it, its IP header behind 14 bytes. What is before that is to be
/// written.
#[cfg_attr(target_arch = "bpf", inline(always))]
#[cfg_attr(not(target_arch = "bpf"), inline(never))]
fn write<const W: usize, I: Side<W>, const V: usize, O: Side<V>, P: Packet>(
    packet: &mut P,
    scratch: &Scratch,
    found: &Found<I::Address>,
    about: &Parsed<I::Address>,
    told: &Told<O::Address>,
) -> Result<(), Reason> {
    const ICMP: usize = size_of::<Icmp>();
    verify::<W, I, P>(packet, found)?;
    let header: &Icmp = packet.header(found.offset).ok_or(Reason::Malformed)?;
    let same = matches!((I::FAMILY, O::FAMILY), (Family::V4, Family::V4) | (Family::V6, Family::V6));
    let rest = u32::from_be_bytes(header.rest);
    let (kind, code, word) = if same {
        (header.kind, header.code, rest)
    } else {
        counterpart(I::FAMILY, header.kind, header.code, rest).ok_or(Reason::Untranslatable)?
    };
    let known = scratch.launder(kind as u64 | (code as u64) << 8 | (word as u64) << 32);
    let (kind, code, word) = (known as u8, (known >> 8) as u8, (known >> 32) as u32);
    let quote_at = found.offset + ICMP;
    let kept = I::kept(packet, quote_at).ok_or(Reason::Malformed)?;
    let quote = I::read(packet, quote_at).ok_or(Reason::Malformed)?;
    // What the quoted packet had behind its IP header, and how much of it is here and may go on.
    let whole = (quote_at + quote.length as usize).saturating_sub(about.transport) as u32;
    let most = O::QUOTE as usize - O::HEADER;
    let length = (found.end - about.transport).min(whole as usize).min(most);
    if length < size_of::<Ports>() {
        return Err(Reason::Malformed);
    }
    requote::<W, I, V, O, P>(packet, about, &told.quoted, length)?;
    let (protocol, _) = transport(about.protocol)?;
    let quoted =
        Sent { source: told.quoted.source, destination: told.quoted.destination, protocol, payload: whole };
    let sent = Sent {
        source: told.source,
        destination: told.destination,
        protocol: O::ICMP,
        payload: (ICMP + O::HEADER + length) as u32,
    };
    packet.truncate(about.transport + length).map_err(|_| Reason::Malformed)?;
    move_front(packet, about.transport, ETHERNET_LEN + O::HEADER + ICMP + O::HEADER)?;
    O::put(packet, ETHERNET_LEN + O::HEADER + ICMP, &quoted, &kept)?;
    let icmp = |sum: [u8; 2]| Icmp { kind, code, checksum: sum, rest: word.to_be_bytes() };
    *packet.header_mut(ETHERNET_LEN + O::HEADER).ok_or(Reason::Inconsistent)? = icmp([0; 2]);
    let sum =
        O::icmp_sum(&sent) + sum_of::<MAX_WORDS, P>(packet, ETHERNET_LEN + O::HEADER, sent.payload as usize)?;
    let sum = (!checksum::fold(sum)).to_be_bytes();
    *packet.header_mut(ETHERNET_LEN + O::HEADER).ok_or(Reason::Inconsistent)? = icmp(sum);
    O::write(packet, ETHERNET_LEN, &sent)
}

/// Gives the quoted transport header, of which `length` bytes are there, its sender's ports and checksum.
#[inline(always)]
fn requote<const W: usize, I: Side<W>, const V: usize, O: Side<V>, P: Packet>(
    packet: &mut P,
    about: &Parsed<I::Address>,
    quoted: &Ends<O::Address>,
    length: usize,
) -> Result<(), Reason> {
    // `about` is turned round: it is what would answer the quoted packet.
    let old =
        Ends { source: about.destination, destination: about.source, ports: (about.ports.1, about.ports.0) };
    let (_, checksum_at) = transport(about.protocol)?;
    if length >= checksum_at + 2 {
        let field: &mut [u8; 2] =
            packet.header_mut(about.transport + checksum_at).ok_or(Reason::Malformed)?;
        if about.protocol != Protocol::Udp || u16::from_ne_bytes(*field) != 0 {
            let (before, after) = (checksum::fold(sum::<W, I>(&old)), checksum::fold(sum::<V, O>(quoted)));
            *field = checksum::never_zero(checksum::update(*field, before, after));
        }
    }
    *packet.header_mut(about.transport).ok_or(Reason::Malformed)? =
        Ports { source: quoted.ports.0.to_be_bytes(), destination: quoted.ports.1.to_be_bytes() };
    Ok(())
}

/// Type, code and further word of an error of this family in the other one (RFC 7915 sections 4.2 and 5.2); `None` where
/// there is no counterpart.
#[inline(always)]
fn counterpart(family: Family, kind: u8, code: u8, word: u32) -> Option<(u8, u8, u32)> {
    match (family, kind, code) {
        // Fragmentation needed: packet too big, larger by the header.
        (Family::V4, 3, 4) => Some((2, 0, ((word & 0xffff) + HEADERS_DIFFER).max(MIN_MTU_V6))),
        // Protocol unreachable: an unrecognised next header, which the fixed header names.
        (Family::V4, 3, 2) => Some((4, 1, 6)),
        (Family::V4, 3, 3) => Some((1, 4, 0)),
        (Family::V4, 3, 9 | 10 | 13 | 15) => Some((1, 1, 0)),
        (Family::V4, 3, 0..=12) => Some((1, 0, 0)),
        (Family::V4, 11, _) => Some((3, code, 0)),
        (Family::V6, 1, 1) => Some((3, 10, 0)),
        (Family::V6, 1, 4) => Some((3, 3, 0)),
        (Family::V6, 1, 0 | 2 | 3) => Some((3, 1, 0)),
        (Family::V6, 2, _) => Some((3, 4, word.min(0xffff).saturating_sub(HEADERS_DIFFER))),
        (Family::V6, 3, _) => Some((11, code, 0)),
        (Family::V6, 4, 1) => Some((3, 2, 0)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_have_the_counterparts_of_rfc_7915() {
        let cases = [
            (Family::V4, (3, 0, 0), Some((1, 0, 0))),
            (Family::V4, (3, 1, 0), Some((1, 0, 0))),
            (Family::V4, (3, 2, 0), Some((4, 1, 6))),
            (Family::V4, (3, 3, 0), Some((1, 4, 0))),
            (Family::V4, (3, 4, 1400), Some((2, 0, 1420))),
            (Family::V4, (3, 4, 0), Some((2, 0, 1280))),
            (Family::V4, (3, 13, 0), Some((1, 1, 0))),
            (Family::V4, (3, 14, 0), None),
            (Family::V4, (11, 0, 0), Some((3, 0, 0))),
            (Family::V4, (12, 0, 0), None),
            (Family::V6, (1, 0, 0), Some((3, 1, 0))),
            (Family::V6, (1, 1, 0), Some((3, 10, 0))),
            (Family::V6, (1, 4, 0), Some((3, 3, 0))),
            (Family::V6, (2, 0, 1280), Some((3, 4, 1260))),
            (Family::V6, (3, 1, 0), Some((11, 1, 0))),
            (Family::V6, (4, 1, 6), Some((3, 2, 0))),
            (Family::V6, (4, 0, 0), None),
        ];
        for (family, (kind, code, word), expected) in cases {
            assert_eq!(counterpart(family, kind, code, word), expected, "{family:?} {kind}/{code}");
        }
    }
}
