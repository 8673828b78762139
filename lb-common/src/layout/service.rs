//! A service's forwarding rules.

use crate::cell::SharedU64;
use crate::opaque::opaque;

/// A service by id. Id 0 is never used.
#[repr(C, align(64))]
pub struct Service {
    /// [`ForwardWord`].
    pub forward: SharedU64,
    /// [`TimeoutsWord`].
    pub timeouts: SharedU64,
    /// [`CidConfigs`](super::CidConfigs), where [`ForwardWord::quic`] says so.
    pub quic: SharedU64,
    /// [`super::SnatWord`]: the IPv4 addresses that mode `nat` sends from.
    pub snat_v4: SharedU64,
    /// [`super::SnatWord`]: the IPv6 addresses.
    pub snat_v6: SharedU64,
    /// Zero.
    pub reserved: [u64; 3],
}

#[cfg(not(loom))]
const _: () = assert!(core::mem::size_of::<Service>() == 64);

/// How packets reach a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// Ethernet addresses rewritten.
    DsrL2 = 1,
    /// IP in IP (RFC 2003, 2473, 4213).
    Ipip = 2,
    /// IP in GUE in UDP (draft-ietf-intarea-gue, variant 0).
    Gue = 3,
    /// Addresses and ports rewritten, in both directions.
    Nat = 4,
}

impl Mode {
    /// The name in the config, lists and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::DsrL2 => "dsr-l2",
            Self::Ipip => "ipip",
            Self::Gue => "gue",
            Self::Nat => "nat",
        }
    }
}

/// What happens to known flows of a backend that is down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum OnDown {
    /// Hard failure: selected anew; soft failure: they stay.
    Auto = 0,
    /// Selected anew.
    Reselect = 1,
    /// They stay.
    Keep = 2,
    /// Hard failure: TCP is reset, the rest selected anew; soft failure: they stay.
    Reset = 3,
}

/// How a backend is picked for a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Scheduler {
    /// The Maglev table, by a hash of the whole flow.
    Maglev = 0,
    /// The Maglev table, by a hash of the client's address.
    Source = 1,
    /// Of backends that the Maglev table gives for the flow, one with few live flows for its weight.
    LeastConnections = 2,
}

impl Scheduler {
    /// All schedulers, in the order of their numbers.
    pub const ALL: &[Self] = &[Self::Maglev, Self::Source, Self::LeastConnections];

    /// The name in the config, lists and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Maglev => "maglev",
            Self::Source => "source",
            Self::LeastConnections => "least-connections",
        }
    }
}

/// Bits 0–15 pool id, 16–19 mode, 20–23 on_down, bit 24 flows are remembered, 25–26 scheduler, 27 datagrams
/// go where their QUIC connection ID says, 28 the VIP has lists, 29 new flows are limited, 32–47 UDP port of GUE.
/// 0 is no service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForwardWord(pub u64);

impl ForwardWord {
    /// A word with these parts; `track` says whether flows are remembered.
    #[must_use]
    pub const fn new(pool: u16, mode: Mode, on_down: OnDown, track: bool) -> Self {
        Self(pool as u64 | (mode as u64) << 16 | (on_down as u64) << 20 | (track as u64) << 24)
    }

    /// The same with this UDP destination port for [`Mode::Gue`], host order.
    #[must_use]
    pub const fn with_gue_port(self, port: u16) -> Self {
        Self(self.0 & !(0xffff << 32) | (port as u64) << 32)
    }

    /// The same with this scheduler.
    #[must_use]
    pub const fn with_scheduler(self, scheduler: Scheduler) -> Self {
        Self(self.0 & !(3 << 25) | (scheduler as u64) << 25)
    }

    /// How a backend is picked for a new flow; an unknown code reads as Maglev.
    #[inline(always)]
    #[must_use]
    pub const fn scheduler(self) -> Scheduler {
        match (self.0 >> 25) & 3 {
            1 => Scheduler::Source,
            2 => Scheduler::LeastConnections,
            _ => Scheduler::Maglev,
        }
    }

    /// What a word of the selection hash keeps of the fields other than the client's address: nothing where the
    /// scheduler is [`Scheduler::Source`], else every bit.
    #[inline(always)]
    #[must_use]
    pub const fn hashed(self) -> u64 {
        ((self.0 >> 25) & 1).wrapping_sub(1)
    }

    /// The same with datagrams going where their QUIC connection ID says.
    #[must_use]
    pub const fn with_quic(self) -> Self {
        Self(self.0 | 1 << 27)
    }

    /// Whether datagrams go where their QUIC connection ID says.
    #[inline(always)]
    #[must_use]
    pub const fn quic(self) -> bool {
        self.0 & 1 << 27 != 0
    }

    /// UDP destination port for [`Mode::Gue`], host order.
    #[inline(always)]
    #[must_use]
    pub const fn gue_port(self) -> u16 {
        (self.0 >> 32) as u16
    }

    /// Pool id.
    #[inline(always)]
    #[must_use]
    pub const fn pool(self) -> u32 {
        self.0 as u16 as u32
    }

    /// Mode; `None` for a free id.
    #[inline(always)]
    #[must_use]
    pub const fn mode(self) -> Option<Mode> {
        match (self.0 >> 16) & 0xf {
            1 => Some(Mode::DsrL2),
            2 => Some(Mode::Ipip),
            3 => Some(Mode::Gue),
            4 => Some(Mode::Nat),
            _ => None,
        }
    }

    /// Whether the mode is [`Mode::Nat`].
    #[inline(always)]
    #[must_use]
    pub fn translates(self) -> bool {
        opaque(self.0 >> 16) & 0xf == Mode::Nat as u64
    }

    /// What happens to known flows of a backend that is down.
    #[inline(always)]
    #[must_use]
    pub const fn on_down(self) -> OnDown {
        match (self.0 >> 20) & 0xf {
            1 => OnDown::Reselect,
            2 => OnDown::Keep,
            3 => OnDown::Reset,
            _ => OnDown::Auto,
        }
    }

    /// The same for a VIP that has lists of prefixes.
    #[must_use]
    pub const fn with_lists(self) -> Self {
        Self(self.0 | 1 << 28)
    }

    /// Whether nothing is to be asked but the flow and the pool: no lists, no connection IDs, no translation. One question
    /// for the packets of most services, whose answer implies those to [`Self::has_lists`], [`Self::quic`] and
    /// [`Self::translates`].
    #[inline(always)]
    #[must_use]
    pub fn is_plain(self) -> bool {
        // Of the modes' numbers only that of `nat` has the bit. Opaque: the compiler would ask for each by itself again.
        opaque(self.0 & (1 << 28 | 1 << 27 | (Mode::Nat as u64) << 16)) == 0
    }

    /// Whether the VIP has lists of prefixes.
    #[inline(always)]
    #[must_use]
    pub const fn has_lists(self) -> bool {
        self.0 & 1 << 28 != 0
    }

    /// The same where new flows are limited.
    #[must_use]
    pub const fn with_limit(self) -> Self {
        Self(self.0 | 1 << 29)
    }

    /// Whether new flows are limited.
    #[inline(always)]
    #[must_use]
    pub const fn has_limit(self) -> bool {
        self.0 & 1 << 29 != 0
    }

    /// Whether flows are remembered.
    #[inline(always)]
    #[must_use]
    pub const fn track(self) -> bool {
        self.0 & 1 << 24 != 0
    }
}

/// Idle times in ticks, 16 bits each: embryonic, established, closing, UDP (from bit 0 upwards).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutsWord(pub u64);

impl TimeoutsWord {
    /// A word with these idle times in ticks.
    #[must_use]
    pub const fn new(embryonic: u16, established: u16, closing: u16, udp: u16) -> Self {
        Self(embryonic as u64 | (established as u64) << 16 | (closing as u64) << 32 | (udp as u64) << 48)
    }

    /// Only a SYN, or one packet of an unknown connection, was seen.
    #[inline(always)]
    #[must_use]
    pub const fn embryonic(self) -> u32 {
        self.0 as u16 as u32
    }

    /// An established connection.
    #[inline(always)]
    #[must_use]
    pub const fn established(self) -> u32 {
        (self.0 >> 16) as u16 as u32
    }

    /// After the client's FIN.
    #[inline(always)]
    #[must_use]
    pub const fn closing(self) -> u32 {
        (self.0 >> 32) as u16 as u32
    }

    /// UDP.
    #[inline(always)]
    #[must_use]
    pub const fn udp(self) -> u32 {
        (self.0 >> 48) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_service_has_neither_lists_nor_connection_ids_nor_translation() {
        for mode in [Mode::DsrL2, Mode::Ipip, Mode::Gue, Mode::Nat] {
            let word = ForwardWord::new(0xffff, mode, OnDown::Reset, true).with_gue_port(0xffff).with_limit();
            assert_eq!(word.is_plain(), mode != Mode::Nat);
            assert_eq!(word.translates(), mode == Mode::Nat);
            assert!(!word.with_lists().is_plain() && !word.with_quic().is_plain());
        }
    }
}
