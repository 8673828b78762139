//! Timing and bookkeeping of one stream's sending.

#![forbid(unsafe_code)]

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use super::half_open::preferred_source;
use super::numbers::Named;
use crate::health::board::StreamId;
use crate::health::judge::Sequence;
use crate::health::time::Moment;

/// First probes spread over their interval, at most over this.
const START_SPREAD: Duration = Duration::from_secs(1);
/// Intervals from here on vary by a twentieth, so that streams do not stay in step.
const VARY_FROM: Duration = Duration::from_millis(100);
/// Timers fire together on a grid of this share of their span, at most [`GRID_MAX`].
const GRID_SHARE: u32 = 16;
const GRID_MAX: Duration = Duration::from_millis(2);
/// A probe that is more overdue than this has company: all that were due in that time.
const OVERSLEPT: Duration = Duration::from_millis(100);
/// How long a route's preferred source is believed while probes are answered.
const SOURCE_AGE: Duration = Duration::from_secs(5);
/// The same while they are not.
const SOURCE_AGE_IN_DOUBT: Duration = Duration::from_millis(100);

/// Whether a stream's turn is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It may send.
    Due,
    /// It sends later, once.
    PutOff,
}

/// What sending keeps about all streams.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    /// At the index of the stream.
    places: Vec<Option<(u32, Lane)>>,
}

impl Lanes {
    /// Adds a stream's; that of an earlier stream in its place is dropped.
    pub(super) fn add(&mut self, id: StreamId, lane: Lane) {
        let Ok(index) = usize::try_from(id.index) else { return };
        if self.places.len() <= index {
            self.places.resize_with(index + 1, || None);
        }
        self.places[index] = Some((id.generation, lane));
    }

    /// Drops a stream's.
    pub(super) fn remove(&mut self, id: StreamId) {
        if self.get(id).is_some()
            && let Ok(index) = usize::try_from(id.index)
        {
            self.places[index] = None;
        }
    }

    /// A stream's, if it has one.
    pub(super) fn get(&self, id: StreamId) -> Option<&Lane> {
        let (generation, lane) = self.places.get(usize::try_from(id.index).ok()?)?.as_ref()?;
        (*generation == id.generation).then_some(lane)
    }

    /// That of the stream which a SYN's number names, and the number of the probe.
    pub(super) fn named(&self, named: Named) -> Option<(StreamId, Sequence)> {
        let (generation, lane) = self.places.get(usize::try_from(named.index).ok()?)?.as_ref()?;
        Some((StreamId { index: named.index, generation: *generation }, named.seq(lane.seq)?))
    }

    /// A stream's, if it has one.
    pub(super) fn get_mut(&mut self, id: StreamId) -> Option<&mut Lane> {
        let (generation, lane) = self.places.get_mut(usize::try_from(id.index).ok()?)?.as_mut()?;
        (*generation == id.generation).then_some(lane)
    }
}

/// What sending keeps about a stream.
#[derive(Debug)]
pub(super) struct Lane {
    seq: Sequence,
    next_send: Moment,
    turn: Turn,
    /// The judgement that is armed; an earlier entry of the timers is void.
    pub(super) judge_at: Option<Moment>,
    source: Option<(IpAddr, Moment)>,
}

impl Lane {
    /// A stream that starts at a moment drawn from `random` (uniform in `0..=u64::MAX`).
    pub(super) fn new(interval: Duration, now: Moment, random: u64) -> Self {
        let next_send = now + share(interval.min(START_SPREAD), random);
        Self { seq: 0, next_send, turn: Turn::Due, judge_at: None, source: None }
    }

    /// When the next probe is to be sent.
    pub(super) fn send_at(&self, interval: Duration) -> Moment {
        self.next_send.round_up(grid(interval))
    }

    /// Puts a turn off that this thread overslept, by up to the time it slept, so that the probes of that time come
    /// spread as they were due. Never twice in a row: who oversleeps always still sends.
    pub(super) fn put_off(&mut self, interval: Duration, now: Moment, random: u64) -> Turn {
        let overslept = now.since(self.next_send);
        self.turn = match self.turn {
            Turn::Due if overslept > OVERSLEPT => {
                self.next_send = now + share(overslept.min(interval), random);
                Turn::PutOff
            }
            Turn::Due | Turn::PutOff => Turn::Due,
        };
        self.turn
    }

    /// Numbers a probe that leaves now, and sets the time of the next.
    pub(super) fn take_turn(&mut self, interval: Duration, now: Moment, random: u64) -> Sequence {
        self.seq += 1;
        let vary = if interval >= VARY_FROM { interval / 20 } else { Duration::ZERO };
        let step = match self.seq {
            // First probes come soon, and close together where intervals are long: from the second on they spread.
            1 if interval > START_SPREAD => share(interval, random),
            _ => interval - vary + share(vary * 2, random),
        };
        self.next_send = self.next_send + step;
        // Probes that were missed are not made up for, and the stream keeps its place among the others.
        if self.next_send <= now {
            let missed = now.since(self.next_send).as_nanos() / interval.as_nanos().max(1) + 1;
            self.next_send = self.next_send + interval * u32::try_from(missed).unwrap_or(u32::MAX);
        }
        self.seq
    }

    /// Numbers a probe that leaves out of turn.
    pub(super) fn take_extra(&mut self) -> Sequence {
        self.seq += 1;
        self.seq
    }

    /// The source that the route prefers, looked up anew now and then.
    pub(super) fn source(&mut self, to: IpAddr, unanswered: usize, now: Moment) -> io::Result<IpAddr> {
        let age = if unanswered > 1 { SOURCE_AGE_IN_DOUBT } else { SOURCE_AGE };
        match self.source {
            Some((source, at)) if now.since(at) < age => Ok(source),
            _ => {
                let source = preferred_source(to)?;
                self.source = Some((source, now));
                Ok(source)
            }
        }
    }
}

/// The grid that timers of such a span are rounded up to.
pub(super) fn grid(span: Duration) -> Duration {
    (span / GRID_SHARE).min(GRID_MAX)
}

/// `random / 2^64` of a span.
fn share(span: Duration, random: u64) -> Duration {
    let nanos = (span.as_nanos() * u128::from(random)) >> 64;
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::super::numbers::Numbers;
    use super::super::timers::{Task, Timers};
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn first_probes_spread_over_the_interval_and_at_most_a_second() {
        let start = |interval, random| Lane::new(interval, Moment(0), random).next_send;
        assert_eq!(start(SECOND / 10, 0), Moment(0));
        assert_eq!(start(SECOND / 10, 1 << 63), Moment(50_000_000));
        assert!(start(SECOND * 60, u64::MAX) < Moment(0) + SECOND);
    }

    #[test]
    fn short_intervals_keep_their_pace_and_missed_probes_are_not_made_up_for() {
        let interval = Duration::from_millis(1);
        let mut lane = Lane::new(interval, Moment(0), 0);
        assert_eq!(lane.take_turn(interval, Moment(30_000), u64::MAX), 1);
        assert_eq!(lane.next_send, Moment(1_000_000));
        assert_eq!(lane.take_turn(interval, Moment(50_000_000), 0), 2);
        assert_eq!(lane.next_send, Moment(51_000_000));
    }

    /// What 10,000 streams of one interval do over a time, with the thread asleep for part of it: probes sent in each
    /// millisecond, and the streams' number of probes.
    fn sent(interval: Duration, span: Duration, asleep: std::ops::Range<u64>) -> (Vec<u32>, Vec<u64>) {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut draw = || {
            // splitmix64, by Sebastiano Vigna.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        };
        let mut lanes: Vec<Lane> = (0..10_000).map(|_| Lane::new(interval, Moment(0), draw())).collect();
        let mut timers = Timers::default();
        for (index, lane) in (0..).zip(&lanes) {
            timers.at(lane.send_at(interval), StreamId { index, generation: 1 }, Task::Send);
        }
        let end = Moment(0) + span;
        let mut per_ms = vec![0; usize::try_from(span.as_millis()).expect("a short time")];
        let mut now = Moment(0);
        while let Some(first) = timers.first() {
            now = now.max(first);
            if asleep.contains(&(now.0 / 1_000_000)) {
                now = Moment(asleep.end * 1_000_000);
            }
            if now >= end {
                break;
            }
            while let Some((_, id, _)) = timers.pop_due(now) {
                let lane = &mut lanes[usize::try_from(id.index).expect("an index")];
                if lane.put_off(interval, now, draw()) == Turn::Due {
                    lane.take_turn(interval, now, draw());
                    per_ms[usize::try_from(now.0 / 1_000_000).expect("an index")] += 1;
                }
                timers.at(lane.send_at(interval), id, Task::Send);
            }
        }
        (per_ms, lanes.iter().map(|lane| lane.seq).collect())
    }

    #[test]
    fn probes_of_ten_thousand_backends_never_come_in_bursts() {
        // Twenty probes each two milliseconds on average; of so many independent ones hardly ever more than forty.
        let (per_ms, probes) = sent(SECOND, SECOND * 20, 0..0);
        let worst = per_ms.iter().max().copied().unwrap_or_default();
        assert!(worst <= 45, "{worst} probes in one bundle");
        assert!(probes.iter().all(|count| (19..=21).contains(count)), "{:?}", probes.iter().max());
    }

    #[test]
    fn probes_that_this_thread_overslept_do_not_come_in_a_burst() {
        let (per_ms, probes) = sent(SECOND, SECOND * 10, 3000..5000);
        let worst = per_ms.iter().max().copied().unwrap_or_default();
        assert!(worst <= 90, "{worst} probes in one bundle");
        assert!(probes.iter().all(|count| (6..=10).contains(count)), "{:?}", probes.iter().min());
        let fast = Duration::from_millis(100);
        let (per_ms, _) = sent(fast, SECOND * 5, 2000..4000);
        let worst = per_ms.iter().max().copied().unwrap_or_default();
        assert!(worst <= 450, "{worst} probes in one bundle, 200 on average");
    }

    #[test]
    fn probes_with_long_intervals_start_soon_and_spread_over_the_interval() {
        let minute = SECOND * 60;
        let (per_ms, probes) = sent(minute, SECOND * 180, 0..0);
        let within = |seconds: std::ops::Range<usize>| -> u32 {
            per_ms[seconds.start * 1000..seconds.end * 1000].iter().sum()
        };
        assert!(within(0..1) >= 10_000);
        // 167 a second on average.
        let worst = (70..180).map(|second| within(second..second + 1)).max().unwrap_or_default();
        assert!(worst <= 260, "{worst} probes in one second");
        assert!(probes.iter().all(|count| (3..=5).contains(count)));
    }

    #[test]
    fn a_syns_number_names_the_stream_that_is_in_its_place_and_the_probe() {
        let (mut lanes, numbers) = (Lanes::default(), Numbers::default());
        let id = StreamId { index: 5, generation: 2 };
        assert_eq!(lanes.named(numbers.read(numbers.of(id, 1))), None);
        lanes.add(id, Lane::new(SECOND, Moment(0), 0));
        let seq = lanes.get_mut(id).map(Lane::take_extra).expect("a lane");
        assert_eq!(lanes.named(numbers.read(numbers.of(id, seq))), Some((id, seq)));
        assert_eq!(lanes.named(numbers.read(numbers.of(id, seq + 1))), None, "not sent yet");
    }

    #[test]
    fn a_lane_belongs_to_one_stream_of_its_place() {
        let mut lanes = Lanes::default();
        let [old, new] = [1, 2].map(|generation| StreamId { index: 3, generation });
        lanes.add(old, Lane::new(SECOND, Moment(0), 0));
        assert!(lanes.get(old).is_some() && lanes.get(new).is_none());
        lanes.add(new, Lane::new(SECOND, Moment(0), 0));
        lanes.remove(old);
        assert!(lanes.get_mut(old).is_none() && lanes.get_mut(new).is_some());
        lanes.remove(new);
        assert!(lanes.get(new).is_none());
        assert!(lanes.get(StreamId { index: 4, generation: 1 }).is_none());
    }

    #[test]
    fn a_turn_is_not_put_off_twice() {
        let interval = Duration::from_millis(1);
        let mut lane = Lane::new(interval, Moment(0), 0);
        assert_eq!(lane.put_off(interval, Moment(0) + OVERSLEPT, 0), Turn::Due);
        assert_eq!(lane.put_off(interval, Moment(0) + SECOND, 1 << 63), Turn::PutOff);
        assert_eq!(lane.next_send, Moment(1_000_500_000));
        assert_eq!(lane.put_off(interval, Moment(0) + SECOND * 2, 0), Turn::Due);
    }

    #[test]
    fn long_intervals_vary_by_a_twentieth() {
        let step = |random| {
            let mut lane = Lane::new(SECOND, Moment(0), 0);
            lane.take_turn(SECOND, Moment(0), random);
            lane.next_send
        };
        assert_eq!(step(0), Moment(950_000_000));
        assert_eq!(step(1 << 63), Moment(1_000_000_000));
        assert!(step(u64::MAX) <= Moment(1_050_000_000));
    }
}
