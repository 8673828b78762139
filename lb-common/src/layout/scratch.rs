//! What a CPU keeps from one stage to the next, and from one packet to the next.

use crate::cell::SharedU64;
use crate::reason::Reason;

/// One CPU's own words; zero at first. Not kept across loads of the program.
#[repr(C)]
#[cfg_attr(not(target_arch = "bpf"), derive(Debug, Default))]
pub struct Scratch {
    /// [`Note`] of a stage for the next.
    pub note: SharedU64,
    /// By kind of answer: when its allowance is whole again, in nanoseconds.
    pub answers: [SharedU64; 4],
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_gives_back_its_parts() {
        let note = Note::too_big(1480).because(Reason::Malformed).because(Reason::TooBig);
        assert_eq!((note.fits(), note.reason()), (1480, Some(Reason::TooBig)));
    }
}
