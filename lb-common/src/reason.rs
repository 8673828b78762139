//! Why a packet left as it did, and the one table from reasons to verdicts.

/// What the program returns to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Out of the interface it came in by, or by another one.
    Forward,
    /// Out of the interface it came in by, turned into an answer to its sender; nowhere where it could not be.
    Answer,
    /// To the host's stack, byte for byte as it came.
    Pass,
    /// Nowhere.
    Drop,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $text:literal => $verdict:ident,)*) => {
        /// Why a packet left as it did; every packet has exactly one. The number is the counter's index.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum Reason {
            $($(#[$doc])* $name,)*
        }

        impl Reason {
            /// All reasons, in the order of their numbers.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The name in `status`, JSON and metrics.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }

            /// What happens to a packet with this reason. Nothing else decides verdicts: an outcome has an egress only where this
            /// says that the packet is forwarded or answered.
            #[inline(always)]
            #[must_use]
            pub const fn verdict(self) -> Verdict {
                match self {
                    $(Self::$name => Verdict::$verdict,)*
                }
            }
        }
    };
}

pub(crate) use reasons;

reasons! {
    /// Of a flow that the table knows.
    FlowKnown = "flow_known" => Forward,
    /// First packet of a flow; the table remembers it.
    FlowNew = "flow_new" => Forward,
    /// TCP or SCTP in mid-flow without an entry; the table remembers it.
    FlowResumed = "flow_resumed" => Forward,
    /// Of a flow whose backend is down or gone: selected anew.
    FlowRehomed = "flow_rehomed" => Forward,
    /// No place in the flow table: forwarded by the Maglev table alone.
    FlowTableFull = "flow_table_full" => Forward,
    /// Of a service that remembers no flows.
    Untracked = "untracked" => Forward,
    /// QUIC to the server that the connection ID names.
    QuicRouted = "quic_routed" => Forward,
    /// A fragment other than the first, sent after the first.
    Fragment = "fragment" => Forward,
    /// A backend's answer in mode `nat`, sent on to the client.
    NatReply = "nat_reply" => Forward,
    /// Of a flow whose backend is the host itself: the flow is remembered, the frame is as it came.
    Local = "local" => Pass,
    /// Neither IPv4 nor IPv6.
    NotIp = "not_ip" => Pass,
    /// With more VLAN tags than weir reads.
    Vlan = "vlan" => Pass,
    /// Too short to tell whether it is for a VIP.
    Truncated = "truncated" => Pass,
    /// Not for a VIP.
    NotVip = "not_vip" => Pass,
    /// An ICMP or ICMPv6 error about a flow: sent to the flow's backend.
    IcmpError = "icmp_error" => Forward,
    /// An ICMP or ICMPv6 error to a VIP that quotes no packet of a service.
    IcmpErrorUnmatched = "icmp_error_unmatched" => Drop,
    /// Neighbour discovery to a VIP; other ICMP that weir does not take, where the VIP's policy is to pass.
    Icmp = "icmp" => Pass,
    /// An echo request to a VIP.
    EchoAnswered = "echo_answered" => Answer,
    /// An echo request to a VIP that does not answer them.
    EchoOff = "echo_off" => Drop,
    /// For a VIP, from a source that a deny list holds.
    Denied = "denied" => Drop,
    /// For a VIP that has an allow list, from a source that it does not hold.
    NotAllowed = "not_allowed" => Drop,
    /// Would start a flow of a service that limits them, and its source has had its share.
    SourceLimited = "source_limited" => Drop,
    /// Would start a flow of a service that limits them, and all sources together have had theirs.
    TotalLimited = "total_limited" => Drop,
    /// For a VIP, from a source that nobody can have.
    Martian = "martian" => Drop,
    /// For a VIP, with a TTL or hop limit of 0.
    TtlExpired = "ttl_expired" => Drop,
    /// For a VIP but for no service, and the VIP's policy is to pass.
    UnmatchedPass = "unmatched_pass" => Pass,
    /// For a VIP but for no service, and the VIP's policy is to drop.
    UnmatchedDrop = "unmatched_drop" => Drop,
    /// For a VIP but for no service, and the VIP's policy is to reject: answered with RST or unreachable.
    UnmatchedReject = "unmatched_reject" => Answer,
    /// For a VIP, with a header or length that the frame does not hold.
    Malformed = "malformed" => Drop,
    /// A fragment for a VIP, other than the first, of a packet whose first one was not seen lately.
    FragmentUnknown = "fragment_unknown" => Drop,
    /// With IPv4 options, or no IPv4 header after all, and the stage that tells is not loaded.
    IpOptions = "ip_options" => Pass,
    /// For a VIP, with more IPv6 extension headers than weir walks.
    ExtensionHeaders = "extension_headers" => Drop,
    /// No backend of the pool is usable, and its last resort is to drop.
    NoBackend = "no_backend" => Drop,
    /// No backend of the pool is usable, and its last resort is to reset: answered with RST or unreachable.
    NoBackendReset = "no_backend_reset" => Answer,
    /// TCP of a flow whose backend is down, of a service that resets those: answered with RST.
    FlowReset = "flow_reset" => Answer,
    /// Of a service in mode `nat`, and the stage that translates is not loaded.
    Translate = "translate" => Drop,
    /// No port of the service's `snat` addresses is free for a new flow: answered with RST or unreachable.
    NatExhausted = "nat_exhausted" => Answer,
    /// TCP in mid-flow of a service in mode `nat` that has no such flow: answered with RST.
    NatNoFlow = "nat_no_flow" => Answer,
    /// A fragment in mode `nat`: its ports cannot be rewritten.
    NatFragment = "nat_fragment" => Drop,
    /// What the other address family has no counterpart for.
    Untranslatable = "untranslatable" => Drop,
    /// The backend has no route or its neighbour no address.
    NoNextHop = "no_next_hop" => Drop,
    /// Longer than the next hop's MTU once encapsulated: answered with what fits.
    TooBig = "too_big" => Answer,
    /// Of a service whose backends a stage of its own chooses, and that stage is not loaded.
    Unchosen = "unchosen" => Drop,
    /// Of a service that goes by QUIC connection IDs, and the stage that reads them is not loaded.
    QuicUnread = "quic_unread" => Drop,
    /// To be answered, but too many were just now.
    AnswerLimited = "answer_limited" => Drop,
    /// To be answered, but of a kind that must not be (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
    Unanswerable = "unanswerable" => Drop,
    /// The driver left no headroom for the outer header.
    NoHeadroom = "no_headroom" => Drop,
    /// The next hop's interface is not one that frames may leave by: it has just gone, or just come.
    NoTxPort = "no_tx_port" => Drop,
    /// A table names a record that does not exist: a defect of weir.
    Inconsistent = "inconsistent" => Drop,
}

impl Reason {
    /// Number of reasons, the size of the counter array.
    pub const COUNT: usize = Self::ALL.len();

    /// The reason with this number.
    #[inline(always)]
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(number as usize).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_indexes_and_names_are_unique() {
        let mut names = std::collections::HashSet::new();
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(Reason::from_number(index as u8), Some(*reason));
            assert!(names.insert(reason.name()), "{}", reason.name());
        }
    }
}
