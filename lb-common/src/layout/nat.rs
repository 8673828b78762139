//! Addresses and ports that mode `nat` sends from; the protocols over them are in [`crate::nat`].

use crate::cell::SharedU64;
use crate::wire::Protocol;

/// Entries of a [`NatLine`].
pub const NAT_WAYS: usize = 8;

/// A `snat` address by id. Id 0 is never used.
///
/// The control plane fills it and its ports' queues while no packet can find it; afterwards only the data plane writes.
#[repr(C, align(128))]
pub struct NatAddress {
    /// The address; IPv4 in the first four bytes.
    pub address: [u8; 16],
    /// [`NatRange`]; 0 is a free id.
    pub range: SharedU64,
    /// Bits 0–15 largest IP packet towards clients, bit 16 IPv6.
    pub facts: SharedU64,
    /// The free ports of TCP, then of UDP.
    pub queues: [NatQueue; 2],
    /// Zero.
    pub reserved: [u64; 6],
}

/// The free ports of an address and protocol, the one that has been free for longest first.
///
/// Tickets count up for ever; the place of a ticket is its remainder by the number of ports. Places are
/// [`NatPort::place`]s.
#[repr(C)]
pub struct NatQueue {
    /// The next ticket to be taken.
    pub head: SharedU64,
    /// The next ticket to be given.
    pub tail: SharedU64,
    /// Which port is looked at next, whether its flow is over.
    pub hand: SharedU64,
}

/// Which ports an address has: bits 0–31 its first record, 32–47 first port, 48–63 last port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatRange(pub u64);

/// Ids of up to four `snat` addresses, 16 bits each; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnatWord(pub u64);

/// One port of an address and protocol, and the flow that has it: both directions are found here, and end together.
#[repr(C, align(128))]
pub struct NatPort {
    /// Bits 0–31 [`crate::flow::Meta`], 32–47 backend id, 48–63 which flow this is of those that had the port. The class
    /// `Empty` is a port without a flow.
    pub state: SharedU64,
    /// What the words from here to `owner` and the flow's number make: a torn record is none.
    pub check: SharedU64,
    /// Bits 0–15 client's port, 16–31 destination port, 32–47 VIP id, 48–63 protocol.
    pub ends: SharedU64,
    /// Halves of the client's address; IPv4 in the second.
    pub client: [SharedU64; 2],
    /// Halves of the VIP's address.
    pub vip: [SharedU64; 2],
    /// Bits 0–15 service id, 16–31 backend's port, bit 32 an IPv6 client, 48–63 id of the `snat` address.
    pub owner: SharedU64,
    /// How frames to the client leave: Ethernet addresses, two VLAN tags (0 is none), interface index.
    pub back: [SharedU64; 3],
    /// Where the index has the flow: line, then way in bits 0–2.
    pub indexed: SharedU64,
    /// A place of the queue that this port's record lends: ticket from bit 16 upwards, a port less the first one below.
    pub place: SharedU64,
    /// Zero.
    pub reserved: [u64; 3],
}

/// A line of the index from client and VIP to ports' records: a tag in the upper half, the record's number and one in
/// the lower; 0 is empty.
#[repr(C, align(64))]
pub struct NatLine {
    /// The entries, in no order.
    pub ways: [SharedU64; NAT_WAYS],
}

#[cfg(not(loom))]
const _: () = assert!(
    core::mem::size_of::<NatAddress>() == 128
        && core::mem::size_of::<NatPort>() == 128
        && core::mem::size_of::<NatLine>() == 64
);

impl NatAddress {
    /// The facts' word.
    #[must_use]
    pub const fn facts(mtu: u16, v6: bool) -> u64 {
        mtu as u64 | (v6 as u64) << 16
    }

    /// Largest IP packet towards clients, in bytes.
    #[inline(always)]
    #[must_use]
    pub fn client_mtu(&self) -> u32 {
        self.facts.get() as u16 as u32
    }
}

impl NatRange {
    /// Ports `first..=last`, whose records start with this one.
    #[must_use]
    pub const fn new(record: u32, first: u16, last: u16) -> Self {
        Self(record as u64 | (first as u64) << 32 | (last as u64) << 48)
    }

    /// The first record: of TCP's first port.
    #[inline(always)]
    #[must_use]
    pub const fn record(self) -> u32 {
        self.0 as u32
    }

    /// The first port.
    #[inline(always)]
    #[must_use]
    pub const fn first(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// The last port.
    #[inline(always)]
    #[must_use]
    pub const fn last(self) -> u16 {
        (self.0 >> 48) as u16
    }

    /// Number of ports of each protocol; not 0.
    #[inline(always)]
    #[must_use]
    pub const fn size(self) -> u32 {
        (self.last() as u32).saturating_sub(self.first() as u32) + 1
    }

    /// The first record of a protocol's ports; `None` for a protocol that is not translated.
    #[inline(always)]
    #[must_use]
    pub const fn base(self, protocol: Protocol) -> Option<u32> {
        match protocol {
            Protocol::Tcp => Some(self.record()),
            Protocol::Udp => Some(self.record().wrapping_add(self.size())),
            Protocol::Sctp => None,
        }
    }

    /// The port of a record of the range.
    #[inline(always)]
    #[must_use]
    pub const fn port_of(self, record: u32) -> u16 {
        let offset = record.wrapping_sub(self.record());
        let offset = if offset >= self.size() { offset - self.size() } else { offset };
        self.first().wrapping_add(offset as u16)
    }

    /// The record of a port; `None` for one that is not of the range.
    #[inline(always)]
    #[must_use]
    pub const fn record_of(self, protocol: Protocol, port: u16) -> Option<u32> {
        if self.0 == 0 || port < self.first() || port > self.last() {
            return None;
        }
        match self.base(protocol) {
            Some(base) => Some(base.wrapping_add((port - self.first()) as u32)),
            None => None,
        }
    }
}

impl SnatWord {
    /// Most addresses of a family that a service sends from.
    pub const MOST: usize = 4;

    /// The word for these ids; those past the fourth are left out.
    #[must_use]
    pub fn new(ids: impl Iterator<Item = u16>) -> Self {
        Self(ids.take(Self::MOST).enumerate().fold(0, |word, (place, id)| word | (id as u64) << (place * 16)))
    }

    /// The id at a place; 0 is none.
    #[inline(always)]
    #[must_use]
    pub const fn id(self, place: u32) -> u32 {
        (self.0 >> ((place & 3) * 16)) as u16 as u32
    }
}

impl NatPort {
    /// A record without a flow.
    #[must_use]
    pub fn empty() -> Self {
        let word = || SharedU64::new(0);
        Self {
            state: word(),
            check: word(),
            ends: word(),
            client: [word(), word()],
            vip: [word(), word()],
            owner: word(),
            back: [word(), word(), word()],
            indexed: word(),
            place: word(),
            reserved: [0; 3],
        }
    }
}

impl NatLine {
    /// A line of empty ways.
    #[must_use]
    pub fn empty() -> Self {
        Self { ways: core::array::from_fn(|_| SharedU64::new(0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_and_protocol_of_a_range_has_a_record_of_its_own() {
        let range = NatRange::new(1000, 40_000, 40_002);
        assert_eq!((range.record(), range.first(), range.last(), range.size()), (1000, 40_000, 40_002, 3));
        let records = [Protocol::Tcp, Protocol::Udp]
            .into_iter()
            .flat_map(|protocol| (40_000..=40_002).map(move |port| range.record_of(protocol, port)));
        assert!(records.eq((1000..1006).map(Some)));
        assert_eq!(
            [1000, 1002, 1003, 1005].map(|record| range.port_of(record)),
            [40_000, 40_002, 40_000, 40_002]
        );
        assert_eq!(range.record_of(Protocol::Tcp, 39_999), None);
        assert_eq!(range.record_of(Protocol::Udp, 40_003), None);
        assert_eq!(range.record_of(Protocol::Sctp, 40_000), None);
        assert_eq!(NatRange(0).record_of(Protocol::Tcp, 0), None);
        assert_eq!(NatRange::new(0, 1, 65_535).size(), 65_535);
    }

    #[test]
    fn a_service_has_up_to_four_addresses_of_a_family() {
        let word = SnatWord::new([3, 60_000, 5, 6, 7].into_iter());
        assert_eq!([0, 1, 2, 3].map(|place| word.id(place)), [3, 60_000, 5, 6]);
        assert_eq!(word.id(4), 3, "places go round");
        assert_eq!(SnatWord::new(std::iter::empty()).0, 0);
    }
}
