//! The transition table, single packets, and two ends over a link that delays and loses, in virtual time.

use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn at(ms: u64) -> Moment {
    Moment(ms * 1_000_000)
}

fn disc(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("not zero")
}

fn settings(interval: Duration, multiplier: u8) -> Settings {
    Settings { interval, multiplier: NonZeroU8::new(multiplier).expect("not zero") }
}

#[test]
fn every_transition_is_the_rfcs() {
    use State::{AdminDown, Down, Init, Up};
    let table = [
        (AdminDown, [AdminDown, AdminDown, AdminDown, AdminDown]),
        (Down, [Down, Init, Up, Down]),
        (Init, [Down, Init, Up, Up]),
        (Up, [Down, Down, Up, Up]),
    ];
    for (own, nexts) in table {
        for (received, next) in State::ALL.into_iter().zip(nexts) {
            assert_eq!(next_state(own, received), next, "{own:?} receives {received:?}");
        }
    }
}

/// A packet of a neighbour with multiplier 3.
fn said(state: State, interval: Duration) -> Packet {
    Packet {
        diagnostic: Diagnostic::NONE,
        state,
        exchange: Exchange::None,
        demand: Demand::Off,
        multiplier: NonZeroU8::new(3).expect("not zero"),
        mine: disc(77),
        yours: Some(disc(1)),
        desired_min_tx: interval,
        required_min_rx: interval,
    }
}

/// A session of 10 ms and multiplier 3 that is up since `at(100)`.
fn up() -> Session {
    let mut session = Session::start(settings(10 * MS, 3), disc(1), at(0));
    assert!(session.transmit(at(0), 0).is_some());
    assert_eq!(session.packet_received(&said(State::Init, SLOW), at(100)), Some(Change::Up));
    session
}

/// Sends what is due, and forgets it.
fn drive(session: &mut Session, now: Moment) {
    while session.transmit(now, u64::MAX).is_some() {}
}

#[test]
fn packets_are_a_second_apart_until_the_session_is_up_and_vary_by_a_quarter() {
    let mut session = Session::start(settings(10 * MS, 3), disc(1), at(0));
    let first = session.transmit(at(0), 0).expect("the first packet");
    assert_eq!((first.state, first.yours, first.desired_min_tx), (State::Down, None, SLOW));
    assert_eq!((first.required_min_rx, first.exchange), (10 * MS, Exchange::None));
    assert_eq!(session.next_deadline(), Some(at(750)));
    assert_eq!(session.transmit(at(749), 0), None);
    assert!(session.transmit(at(750), u64::MAX).is_some());
    let next = session.next_deadline().expect("a deadline");
    assert!(next > at(1749) && next <= at(1750), "{next:?}");

    let mut alone = Session::start(settings(SLOW, 1), disc(1), at(0));
    alone.transmit(at(0), u64::MAX);
    let next = alone.next_deadline().expect("a deadline");
    assert!(next > at(899) && next <= at(900), "one packet alone leaves a tenth of slack: {next:?}");
}

#[test]
fn coming_up_starts_a_poll_sequence_that_the_final_ends() {
    let mut session = up();
    let poll = session.transmit(at(100), 0).expect("a packet at once");
    assert_eq!((poll.state, poll.exchange, poll.desired_min_tx), (State::Up, Exchange::Poll, 10 * MS));
    session.packet_received(&Packet { exchange: Exchange::Final, ..said(State::Up, 10 * MS) }, at(101));
    let next = session.transmit(at(111), 0).expect("the next packet");
    assert_eq!(next.exchange, Exchange::None);
}

#[test]
fn a_poll_is_answered_at_once_whenever_it_comes() {
    let mut session = up();
    drive(&mut session, at(100));
    session.packet_received(&Packet { exchange: Exchange::Poll, ..said(State::Up, 10 * MS) }, at(101));
    assert!(session.next_deadline().is_some_and(|next| next <= at(101)));
    let answer = session.transmit(at(101), 0).expect("an answer");
    assert_eq!(answer.exchange, Exchange::Final);
    assert_eq!(session.transmit(at(101), 0), None, "the periodic packet keeps its time");
}

#[test]
fn detection_takes_the_slower_interval_times_the_neighbours_multiplier() {
    let mut session = up();
    assert_eq!(session.detection_time(), Some(3 * SLOW));
    session.packet_received(&said(State::Up, 10 * MS), at(110));
    assert_eq!(session.detection_time(), Some(30 * MS));
    session.packet_received(&said(State::Up, MS), at(120));
    assert_eq!(session.detection_time(), Some(30 * MS), "we asked for 10 ms");
}

#[test]
fn silence_raises_doubt_half_an_interval_before_the_neighbour_is_lost() {
    let mut session = up();
    session.packet_received(&said(State::Up, 10 * MS), at(110));
    assert_eq!(session.on_time(at(134)), None);
    assert_eq!(session.on_time(at(135)), Some(Change::Doubt(Loss::Late(25 * MS))));
    assert_eq!(session.packet_received(&said(State::Up, 10 * MS), at(136)), Some(Change::Up));
    assert!(matches!(session.on_time(at(161)), Some(Change::Doubt(_))));
    drive(&mut session, at(161));
    assert_eq!(session.on_time(at(166)), Some(Change::Down(Loss::Silent(30 * MS))));
    assert_eq!(session.state(), State::Down);
    let packet = session.transmit(at(166), 0).expect("a packet at once");
    assert_eq!((packet.diagnostic, packet.yours), (Diagnostic::EXPIRED, None));
    assert_eq!(packet.desired_min_tx, SLOW);
}

#[test]
fn silence_during_a_pause_of_our_own_is_doubted_and_given_half_the_time_again_once() {
    let mut session = up();
    drive(&mut session, at(100));
    session.packet_received(&said(State::Up, 10 * MS), at(101));
    let mut heard = session.clone();
    for session in [&mut session, &mut heard] {
        assert_eq!(session.on_time(at(2000)), Some(Change::Doubt(Loss::Late(1899 * MS))));
        assert_eq!(session.on_time(at(2000)), None);
        session.transmit(at(2000), 0).expect("a packet that is overdue");
        assert_eq!(session.state(), State::Up);
    }
    assert_eq!(session.on_time(at(2014)), None);
    assert_eq!(session.on_time(at(2015)), Some(Change::Down(Loss::Silent(1914 * MS))));

    assert_eq!(heard.packet_received(&said(State::Up, 10 * MS), at(2010)), Some(Change::Up));
    drive(&mut heard, at(2039));
    assert_eq!(heard.on_time(at(2040)), Some(Change::Down(Loss::Silent(30 * MS))));
}

#[test]
fn neighbour_that_says_it_is_down_is_believed() {
    let mut session = up();
    drive(&mut session, at(100));
    session.packet_received(&said(State::Up, 10 * MS), at(101));
    let packet = Packet { diagnostic: Diagnostic(5), ..said(State::Down, SLOW) };
    let change = session.packet_received(&packet, at(102));
    assert_eq!(change, Some(Change::Down(Loss::Neighbour(Diagnostic(5)))));
    assert_eq!(session.packet_received(&packet, at(103)), None, "it is said once");
}

#[test]
fn neighbour_taken_down_by_its_operator_is_a_soft_failure() {
    let mut session = up();
    let packet = said(State::AdminDown, SLOW);
    let Some(Change::Down(loss)) = session.packet_received(&packet, at(101)) else { panic!("no change") };
    assert_eq!((loss.kind(), session.state()), (FailureKind::Soft, State::Down));
    assert_eq!(session.on_time(at(60_000)), None, "its silence afterwards is no news");
    session.packet_received(&said(State::Down, SLOW), at(60_001));
    assert_eq!(session.packet_received(&said(State::Up, SLOW), at(60_002)), Some(Change::Up));
}

#[test]
fn neighbour_that_lost_us_in_a_pause_of_our_own_is_doubted_and_given_time() {
    let mut session = up();
    drive(&mut session, at(100));
    session.packet_received(&said(State::Up, 10 * MS), at(101));
    let lost = Packet { diagnostic: Diagnostic::EXPIRED, ..said(State::Down, SLOW) };
    let mut blamed = session.clone();
    assert_eq!(session.packet_received(&lost, at(2101)), Some(Change::Doubt(Loss::OwnPause)));
    assert_eq!(session.packet_received(&said(State::Init, SLOW), at(2102)), Some(Change::Up));

    drive(&mut blamed, at(109));
    let change = blamed.packet_received(&lost, at(110));
    assert!(matches!(change, Some(Change::Down(Loss::Neighbour(_)))), "{change:?}");
}

#[test]
fn session_that_does_not_come_up_fails_every_five_seconds() {
    let mut session = Session::start(settings(10 * MS, 3), disc(1), at(0));
    assert_eq!(session.on_time(at(4999)), None);
    assert_eq!(session.on_time(at(5000)), Some(Change::Down(Loss::NeverUp(PATIENCE))));
    assert_eq!(session.on_time(at(9999)), None);
    assert_eq!(session.on_time(at(10_000)), Some(Change::Down(Loss::NeverUp(2 * PATIENCE))));
}

#[test]
fn neighbour_in_demand_mode_or_that_wants_no_packets_gets_none() {
    let mut session = up();
    drive(&mut session, at(100));
    let finished = Packet { exchange: Exchange::Final, demand: Demand::On, ..said(State::Up, 10 * MS) };
    session.packet_received(&finished, at(101));
    assert_eq!(session.transmit(at(5000), 0), None);
    session.packet_received(&Packet { required_min_rx: Duration::ZERO, ..said(State::Up, 10 * MS) }, at(102));
    assert_eq!(session.transmit(at(5000), 0), None);
    session.packet_received(&said(State::Up, 10 * MS), at(103));
    assert!(session.transmit(at(5000), 0).is_some());
}

#[test]
fn the_last_packet_says_that_the_operator_ended_the_session() {
    let farewell = up().farewell();
    assert_eq!((farewell.state, farewell.diagnostic), (State::AdminDown, Diagnostic::ADMIN));
    assert_eq!(farewell.yours, Some(disc(77)));
}

/// Two ends and the packets between them.
struct Link {
    ends: [Session; 2],
    /// Arrival, and the end it goes to.
    flying: VecDeque<(Moment, usize, Packet)>,
    now: Moment,
    changes: [Vec<(Moment, Change)>; 2],
    random: u64,
    /// Of 100 packets.
    loss: u64,
    delay: Duration,
}

impl Link {
    fn new(settings: [Settings; 2], loss: u64, delay: Duration, seed: u64) -> Self {
        let [one, other] = settings;
        let ends = [Session::start(one, disc(1), at(0)), Session::start(other, disc(2), at(300))];
        let flying = VecDeque::new();
        Self { ends, flying, now: at(0), changes: [vec![], vec![]], random: seed | 1, loss, delay }
    }

    /// xorshift64*
    fn draw(&mut self) -> u64 {
        self.random ^= self.random >> 12;
        self.random ^= self.random << 25;
        self.random ^= self.random >> 27;
        self.random.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Lets both ends run until a time; those for which `runs` is false are stopped, and read nothing.
    fn run(&mut self, until: Moment, runs: [bool; 2]) {
        loop {
            let arrival = self.flying.iter().filter(|(_, to, _)| runs[*to]).map(|(at, ..)| *at).min();
            let due = (0..2).filter(|end| runs[*end]).filter_map(|end| self.ends[end].next_deadline()).min();
            let Some(next) = [arrival, due].into_iter().flatten().min() else { break };
            if next > until {
                break;
            }
            self.now = self.now.max(next);
            for end in (0..2).filter(|end| runs[*end]) {
                self.step(end);
            }
        }
        self.now = self.now.max(until);
    }

    fn step(&mut self, end: usize) {
        while let Some(index) = self.flying.iter().position(|(at, to, _)| *to == end && *at <= self.now) {
            let (_, _, packet) = self.flying.remove(index).expect("it was found");
            // Over the wire, as bytes.
            let packet = Packet::decode(&packet.encode()).expect("what an end sends is valid");
            let change = self.ends[end].packet_received(&packet, self.now);
            self.changes[end].extend(change.map(|change| (self.now, change)));
        }
        let change = self.ends[end].on_time(self.now);
        self.changes[end].extend(change.map(|change| (self.now, change)));
        loop {
            let random = self.draw();
            let Some(packet) = self.ends[end].transmit(self.now, random) else { break };
            if self.draw() % 100 >= self.loss {
                self.flying.push_back((self.now + self.delay, 1 - end, packet));
            }
        }
    }

    fn both_up(&self) -> bool {
        self.ends.iter().all(|end| end.state() == State::Up)
    }
}

#[test]
fn neighbour_that_stops_is_lost_within_the_detection_time_and_found_again() {
    let mut link = Link::new([settings(10 * MS, 3); 2], 0, MS, 7);
    link.run(at(5000), [true; 2]);
    assert!(link.both_up(), "{:?}", link.ends);
    assert_eq!(link.ends[0].detection_time(), Some(30 * MS));
    link.changes[0].clear();

    link.run(at(5500), [true, false]);
    let [(doubt_at, Change::Doubt(_)), (down_at, Change::Down(Loss::Silent(silence)))] = &*link.changes[0]
    else {
        panic!("{:?}", link.changes[0]);
    };
    assert!(*doubt_at > at(5000) && *doubt_at < *down_at);
    assert!(*down_at <= at(5000) + 31 * MS, "{down_at:?}");
    assert_eq!(*silence, 30 * MS);

    link.run(at(9000), [true; 2]);
    assert!(link.both_up());
    assert_eq!(link.changes[0].last().map(|(_, change)| change), Some(&Change::Up));
}

#[test]
fn a_stopped_end_that_goes_on_never_calls_its_neighbour_down() {
    let mut link = Link::new([settings(10 * MS, 3); 2], 0, MS, 7);
    link.run(at(5000), [true; 2]);
    link.changes[0].clear();
    link.run(at(7000), [false, true]);
    link.run(at(12_000), [true; 2]);
    assert!(link.both_up());
    let downs = link.changes[0].iter().filter(|(_, change)| matches!(change, Change::Down(_)));
    assert_eq!(downs.count(), 0, "{:?}", link.changes[0]);
}

proptest! {
    #[test]
    fn two_ends_come_up_and_keep_up_over_a_link_that_loses_little(
        intervals in [1u64..300, 1u64..300],
        delay in 0u64..20,
        seed in any::<u64>(),
    ) {
        // With multiplier 10 ten packets in a row would have to be lost.
        let settings = intervals.map(|interval| settings(MS * u32::try_from(interval).unwrap_or(1), 10));
        let mut link = Link::new(settings, 5, MS * u32::try_from(delay).unwrap_or(0), seed);
        link.run(at(20_000), [true; 2]);
        prop_assert!(link.both_up(), "{:?}", link.ends);
        for changes in &link.changes {
            let downs = changes.iter().filter(|(_, change)| matches!(change, Change::Down(_)));
            prop_assert_eq!(downs.count(), 0, "{:?}", changes);
        }
        let slower = MS * u32::try_from(intervals[0].max(intervals[1])).unwrap_or(1);
        for end in &link.ends {
            prop_assert_eq!(end.detection_time(), Some(slower * 10), "the Poll sequence has ended");
            prop_assert_eq!(end.polling, Polling::No);
        }
    }

    #[test]
    fn whatever_a_neighbour_says_an_end_stays_in_step_with_what_it_told(
        packets in prop::collection::vec((prop::collection::vec(any::<u8>(), 24), 0u64..2000), 0..100),
        seed in any::<u64>(),
    ) {
        let mut session = Session::start(settings(10 * MS, 3), disc(1), at(0));
        let (mut now, mut told) = (at(0), None);
        for (mut bytes, wait) in packets {
            now = now + MS * u32::try_from(wait).unwrap_or(0);
            (bytes[0], bytes[3]) = (1 << 5 | bytes[0] & 0x1f, 24);
            bytes[1] &= 0xf2;
            // Times of a second at most, or nothing would ever be late.
            bytes[12..20].iter_mut().enumerate().for_each(|(n, byte)| if n % 4 < 2 { *byte = 0 });
            let mut changes = Vec::new();
            changes.extend(session.on_time(now));
            if let Ok(packet) = Packet::decode(&bytes) {
                changes.extend(session.packet_received(&packet, now));
            }
            while let Some(packet) = session.transmit(now, seed) {
                prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
            }
            for change in changes {
                prop_assert_ne!(Some(&change), told.as_ref(), "nothing is told twice");
                told = Some(change);
            }
            let is_up = session.state() == State::Up;
            prop_assert!(!is_up || matches!(session.told, Told::Up | Told::Doubt), "{:?}", session);
            prop_assert!(is_up || session.told != Told::Up, "{:?}", session);
            prop_assert!(session.next_deadline().is_none_or(|next| next > now), "nothing is left to do now");
        }
    }
}
