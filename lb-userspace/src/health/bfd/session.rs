//! One end of a session: packets and time in, packets and changes out. Knows no socket and no clock.
//!
//! The protocol is RFC 5880's: three-way handshake, Poll sequence where times change, one second between packets
//! until the session is up, jitter, and a detection time that the slower of the two ends sets. On top of it stands
//! what detection makes of a session ([`Change`]), which is more careful than the protocol: a neighbour that says it
//! lost us after a pause of our own is not to blame.

#![forbid(unsafe_code)]

use std::fmt;
use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

use super::packet::{Demand, Diagnostic, Exchange, Packet, State};
use crate::health::judge::Nature;
use crate::health::machine::FailureKind;
use crate::health::time::Moment;

/// Least time between packets while the session is not up (section 6.8.3).
pub const SLOW: Duration = Duration::from_secs(1);
/// A session that is not up after this time has failed.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Time between packets, both ways, once up.
    pub interval: Duration,
    /// Packets that may be lost in a row, and one more.
    pub multiplier: NonZeroU8,
}

/// Why a session says nothing good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Loss {
    /// The next packet is overdue, by what came before.
    Late(Duration),
    /// Nothing was heard for the detection time.
    Silent(Duration),
    /// The neighbour says it is down, and why.
    Neighbour(Diagnostic),
    /// The neighbour's operator took it down.
    AdminDown,
    /// The neighbour lost us while we were held up.
    OwnPause,
    /// The session did not come up.
    NeverUp(Duration),
}

impl Loss {
    /// What it means for known flows. An operator that takes the neighbour down wants no new ones.
    #[must_use]
    pub fn kind(&self) -> FailureKind {
        match self {
            Self::AdminDown => FailureKind::Soft,
            Self::Late(_) | Self::Silent(_) | Self::Neighbour(_) | Self::OwnPause | Self::NeverUp(_) => {
                FailureKind::Hard
            }
        }
    }
}

impl Loss {
    /// Whether the neighbour said something, or nothing.
    #[must_use]
    pub fn nature(&self) -> Nature {
        match self {
            Self::Neighbour(_) | Self::AdminDown => Nature::Answer,
            Self::Late(_) | Self::Silent(_) | Self::OwnPause | Self::NeverUp(_) => Nature::Silence,
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Late(span) | Self::Silent(span) => write!(f, "no packet for {span:.1?}"),
            Self::Neighbour(diagnostic) => write!(f, "neighbour is down: {}", diagnostic.text()),
            Self::AdminDown => f.write_str("neighbour is administratively down"),
            Self::OwnPause => f.write_str("session starts anew after a pause of this host"),
            Self::NeverUp(span) => write!(f, "session not up after {span:.1?}"),
        }
    }
}

/// What has become of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It is up.
    Up,
    /// There is reason to doubt, which the next packet undoes.
    Doubt(Loss),
    /// It has failed.
    Down(Loss),
}

/// What detection was told last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Up,
    Doubt,
    Down(FailureKind),
}

/// What is known of the other end, from its last packet.
#[derive(Clone, Copy, Debug)]
struct Neighbour {
    discriminator: NonZeroU32,
    state: State,
    demand: Demand,
    multiplier: NonZeroU8,
    desired_min_tx: Duration,
    required_min_rx: Duration,
    heard_at: Moment,
}

/// One end of a session.
#[derive(Clone, Debug)]
pub struct Session {
    settings: Settings,
    discriminator: NonZeroU32,
    state: State,
    diagnostic: Diagnostic,
    neighbour: Option<Neighbour>,
    /// Whether a Poll waits for its Final.
    polling: Polling,
    /// Whether a Poll is to be answered.
    owed: Owed,
    next_send: Moment,
    sent_at: Option<Moment>,
    /// When packets of ours last came so late that the neighbour may have given up.
    paused_at: Option<Moment>,
    /// Until when a neighbour that fell silent while this end was held up may yet speak; once for each silence.
    spared_until: Option<Moment>,
    /// Since when the session should be up.
    wanted_since: Moment,
    give_up_at: Option<Moment>,
    told: Told,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Polling {
    No,
    Yes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owed {
    Nothing,
    Final,
}

/// The state that follows on a packet (section 6.8.6); the sender is never AdminDown itself.
#[must_use]
pub fn next_state(own: State, received: State) -> State {
    match (own, received) {
        (State::AdminDown, _) => State::AdminDown,
        (_, State::AdminDown) => State::Down,
        (State::Down, State::Down) => State::Init,
        (State::Down, State::Init) | (State::Init, State::Init | State::Up) => State::Up,
        (State::Down, State::Up) => State::Down,
        (State::Init, State::Down) => State::Init,
        (State::Up, State::Down) => State::Down,
        (State::Up, State::Init | State::Up) => State::Up,
    }
}

impl Session {
    /// A session that sends its first packet at `first`.
    #[must_use]
    pub fn start(settings: Settings, discriminator: NonZeroU32, first: Moment) -> Self {
        Self {
            settings,
            discriminator,
            state: State::Down,
            diagnostic: Diagnostic::NONE,
            neighbour: None,
            polling: Polling::No,
            owed: Owed::Nothing,
            next_send: first,
            sent_at: None,
            paused_at: None,
            spared_until: None,
            wanted_since: first,
            give_up_at: Some(first + PATIENCE),
            told: Told::Nothing,
        }
    }

    /// The state of this end.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// When the last packet came.
    #[must_use]
    pub fn heard_at(&self) -> Option<Moment> {
        self.neighbour.map(|neighbour| neighbour.heard_at)
    }

    /// Time without a packet after which the neighbour is lost, once it has been heard (section 6.8.4).
    #[must_use]
    pub fn detection_time(&self) -> Option<Duration> {
        let neighbour = self.neighbour?;
        let interval = neighbour.desired_min_tx.max(self.settings.interval);
        Some(interval * u32::from(neighbour.multiplier.get()))
    }

    /// When [`Session::on_time`] or [`Session::transmit`] has something to do.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Moment> {
        let send = match self.owed {
            Owed::Final => self.heard_at(),
            Owed::Nothing => self.interval().map(|_| self.next_send),
        };
        [send, self.lost_at(), self.late_at(), self.give_up_at].into_iter().flatten().min()
    }

    /// Takes a packet that is meant for this session.
    pub fn packet_received(&mut self, packet: &Packet, now: Moment) -> Option<Change> {
        self.note_pause(now);
        self.neighbour = Some(Neighbour {
            discriminator: packet.mine,
            state: packet.state,
            demand: packet.demand,
            multiplier: packet.multiplier,
            desired_min_tx: packet.desired_min_tx,
            required_min_rx: packet.required_min_rx,
            heard_at: now,
        });
        self.spared_until = None;
        // A neighbour that can take more waits no longer for the next packet than it would have.
        if let (Some(sent_at), Some(interval)) = (self.sent_at, self.interval()) {
            self.next_send = self.next_send.min(sent_at + interval);
        }
        match packet.exchange {
            Exchange::Final => self.polling = Polling::No,
            Exchange::Poll => self.owed = Owed::Final,
            Exchange::None => {}
        }
        let was = self.state;
        let next = next_state(was, packet.state);
        if next != was {
            self.enter(next, Diagnostic::NEIGHBOUR, now);
        }
        match (was, next, packet.state) {
            (_, _, State::AdminDown) => self.tell_down(Loss::AdminDown),
            (_, State::Up, _) => self.tell_up(),
            (State::Up, _, _) if packet.diagnostic == Diagnostic::EXPIRED && self.is_own_fault(now) => {
                self.tell_doubt(Loss::OwnPause)
            }
            (State::Up, _, _) => self.tell_down(Loss::Neighbour(packet.diagnostic)),
            _ => None,
        }
    }

    /// Lets time pass. Packets that have arrived must have been taken before.
    pub fn on_time(&mut self, now: Moment) -> Option<Change> {
        if self.lost_at().is_some_and(|at| now >= at) {
            let silence = now.since(self.heard_at().unwrap_or(now));
            let was = self.state;
            self.note_pause(now);
            // What held this end up may have held up the neighbour, or what comes from it.
            if self.paused_at == Some(now) && self.spared_until.is_none() && was == State::Up {
                self.spared_until = self.detection_time().map(|whole| now + whole / 2);
                return self.tell_doubt(Loss::Late(silence));
            }
            self.neighbour = None;
            if matches!(was, State::Init | State::Up) {
                self.enter(State::Down, Diagnostic::EXPIRED, now);
            }
            if was == State::Up {
                return self.tell_down(Loss::Silent(silence));
            }
        }
        if self.late_at().is_some_and(|at| now >= at) {
            let silence = now.since(self.heard_at().unwrap_or(now));
            return self.tell_doubt(Loss::Late(silence));
        }
        if self.give_up_at.is_some_and(|at| now >= at) {
            // Said again and again: what was said before may have been forgiven meanwhile.
            self.told = Told::Nothing;
            self.give_up_at = Some(now + PATIENCE);
            return self.tell_down(Loss::NeverUp(now.since(self.wanted_since)));
        }
        None
    }

    /// The next packet to send at this time; to be asked until there is none. `random` is uniform in
    /// `0..=u64::MAX`.
    pub fn transmit(&mut self, now: Moment, random: u64) -> Option<Packet> {
        if self.owed == Owed::Final {
            self.owed = Owed::Nothing;
            return Some(self.packet(Exchange::Final));
        }
        let interval = self.interval().filter(|_| now >= self.next_send)?;
        self.note_pause(now);
        self.sent_at = Some(now);
        self.next_send = now + self.jittered(interval, random);
        Some(self.packet(match self.polling {
            Polling::Yes => Exchange::Poll,
            Polling::No => Exchange::None,
        }))
    }

    /// The last packet of a session that this end gives up: it asks the neighbour not to worry.
    #[must_use]
    pub fn farewell(&self) -> Packet {
        let packet = self.packet(Exchange::None);
        Packet { state: State::AdminDown, diagnostic: Diagnostic::ADMIN, ..packet }
    }

    /// The shortest time between packets that this end asks for.
    fn desired_min_tx(&self) -> Duration {
        match self.state {
            State::Up => self.settings.interval,
            State::AdminDown | State::Down | State::Init => self.settings.interval.max(SLOW),
        }
    }

    /// Time between periodic packets, if there are any (section 6.8.7).
    fn interval(&self) -> Option<Duration> {
        let desired = self.desired_min_tx();
        let Some(neighbour) = self.neighbour else { return Some(desired) };
        let both_up = self.state == State::Up && neighbour.state == State::Up;
        let quiet = neighbour.demand == Demand::On && both_up && self.polling == Polling::No;
        let wanted = !neighbour.required_min_rx.is_zero() && !quiet;
        wanted.then(|| desired.max(neighbour.required_min_rx))
    }

    /// 75 to 100 % of an interval; with multiplier 1 at most 90 %.
    fn jittered(&self, interval: Duration, random: u64) -> Duration {
        let range = if self.settings.multiplier == NonZeroU8::MIN { 15 } else { 25 };
        let nanos = (interval.as_nanos() * range * u128::from(random) / 100) >> 64;
        interval * 3 / 4 + Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    }

    /// When the neighbour is lost if it says nothing more.
    fn lost_at(&self) -> Option<Moment> {
        let at = self.heard_at()? + self.detection_time()?;
        Some(self.spared_until.map_or(at, |until| until.max(at)))
    }

    /// When its silence is a reason to doubt: half an interval before.
    fn late_at(&self) -> Option<Moment> {
        let neighbour = self.neighbour.filter(|neighbour| neighbour.multiplier.get() > 1)?;
        let whole = self.detection_time().filter(|_| self.told == Told::Up && self.state == State::Up)?;
        Some(neighbour.heard_at + (whole - whole / u32::from(neighbour.multiplier.get()) / 2))
    }

    /// Notes that this end was held up for most of the time that the neighbour waits.
    fn note_pause(&mut self, now: Moment) {
        if let (State::Up, Some(sent_at), Some(interval)) = (self.state, self.sent_at, self.interval())
            && now.since(sent_at)
                >= (interval * u32::from(self.settings.multiplier.get()) * 3 / 4).max(interval)
        {
            self.paused_at = Some(now);
        }
    }

    /// Whether a pause of this end is recent enough for the neighbour to speak of.
    fn is_own_fault(&self, now: Moment) -> bool {
        self.paused_at.is_some_and(|at| now.since(at) < SLOW * 2)
    }

    /// Enters another state and says so without delay.
    fn enter(&mut self, next: State, diagnostic: Diagnostic, now: Moment) {
        if next == State::Down {
            self.diagnostic = diagnostic;
        }
        if self.state == State::Up {
            self.wanted_since = now;
            self.give_up_at = Some(now + PATIENCE);
        }
        // Entering Up or leaving it changes what this end asks for, and only in Up is there anybody to confirm it.
        self.polling = if next == State::Up { Polling::Yes } else { Polling::No };
        self.state = next;
        self.next_send = self.next_send.min(now);
    }

    fn packet(&self, exchange: Exchange) -> Packet {
        Packet {
            diagnostic: if self.state == State::Up { Diagnostic::NONE } else { self.diagnostic },
            state: self.state,
            exchange,
            demand: Demand::Off,
            multiplier: self.settings.multiplier,
            mine: self.discriminator,
            yours: self.neighbour.map(|neighbour| neighbour.discriminator),
            desired_min_tx: self.desired_min_tx(),
            required_min_rx: self.settings.interval,
        }
    }

    fn tell_up(&mut self) -> Option<Change> {
        self.give_up_at = None;
        let before = std::mem::replace(&mut self.told, Told::Up);
        (before != Told::Up).then_some(Change::Up)
    }

    fn tell_doubt(&mut self, loss: Loss) -> Option<Change> {
        let before = std::mem::replace(&mut self.told, Told::Doubt);
        (before != Told::Doubt).then_some(Change::Doubt(loss))
    }

    fn tell_down(&mut self, loss: Loss) -> Option<Change> {
        if loss == Loss::AdminDown {
            self.give_up_at = None;
        }
        let before = std::mem::replace(&mut self.told, Told::Down(loss.kind()));
        (before != self.told).then_some(Change::Down(loss))
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
