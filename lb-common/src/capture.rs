//! What the packet program tells of the frames that `weir capture` samples.

use crate::layout::Family;
use crate::packet::Packet;
use crate::pipeline::untag;
use crate::wire::{EtherType, Ipv4, Ipv6};

/// Words of the `capture` map's value.
pub const RULE_WORDS: usize = size_of::<CaptureRules>() / size_of::<u64>();

/// Addresses that begin alike.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hosts {
    /// 4 or 6; 0 takes in every frame, also what is not IP.
    pub version: u64,
    /// The addresses' halves with their bytes in the order of the wire; IPv4 has the first four bytes.
    pub address: [u64; 2],
    /// The bits that count, likewise.
    pub mask: [u64; 2],
}

impl Hosts {
    /// Addresses that agree with this one in the first `length` bits; the address as on the wire, IPv4 in the first
    /// four bytes.
    #[must_use]
    pub fn of(family: Family, address: [[u8; 8]; 2], length: u8) -> Self {
        let ones = u128::MAX.checked_shl(128 - u32::from(length.min(128))).unwrap_or(0).to_be_bytes();
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = ones;
        let mask = [[a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]].map(u64::from_ne_bytes);
        let version = match family {
            Family::V4 => 4,
            Family::V6 => 6,
        };
        Self { version, address: address.map(u64::from_ne_bytes), mask }
    }

    /// Whether the frame's IP packet comes from one of the addresses or goes to one.
    #[inline(always)]
    fn meet<P: Packet>(&self, packet: &P) -> bool {
        if self.version == 0 {
            return true;
        }
        let Ok((ethertype, at)) = untag(packet) else { return false };
        match (ethertype, self.version) {
            (EtherType::Ipv4, 4) => packet.header(at).is_some_and(|ip: &Ipv4| {
                let whole = |[a, b, c, d]: [u8; 4]| [[a, b, c, d, 0, 0, 0, 0], [0; 8]];
                self.has(whole(ip.source)) || self.has(whole(ip.destination))
            }),
            (EtherType::Ipv6, 6) => {
                packet.header(at).is_some_and(|ip: &Ipv6| self.has(ip.source) || self.has(ip.destination))
            }
            _ => false,
        }
    }

    #[inline(always)]
    fn has(&self, [high, low]: [[u8; 8]; 2]) -> bool {
        let differs = |half, at: usize| (u64::from_ne_bytes(half) ^ self.address[at]) & self.mask[at];
        differs(high, 0) | differs(low, 1) == 0
    }
}

/// The value of the `capture` map: which frames are sampled. Written by the control plane before the programs run.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptureRules {
    /// One frame in so many is sampled, by chance; 0 and 1 are every frame.
    pub one_in: u64,
    /// Most bytes of a frame that are copied.
    pub snap: u64,
    /// Most frames that one CPU samples in a second.
    pub per_second: u64,
    /// Only frames from or to these.
    pub hosts: Hosts,
}

impl CaptureRules {
    /// The map's value.
    #[must_use]
    pub fn words(&self) -> [u64; RULE_WORDS] {
        let Self { one_in, snap, per_second, hosts: Hosts { version, address, mask } } = *self;
        [one_in, snap, per_second, version, address[0], address[1], mask[0], mask[1]]
    }
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
    /// Index of the interface that it came in by, or leaves by; 0 where it does not leave, or leaves the way it came.
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
    pub fn next<P: Packet>(
        &mut self,
        packet: &P,
        rules: &CaptureRules,
        random: u32,
        now_ns: u64,
        cpu: u32,
    ) -> u64 {
        self.current = 0;
        if !rules.hosts.meet(packet) {
            return 0;
        }
        if rules.one_in > 1 && (random as u64).wrapping_mul(rules.one_in) >> 32 != 0 {
            return 0;
        }
        let second = now_ns / 1_000_000_000;
        if second != self.second {
            self.second = second;
            self.spent = 0;
        }
        if self.spent >= rules.per_second {
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
    use crate::memory::Frame;

    const SECOND: u64 = 1_000_000_000;

    fn arp() -> [u8; 60] {
        let mut frame = [0; 60];
        frame[12..14].copy_from_slice(&[0x08, 0x06]);
        frame
    }

    fn rules(one_in: u64, per_second: u64) -> CaptureRules {
        CaptureRules { one_in, snap: 96, per_second, hosts: Hosts::default() }
    }

    #[test]
    fn a_cpu_samples_no_more_in_a_second_than_it_may() {
        let (rules, mut state, mut bytes) = (rules(1, 3), CaptureState::default(), arp());
        let frame = Frame::new(&mut bytes, 0);
        let mut taken = |at| (0..9).filter(|_| state.next(&frame, &rules, 7, at, 1) != 0).count();
        assert_eq!(taken(5 * SECOND), 3);
        assert_eq!(taken(5 * SECOND + 9), 0);
        assert_eq!(taken(6 * SECOND), 3);
    }

    #[test]
    fn one_frame_in_so_many_is_sampled_and_numbers_are_never_shared() {
        let (rules, mut bytes) = (rules(10, u64::MAX), arp());
        let frame = Frame::new(&mut bytes, 0);
        let mut numbers = std::collections::HashSet::new();
        let mut states = [CaptureState::default(); 2];
        for step in 0..1000_u32 {
            for (cpu, state) in states.iter_mut().enumerate() {
                let number = state.next(&frame, &rules, step * (u32::MAX / 1000), 1, cpu as u32);
                assert!(number == 0 || numbers.insert(number));
            }
        }
        assert!((198..=204).contains(&numbers.len()), "{}", numbers.len());
    }

    #[test]
    fn hosts_are_looked_for_on_both_ends_and_below_tags() {
        let v4 = |source: [u8; 4], destination: [u8; 4], tags: usize| {
            let mut frame = [0_u8; 60];
            let mut at = 12;
            for _ in 0..tags {
                frame[at..at + 2].copy_from_slice(&[0x81, 0x00]);
                at += 4;
            }
            frame[at..at + 3].copy_from_slice(&[0x08, 0x00, 0x45]);
            frame[at + 14..at + 18].copy_from_slice(&source);
            frame[at + 18..at + 22].copy_from_slice(&destination);
            frame
        };
        let v6 = |source: u8, destination: u8| {
            let mut frame = [0_u8; 60];
            frame[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
            (frame[37], frame[53]) = (source, destination);
            frame
        };
        let met = |hosts: Hosts, mut frame: [u8; 60]| hosts.meet(&Frame::new(&mut frame, 0));
        let net = Hosts::of(Family::V4, [[10, 1, 0, 0, 0, 0, 0, 0], [0; 8]], 15);
        for tags in 0..=2 {
            assert!(met(net, v4([10, 0, 7, 7], [192, 0, 2, 1], tags)), "{tags}");
            assert!(met(net, v4([192, 0, 2, 1], [10, 1, 7, 7], tags)), "{tags}");
            assert!(!met(net, v4([10, 2, 7, 7], [192, 0, 2, 1], tags)), "{tags}");
        }
        let host = Hosts::of(Family::V6, [[0; 8], [0, 0, 0, 0, 0, 0, 0, 9]], 128);
        assert!(met(host, v6(9, 1)) && met(host, v6(1, 9)) && !met(host, v6(1, 2)));
        let all = |family| Hosts::of(family, [[0; 8]; 2], 0);
        assert!(met(all(Family::V6), v6(1, 2)) && !met(all(Family::V6), v4([1; 4], [2; 4], 0)));
        assert!(met(all(Family::V4), v4([1; 4], [2; 4], 0)) && !met(all(Family::V4), arp()));
        assert!(met(Hosts::default(), arp()), "no hosts take in every frame");
    }
}
