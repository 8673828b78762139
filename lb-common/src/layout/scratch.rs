//! What a CPU keeps from one stage to the next, and from one packet to the next.

use super::Family;
use crate::cell::SharedU64;
use crate::reason::Reason;
use crate::time::Tick;

/// One CPU's own words; zero at first. Not kept across loads of the program.
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug, Default))]
pub struct Scratch {
    /// [`Note`] of a stage for the next.
    pub note: SharedU64,
    /// The selection hash of a flow that [`Stage::Choose`](crate::pipeline::Stage::Choose) is to choose for.
    pub hash: SharedU64,
    /// The id of its pool.
    pub pool: SharedU64,
    /// [`Chosen`], until it is used.
    pub chosen: SharedU64,
    /// [`Datagram`] whose connection ID [`Stage::Quic`](crate::pipeline::Stage::Quic) is to read.
    pub datagram: SharedU64,
    /// [`Chosen`] by that stage, until it is used; a service's id stands in the place of the pool's.
    pub named: SharedU64,
    /// [`Asked`], for [`Stage::Limit`](crate::pipeline::Stage::Limit) to judge.
    pub asked: SharedU64,
    /// Upper half of the source's address; 0 for IPv4.
    pub source_high: SharedU64,
    /// Lower half.
    pub source_low: SharedU64,
    /// [`Chosen`] by that stage, until it is used: backend 1 of the service's id in the place of the pool's.
    pub admitted: SharedU64,
    /// See [`Scratch::launder`].
    pub laundry: SharedU64,
    /// [`Asking`].
    pub asking: SharedU64,
    /// What mode `nat` keeps of a packet on its way; see [`Translating`].
    pub translating: [SharedU64; 2],
    /// By kind of answer: when its allowance is whole again, in nanoseconds.
    pub answers: [SharedU64; 4],
}

impl Scratch {
    /// The same number, of which the verifier knows nothing: it follows what comes after once for each thing that it knows,
    /// such as each way to a header. Callers mask it again.
    #[inline(always)]
    #[must_use]
    pub fn launder(&self, number: u64) -> u64 {
        self.laundry.set(number);
        self.laundry.get()
    }
}

/// What was chosen for a flow: bits 0–15 backend id, 0 where the table is to decide, 16–31 pool id, 32–63 the upper half of
/// the flow's selection hash. 0: nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen(pub u64);

impl Chosen {
    /// This backend for this flow of a pool.
    #[inline(always)]
    #[must_use]
    pub const fn new(backend: u32, pool: u32, hash: u64) -> Self {
        Self(backend as u16 as u64 | (pool as u16 as u64) << 16 | hash & 0xffff_ffff_0000_0000)
    }

    /// The backend's id, if the choice was made for this flow.
    #[inline(always)]
    #[must_use]
    pub const fn of(self, pool: u32, hash: u64) -> Option<u32> {
        if self.0 >> 16 == Self::new(0, pool, hash).0 >> 16 { Some(self.0 as u16 as u32) } else { None }
    }
}

/// How many new flows asked for their second buckets because the first was crowded: bits 0–31 in this tick, 32–51 the tick,
/// 52–63 how many in a row found no better place there, since the tick began.
///
/// Only so many a tick do. A flood that fills the table would be in second buckets by and by, and from then on each of its packets
/// would cost two lines instead of one; nothing is lost by that it takes the ways of its own kind in first buckets. Where
/// many in a row asked in vain the table is full all over, and the others of the tick are spared the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asking(pub u64);

impl Asking {
    /// How many in a row ask in vain before nobody does for the rest of the tick. In a table a third above its limit two of
    /// five do: as many in a row never come.
    pub const MOST_IN_VAIN: u32 = 32;

    /// The count in the tick `now`.
    #[inline(always)]
    #[must_use]
    pub const fn in_tick(self, now: Tick) -> Self {
        if Tick::from_bits((self.0 >> 32) as u32).bits() == now.bits() {
            self
        } else {
            Self((now.bits() as u64) << 32)
        }
    }

    /// Whether one more may, by the mask of the flow table: on each CPU one for two buckets, and then some. It takes as many
    /// to fill the table to a third above its limit in a tick.
    #[inline(always)]
    #[must_use]
    pub const fn may(self, mask: u32) -> bool {
        (self.0 as u32) < Self::most(mask) && self.0 >> 52 < Self::MOST_IN_VAIN as u64
    }

    /// With one that found a better place.
    #[inline(always)]
    #[must_use]
    pub const fn gained(self) -> Self {
        Self((self.0 + 1) & ((1 << 52) - 1))
    }

    /// With one that found none.
    #[inline(always)]
    #[must_use]
    pub const fn in_vain(self) -> Self {
        Self(self.0 + 1 + (1 << 52))
    }

    /// How many may in a tick, on each CPU.
    #[inline(always)]
    #[must_use]
    pub const fn most(mask: u32) -> u32 {
        (mask >> 1) + 64
    }
}

/// A datagram: bits 0–15 service id, 16–31 offset in the frame of what the UDP header carries, 32–63 the upper half of the
/// flow's bucket hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Datagram(pub u64);

impl Datagram {
    /// A datagram of a service, which starts at this offset.
    #[inline(always)]
    #[must_use]
    pub const fn new(service: u32, offset: usize, hash: u64) -> Self {
        Self(service as u16 as u64 | (offset as u16 as u64) << 16 | hash & 0xffff_ffff_0000_0000)
    }

    /// Service id.
    #[inline(always)]
    #[must_use]
    pub const fn service(self) -> u32 {
        self.0 as u16 as u32
    }

    /// Offset in the frame of what the UDP header carries.
    #[inline(always)]
    #[must_use]
    pub const fn offset(self) -> usize {
        (self.0 >> 16) as u16 as usize
    }
}

/// A flow that would start: bits 0–15 service id, bit 16 whether it is of IPv6, 32–63 the upper half of its bucket hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(pub u64);

impl Asked {
    /// A flow of a service.
    #[inline(always)]
    #[must_use]
    pub const fn new(service: u32, family: Family, hash: u64) -> Self {
        let v6 = matches!(family, Family::V6) as u64;
        Self(service as u16 as u64 | v6 << 16 | hash & 0xffff_ffff_0000_0000)
    }

    /// Service id.
    #[inline(always)]
    #[must_use]
    pub const fn service(self) -> u32 {
        self.0 as u16 as u32
    }

    /// Family of its addresses.
    #[inline(always)]
    #[must_use]
    pub const fn family(self) -> Family {
        if self.0 & 1 << 16 == 0 { Family::V4 } else { Family::V6 }
    }
}

/// What a stage tells the next: bits 0–15 the largest packet that fits, 16–23 the reason for which it left the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note(pub u64);

impl Note {
    /// With the length in bytes of the largest IP packet that would have fitted.
    #[inline(always)]
    #[must_use]
    pub const fn too_big(fits: u16) -> Self {
        Self(fits as u64)
    }

    /// The same with a reason.
    #[inline(always)]
    #[must_use]
    pub const fn because(self, reason: Reason) -> Self {
        Self(self.0 & 0xffff | (reason as u64) << 16)
    }

    /// Largest IP packet that would have fitted; only with [`Reason::TooBig`].
    #[inline(always)]
    #[must_use]
    pub const fn fits(self) -> u16 {
        self.0 as u16
    }

    /// Why the stage left the packet.
    #[inline(always)]
    #[must_use]
    pub fn reason(self) -> Option<Reason> {
        Reason::from_number((self.0 >> 16) as u8)
    }
}

/// A packet on its way to a backend in mode `nat`, from the stage that found its flow to the one that rewrites it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translating {
    /// Offset of the transport header in the frame, below 4096.
    pub offset: u16,
    /// [`crate::wire::Protocol`], by its code.
    pub protocol: u8,
    /// [`crate::wire::Segment`], by its code.
    pub segment: u8,
    /// [`Reason`], by its number.
    pub reason: u8,
    /// Service id.
    pub service: u16,
    /// Backend id.
    pub backend: u16,
    /// Id of the `snat` address.
    pub snat: u16,
    /// Port of that address.
    pub port: u16,
    /// Port of the backend.
    pub backend_port: u16,
}

impl Translating {
    /// The words of [`Scratch::translating`].
    #[inline(always)]
    #[must_use]
    pub const fn words(self) -> [u64; 2] {
        let first = self.offset as u64
            | (self.protocol as u64) << 16
            | (self.segment as u64) << 24
            | (self.reason as u64) << 32
            | (self.service as u64) << 48;
        let second = self.backend as u64
            | (self.snat as u64) << 16
            | (self.port as u64) << 32
            | (self.backend_port as u64) << 48;
        [first, second]
    }

    /// From those words.
    #[inline(always)]
    #[must_use]
    pub const fn of([first, second]: [u64; 2]) -> Self {
        Self {
            offset: (first & 0xfff) as u16,
            protocol: (first >> 16) as u8,
            segment: (first >> 24) as u8,
            reason: (first >> 32) as u8,
            service: (first >> 48) as u16,
            backend: second as u16,
            snat: (second >> 16) as u16,
            port: (second >> 32) as u16,
            backend_port: (second >> 48) as u16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_choice_is_for_one_flow_of_one_pool() {
        let chosen = Chosen::new(7, 3, 0x1234_5678_9abc_def0);
        assert_eq!(chosen.of(3, 0x1234_5678_0000_0000), Some(7));
        assert_eq!((chosen.of(4, 0x1234_5678_9abc_def0), chosen.of(3, 0x1234_5679_9abc_def0)), (None, None));
        assert_eq!(Chosen(0).of(1, 0), None);
    }

    #[test]
    fn new_flows_that_ask_are_counted_in_each_tick_anew() {
        // The last tick before the wrap.
        let (now, next) = (Tick::from_bits(u32::MAX), Tick::from_bits(0));
        let mask = 31;
        // A limit of 64 flows has 32 buckets.
        assert!(Asking::most(mask) >= 64 && Asking::most((1 << 19) - 1) == (1 << 18) + 63);
        let mut asking = Asking(0).in_tick(now);
        for _ in 0..Asking::most(mask) {
            assert!(asking.in_tick(now).may(mask));
            asking = asking.gained();
        }
        assert!(!asking.in_tick(now).may(mask) && asking.in_tick(next).may(mask));
    }

    #[test]
    fn nobody_asks_any_more_in_a_tick_in_which_many_in_a_row_did_in_vain() {
        let (now, next, mask) = (Tick::from_bits(u32::MAX), Tick::from_bits(0), (1 << 19) - 1);
        let almost = (1..Asking::MOST_IN_VAIN).fold(Asking(0).in_tick(now), |asking, _| asking.in_vain());
        assert!(almost.may(mask) && !almost.in_vain().may(mask));
        // The count goes on, the row does not.
        assert_eq!(almost.gained(), Asking((now.bits() as u64) << 32 | Asking::MOST_IN_VAIN as u64));
        assert_eq!(almost.in_vain().in_tick(now), almost.in_vain());
        assert!(almost.in_vain().in_tick(next).may(mask));
    }

    #[test]
    fn a_packet_on_its_way_gives_back_its_parts() {
        let packet = Translating {
            offset: 4095,
            protocol: 2,
            segment: 4,
            reason: 200,
            service: 60_000,
            backend: 50_000,
            snat: 40_000,
            port: 30_000,
            backend_port: 65_535,
        };
        assert_eq!(Translating::of(packet.words()), packet);
    }

    #[test]
    fn a_note_gives_back_its_parts() {
        let note = Note::too_big(1480).because(Reason::Malformed).because(Reason::TooBig);
        assert_eq!((note.fits(), note.reason()), (1480, Some(Reason::TooBig)));
    }
}
