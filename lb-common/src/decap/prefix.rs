//! Addresses and prefixes of either family, as keys of the maps.

use crate::layout::Family;

/// Bits of [`Prefix::family`].
const FAMILY_BITS: u32 = 32;

/// A prefix; an address is one of full length. Also the key of a longest-prefix trie: bits to compare, then the data, of
/// which the family is the first part, so that one trie holds both families.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Prefix {
    /// Bits of the data that count.
    bits: u32,
    /// 4 or 6.
    family: u32,
    /// The address in network byte order, as words of memory; an IPv4 address is in the first bytes.
    address: [u64; 2],
}

const _: () = assert!(size_of::<Prefix>() == 24);

impl Prefix {
    /// An IPv4 address.
    #[inline(always)]
    #[must_use]
    pub const fn v4(address: [u8; 4]) -> Self {
        let [a, b, c, d] = address;
        let address = [u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]), 0];
        Self { bits: FAMILY_BITS + 32, family: 4, address }
    }

    /// An IPv6 address, given in halves.
    #[inline(always)]
    #[must_use]
    pub const fn v6([high, low]: [[u8; 8]; 2]) -> Self {
        let address = [u64::from_ne_bytes(high), u64::from_ne_bytes(low)];
        Self { bits: FAMILY_BITS + 128, family: 6, address }
    }

    /// The same with only the first `length` bits of the address to compare; the others should be zero.
    #[must_use]
    pub const fn of_length(self, length: u8) -> Self {
        Self { bits: FAMILY_BITS + length as u32, ..self }
    }

    /// Bits of the address that count.
    #[must_use]
    pub const fn length(self) -> u8 {
        (self.bits - FAMILY_BITS) as u8
    }

    /// The family; `None` for a value that is no prefix.
    #[must_use]
    pub const fn family(self) -> Option<Family> {
        match self.family {
            4 => Some(Family::V4),
            6 => Some(Family::V6),
            _ => None,
        }
    }

    /// The bytes of the address; those of an IPv4 address come first.
    #[must_use]
    pub fn octets(self) -> [u8; 16] {
        let [high, low] = self.address.map(u64::to_ne_bytes);
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&high);
        octets[8..].copy_from_slice(&low);
        octets
    }

    /// Whether the address `other` has this prefix.
    #[must_use]
    pub fn covers(self, other: Self) -> bool {
        let (own, other_octets) = (self.octets(), other.octets());
        let length = self.length() as usize;
        let bit = |octets: &[u8; 16], index: usize| octets[index / 8] >> (7 - index % 8) & 1;
        self.family == other.family && (0..length).all(|index| bit(&own, index) == bit(&other_octets, index))
    }

    /// The words of the key, as the kernel's maps hold them.
    #[must_use]
    pub const fn words(self) -> [u32; 6] {
        let [high, low] = self.address;
        let [a, b] = halves(high);
        let [c, d] = halves(low);
        [self.bits, self.family, a, b, c, d]
    }

    /// The prefix with these words.
    #[must_use]
    pub const fn from_words([bits, family, a, b, c, d]: [u32; 6]) -> Self {
        Self { bits, family, address: [joined(a, b), joined(c, d)] }
    }
}

const fn halves(word: u64) -> [u32; 2] {
    let [a, b, c, d, e, f, g, h] = word.to_ne_bytes();
    [u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h])]
}

const fn joined(first: u32, second: u32) -> u64 {
    let [a, b, c, d] = first.to_ne_bytes();
    let [e, f, g, h] = second.to_ne_bytes();
    u64::from_ne_bytes([a, b, c, d, e, f, g, h])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_lead_back_to_the_prefix() {
        let v6 = Prefix::v6([[1, 2, 3, 4, 5, 6, 7, 8], [9; 8]]).of_length(57);
        for prefix in [Prefix::v4([10, 1, 2, 3]), v6] {
            assert_eq!(Prefix::from_words(prefix.words()), prefix);
        }
        assert_eq!((v6.length(), v6.family()), (57, Some(Family::V6)));
    }

    #[test]
    fn a_prefix_covers_its_addresses_and_no_others() {
        let ten = Prefix::v4([10, 0, 0, 0]);
        let cases = [
            (ten.of_length(8), [10, 255, 0, 1], true),
            (ten.of_length(9), [10, 127, 0, 1], true),
            (ten.of_length(9), [10, 128, 0, 1], false),
            (ten.of_length(32), [10, 0, 0, 1], false),
            (ten.of_length(0), [192, 0, 2, 1], true),
        ];
        for (prefix, address, covered) in cases {
            assert_eq!(prefix.covers(Prefix::v4(address)), covered, "{prefix:?} {address:?}");
        }
        let mapped = Prefix::v6([[10, 0, 0, 0, 0, 0, 0, 0], [0; 8]]);
        assert!(!ten.of_length(0).covers(mapped), "families are apart");
    }
}
