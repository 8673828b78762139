//! Lists of prefixes, as the packet logic searches them; how is told in [`crate::filter`].

use super::Family;

/// Words of a [`FilterLine`].
pub const FILTER_WORDS: usize = 8;

/// A cache line of the map that holds all lists: the [`Lists`] of a VIP, a part of a front, or keys of a list.
///
/// Written only while nothing names it, so that its words are plain. Line 0 is never used.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterLine {
    /// The words.
    pub words: [u64; FILTER_WORDS],
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::size_of::<FilterLine>() == 64);

/// Which list of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Listed {
    /// Refused at every VIP.
    DenyEverywhere = 0,
    /// Refused at this VIP.
    Deny = 1,
    /// Alone accepted at this VIP.
    Allow = 2,
}

impl Listed {
    /// All, in the order in which they are asked.
    pub const ALL: &[Self] = &[Self::DenyEverywhere, Self::Deny, Self::Allow];

    /// The one with this number.
    #[inline(always)]
    #[must_use]
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::DenyEverywhere),
            1 => Some(Self::Deny),
            2 => Some(Self::Allow),
            _ => None,
        }
    }
}

/// The lists of a VIP: a line of two words for each [`Listed`], then the number of lines of each in 32 bits.
pub type Lists = FilterLine;

impl Lists {
    /// The list in this place; one without [`ListWords::is_present`] where the VIP has none.
    #[inline(always)]
    #[must_use]
    pub const fn list(&self, which: Listed) -> ListWords {
        self.numbered(which as u32)
    }

    /// The list in the place with this number, modulo the places.
    #[inline(always)]
    #[must_use]
    pub const fn numbered(&self, number: u32) -> ListWords {
        let place = (number as usize * 2) & (FILTER_WORDS - 2);
        ListWords(self.words[place], self.words[place + 1])
    }

    /// Puts a list of so many lines into its place.
    pub const fn set_list(&mut self, which: Listed, list: ListWords, lines: u32) {
        let place = which as usize * 2;
        self.words[place] = list.0;
        self.words[place + 1] = list.1;
        self.words[6 + which as usize / 2] |= (lines as u64) << (which as usize % 2 * 32);
    }

    /// First line and number of lines of the list in this place; 0 and 0 without one.
    #[must_use]
    pub const fn region(&self, which: Listed) -> (u32, u32) {
        let list = self.list(which);
        if !list.is_present() {
            return (0, 0);
        }
        (list.fine().0, (self.words[6 + which as usize / 2] >> (which as usize % 2 * 32)) as u32)
    }
}

/// Where a list is. First word: bits 0–31 first line of the front's fine part, 32–39 its shift, 40–47 the shift of the
/// coarse part, 48–55 levels of the tree, 56 the lowest address is in the list, 57 the front tells nothing, 58 there is
/// a list. Second word: bits 0–31 first line of the coarse part, 32–63 of the tree. A shift of 0 is a part that the
/// list does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListWords(pub u64, pub u64);

/// The parts of [`ListWords`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListParts {
    /// First line of the fine part of the front.
    pub fine: u32,
    /// Its shift, 0 without one.
    pub fine_shift: u8,
    /// First line of the coarse part.
    pub coarse: u32,
    /// Its shift, 0 without one.
    pub coarse_shift: u8,
    /// First line of the tree.
    pub tree: u32,
    /// Levels of the tree.
    pub levels: u8,
    /// Whether the lowest address is in the list.
    pub from_lowest: bool,
    /// Whether the front tells nothing.
    pub blind: bool,
}

impl ListWords {
    /// The words for these parts.
    #[must_use]
    pub const fn new(parts: ListParts) -> Self {
        let shifts = (parts.fine_shift as u64) << 32 | (parts.coarse_shift as u64) << 40;
        let flags = (parts.from_lowest as u64) << 56 | (parts.blind as u64) << 57 | 1 << 58;
        Self(
            parts.fine as u64 | shifts | (parts.levels as u64) << 48 | flags,
            parts.coarse as u64 | (parts.tree as u64) << 32,
        )
    }

    /// Whether there is a list.
    #[inline(always)]
    #[must_use]
    pub const fn is_present(self) -> bool {
        self.0 & 1 << 58 != 0
    }

    /// Whether the front tells nothing.
    #[inline(always)]
    #[must_use]
    pub const fn is_blind(self) -> bool {
        self.0 & 1 << 57 != 0
    }

    /// First line and shift of the fine part of the front.
    #[inline(always)]
    #[must_use]
    pub const fn fine(self) -> (u32, u32) {
        (self.0 as u32, (self.0 >> 32) as u8 as u32)
    }

    /// First line and shift of the coarse part of the front.
    #[inline(always)]
    #[must_use]
    pub const fn coarse(self) -> (u32, u32) {
        (self.1 as u32, (self.0 >> 40) as u8 as u32)
    }

    /// First line of the tree.
    #[inline(always)]
    #[must_use]
    pub const fn tree(self) -> u32 {
        (self.1 >> 32) as u32
    }

    /// Levels of the tree.
    #[inline(always)]
    #[must_use]
    pub const fn levels(self) -> u32 {
        (self.0 >> 48) as u8 as u32
    }

    /// 1 where the lowest address is in the list, else 0.
    #[inline(always)]
    #[must_use]
    pub const fn from_lowest(self) -> u64 {
        self.0 >> 56 & 1
    }
}

/// Keys of a list that a line holds: those of IPv4 are 32 bits, those of IPv6 two words, the upper half first.
#[inline(always)]
#[must_use]
pub const fn keys_per_line(family: Family) -> u32 {
    match family {
        Family::V4 => 16,
        Family::V6 => 4,
    }
}

/// Packets of one VIP that its lists refused, since the maps were made, each at its [`Listed`].
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Refusals {
    /// Counts.
    pub packets: [u64; 4],
}

impl Refusals {
    /// The packets that this list refused.
    #[must_use]
    pub const fn of(&self, list: Listed) -> u64 {
        self.packets[list as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_list_give_back_its_parts() {
        let parts = ListParts {
            fine: 0xffff_0001,
            fine_shift: 40,
            coarse: 7,
            coarse_shift: 55,
            tree: 0x8000_0009,
            levels: 5,
            from_lowest: true,
            blind: true,
        };
        let words = ListWords::new(parts);
        assert_eq!((words.fine(), words.coarse()), ((0xffff_0001, 40), (7, 55)));
        assert_eq!((words.tree(), words.levels(), words.from_lowest()), (0x8000_0009, 5, 1));
        assert!(words.is_present() && words.is_blind());
        let plain = ListWords::new(ListParts { from_lowest: false, blind: false, ..parts });
        assert!(plain.is_present() && !plain.is_blind() && plain.from_lowest() == 0);
        let mut lists = Lists::default();
        lists.set_list(Listed::Allow, words, 90);
        lists.set_list(Listed::Deny, plain, 80);
        assert_eq!(lists.list(Listed::Allow), words);
        assert_eq!(lists.region(Listed::Allow), (0xffff_0001, 90));
        assert_eq!(lists.region(Listed::Deny), (0xffff_0001, 80));
        assert_eq!(lists.region(Listed::DenyEverywhere), (0, 0));
    }
}
