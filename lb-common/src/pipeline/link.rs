//! VLAN tags on the way in (IEEE 802.1Q, 802.1ad), and the way back.

use crate::packet::Packet;
use crate::reason::Reason;
use crate::wire::{ETHERNET_LEN, EtherType, Ethernet, Tag, VLAN_TAG_LEN};

/// Bytes of the two Ethernet addresses.
const MACS_LEN: usize = 12;

/// Most tags that are read: a service tag and a customer tag.
const MAX_TAGS: usize = 2;

/// What the frame carries below its tags, and where that starts; a frame with more than [`MAX_TAGS`] carries
/// [`EtherType::Vlan`].
#[inline(always)]
pub(crate) fn untag<P: Packet>(packet: &P) -> Result<(EtherType, usize), Reason> {
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

/// A frame's Ethernet header and tags, for a frame that goes back the way it came.
pub(super) struct Back {
    /// Destination and source exchanged.
    pub(super) macs: [[u8; 4]; 3],
    /// The outermost first; zero is none.
    pub(super) tags: [[u8; 4]; MAX_TAGS],
    /// Offset of the IP packet.
    at: usize,
}

impl Back {
    /// Reads it off a frame whose IP packet starts at `at`.
    ///
    /// # Errors
    /// [`Reason::Unanswerable`] for a frame that was sent to a group of stations.
    #[inline(always)]
    pub(super) fn of<P: Packet>(packet: &P, at: usize) -> Result<Self, Reason> {
        let macs: &[[u8; 2]; 6] = packet.header(0).ok_or(Reason::Inconsistent)?;
        let [a, b, c, d, e, f] = *macs;
        if a[0] & 1 != 0 {
            return Err(Reason::Unanswerable);
        }
        let mut tags = [[0; 4]; MAX_TAGS];
        if at > ETHERNET_LEN {
            tags[0] = *packet.header(MACS_LEN).ok_or(Reason::Inconsistent)?;
        }
        if at > ETHERNET_LEN + VLAN_TAG_LEN {
            tags[1] = *packet.header(MACS_LEN + VLAN_TAG_LEN).ok_or(Reason::Inconsistent)?;
        }
        Ok(Self { macs: [pair(d, e), pair(f, a), pair(b, c)], tags, at })
    }

    /// Writes it before an IP packet of this ethertype, which starts where the other did.
    #[inline(always)]
    pub(super) fn write<P: Packet>(&self, packet: &mut P, ethertype: u16) -> Result<(), Reason> {
        *packet.header_mut(0).ok_or(Reason::Inconsistent)? = self.macs;
        if self.at > ETHERNET_LEN {
            *packet.header_mut(MACS_LEN).ok_or(Reason::Inconsistent)? = self.tags[0];
        }
        if self.at > ETHERNET_LEN + VLAN_TAG_LEN {
            *packet.header_mut(MACS_LEN + VLAN_TAG_LEN).ok_or(Reason::Inconsistent)? = self.tags[1];
        }
        *packet.header_mut(self.at - 2).ok_or(Reason::Inconsistent)? = ethertype.to_be_bytes();
        Ok(())
    }
}

/// Two pairs of bytes as a word: a copy of byte arrays becomes a call of memmove, which BPF does not have.
#[inline(always)]
fn pair([a, b]: [u8; 2], [c, d]: [u8; 2]) -> [u8; 4] {
    u32::from_ne_bytes([a, b, c, d]).to_ne_bytes()
}
