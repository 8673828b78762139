//! Time as the data plane keeps it: ticks of 2³² ns (4.29 s), so that a shift replaces a division.

/// Bits of a [`Tick`]: it wraps after 2²⁰ ticks, 52 days.
pub(crate) const TICK_BITS: u32 = 20;
/// All of them.
pub(crate) const TICK_MASK: u32 = (1 << TICK_BITS) - 1;

/// Nanoseconds in a tick.
pub const TICK_NS: u64 = 1 << 32;

/// A point in time: `CLOCK_MONOTONIC` nanoseconds >> 32, modulo 2²⁰.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick(u32);

impl Tick {
    /// The tick that contains `ns` nanoseconds of `CLOCK_MONOTONIC`.
    #[inline(always)]
    #[must_use]
    pub const fn from_ns(ns: u64) -> Self {
        Self((ns >> 32) as u32 & TICK_MASK)
    }

    /// A tick from its low 20 bits; higher bits are ignored.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self(bits & TICK_MASK)
    }

    /// The low 20 bits.
    #[inline(always)]
    #[must_use]
    pub const fn bits(self) -> u32 {
        self.0
    }

    /// This tick and `ticks` more.
    #[inline(always)]
    #[must_use]
    pub const fn plus(self, ticks: u32) -> Self {
        Self(self.0.wrapping_add(ticks) & TICK_MASK)
    }

    /// Ticks from `earlier` to this one, modulo 2²⁰.
    #[inline(always)]
    #[must_use]
    pub const fn since(self, earlier: Self) -> u32 {
        self.0.wrapping_sub(earlier.0) & TICK_MASK
    }

    /// Ticks left until this deadline; `None` once `now` is past it.
    ///
    /// Right for deadlines and ages of less than 26 days.
    #[inline(always)]
    #[must_use]
    pub const fn remaining(self, now: Self) -> Option<u32> {
        let left = self.since(now);
        if left < 1 << (TICK_BITS - 1) { Some(left) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadline_holds_through_its_own_tick_and_across_the_wrap() {
        let now = Tick::from_bits(TICK_MASK - 1);
        let deadline = now.plus(3);
        assert_eq!(deadline.bits(), 1);
        for (later, left) in [(0, Some(3)), (3, Some(0)), (4, None), (1000, None)] {
            assert_eq!(deadline.remaining(now.plus(later)), left, "{later} ticks later");
        }
    }

    #[test]
    fn tick_is_a_shift_of_monotonic_nanoseconds() {
        assert_eq!(Tick::from_ns(5 * TICK_NS - 1).bits(), 4);
    }
}
