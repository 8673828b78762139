//! Whether a packet that finds its flow's entry goes on with it or starts anew.

use super::class::{Class, Meta};
use crate::layout::TimeoutsWord;
use crate::time::Tick;
use crate::wire::Segment;

/// Idle ticks after which a SYN on an entry of a backend without new flows starts a new flow.
const SYN_IDLE_TICKS: u32 = 2;

/// Whether the backend of an entry would take this flow as a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NewFlows {
    /// It would.
    Taken,
    /// Draining, suspect, or its admit share refuses this flow.
    Refused,
}

/// What a packet does with its flow's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Continuation {
    /// Stays with the binding; the meta to have.
    Keep(Meta),
    /// Starts a new flow in this entry's place.
    Anew,
}

/// Whether [`continuation`] would leave the entry as it is because a packet of a proven flow came in the tick of the last
/// one: nearly all do. In 20 instructions where that
/// takes some 80.
#[inline(always)]
#[must_use]
pub fn stays(meta: Meta, segment: Segment, timeouts: TimeoutsWord, now: Tick) -> bool {
    // Data and datagrams; what opens, closes or aborts is looked at.
    if segment as u32 & 3 != 0 {
        return false;
    }
    let settled = Meta::new(now.plus(Class::Proven.ticks(timeouts, segment)), Class::Proven, 0);
    (meta.0 ^ settled.0) << 8 == 0
}

/// Decides for a packet whose entry names a backend that may serve known flows.
///
/// TCP and SCTP use and refresh their entry however old it is; an expired UDP entry is no longer the flow's. A SYN
/// starts anew on an entry that is closing or expired, on an embryonic one whose backend takes no new flows, and on
/// any other of such a backend that has been idle for two ticks; else it leaves the entry's class as it is.
#[inline(always)]
pub fn continuation(
    meta: Meta,
    segment: Segment,
    timeouts: TimeoutsWord,
    new_flows: NewFlows,
    now: Tick,
) -> Continuation {
    const OVER: u32 = 1 << Class::Closing as u32 | 1 << Class::Ended as u32 | 1 << Class::Empty as u32;
    const EMBRYONIC: u32 = 1 << Class::Embryonic as u32;
    let class = meta.code();
    let kept = class.ticks(timeouts, segment);
    let expired = meta.deadline().remaining(now).is_none();
    match segment {
        Segment::Datagram if expired => return Continuation::Anew,
        Segment::Open => {
            let over = expired || class.is_in(OVER);
            let refused = matches!(new_flows, NewFlows::Refused)
                && (class.is_in(EMBRYONIC) || meta.idle(now, kept) >= SYN_IDLE_TICKS);
            if over || refused {
                return Continuation::Anew;
            }
        }
        _ => {}
    }
    let moved = meta.deadline().bits() ^ now.plus(kept).bits();
    let later = (moved | moved.wrapping_neg()) >> 31;
    let next = class.after(segment, later);
    Continuation::Keep(Meta::of(now.plus(next.ticks(timeouts, segment)), next, meta.generation()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENTS: [Segment; 5] =
        [Segment::Data, Segment::Open, Segment::Close, Segment::Abort, Segment::Datagram];

    #[test]
    fn only_a_proven_flows_data_in_the_tick_of_the_last_packet_leaves_the_entry_as_it_is() {
        let timeouts = TimeoutsWord::new(14, 1817, 15, 28);
        // Within reach of the wrap.
        let now = Tick::from_bits(0xf_ff00);
        let mut stayed = 0;
        for segment in SEGMENTS {
            for class in 0..16 {
                for ahead in 0..4000 {
                    let meta = Meta(now.plus(ahead).bits() | class << 20 | 0xab << 24);
                    if stays(meta, segment, timeouts, now) {
                        let kept = continuation(meta, segment, timeouts, NewFlows::Taken, now);
                        assert_eq!(kept, Continuation::Keep(meta), "{segment:?}");
                        stayed += 1;
                    }
                }
            }
        }
        // A proven flow's data and datagrams in the tick of the last.
        assert_eq!(stayed, 2);
    }
}
