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
