//! How far a flow has come, and until when its entry is kept.

use crate::layout::TimeoutsWord;
use crate::time::Tick;
use crate::wire::{Protocol, Segment};

/// Ticks that an entry is kept after a reset.
const RESET_TICKS: u32 = 2;

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
    /// Was proven; the client sent a FIN. Kept like a proven one, for a shorter time.
    Closing = 5,
    /// Was proven; the client sent a RST.
    Reset = 6,
    /// Closed or reset before it was proven.
    Ended = 7,
}

impl Class {
    #[inline(always)]
    const fn from_code(code: u32) -> Self {
        match code & 7 {
            1 => Self::Embryonic,
            2 => Self::Answered,
            3 => Self::Young,
            4 => Self::Proven,
            5 => Self::Closing,
            6 => Self::Reset,
            7 => Self::Ended,
            _ => Self::Empty,
        }
    }

    /// The class after `segment`; `later` says that the entry was last refreshed in an earlier tick.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, segment: Segment, later: bool) -> Self {
        match (segment, self) {
            (Segment::Open, _) => self,
            (Segment::Close, Self::Proven | Self::Closing | Self::Reset) => Self::Closing,
            (Segment::Abort, Self::Proven | Self::Closing | Self::Reset) => Self::Reset,
            (Segment::Close | Segment::Abort, _) => Self::Ended,
            (Segment::Data | Segment::Datagram, _) => match self {
                Self::Embryonic => Self::Answered,
                Self::Answered | Self::Proven => Self::Proven,
                Self::Young | Self::Ended => {
                    if later {
                        Self::Proven
                    } else {
                        Self::Young
                    }
                }
                Self::Closing | Self::Reset => Self::Closing,
                Self::Empty => Self::Young,
            },
        }
    }

    /// How long an entry of this class is kept without a packet, in ticks.
    #[inline(always)]
    #[must_use]
    pub const fn ticks(self, timeouts: TimeoutsWord, protocol: Protocol) -> u32 {
        if let Protocol::Udp = protocol {
            return timeouts.udp();
        }
        match self {
            Self::Proven => timeouts.established(),
            Self::Closing | Self::Ended => timeouts.closing(),
            Self::Reset => RESET_TICKS,
            Self::Empty | Self::Embryonic | Self::Answered | Self::Young => timeouts.embryonic(),
        }
    }

    /// The name in lists and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Embryonic => "embryonic",
            Self::Answered | Self::Young => "young",
            Self::Proven => "proven",
            Self::Closing | Self::Reset | Self::Ended => "closing",
        }
    }
}

/// Bits 0–19 deadline, 20–22 class, 24–31 generation of the backend id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta(pub u32);

impl Meta {
    /// A meta with these parts.
    #[inline(always)]
    #[must_use]
    pub const fn new(deadline: Tick, class: Class, generation: u8) -> Self {
        Self(deadline.bits() | (class as u32) << 20 | (generation as u32) << 24)
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
        Class::from_code(self.0 >> 20)
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
        let answered = Class::Embryonic.after(Segment::Data, false);
        assert_eq!(answered, Class::Answered);
        assert_eq!(answered.after(Segment::Data, false), Class::Proven);
    }

    #[test]
    fn packets_within_a_tick_never_prove_a_flow_without_a_syn() {
        for segment in [Segment::Data, Segment::Datagram] {
            assert_eq!(Class::Young.after(segment, false), Class::Young);
            assert_eq!(Class::Young.after(segment, true), Class::Proven);
        }
    }

    #[test]
    fn only_a_proven_flow_closes_into_a_protected_class() {
        for class in [Class::Embryonic, Class::Answered, Class::Young, Class::Ended] {
            assert_eq!(class.after(Segment::Close, true), Class::Ended);
            assert_eq!(class.after(Segment::Abort, true), Class::Ended);
        }
        assert_eq!(Class::Proven.after(Segment::Close, false), Class::Closing);
        assert_eq!(Class::Proven.after(Segment::Abort, false), Class::Reset);
        assert_eq!(Class::Reset.after(Segment::Data, false), Class::Closing);
        assert_eq!(Class::Closing.after(Segment::Data, true), Class::Closing);
    }

    #[test]
    fn a_syn_never_demotes() {
        for class in [Class::Embryonic, Class::Answered, Class::Young, Class::Proven, Class::Closing] {
            assert_eq!(class.after(Segment::Open, true), class);
        }
    }

    #[test]
    fn idle_time_counts_from_the_last_refresh() {
        let start = Tick::from_bits(1000);
        let kept = Class::Proven.ticks(TIMEOUTS, Protocol::Tcp);
        let meta = Meta::new(start.plus(kept), Class::Proven, 9);
        for idle in [0, 1, 1817, 5000] {
            assert_eq!(meta.idle(start.plus(idle), kept), idle);
        }
        assert_eq!((meta.class(), meta.generation()), (Class::Proven, 9));
    }
}
