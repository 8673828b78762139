//! The Internet checksum (RFC 1071) and its update (RFC 1624). Sums are of big-endian 16-bit words.

/// Folds a sum of words into one, the carries added at the low end.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The sum of the two words of a 32-bit number.
#[inline(always)]
#[must_use]
pub const fn words(number: u32) -> u64 {
    (number >> 16) as u64 + (number & 0xffff) as u64
}

/// The checksum after a word that it covers changed (RFC 1624 equation 3).
#[inline(always)]
#[must_use]
pub const fn update(checksum: [u8; 2], old: u16, new: u16) -> [u8; 2] {
    let sum = !u16::from_be_bytes(checksum) as u64 + !old as u64 + new as u64;
    (!fold(sum)).to_be_bytes()
}

/// The checksum with 0 written as its other form, 0xffff: an update cannot tell which form is right where every other word
/// is 0, as in the reply to an echo request of zeros, and elsewhere both are.
#[inline(always)]
#[must_use]
pub const fn never_zero(checksum: [u8; 2]) -> [u8; 2] {
    match checksum {
        [0, 0] => [0xff, 0xff],
        checksum => checksum,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folding_adds_every_carry() {
        let cases = [
            (0, 0),
            (0xffff, 0xffff),
            (0x1_0000, 1),
            (0x1_ffff, 1),
            (0xffff_ffff, 0xffff),
            (0x1_0000_0000, 1),
            (u64::MAX, 0xffff),
            (0xffff_ffff_0000_0001, 1),
        ];
        for (sum, folded) in cases {
            assert_eq!(fold(sum), folded, "{sum:#x}");
        }
    }

    #[test]
    fn an_updated_checksum_is_right_for_every_value_and_carry() {
        // Echo to echo reply of both families, a TTL to 64, and words at the ends of the range.
        let changes = [
            (0x0800, 0x0000),
            (0x8000, 0x8100),
            (0x0001, 0x4001),
            (0xff06, 0x4006),
            (0xffff, 0x0001),
            (0x0001, 0xffff),
        ];
        for (old, new) in changes {
            for rest in 0..=u16::MAX {
                // `rest` is the sum of all other words: every checksum, and every carry, comes up.
                let checksum = (!fold(u64::from(old) + u64::from(rest))).to_be_bytes();
                let updated = u16::from_be_bytes(never_zero(update(checksum, old, new)));
                let sum = fold(u64::from(new) + u64::from(rest) + u64::from(updated));
                assert_eq!(sum, 0xffff, "{old:#x} to {new:#x}, others {rest:#x}");
            }
        }
    }

    #[test]
    fn a_checksum_in_either_form_of_zero_stays_right() {
        for written in [0x0000, 0xffff_u16] {
            // The rest of the message sums to the form of zero that makes it right.
            let updated = u16::from_be_bytes(never_zero(update(written.to_be_bytes(), 0x0800, 0x0000)));
            let rest = u64::from(!fold(u64::from(written) + 0x0800));
            assert_eq!(fold(rest + u64::from(updated)), 0xffff, "{written:#x}");
        }
    }
}
