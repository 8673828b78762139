//! What the operator asks for, and the numbers that follow from it.
#![forbid(unsafe_code)]

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use lb_common::decap::{self, GUE_OVERHEAD, Prefix};

use crate::config::model::XdpMode;

/// Smallest MSS that may be asked for: what every IPv4 host must take (RFC 9293 section 3.7.1).
pub const SMALLEST_MSS: u16 = 536;
/// Largest: the longest IPv4 packet less its headers.
pub const LARGEST_MSS: u16 = u16::MAX - IPV4_HEADERS;

const IPV4_HEADERS: u16 = 20 + 20;
const IPV6_HEADERS: u16 = 40 + 20;

/// What answers announce at most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mss {
    /// What fits into the interfaces' MTU with the largest outer header that can come.
    #[default]
    Auto,
    /// This, in both families.
    Limit(u16),
    /// Answers are left alone.
    Off,
}

/// What `weir decap` is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Where tunnelled packets come in, and answers go out.
    pub interfaces: Vec<String>,
    /// Addresses that this host serves.
    pub vips: Vec<IpAddr>,
    /// Outer sources whose packets are opened; none is all.
    pub sources: Vec<IpNet>,
    /// UDP port of GUE.
    pub gue_port: u16,
    /// What answers announce at most.
    pub mss: Mss,
    /// Where the XDP program runs.
    pub mode: XdpMode,
}

impl Settings {
    /// The sources as prefixes: with none, everything of both families.
    #[must_use]
    pub fn source_prefixes(&self) -> Vec<IpNet> {
        if self.sources.is_empty() {
            return vec![Ipv4Net::default().into(), Ipv6Net::default().into()];
        }
        self.sources.clone()
    }

    /// The programs' numbers, where the smallest MTU of the interfaces is `mtu`.
    #[must_use]
    pub fn numbers(&self, mtu: u32) -> decap::Settings {
        let (mss_v4, mss_v6) = match self.mss {
            Mss::Off => (0, 0),
            Mss::Limit(limit) => (limit, limit),
            Mss::Auto => {
                let room = u16::try_from(mtu).unwrap_or(u16::MAX).saturating_sub(self.overhead());
                // 0 would be no limit.
                let limit = |headers: u16| room.saturating_sub(headers).max(1);
                (limit(IPV4_HEADERS), limit(IPV6_HEADERS))
            }
        };
        decap::Settings { gue_port: self.gue_port, mss_v4, mss_v6, reserved: 0 }
    }

    /// Bytes of the largest outer header that can come: GUE, over IPv6 unless every source is an IPv4 one.
    fn overhead(&self) -> u16 {
        let only_v4 = self.source_prefixes().iter().all(|source| matches!(source, IpNet::V4(_)));
        let outer = if only_v4 { 20 } else { 40 };
        outer + GUE_OVERHEAD as u16
    }
}

/// A prefix as the programs' maps hold it.
#[must_use]
pub fn to_prefix(net: IpNet) -> Prefix {
    let address = match net.network() {
        IpAddr::V4(address) => Prefix::v4(address.octets()),
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
            Prefix::v6([[a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]])
        }
    };
    address.of_length(net.prefix_len())
}

/// The prefix behind a key of the programs' maps; `None` for one that they did not make.
#[must_use]
pub fn from_prefix(prefix: Prefix) -> Option<IpNet> {
    let octets = prefix.octets();
    let [a, b, c, d, ..] = octets;
    let address: IpAddr = match prefix.family()? {
        lb_common::layout::Family::V4 => [a, b, c, d].into(),
        lb_common::layout::Family::V6 => octets.into(),
    };
    IpNet::new(address, prefix.length()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(sources: &[&str], mss: Mss) -> Settings {
        let sources = sources.iter().map(|source| source.parse().expect("prefix")).collect();
        let vips = vec![IpAddr::from([198, 51, 100, 10])];
        Settings {
            interfaces: vec!["eth0".to_owned()],
            vips,
            sources,
            gue_port: 6080,
            mss,
            mode: XdpMode::Native,
        }
    }

    #[test]
    fn the_automatic_mss_leaves_room_for_the_largest_outer_header_that_can_come() {
        let limits = |sources: &[&str], mss, mtu| {
            let numbers = settings(sources, mss).numbers(mtu);
            (numbers.mss_v4, numbers.mss_v6)
        };
        // 1500 - (40 + 8 + 4) - 40, - 60.
        assert_eq!(limits(&[], Mss::Auto, 1500), (1408, 1388));
        assert_eq!(limits(&["10.0.0.0/8", "fd00::/8"], Mss::Auto, 1500), (1408, 1388));
        assert_eq!(limits(&["10.0.0.0/8"], Mss::Auto, 1500), (1428, 1408));
        assert_eq!(limits(&[], Mss::Auto, 9000), (8908, 8888));
        assert_eq!(limits(&[], Mss::Auto, 68), (1, 1));
        assert_eq!(limits(&[], Mss::Limit(1400), 1500), (1400, 1400));
        assert_eq!(limits(&[], Mss::Off, 1500), (0, 0));
    }

    #[test]
    fn prefixes_lead_to_keys_and_back() {
        for text in ["0.0.0.0/0", "10.0.0.0/8", "198.51.100.10/32", "::/0", "2001:db8::/57", "fd00::1/128"] {
            let net: IpNet = text.parse().expect("prefix");
            assert_eq!(from_prefix(to_prefix(net)), Some(net));
        }
    }
}
