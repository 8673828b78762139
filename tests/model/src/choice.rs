//! Where choices come from: a seed, or the bytes of a fuzzer.

/// A stream of choices.
pub trait Choice {
    /// The next 64 bits.
    fn word(&mut self) -> u64;

    /// A number below `limit`; 0 where `limit` is 0.
    fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.word() % limit as u64) as usize }
    }

    /// True in `percent` of 100 cases.
    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    /// One of `values`, which are not empty.
    fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }
}

/// Choices from a seed, by Steele, Lea and Flood's splitmix64.
pub struct Splitmix(pub u64);

impl Choice for Splitmix {
    fn word(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }
}

/// Choices from given bytes, two for each; zeros once they are used up.
pub struct Bytes<'a>(pub &'a [u8]);

impl Bytes<'_> {
    /// Whether there are bytes left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A frame byte by byte, from its length on.
    #[must_use]
    pub fn frame(&mut self) -> Vec<u8> {
        let length = self.below(256);
        let (frame, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        frame.to_vec()
    }
}

impl Choice for Bytes<'_> {
    fn word(&mut self) -> u64 {
        let (now, later) = self.0.split_at(self.0.len().min(2));
        self.0 = later;
        now.iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
    }
}
