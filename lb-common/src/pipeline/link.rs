//! VLAN tags on the way in (IEEE 802.1Q, 802.1ad).

use crate::packet::Packet;
use crate::reason::Reason;
use crate::wire::{ETHERNET_LEN, EtherType, Ethernet, Tag, VLAN_TAG_LEN};

/// Most tags that are read: a service tag and a customer tag.
const MAX_TAGS: usize = 2;

/// What the frame carries below its tags, and where that starts; a frame with more than [`MAX_TAGS`] carries
/// [`EtherType::Vlan`].
#[inline(always)]
pub(super) fn untag<P: Packet>(packet: &P) -> Result<(EtherType, usize), Reason> {
    let ethernet: &Ethernet = packet.header(0).ok_or(Reason::Truncated)?;
    let (mut ethertype, mut at) = (ethernet.ethertype(), ETHERNET_LEN);
    for _ in 0..MAX_TAGS {
        if !matches!(ethertype, EtherType::Vlan) {
            break;
        }
        let tag: &Tag = packet.header(at).ok_or(Reason::Truncated)?;
        ethertype = EtherType::of(tag.ethertype);
        at += VLAN_TAG_LEN;
    }
    Ok((ethertype, at))
}

/// Takes the tags off a frame whose IP packet starts at `at`. Its Ethernet header is to be written anew.
#[inline(always)]
pub(super) fn strip<P: Packet>(packet: &mut P, at: usize) -> Result<(), Reason> {
    if at == ETHERNET_LEN {
        return Ok(());
    }
    packet.shrink_front(at - ETHERNET_LEN).map_err(|_| Reason::Inconsistent)
}
