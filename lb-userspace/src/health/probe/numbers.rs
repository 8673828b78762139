//! Initial sequence numbers of probes' SYNs: each tells whose probe it is, to this process alone.
//!
//! A number is a stream's index and the last bits of the probe's number, enciphered by a key of this process: four rounds of a
//! Feistel network over halves of 16 bits. So nobody who does not see the probes can foresee one, and an answer's says what
//! it answers without a look into a table of what was sent.

#![forbid(unsafe_code)]

use std::hash::{BuildHasher, RandomState};

use crate::config::model::MOST_CHECKS;
use crate::health::board::StreamId;
use crate::health::judge::Sequence;

/// Bits of a number that tell a stream's probes apart; the others tell the stream. With a SYN each millisecond, one that is
/// answered 4.1 s late or later is taken for another.
const PROBE_BITS: u32 = 12;
/// However an update replaces streams, their indexes fit.
const _: () = assert!(MOST_CHECKS * 4 <= 1 << (u32::BITS - PROBE_BITS));
const PROBE_MASK: u32 = (1 << PROBE_BITS) - 1;
const ROUNDS: u8 = 4;

/// The numbers of this process.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    key: RandomState,
}

/// What a number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// Index of the stream.
    pub(super) index: u32,
    probe: u32,
}

impl Numbers {
    /// The number of a probe's SYN, and of the same SYN sent again.
    pub(super) fn of(&self, stream: StreamId, seq: Sequence) -> u32 {
        let (mut left, mut right) = halves(stream.index << PROBE_BITS | low(seq) & PROBE_MASK);
        for round in 0..ROUNDS {
            (left, right) = (right, left ^ self.mix(round, right));
        }
        left << 16 | right
    }

    /// What a number says: of one that is not ours, anything.
    pub(super) fn read(&self, number: u32) -> Named {
        let (mut left, mut right) = halves(number);
        for round in (0..ROUNDS).rev() {
            (left, right) = (right ^ self.mix(round, left), left);
        }
        let plain = left << 16 | right;
        Named { index: plain >> PROBE_BITS, probe: plain & PROBE_MASK }
    }

    /// 16 bits that depend on a half in a way that only this process knows.
    fn mix(&self, round: u8, half: u32) -> u32 {
        low(self.key.hash_one((round, half))) & 0xffff
    }
}

impl Named {
    /// The number of the probe, which is among the last of a stream that has sent `sent`.
    pub(super) fn seq(self, sent: Sequence) -> Option<Sequence> {
        sent.checked_sub(u64::from(low(sent).wrapping_sub(self.probe) & PROBE_MASK))
    }
}

fn halves(number: u32) -> (u32, u32) {
    (number >> 16, number & 0xffff)
}

#[expect(clippy::cast_possible_truncation, reason = "the low half is what is asked for")]
fn low(number: u64) -> u32 {
    number as u32
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn a_number_names_its_stream_and_its_probe() {
        let numbers = Numbers::default();
        for index in [0, 1, 77, 65_535, (1 << 20) - 1] {
            for seq in [1, 2, 4095, 4096, 4097, 1 << 40] {
                let stream = StreamId { index, generation: 3 };
                let named = numbers.read(numbers.of(stream, seq));
                assert_eq!(named.index, index);
                for later in [0, 1, 500, 4095] {
                    assert_eq!(named.seq(seq + later), Some(seq), "{later} probes later");
                }
                assert_eq!(named.seq(seq + 4096), Some(seq + 4096), "as old as that it is taken for another");
            }
        }
        let first = numbers.read(numbers.of(StreamId { index: 0, generation: 1 }, 5));
        assert_eq!(first.seq(4), None, "nothing has that number yet");
    }

    #[test]
    fn numbers_are_distinct_and_look_like_any() {
        let (numbers, others) = (Numbers::default(), Numbers::default());
        let probes = |numbers: &Numbers| -> Vec<u32> {
            let streams = (0..64).map(|index| StreamId { index, generation: 1 });
            streams
                .flat_map(|stream| (0..1024).map(move |seq| (stream, seq)))
                .map(|(s, q)| numbers.of(s, q))
                .collect()
        };
        let drawn = probes(&numbers);
        assert_eq!(drawn.iter().collect::<HashSet<_>>().len(), drawn.len());
        // Each bit is set in half of them.
        for bit in 0..32 {
            let set = drawn.iter().filter(|number| *number >> bit & 1 == 1).count();
            assert!((31_000..34_600).contains(&set), "bit {bit} is set in {set} of 65,536");
        }
        let same = drawn.iter().zip(probes(&others)).filter(|(one, other)| **one == *other).count();
        assert!(same < 4, "{same} numbers are another process's too");
    }
}
