//! Mode `nat` in the scene: addresses to send from, and what backends answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::layout::{Geometry, NatAddress, NatRange, Unmatched};
use lb_common::wire::checksum;

use crate::choice::Choice;
use crate::icmp::IcmpSpec;
use crate::scene::Scene;
use crate::store::Store;

/// Addresses: one of each family that services send from, and one that the host has too and nobody sends from.
pub(crate) const ADDRESSES: u32 = 3;
/// Ports of each, for each of two protocols.
const SIZE: u16 = 64;
/// The first of them.
pub const SNAT_FIRST: u16 = 30_000;
/// Records.
pub(crate) const PORTS: u32 = ADDRESSES * 2 * SIZE as u32;
/// Largest packet towards clients.
const MTU: u16 = 1500;

/// The address with an id from 1 on.
#[must_use]
pub fn snat(id: u32) -> IpAddr {
    match id {
        2 => Ipv6Addr::from(0xfd07_u128 << 112 | 1).into(),
        _ => Ipv4Addr::new(10, 7, 0, id as u8).into(),
    }
}

/// Whether packets to backends leave from an address.
pub(crate) fn is_snat(address: IpAddr) -> bool {
    [1, 2].map(snat).contains(&address)
}

/// Fills the addresses, whose VIP ids start with this one, and makes their ports free.
pub(crate) fn fill<S: Store>(store: &mut S, geometry: &Geometry, first_vip: u32) {
    for id in 1..=ADDRESSES {
        let vip = first_vip + id - 1;
        Scene::claim(store, geometry, snat(id), vip);
        let policy = if id == 3 { Unmatched::Pass } else { Unmatched::Reject };
        store.vip(vip, |record| {
            record.unmatched.set(policy as u64 | Unmatched::SNAT);
            record.snat.set(id.into());
        });
    }
    free(store);
}

/// Makes all ports free.
pub(crate) fn free<S: Store>(store: &mut S) {
    for id in 1..=ADDRESSES {
        let first = (id - 1) * 2 * u32::from(SIZE);
        let range = NatRange::new(first, SNAT_FIRST, SNAT_FIRST + SIZE - 1);
        let mut address = [0; 16];
        match snat(id) {
            IpAddr::V4(v4) => address[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => address = v6.octets(),
        }
        store.nat_address(id, |record| {
            record.address = address;
            record.range.set(range.0);
            record.facts.set(NatAddress::facts(MTU, snat(id).is_ipv6()));
            for queue in &record.queues {
                queue.head.set(0);
                queue.tail.set(SIZE.into());
                queue.hand.set(0);
            }
        });
        for number in 0..2 * u32::from(SIZE) {
            let ticket = u64::from(number) % u64::from(SIZE);
            store.nat_port(first + number, |record| {
                record.state.set(0);
                record.place.set(ticket << 16 | ticket);
            });
        }
    }
}

/// What may come back for a frame that went to a backend in mode `nat`: an answer of the same length, or an error about it.
/// `None` for any other frame.
pub fn answer(choice: &mut impl Choice, sent: &[u8]) -> Option<Vec<u8>> {
    let packet = untagged(sent)?;
    let (source, destination, transport) = ends(packet)?;
    if !is_snat(source) || packet.len() < transport + 8 {
        return None;
    }
    if choice.chance(25) {
        return Some(error(choice, packet, (source, destination)));
    }
    // Turned round: the checksums stay right.
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 3];
    frame.extend(if source.is_ipv4() { [0x08, 0x00] } else { [0x86, 0xdd] });
    frame.extend(packet);
    let length = if source.is_ipv4() { 4 } else { 16 };
    let first = 14 + if source.is_ipv4() { 12 } else { 8 };
    (first..first + length).for_each(|at| frame.swap(at, at + length));
    (14 + transport..14 + transport + 2).for_each(|at| frame.swap(at, at + 2));
    let protocol = if source.is_ipv4() { packet[9] } else { packet[6] };
    if protocol == 6 && packet.len() >= transport + 20 && choice.chance(60) {
        say(&mut frame, 14 + transport, choice.pick(&[0x12, 0x12, 0x14, 0x10, 0x11, 0x02]));
    }
    if choice.chance(10) {
        // From another port: nobody's answer.
        frame[14 + transport + 1] ^= 1;
    }
    Some(frame)
}

/// Gives the TCP header at `at` other control bits; its checksum stays as right as it is.
fn say(frame: &mut [u8], at: usize, flags: u8) {
    let word = |frame: &[u8], at: usize| u16::from_be_bytes([frame[at], frame[at + 1]]);
    let before = word(frame, at + 12);
    frame[at + 13] = flags;
    let field = [frame[at + 16], frame[at + 17]];
    let updated = checksum::update(field, before, word(frame, at + 12));
    frame[at + 16..at + 18].copy_from_slice(&updated);
}

/// An error about a packet that a `snat` address sent, from its receiver or a router before that.
fn error(choice: &mut impl Choice, packet: &[u8], (source, destination): (IpAddr, IpAddr)) -> Vec<u8> {
    let errors: [(u8, u8, u32); 6] = match source {
        IpAddr::V4(_) => [(3, 4, 1400), (3, 3, 0), (3, 1, 0), (11, 0, 0), (12, 0, 0), (3, 13, 0)],
        IpAddr::V6(_) => [(2, 0, 1300), (1, 4, 0), (1, 0, 0), (3, 0, 0), (4, 1, 40), (4, 0, 40)],
    };
    let (kind, code, word) = choice.pick(&errors);
    let mut body = packet.to_vec();
    body.truncate(choice.pick(&[28, 48, 68, 576, 1232, 10_000]));
    IcmpSpec { source: destination, destination: source, kind, code, word, body }.frame()
}

/// The IP packet in a frame.
pub(crate) fn untagged(frame: &[u8]) -> Option<&[u8]> {
    let mut at = 12;
    while matches!(frame.get(at..at + 2)?, [0x81, 0x00] | [0x88, 0xa8]) {
        at += 4;
    }
    matches!(frame.get(at..at + 2)?, [0x08, 0x00] | [0x86, 0xdd]).then(|| frame.get(at + 2..)).flatten()
}

/// Source, destination, and offset of what follows the fixed header.
pub(crate) fn ends(packet: &[u8]) -> Option<(IpAddr, IpAddr, usize)> {
    let address = |at: usize, length: usize| -> Option<IpAddr> {
        let bytes = packet.get(at..at + length)?;
        match length {
            4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
            _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        }
    };
    match packet.first()? >> 4 {
        4 => Some((address(12, 4)?, address(16, 4)?, usize::from(packet[0] & 0xf) * 4)),
        6 => Some((address(8, 16)?, address(24, 16)?, 40)),
        _ => None,
    }
}
