//! How far a flow has come, and until when its entry is kept.

use crate::layout::TimeoutsWord;
use crate::time::{TICK_BITS, Tick};
use crate::wire::Segment;

/// What is known of a flow from the packets seen in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Class {
    /// No entry.
    Empty = 0,
    /// Only a SYN.
    Embryonic = 1,
    /// A SYN, then one packet.
    Answered = 2,
    /// One or more packets within a tick, the first of them not a SYN.
    Young = 3,
    /// Refreshed in a later tick, or a SYN and two packets: never taken while live.
    Proven = 4,
    /// Was proven; the client sent a FIN or RST. Protected like a proven one, for a shorter time.
    Closing = 5,
    /// Closed or reset before it was proven.
    Ended = 6,
}

/// The code of the class after a packet: a nibble for each segment, by the code of the class, from index 8 on for an
/// entry that was last refreshed in an earlier tick.
///
/// A table instead of branches: each branch on the way of a packet doubles the paths that the verifier follows.
static AFTER: [u32; 16] = {
    let mut tables = [0; 16];
    let mut segment = 0;
    while segment < 5 {
        let mut class = 0;
        while class < 8 {
            tables[class] |= (after(segment as u8, class as u64, false) as u32) << (segment * 4);
            tables[class + 8] |= (after(segment as u8, class as u64, true) as u32) << (segment * 4);
            class += 1;
        }
        segment += 1;
    }
    tables
};

const fn after(segment: u8, class: u64, later: bool) -> u64 {
    const OPEN: u8 = Segment::Open as u8;
    const CLOSE: u8 = Segment::Close as u8;
    const ABORT: u8 = Segment::Abort as u8;
    let class = Class::from_code(class as u32);
    let next = match (segment, class) {
        (OPEN, _) => class,
        (CLOSE | ABORT, Class::Proven | Class::Closing) => Class::Closing,
        (CLOSE | ABORT, _) => Class::Ended,
        (_, Class::Embryonic) => Class::Answered,
        (_, Class::Answered | Class::Proven) => Class::Proven,
        (_, Class::Closing) => Class::Closing,
        (_, Class::Empty | Class::Young | Class::Ended) => {
            if later {
                Class::Proven
            } else {
                Class::Young
            }
        }
    };
    next as u64
}

/// Where a class's idle time stands in a [`TimeoutsWord`]: a shift in a byte for each class.
const TIMEOUT_SHIFTS: u64 = {
    const ESTABLISHED: u64 = 16;
    const CLOSING: u64 = 32;
    ESTABLISHED << (Class::Proven as u32 * 8)
        | CLOSING << (Class::Closing as u32 * 8)
        | CLOSING << (Class::Ended as u32 * 8)
};
const UDP_SHIFT: u64 = 48;

impl Class {
    /// The classes of flows that have not come to an end, as bits for [`Code::is_in`].
    pub const GOING_ON: u32 = 1 << Self::Embryonic as u32
        | 1 << Self::Answered as u32
        | 1 << Self::Young as u32
        | 1 << Self::Proven as u32;

    #[inline(always)]
    const fn from_code(code: u32) -> Self {
        match code & 7 {
            1 => Self::Embryonic,
            2 => Self::Answered,
            3 => Self::Young,
            4 => Self::Proven,
            5 => Self::Closing,
            6 => Self::Ended,
            _ => Self::Empty,
        }
    }

    /// The class after `segment`; `later` is 1 where the entry was last refreshed in an earlier tick, else 0.
    #[inline(always)]
    #[must_use]
    pub fn after(self, segment: Segment, later: u32) -> Self {
        Self::from_code(Code::of(self).after(segment, later).0)
    }

    /// How long an entry of this class is kept without a packet, in ticks.
    #[inline(always)]
    #[must_use]
    pub const fn ticks(self, timeouts: TimeoutsWord, segment: Segment) -> u32 {
        Code::of(self).ticks(timeouts, segment)
    }

    /// The name in lists and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Embryonic => "embryonic",
            Self::Answered | Self::Young => "young",
            Self::Proven => "proven",
            Self::Closing | Self::Ended => "closing",
        }
    }
}

/// A class as it is stored: for the way of a packet, where decoding it would take branches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code(u32);

impl Code {
    /// The code of `class`.
    #[inline(always)]
    #[must_use]
    pub const fn of(class: Class) -> Self {
        Self(class as u32)
    }

    /// Whether it is one of `classes`, given as bits 1 << class.
    #[inline(always)]
    #[must_use]
    pub const fn is_in(self, classes: u32) -> bool {
        (classes >> (self.0 & 7)) & 1 != 0
    }

    /// As [`Class::after`].
    #[inline(always)]
    #[must_use]
    pub fn after(self, segment: Segment, later: u32) -> Self {
        let by_segment = AFTER[((self.0 & 7) | (later & 1) << 3) as usize];
        Self((by_segment >> (segment as u32 * 4)) & 7)
    }

    /// As [`Class::ticks`].
    #[inline(always)]
    #[must_use]
    pub const fn ticks(self, timeouts: TimeoutsWord, segment: Segment) -> u32 {
        let datagram = segment as u64 >> 2;
        let shift = (TIMEOUT_SHIFTS >> ((self.0 & 7) * 8)) & 0x3f | (datagram * UDP_SHIFT);
        // UDP_SHIFT has every bit of the other shifts.
        (timeouts.0 >> shift) as u16 as u32
    }

    /// The class of a new entry after its first packet; [`Class::Empty`] for a packet that leaves none.
    #[inline(always)]
    #[must_use]
    pub const fn opening(segment: Segment) -> Self {
        const BY_SEGMENT: u32 = (Class::Young as u32) << (Segment::Data as u32 * 4)
            | (Class::Embryonic as u32) << (Segment::Open as u32 * 4)
            | (Class::Ended as u32) << (Segment::Close as u32 * 4)
            | (Class::Young as u32) << (Segment::Datagram as u32 * 4);
        Self((BY_SEGMENT >> (segment as u32 * 4)) & 7)
    }
}

/// Where the class starts in a [`Meta`]: above the deadline.
pub(super) const CLASS_SHIFT: u32 = TICK_BITS;

/// Bits 0–19 deadline, 20–22 class, 24–31 generation of the backend id. In mode `nat` bit 23: the backend has answered the
/// SYN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta(pub u32);

impl Meta {
    /// A meta with these parts.
    #[inline(always)]
    #[must_use]
    pub const fn new(deadline: Tick, class: Class, generation: u8) -> Self {
        Self::of(deadline, Code::of(class), generation)
    }

    /// A meta with these parts.
    #[inline(always)]
    #[must_use]
    pub const fn of(deadline: Tick, code: Code, generation: u8) -> Self {
        Self(deadline.bits() | code.0 << CLASS_SHIFT | (generation as u32) << 24)
    }

    const ANSWERED: u32 = 1 << 23;

    /// Of a flow whose backend has answered the SYN, by whatever.
    #[inline(always)]
    #[must_use]
    pub const fn answered(self) -> Self {
        Self(self.0 | Self::ANSWERED)
    }

    /// Of a flow whose backend has answered if it had by `before`.
    #[inline(always)]
    #[must_use]
    pub const fn answered_as(self, before: Self) -> Self {
        Self(self.0 | before.0 & Self::ANSWERED)
    }

    /// Whether the backend has answered the SYN, as far as its packets pass weir.
    #[inline(always)]
    #[must_use]
    pub const fn is_answered(self) -> bool {
        self.0 & Self::ANSWERED != 0
    }

    /// Whether only a SYN was seen of the flow, and no answer to it.
    #[inline(always)]
    #[must_use]
    pub const fn awaits_answer(self) -> bool {
        self.0 & (7 << CLASS_SHIFT | Self::ANSWERED) == (Class::Embryonic as u32) << CLASS_SHIFT
    }

    /// The class as stored.
    #[inline(always)]
    #[must_use]
    pub const fn code(self) -> Code {
        Code((self.0 >> CLASS_SHIFT) & 7)
    }

    /// The last tick in which the entry is live.
    #[inline(always)]
    #[must_use]
    pub const fn deadline(self) -> Tick {
        Tick::from_bits(self.0)
    }

    /// Class.
    #[inline(always)]
    #[must_use]
    pub const fn class(self) -> Class {
        Class::from_code(self.0 >> CLASS_SHIFT)
    }

    /// Generation of the backend id at the time of binding.
    #[inline(always)]
    #[must_use]
    pub const fn generation(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// Ticks since the last refresh, given how long the class is kept; saturates for an expired entry.
    #[inline(always)]
    #[must_use]
    pub const fn idle(self, now: Tick, kept: u32) -> u32 {
        match self.deadline().remaining(now) {
            Some(left) if left > kept => 0,
            Some(left) => kept - left,
            None => kept + now.since(self.deadline()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: TimeoutsWord = TimeoutsWord::new(14, 1817, 15, 28);

    #[test]
    fn a_handshake_and_one_more_packet_prove_a_flow_within_a_tick() {
        let answered = Class::Embryonic.after(Segment::Data, 0);
        assert_eq!(answered, Class::Answered);
        assert_eq!(answered.after(Segment::Data, 0), Class::Proven);
    }

    #[test]
    fn packets_within_a_tick_never_prove_a_flow_without_a_syn() {
        for segment in [Segment::Data, Segment::Datagram] {
            assert_eq!(Class::Young.after(segment, 0), Class::Young);
            assert_eq!(Class::Young.after(segment, 1), Class::Proven);
        }
    }

    #[test]
    fn only_a_proven_flow_closes_into_a_protected_class() {
        for segment in [Segment::Close, Segment::Abort] {
            for class in [Class::Embryonic, Class::Answered, Class::Young, Class::Ended] {
                assert_eq!(class.after(segment, 1), Class::Ended);
            }
            assert_eq!(Class::Proven.after(segment, 0), Class::Closing);
        }
        assert_eq!(Class::Closing.after(Segment::Data, 1), Class::Closing);
    }

    #[test]
    fn a_syn_never_demotes() {
        for class in [Class::Embryonic, Class::Answered, Class::Young, Class::Proven, Class::Closing] {
            assert_eq!(class.after(Segment::Open, 1), class);
        }
    }

    #[test]
    fn each_class_has_its_idle_time() {
        let cases = [
            (Class::Embryonic, 14),
            (Class::Answered, 14),
            (Class::Young, 14),
            (Class::Proven, 1817),
            (Class::Closing, 15),
            (Class::Ended, 15),
        ];
        for (class, ticks) in cases {
            assert_eq!(class.ticks(TIMEOUTS, Segment::Data), ticks, "{class:?}");
            assert_eq!(class.ticks(TIMEOUTS, Segment::Datagram), 28, "{class:?}");
        }
    }

    #[test]
    fn idle_time_counts_from_the_last_refresh() {
        let start = Tick::from_bits(1000);
        let kept = Class::Proven.ticks(TIMEOUTS, Segment::Data);
        let meta = Meta::new(start.plus(kept), Class::Proven, 9);
        for idle in [0, 1, 1817, 5000] {
            assert_eq!(meta.idle(start.plus(idle), kept), idle);
        }
        assert_eq!((meta.class(), meta.generation()), (Class::Proven, 9));
    }

    #[test]
    fn that_a_backend_answered_is_apart_from_all_else_of_a_meta() {
        for class in [Class::Embryonic, Class::Answered, Class::Ended] {
            let meta = Meta::new(Tick::from_bits(0xf_ffff), class, 0);
            let answered = meta.answered();
            assert!(answered.is_answered() && !meta.is_answered() && !answered.awaits_answer());
            assert_eq!(meta.awaits_answer(), class == Class::Embryonic);
            assert_eq!(
                (answered.class(), answered.deadline(), answered.generation()),
                (class, Tick::from_bits(0xf_ffff), 0)
            );
            assert_eq!((meta.answered_as(answered), meta.answered_as(meta)), (answered, meta));
        }
    }
}
