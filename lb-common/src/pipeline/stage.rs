//! The stages, and which one takes what another leaves.

use crate::reason::Reason;

/// A part of the packet logic that is a program of its own in the kernel; the number is its place in the program array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Where every packet starts.
    Fast = 0,
    /// Frames and headers that are not laid out as nearly all are.
    Rare = 1,
    /// Fragments.
    Fragment = 2,
}

impl Stage {
    /// All stages, in the order of their numbers.
    pub const ALL: &[Self] = &[Self::Fast, Self::Rare, Self::Fragment];

    /// Name of the stage's program in the object.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::Fast => "weir",
            Self::Rare => "weir_rare",
            Self::Fragment => "weir_fragment",
        }
    }

    /// The stage that takes what this one leaves for `reason`; `None` where the packet leaves.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, reason: Reason) -> Option<Self> {
        match (self, reason) {
            (Self::Fast, Reason::Vlan | Reason::IpOptions | Reason::ExtensionHeaders) => Some(Self::Rare),
            (Self::Fast | Self::Rare, Reason::FragmentUnknown) => Some(Self::Fragment),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_and_no_stage_follows_itself() {
        for (place, stage) in Stage::ALL.iter().enumerate() {
            assert_eq!(*stage as usize, place);
            for reason in Reason::ALL {
                let mut next = stage.after(*reason);
                for _ in Stage::ALL {
                    assert_ne!(next, Some(*stage), "{reason:?} leads in a circle");
                    next = next.and_then(|stage| stage.after(*reason));
                }
            }
        }
    }
}
