//! The stages, and which one takes what another leaves.

use crate::reason::Reason;

/// A part of the packet logic that is a program of its own in the kernel; the number tells its place in the program array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Stage {
    /// Where every packet starts.
    Fast = 0,
    /// Frames and headers that are not laid out as nearly all are.
    Rare = 1,
    /// ICMP and ICMPv6 to VIPs: errors about flows, echo requests.
    Icmp = 2,
    /// Packets that are answered: with RST, unreachable, or the size that fits.
    Answer = 3,
    /// Fragments.
    Fragment = 4,
    /// The choice of a backend for a new flow, where its hash alone does not tell it; then [`Stage::Rare`] goes on.
    Choose = 5,
    /// The server that a QUIC connection ID names; then [`Stage::Rare`] goes on.
    Quic = 6,
    /// Packets from sources that lists of prefixes may concern.
    Filter = 7,
    /// Whether a new flow is within its service's limit; then [`Stage::Rare`] goes on.
    Limit = 8,
    /// Mode `nat`: from clients to backends.
    Nat = 9,
    /// Mode `nat`: from backends to clients.
    NatReply = 10,
    /// Mode `nat`: ICMP errors about flows, in both directions.
    NatError = 11,
    /// Mode `nat`: what has its backend and port is rewritten.
    NatSend = 12,
}

/// What the programs of all stages are built for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Variant {
    /// Traffic.
    Live = 0,
    /// `weir explain`: traces, writes nothing, redirects nothing.
    Explain = 1,
    /// `weir explain --config`: traces and writes on maps of its own, redirects nothing.
    Offline = 2,
    /// Traffic while `weir capture` runs: samples frames as they come and as they leave.
    Capture = 3,
}

impl Variant {
    /// All variants, in the order of their numbers.
    pub const ALL: &[Self] = &[Self::Live, Self::Explain, Self::Offline, Self::Capture];
}

/// Places of the program array.
pub const STAGE_PLACES: usize = Stage::ALL.len() * Variant::ALL.len();

impl Stage {
    /// All stages, in the order of their numbers.
    pub const ALL: &[Self] = &[
        Self::Fast,
        Self::Rare,
        Self::Icmp,
        Self::Answer,
        Self::Fragment,
        Self::Choose,
        Self::Quic,
        Self::Filter,
        Self::Limit,
        Self::Nat,
        Self::NatReply,
        Self::NatError,
        Self::NatSend,
    ];

    /// The name in explanations.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast: the fixed headers of an untagged frame",
            Self::Rare => "rare: tags, options and extension headers",
            Self::Icmp => "icmp: errors about flows, echo requests",
            Self::Answer => "answer: resets, unreachables, what would have fitted",
            Self::Fragment => "fragment: parts of a packet",
            Self::Choose => "choose: new flows, by how busy backends are",
            Self::Quic => "quic: the server that a connection ID names",
            Self::Filter => "filter: sources that lists may concern",
            Self::Limit => "limit: new flows of services that limit them",
            Self::Nat => "nat: the flow's backend and port",
            Self::NatReply => "nat reply: addresses and ports back to clients",
            Self::NatError => "nat error: errors about translated flows",
            Self::NatSend => "nat send: addresses and ports towards backends",
        }
    }

    /// Name of the stage's program in the object, by variant.
    #[must_use]
    pub const fn program(self, variant: Variant) -> &'static str {
        let [live, explain, offline, capture] = match self {
            Self::Fast => ["weir", "explain", "offline", "capture"],
            Self::Rare => ["weir_rare", "explain_rare", "offline_rare", "capture_rare"],
            Self::Icmp => ["weir_icmp", "explain_icmp", "offline_icmp", "capture_icmp"],
            Self::Answer => ["weir_answer", "explain_answer", "offline_answer", "capture_answer"],
            Self::Fragment => ["weir_fragment", "explain_fragment", "offline_fragment", "capture_fragment"],
            Self::Choose => ["weir_choose", "explain_choose", "offline_choose", "capture_choose"],
            Self::Quic => ["weir_quic", "explain_quic", "offline_quic", "capture_quic"],
            Self::Filter => ["weir_filter", "explain_filter", "offline_filter", "capture_filter"],
            Self::Limit => ["weir_limit", "explain_limit", "offline_limit", "capture_limit"],
            Self::Nat => ["weir_nat", "explain_nat", "offline_nat", "capture_nat"],
            Self::NatReply => {
                ["weir_nat_reply", "explain_nat_reply", "offline_nat_reply", "capture_nat_reply"]
            }
            Self::NatError => {
                ["weir_nat_error", "explain_nat_error", "offline_nat_error", "capture_nat_error"]
            }
            Self::NatSend => ["weir_nat_send", "explain_nat_send", "offline_nat_send", "capture_nat_send"],
        };
        match variant {
            Variant::Live => live,
            Variant::Explain => explain,
            Variant::Offline => offline,
            Variant::Capture => capture,
        }
    }

    /// The place of the stage's program in the program array.
    #[inline(always)]
    #[must_use]
    pub const fn place(self, variant: Variant) -> u32 {
        variant as u32 * Self::ALL.len() as u32 + self as u32
    }

    /// The stage that takes what this one leaves for `reason`; `None` where the packet leaves.
    #[inline(always)]
    #[must_use]
    pub const fn after(self, reason: Reason) -> Option<Self> {
        match (self, reason) {
            (Self::Fast, Reason::Vlan | Reason::IpOptions | Reason::ExtensionHeaders) => Some(Self::Rare),
            (Self::Fast | Self::Rare, Reason::Denied) => Some(Self::Filter),
            (Self::Fast, Reason::Martian | Reason::SourceLimited) => Some(Self::Rare),
            (Self::Rare | Self::Fragment | Self::Filter | Self::Nat, Reason::SourceLimited) => {
                Some(Self::Limit)
            }
            (Self::Fast | Self::Rare | Self::Filter, Reason::Icmp) => Some(Self::Icmp),
            (Self::Fast | Self::Rare | Self::Filter, Reason::FragmentUnknown) => Some(Self::Fragment),
            (Self::Fast | Self::Rare | Self::Filter, Reason::Unchosen) => Some(Self::Choose),
            (Self::Fast | Self::Rare | Self::Filter, Reason::QuicUnread) => Some(Self::Quic),
            (
                Self::Fast | Self::Rare | Self::Filter,
                Reason::UnmatchedReject | Reason::NoBackendReset | Reason::FlowReset,
            )
            | (Self::Fast | Self::Rare | Self::Fragment | Self::Filter, Reason::TooBig)
            | (
                Self::Nat,
                Reason::NatExhausted | Reason::NatNoFlow | Reason::NoBackendReset | Reason::FlowReset,
            )
            | (Self::NatSend, Reason::TooBig)
            | (Self::NatReply, Reason::UnmatchedReject | Reason::TooBig) => Some(Self::Answer),
            (Self::Fast | Self::Rare | Self::Filter, Reason::Translate) => Some(Self::Nat),
            (Self::Nat, Reason::Translate) => Some(Self::NatSend),
            (Self::Fast | Self::Rare | Self::Filter, Reason::NatReply) => Some(Self::NatReply),
            (Self::Icmp, Reason::Translate | Reason::NatReply) => Some(Self::NatError),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_and_no_stage_follows_itself() {
        let places =
            Variant::ALL.iter().flat_map(|variant| Stage::ALL.iter().map(|stage| stage.place(*variant)));
        assert!(places.eq(0..STAGE_PLACES as u32));
        for (place, stage) in Stage::ALL.iter().enumerate() {
            assert_eq!(*stage as usize, place);
            for reason in Reason::ALL {
                let mut next = stage.after(*reason);
                for _ in Stage::ALL {
                    assert_ne!(next, Some(*stage), "{reason:?} leads in a circle");
                    next = next.and_then(|stage| stage.after(*reason));
                }
            }
        }
    }
}
