//! Values with a meaning of their own: names, durations, addresses, MACs.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use ipnet::IpNet;
use jiff::fmt::friendly::SpanParser;

use super::model::Mac;
use super::reader::Node;

/// Longest name of anything, in bytes.
const LONGEST_NAME: usize = 63;

/// Longest interface name: the kernel's `IFNAMSIZ` without its terminator.
const LONGEST_INTERFACE: usize = 15;

/// Longest of all times that are not bounded otherwise.
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// The characters that a name may have.
#[derive(Clone, Copy)]
pub(crate) enum Alphabet {
    /// Services, pools, VIPs: `[a-z0-9-]`.
    Strict,
    /// Backends and host labels: also `[A-Z._]`.
    Host,
}

impl Node<'_> {
    /// A name.
    pub(crate) fn name(&self, alphabet: Alphabet) -> Option<String> {
        let text = self.string("a name")?;
        let (allowed, fits): (_, fn(u8) -> bool) = match alphabet {
            Alphabet::Strict => ("[a-z0-9-]", |b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-'),
            Alphabet::Host => ("[A-Za-z0-9._-]", |b| b.is_ascii_alphanumeric() || b"._-".contains(&b)),
        };
        if text.is_empty() || text.len() > LONGEST_NAME || !text.bytes().all(fits) {
            self.fail(format_args!("{text:?} is no valid name: 1 to {LONGEST_NAME} of {allowed}"));
            return None;
        }
        Some(text.to_owned())
    }

    /// A network interface's name.
    pub(crate) fn interface_name(&self) -> Option<String> {
        let text = self.string("an interface name")?;
        let fits = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
        let dots = text == "." || text == "..";
        if text.is_empty() || text.len() > LONGEST_INTERFACE || dots || !text.bytes().all(fits) {
            self.fail(format_args!(
                "{text:?} is no interface name: 1 to {LONGEST_INTERFACE} printable characters without / and :"
            ));
            return None;
        }
        Some(text.to_owned())
    }

    /// A duration in whole milliseconds, as `"500ms"` or `"2h10m"`.
    pub(crate) fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        let text = self.string("a duration such as \"500ms\" or \"2h10m\"")?;
        let parsed = SpanParser::new().parse_duration(text).ok().and_then(|d| Duration::try_from(d).ok());
        let Some(duration) = parsed else {
            self.fail(format_args!("{text:?} is no duration; write it as \"500ms\", \"10s\" or \"2h10m\""));
            return None;
        };
        if duration.subsec_nanos() % 1_000_000 != 0 {
            self.fail(format_args!("{text:?} is finer than a millisecond; use whole milliseconds"));
            return None;
        }
        if !range.contains(&duration) {
            let (low, high) = (show(*range.start()), show(*range.end()));
            self.fail(format_args!("must be from {low} to {high}, got {text:?}"));
            return None;
        }
        Some(duration)
    }

    /// An Ethernet address of one station.
    pub(crate) fn mac(&self) -> Option<Mac> {
        let text = self.string("a MAC address")?;
        let octet = |part: &str| {
            let hexadecimal = part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit());
            hexadecimal.then(|| u8::from_str_radix(part, 16).ok()).flatten()
        };
        let octets: Option<Vec<u8>> = text.split(':').map(octet).collect();
        let Some(mac) = octets.and_then(|octets| <[u8; 6]>::try_from(octets).ok()) else {
            self.fail(format_args!("{text:?} is no MAC address; write it as \"02:00:00:00:00:01\""));
            return None;
        };
        if mac[0] & 1 == 1 || mac == [0; 6] {
            self.fail(format_args!("{text:?} is no station's address (zero, multicast or broadcast)"));
            return None;
        }
        Some(Mac(mac))
    }

    /// The address of a VIP or backend.
    pub(crate) fn address(&self) -> Option<IpAddr> {
        let text = self.string("an IP address")?;
        let Ok(address) = text.parse() else {
            let hint =
                if text.contains('/') { "an address without a prefix length" } else { "an IP address" };
            self.fail(format_args!("{text:?} is no valid address; give {hint}"));
            return None;
        };
        match unfit(address) {
            Some(why) => self.fail(format_args!("{text:?} is refused: {why}")),
            None => return Some(address),
        }
        None
    }

    /// An address or a prefix; an address is a prefix of full length.
    pub(crate) fn prefix(&self) -> Option<IpNet> {
        let text = self.string("an address or a prefix")?;
        let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
        let Some(net) = net else {
            self.fail(format_args!("{text:?} is neither an address nor a prefix such as \"10.0.0.0/24\""));
            return None;
        };
        if net.addr() != net.network() {
            self.fail(format_args!(
                "{text:?} has bits behind its prefix length; write {:?}",
                net.trunc().to_string()
            ));
            return None;
        }
        if let Some(why) = unfit(net.addr()) {
            self.fail(format_args!("{text:?} is refused: {why}"));
            return None;
        }
        Some(net)
    }
}

/// Why an address can be neither a VIP nor a backend.
pub(super) fn unfit(address: IpAddr) -> Option<&'static str> {
    let broadcast = matches!(address, IpAddr::V4(v4) if v4.is_broadcast());
    let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    if address.is_unspecified() {
        Some("it is the unspecified address")
    } else if address.is_multicast() {
        Some("it is a multicast address")
    } else if address.is_loopback() {
        Some("it is a loopback address; give an address of one of the host's interfaces")
    } else if broadcast {
        Some("it is the broadcast address")
    } else if mapped {
        Some("it is an IPv4 address mapped into IPv6; write the IPv4 address")
    } else {
        None
    }
}

/// A duration in the form that the configuration takes.
pub(crate) fn show(duration: Duration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1000) => format!("{}s", ms / 1000),
        _ => format!("{ms}ms"),
    }
}
