//! What the packet program tells of the frames that `weir capture` samples.

/// The value of the `capture` map: which frames are sampled. Written by the control plane before the programs run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureRules {
    /// One frame in so many is sampled, by chance; 0 and 1 are every frame.
    pub one_in: u32,
    /// Most bytes of a frame that are copied.
    pub snap: u32,
    /// Most frames that one CPU samples in a second.
    pub per_second: u32,
    /// Zero.
    pub reserved: u32,
}

/// How far a sampled frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Moment {
    /// It came in.
    Arrives = 0,
    /// It leaves, or stays with the host.
    Leaves = 1,
}

/// What precedes a sampled frame's bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// The same for a frame's arrival and leaving; no other sample's of this capture.
    pub number: u64,
    /// `CLOCK_MONOTONIC` nanoseconds.
    pub time_ns: u64,
    /// [`Moment`].
    pub moment: u32,
    /// Index of the interface that it came in by, or leaves by; 0 where it does not leave.
    pub interface: u32,
    /// Bytes of the whole frame.
    pub length: u32,
    /// Number of the reason for which it leaves.
    pub reason: u32,
}

/// One CPU's account of its samples.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureState {
    /// Number of the sample that the present frame is; 0 for none.
    pub current: u64,
    /// Samples so far.
    pub count: u64,
    /// The second that `spent` counts in, by `CLOCK_MONOTONIC`.
    pub second: u64,
    /// Samples in that second.
    pub spent: u64,
}

/// Bit of a sample's number at which the CPU's number starts.
const CPU_BIT: u32 = 40;

impl CaptureState {
    /// Decides whether the next frame is sampled, given a random number; its number, or 0.
    #[inline(always)]
    pub fn next(&mut self, rules: &CaptureRules, random: u32, now_ns: u64, cpu: u32) -> u64 {
        self.current = 0;
        if rules.one_in > 1 && (random as u64 * rules.one_in as u64) >> 32 != 0 {
            return 0;
        }
        let second = now_ns / 1_000_000_000;
        if second != self.second {
            self.second = second;
            self.spent = 0;
        }
        if self.spent >= rules.per_second as u64 {
            return 0;
        }
        self.spent += 1;
        self.count += 1;
        self.current = (cpu as u64) << CPU_BIT | self.count;
        self.current
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_cpu_samples_no_more_in_a_second_than_it_may() {
        let rules = CaptureRules { one_in: 1, snap: 96, per_second: 3, reserved: 0 };
        let mut state = CaptureState::default();
        let taken =
            |state: &mut CaptureState, at| (0..9).filter(|_| state.next(&rules, 7, at, 1) != 0).count();
        assert_eq!(taken(&mut state, 5 * SECOND), 3);
        assert_eq!(taken(&mut state, 5 * SECOND + 9), 0);
        assert_eq!(taken(&mut state, 6 * SECOND), 3);
    }

    #[test]
    fn one_frame_in_so_many_is_sampled_and_numbers_are_never_shared() {
        let rules = CaptureRules { one_in: 10, snap: 96, per_second: u32::MAX, reserved: 0 };
        let mut states = [CaptureState::default(); 2];
        let mut numbers = std::collections::HashSet::new();
        for step in 0..1000_u32 {
            for (cpu, state) in states.iter_mut().enumerate() {
                let number = state.next(&rules, step * (u32::MAX / 1000), 1, cpu as u32);
                assert!(number == 0 || numbers.insert(number));
            }
        }
        assert!((198..=204).contains(&numbers.len()), "{}", numbers.len());
    }
}
