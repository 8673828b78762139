//! Control packets (RFC 5880, section 4.1) to and from bytes.
//!
//! What decodes is fit for a session: everything that section 6.8.6 has a receiver check on the packet alone is
//! checked here.

#![forbid(unsafe_code)]

use std::num::{NonZeroU8, NonZeroU32};
use std::time::Duration;

/// Length without authentication.
pub const LENGTH: usize = 24;

/// State of a session's end, numbered as on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// Held down by its operator.
    AdminDown,
    /// Hears nothing, or is not heard.
    Down,
    /// Hears the other end.
    Init,
    /// Hears and is heard.
    Up,
}

impl State {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::AdminDown, Self::Down, Self::Init, Self::Up];

    fn bits(self) -> u8 {
        match self {
            Self::AdminDown => 0,
            Self::Down => 1,
            Self::Init => 2,
            Self::Up => 3,
        }
    }
}

/// Why a session left the state Up last (section 4.1, `Diag`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Diagnostic(pub u8);

impl Diagnostic {
    /// None.
    pub const NONE: Self = Self(0);
    /// Nothing was heard for the detection time.
    pub const EXPIRED: Self = Self(1);
    /// The other end said it was down.
    pub const NEIGHBOUR: Self = Self(3);
    /// Its operator took it down.
    pub const ADMIN: Self = Self(7);

    /// The RFC's words.
    #[must_use]
    pub fn text(self) -> &'static str {
        const TEXTS: [&str; 9] = [
            "no diagnostic",
            "control detection time expired",
            "echo function failed",
            "neighbour signaled session down",
            "forwarding plane reset",
            "path down",
            "concatenated path down",
            "administratively down",
            "reverse concatenated path down",
        ];
        TEXTS.get(usize::from(self.0)).copied().unwrap_or("unknown diagnostic")
    }
}

/// The Poll and Final bits, of which a packet has at most one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Exchange {
    /// Neither.
    None,
    /// Asks for an answer, to confirm changed times.
    Poll,
    /// The answer.
    Final,
}

/// Whether the sender wants the other end to keep quiet while both are up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Demand {
    /// Packets at all times.
    Off,
    /// None but in exchanges.
    On,
}

/// A control packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Packet {
    /// Why the sender's session left the state Up last.
    pub diagnostic: Diagnostic,
    /// The sender's state.
    pub state: State,
    /// Poll or Final.
    pub exchange: Exchange,
    /// Whether the sender is in demand mode.
    pub demand: Demand,
    /// Packets of the sender that may be lost in a row, and one more.
    pub multiplier: NonZeroU8,
    /// The sender's name for the session.
    pub mine: NonZeroU32,
    /// The receiver's name for it, as far as the sender knows.
    pub yours: Option<NonZeroU32>,
    /// The sender would like to send as often as this; whole microseconds.
    pub desired_min_tx: Duration,
    /// The sender can take packets as often as this; zero asks for none.
    pub required_min_rx: Duration,
}

/// Why bytes are no control packet to act on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// Too short for a packet, or for the length it gives.
    Length,
    /// Another version than 1.
    Version,
    /// Both Poll and Final.
    Exchange,
    /// Authentication, which is not in use.
    Authenticated,
    /// The multipoint bit.
    Multipoint,
    /// Detection multiplier zero.
    Multiplier,
    /// My discriminator zero.
    Mine,
    /// Your discriminator zero in a state in which it is known.
    Yours,
}

const POLL: u8 = 0x20;
const FINAL: u8 = 0x10;
const AUTHENTICATED: u8 = 0x04;
const DEMAND: u8 = 0x02;
const MULTIPOINT: u8 = 0x01;

impl Packet {
    /// To bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; LENGTH] {
        let exchange = match self.exchange {
            Exchange::None => 0,
            Exchange::Poll => POLL,
            Exchange::Final => FINAL,
        };
        let demand = if self.demand == Demand::On { DEMAND } else { 0 };
        let mut bytes = [0; LENGTH];
        bytes[0] = 1 << 5 | self.diagnostic.0 & 0x1f;
        bytes[1] = self.state.bits() << 6 | exchange | demand;
        bytes[2] = self.multiplier.get();
        bytes[3] = LENGTH as u8;
        bytes[4..8].copy_from_slice(&self.mine.get().to_be_bytes());
        bytes[8..12].copy_from_slice(&self.yours.map_or(0, NonZeroU32::get).to_be_bytes());
        bytes[12..16].copy_from_slice(&micros(self.desired_min_tx).to_be_bytes());
        bytes[16..20].copy_from_slice(&micros(self.required_min_rx).to_be_bytes());
        bytes
    }

    /// From a datagram's payload.
    ///
    /// # Errors
    /// What a receiver must discard.
    pub fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let [first, second, multiplier, length, words @ ..] = bytes else { return Err(Malformed::Length) };
        let word = |index: usize| {
            let bytes = words.get(index * 4..index * 4 + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map(u32::from_be_bytes).ok_or(Malformed::Length)
        };
        if first >> 5 != 1 {
            return Err(Malformed::Version);
        }
        let length = usize::from(*length);
        if length < LENGTH || length > bytes.len() {
            return Err(Malformed::Length);
        }
        if second & AUTHENTICATED != 0 {
            return Err(Malformed::Authenticated);
        }
        if second & MULTIPOINT != 0 {
            return Err(Malformed::Multipoint);
        }
        let exchange = match (second & POLL != 0, second & FINAL != 0) {
            (false, false) => Exchange::None,
            (true, false) => Exchange::Poll,
            (false, true) => Exchange::Final,
            (true, true) => return Err(Malformed::Exchange),
        };
        let state = State::ALL[usize::from(second >> 6)];
        let yours = NonZeroU32::new(word(1)?);
        if yours.is_none() && !matches!(state, State::Down | State::AdminDown) {
            return Err(Malformed::Yours);
        }
        Ok(Self {
            diagnostic: Diagnostic(first & 0x1f),
            state,
            exchange,
            demand: if second & DEMAND != 0 { Demand::On } else { Demand::Off },
            multiplier: NonZeroU8::new(*multiplier).ok_or(Malformed::Multiplier)?,
            mine: NonZeroU32::new(word(0)?).ok_or(Malformed::Mine)?,
            yours,
            desired_min_tx: Duration::from_micros(word(2)?.into()),
            required_min_rx: Duration::from_micros(word(3)?.into()),
        })
    }
}

/// Whole microseconds, at most what the field holds (71 minutes).
fn micros(span: Duration) -> u32 {
    u32::try_from(span.as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn packet() -> Packet {
        Packet {
            diagnostic: Diagnostic::EXPIRED,
            state: State::Up,
            exchange: Exchange::Poll,
            demand: Demand::Off,
            multiplier: NonZeroU8::MIN,
            mine: NonZeroU32::MIN,
            yours: NonZeroU32::new(0x0102_0304),
            desired_min_tx: Duration::from_millis(50),
            required_min_rx: Duration::from_millis(1),
        }
    }

    #[test]
    fn a_packet_is_laid_out_as_the_rfc_draws_it() {
        let wire =
            [0x21, 0xe0, 1, 24, 0, 0, 0, 1, 1, 2, 3, 4, 0, 0, 0xc3, 0x50, 0, 0, 0x03, 0xe8, 0, 0, 0, 0];
        assert_eq!(packet().encode(), wire);
        assert_eq!(Packet::decode(&wire), Ok(packet()));
    }

    #[test]
    fn what_a_receiver_must_discard_is_told_apart() {
        let changed = |change: &dyn Fn(&mut [u8; LENGTH])| {
            let mut bytes = packet().encode();
            change(&mut bytes);
            Packet::decode(&bytes).unwrap_err()
        };
        assert_eq!(changed(&|bytes| bytes[0] = 0x40), Malformed::Version);
        assert_eq!(changed(&|bytes| bytes[1] |= FINAL), Malformed::Exchange);
        assert_eq!(changed(&|bytes| bytes[1] |= AUTHENTICATED), Malformed::Authenticated);
        assert_eq!(changed(&|bytes| bytes[1] |= MULTIPOINT), Malformed::Multipoint);
        assert_eq!(changed(&|bytes| bytes[2] = 0), Malformed::Multiplier);
        assert_eq!(changed(&|bytes| bytes[3] = 23), Malformed::Length);
        assert_eq!(changed(&|bytes| bytes[3] = 25), Malformed::Length);
        assert_eq!(changed(&|bytes| bytes[7] = 0), Malformed::Mine);
        assert_eq!(changed(&|bytes| bytes[8..12].fill(0)), Malformed::Yours);
        for length in 0..LENGTH {
            assert_eq!(Packet::decode(&packet().encode()[..length]), Err(Malformed::Length));
        }
    }

    proptest! {
        #[test]
        fn whatever_decodes_encodes_to_the_same_meaning(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            if let Ok(packet) = Packet::decode(&bytes) {
                prop_assert_eq!(Packet::decode(&packet.encode()), Ok(packet));
            }
        }
    }
}
