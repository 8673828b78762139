//! What differs between IPv4 and IPv6, for outer and inner headers alike.

use super::mss;
use super::prefix::Prefix;
use crate::layout::Family;
use crate::packet::Packet;
use crate::wire::{Ipv4, Ipv6};

/// More fragments, and the fragment's offset.
const FRAGMENT: u16 = 0x3fff;

/// An IP header that was read, not yet believed. Without padding, whose copies BPF's stack refuses where they are not
/// aligned.
pub(super) struct Header {
    pub(super) source: Prefix,
    pub(super) destination: Prefix,
    pub(super) traffic_class: u32,
    /// Protocol of what follows.
    pub(super) next: u32,
    /// Bytes of the header, as claimed.
    pub(super) header_length: usize,
    /// Bytes of the packet, as claimed.
    pub(super) length: usize,
    /// IPv4: not 0 in parts of a fragmented packet.
    pub(super) fragment: usize,
}

impl Header {
    /// Whether the header's own lengths are possible.
    #[inline(always)]
    pub(super) fn is_sound<I: Ip>(&self) -> bool {
        self.header_length >= I::HEADER && self.length >= self.header_length
    }
}

/// An IP version.
pub(super) trait Ip {
    /// Bytes of a header without options.
    const HEADER: usize;
    /// Big-endian.
    const ETHERTYPE: [u8; 2];

    /// Reads the header at `at`; `None` where the frame does not hold one of this version.
    fn read<P: Packet>(packet: &P, at: usize) -> Option<Header>;
    /// Whether the checksum of the header without options at `at` is right; true where there is none.
    fn checksum_holds<P: Packet>(packet: &P, at: usize) -> bool;
    /// Replaces the traffic class of the header at `at`.
    fn set_traffic_class<P: Packet>(packet: &mut P, at: usize, class: u32) -> Option<()>;
    /// The largest MSS to announce.
    fn mss_limit<T: mss::Tables>(tables: &T) -> u16;
}

pub(super) struct V4;

impl Ip for V4 {
    const HEADER: usize = size_of::<Ipv4>();
    const ETHERTYPE: [u8; 2] = [0x08, 0x00];

    #[inline(always)]
    fn read<P: Packet>(packet: &P, at: usize) -> Option<Header> {
        let header: &Ipv4 = packet.header(at)?;
        if header.version_ihl >> 4 != 4 {
            return None;
        }
        Some(Header {
            source: Prefix::v4(header.source),
            destination: Prefix::v4(header.destination),
            traffic_class: header.traffic_class as u32,
            next: header.protocol as u32,
            header_length: header.header_length(),
            length: u16::from_be_bytes(header.total_length) as usize,
            fragment: (u16::from_be_bytes(header.flags_offset) & FRAGMENT) as usize,
        })
    }

    #[inline(always)]
    fn checksum_holds<P: Packet>(packet: &P, at: usize) -> bool {
        let Some(words) = packet.header::<[[u8; 4]; 5]>(at) else { return false };
        // In memory's byte order: whether a sum is all ones does not depend on it (RFC 1071 section 2B).
        let mut sum = 0;
        for word in words {
            sum += u32::from_ne_bytes(*word) as u64;
        }
        let sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        (sum & 0xffff) + (sum >> 16) == 0xffff
    }

    #[inline(always)]
    fn set_traffic_class<P: Packet>(packet: &mut P, at: usize, class: u32) -> Option<()> {
        let header: &mut Ipv4 = packet.header_mut(at)?;
        let class = class as u8;
        let word = |class: u8| [header.version_ihl, class];
        let (old, new) = (word(header.traffic_class), word(class));
        header.checksum = updated(header.checksum, old, new);
        header.traffic_class = class;
        Some(())
    }

    #[inline(always)]
    fn mss_limit<T: mss::Tables>(tables: &T) -> u16 {
        tables.limit(Family::V4)
    }
}

pub(super) struct V6;

impl Ip for V6 {
    const HEADER: usize = size_of::<Ipv6>();
    const ETHERTYPE: [u8; 2] = [0x86, 0xdd];

    #[inline(always)]
    fn read<P: Packet>(packet: &P, at: usize) -> Option<Header> {
        let header: &Ipv6 = packet.header(at)?;
        let word = header.first_word();
        if word >> 28 != 6 {
            return None;
        }
        Some(Header {
            source: Prefix::v6(header.source),
            destination: Prefix::v6(header.destination),
            traffic_class: word >> 20 & 0xff,
            next: header.next_header as u32,
            header_length: Self::HEADER,
            length: u16::from_be_bytes(header.payload_length) as usize + Self::HEADER,
            fragment: 0,
        })
    }

    #[inline(always)]
    fn checksum_holds<P: Packet>(_packet: &P, _at: usize) -> bool {
        true
    }

    #[inline(always)]
    fn set_traffic_class<P: Packet>(packet: &mut P, at: usize, class: u32) -> Option<()> {
        let header: &mut Ipv6 = packet.header_mut(at)?;
        let word = header.first_word() & !(0xff << 20) | class << 20;
        header.version_class_label = word.to_be_bytes();
        Some(())
    }

    #[inline(always)]
    fn mss_limit<T: mss::Tables>(tables: &T) -> u16 {
        tables.limit(Family::V6)
    }
}

/// The checksum after one of the words that it covers changed (RFC 1624 equation 3).
#[inline(always)]
pub(super) fn updated(checksum: [u8; 2], old: [u8; 2], new: [u8; 2]) -> [u8; 2] {
    let word = |bytes: [u8; 2]| u16::from_be_bytes(bytes) as u32;
    let sum = (!word(checksum) & 0xffff) + (!word(old) & 0xffff) + word(new);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    (!(sum as u16)).to_be_bytes()
}
