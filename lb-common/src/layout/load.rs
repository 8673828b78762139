//! How busy backends are, for the scheduler that asks.

use crate::cell::{SharedU32, SharedU64};
use crate::time::Tick;

/// Bits of fraction of live flows for a unit of weight.
const FRACTION: u32 = 12;
/// Further bits of a [`Load`]'s cost.
const FINER: u32 = 8;

/// A backend's live flows and its weight, by id. Only services with [`Scheduler::LeastConnections`] use and keep it.
///
/// The data plane counts what it sees begin and end; what ends without a sign, and what two CPUs counted at once, is put
/// right by the daemon, which counts the flow table over and over.
///
/// [`Scheduler::LeastConnections`]: super::Scheduler::LeastConnections
#[repr(C, align(64))]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug, Default))]
pub struct Load {
    /// Flows that began less those that ended, wrapping. Written by the data plane, without locks.
    pub seen: SharedU32,
    /// What `seen` lacks of the live flows, wrapping. Written by the daemon.
    pub unseen: SharedU32,
    /// What a flow weighs: the inverse of the weight in force ([`Load::cost_of`]). Written by the daemon.
    pub cost: SharedU64,
    /// Zero.
    pub reserved: [u64; 6],
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::size_of::<Load>() == 64);

impl Load {
    /// Live flows, as far as is known.
    #[inline(always)]
    #[must_use]
    pub fn live(&self) -> u32 {
        let live = self.seen.get().wrapping_add(self.unseen.get());
        // Below zero for a moment, where more was seen to end than to begin.
        live & !(((live as i32) >> 31) as u32)
    }

    /// The cost of a flow on a backend of this weight.
    #[must_use]
    pub const fn cost_of(weight: u16) -> u64 {
        (1 << (FRACTION + FINER)) / if weight == 0 { 1 } else { weight as u64 }
    }

    /// Live flows, with one more, for each unit of weight, in 1/4096; less than 2⁴⁸.
    #[inline(always)]
    #[must_use]
    pub fn for_its_weight(&self, live: u32) -> u64 {
        ((live as u64 + 1) * (self.cost.get() as u32 as u64)) >> FINER & 0xffff_ffff_ffff
    }

    /// Counts a flow that begins.
    #[inline(always)]
    pub fn began(&self) {
        self.seen.set(self.seen.get().wrapping_add(1));
    }

    /// Counts a flow that ends.
    #[inline(always)]
    pub fn ended(&self) {
        self.seen.set(self.seen.get().wrapping_sub(1));
    }
}

/// What the daemon found when it last counted a pool's flows: bits 0–19 the tick, 20–63 live flows for each unit of
/// weight, and an eighth more, in 1/4096. 0: it never did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadsWord(pub u64);

impl LoadsWord {
    /// The word for so many live flows on backends of this weight.
    #[must_use]
    pub fn new(now: Tick, live: u64, weight: u64) -> Self {
        let mean = (live << FRACTION).checked_div(weight).unwrap_or(0);
        let most = mean + (mean >> 3);
        Self(now.bits() as u64 | (if most >> 44 == 0 { most } else { (1 << 44) - 1 }) << 20)
    }

    /// When it was counted; `None` where it never was.
    #[inline(always)]
    #[must_use]
    pub const fn at(self) -> Option<Tick> {
        if self.0 == 0 { None } else { Some(Tick::from_bits(self.0 as u32)) }
    }

    /// What a backend may have, as of [`Load::for_its_weight`], before others are looked for.
    #[inline(always)]
    #[must_use]
    pub const fn most(self) -> u64 {
        self.0 >> 20
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn live_flows_are_what_was_seen_and_what_was_not() {
        let load = Load::default();
        (0..5).for_each(|_| load.began());
        load.ended();
        assert_eq!(load.live(), 4);
        load.unseen.set(3_u32.wrapping_neg());
        assert_eq!(load.live(), 1);
        load.unseen.set(9_u32.wrapping_neg());
        assert_eq!(load.live(), 0);
        load.unseen.set(100);
        assert_eq!(load.live(), 104);
    }

    #[test]
    fn a_share_follows_the_weight() {
        let word = LoadsWord::new(Tick::from_bits(0xf_ffff), 900, 300);
        assert_eq!(word.at(), Some(Tick::from_bits(0xf_ffff)));
        for (live, weight, fits) in [(300, 100, true), (338, 100, false), (338, 200, true), (4, 1, false)] {
            let load = Load { cost: SharedU64::new(Load::cost_of(weight)), ..Load::default() };
            assert_eq!(load.for_its_weight(live) <= word.most(), fits, "{live} of weight {weight}");
        }
        assert_eq!(LoadsWord(0).at(), None);
        assert_eq!(LoadsWord::new(Tick::from_bits(1), 7, 0).at(), Some(Tick::from_bits(1)));
        assert_eq!(LoadsWord::new(Tick::from_bits(1), 1 << 40, 1).most(), (1 << 44) - 1);
    }
}
