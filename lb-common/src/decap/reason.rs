//! Why a packet left the backend's XDP program as it did.

use crate::reason::reasons;

/// What happens to a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the host's stack, without its outer header.
    Open,
    /// To the host's stack, byte for byte as it came.
    Pass,
    /// Nowhere.
    Drop,
}

reasons! {
    /// IP in IP for a VIP.
    OpenedIpip = "opened_ipip" => Open,
    /// GUE for a VIP.
    OpenedGue = "opened_gue" => Open,
    /// Neither IPv4 nor IPv6, or more than two VLAN tags.
    NotIp = "not_ip" => Pass,
    /// Too short for its headers.
    Truncated = "truncated" => Pass,
    /// IP, but no tunnel.
    NotTunnel = "not_tunnel" => Pass,
    /// A tunnel packet with IPv4 options in the outer header.
    OuterOptions = "outer_options" => Pass,
    /// A fragment of a tunnel packet; the host puts it together.
    OuterFragment = "outer_fragment" => Pass,
    /// The outer header's checksum is wrong, or the frame does not hold the length that it claims.
    OuterMalformed = "outer_malformed" => Pass,
    /// GUE of another variant than 0: variant 1 is IP directly in UDP.
    GueVariant = "gue_variant" => Pass,
    /// A GUE control message.
    GueControl = "gue_control" => Pass,
    /// GUE with flags, extension fields or private data.
    GueExtended = "gue_extended" => Pass,
    /// GUE that carries neither IPv4 nor IPv6.
    GueProtocol = "gue_protocol" => Pass,
    /// The tunnel does not hold the inner header or the length that it claims.
    InnerMalformed = "inner_malformed" => Pass,
    /// A tunnel packet whose inner destination is no VIP of this host.
    NotVip = "not_vip" => Pass,
    /// A tunnel packet for a VIP whose outer source is none of the configured ones.
    NotSource = "not_source" => Pass,
    /// Congestion was experienced on the way, and the inner packet's sender does not understand that (RFC 6040).
    EcnConflict = "ecn_conflict" => Drop,
    /// The kernel refused to take the outer header off: a defect.
    Inconsistent = "inconsistent" => Drop,
}

impl Reason {
    /// Number of reasons, the size of the counter array.
    pub const COUNT: usize = Self::ALL.len();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_indexes_and_names_are_unique() {
        let mut names = std::collections::HashSet::new();
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert!(names.insert(reason.name()), "{}", reason.name());
        }
    }
}
