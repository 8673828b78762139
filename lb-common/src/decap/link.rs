//! The Ethernet header, with up to two VLAN tags.

use crate::packet::Packet;
use crate::wire::{ETHERNET_LEN, EtherType, Ethernet, VLAN_TAG_LEN};

/// A link header that was read.
pub(super) struct Link {
    macs: [u32; 3],
    /// Ethertype and control information of each tag, as words of memory.
    tags: [u32; 2],
    /// Bytes up to the IP header.
    pub(super) length: usize,
    /// What follows the last tag.
    pub(super) ethertype: EtherType,
}

/// Where the ethertype is in a header without tags.
const TYPE_AT: usize = ETHERNET_LEN - 2;

#[inline(always)]
pub(super) fn read<P: Packet>(packet: &P) -> Option<Link> {
    let ethernet: &Ethernet = packet.header(0)?;
    let macs = ethernet.macs.map(u32::from_ne_bytes);
    let untagged = Link { macs, tags: [0; 2], length: ETHERNET_LEN, ethertype: ethernet.ethertype() };
    if untagged.ethertype != EtherType::Vlan {
        return Some(untagged);
    }
    let (first, ethertype) = tag(packet, TYPE_AT)?;
    let tagged = Link { tags: [first, 0], length: ETHERNET_LEN + VLAN_TAG_LEN, ethertype, ..untagged };
    if ethertype != EtherType::Vlan {
        return Some(tagged);
    }
    let (second, ethertype) = tag(packet, TYPE_AT + VLAN_TAG_LEN)?;
    Some(Link { tags: [first, second], length: ETHERNET_LEN + 2 * VLAN_TAG_LEN, ethertype, ..tagged })
}

/// The tag whose ethertype is at `at`, and the ethertype that follows it.
#[inline(always)]
fn tag<P: Packet>(packet: &P, at: usize) -> Option<(u32, EtherType)> {
    let tag: &[u8; 4] = packet.header(at)?;
    let tag = u32::from_ne_bytes(*tag);
    let next: &[u8; 2] = packet.header(at + VLAN_TAG_LEN)?;
    Some((tag, EtherType::of(*next)))
}

/// Writes the header that was read, with another ethertype at its end.
#[inline(always)]
pub(super) fn write<P: Packet>(packet: &mut P, link: &Link, ethertype: [u8; 2]) -> Option<()> {
    let macs: &mut [[u8; 4]; 3] = packet.header_mut(0)?;
    *macs = link.macs.map(u32::to_ne_bytes);
    let mut at = TYPE_AT;
    if link.length > ETHERNET_LEN {
        *packet.header_mut(at)? = link.tags[0].to_ne_bytes();
        at += VLAN_TAG_LEN;
    }
    if link.length > ETHERNET_LEN + VLAN_TAG_LEN {
        *packet.header_mut(at)? = link.tags[1].to_ne_bytes();
        at += VLAN_TAG_LEN;
    }
    *packet.header_mut(at)? = ethertype;
    Some(())
}
