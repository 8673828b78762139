//! A prefix as people write it, and lists of them.

use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

use ipnet::IpNet;

/// Prefixes in the order in which they were given. Cheap to copy and to compare with a copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prefixes(Arc<Vec<IpNet>>);

impl FromIterator<IpNet> for Prefixes {
    fn from_iter<T: IntoIterator<Item = IpNet>>(prefixes: T) -> Self {
        Self(Arc::new(prefixes.into_iter().collect()))
    }
}

impl Deref for Prefixes {
    type Target = [IpNet];

    fn deref(&self) -> &[IpNet] {
        &self.0
    }
}

/// Reads a prefix, or an address as the prefix of that address alone.
///
/// # Errors
/// What is wrong, beginning with the text.
pub fn parse(text: &str) -> Result<IpNet, String> {
    let net = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let Some(net) = net else {
        return Err(format!("{text:?} is neither an address nor a prefix such as \"192.0.2.0/24\""));
    };
    if net.addr() != net.network() {
        let trunc = net.trunc().to_string();
        return Err(format!("{text:?} has bits behind its prefix length; write {trunc:?}"));
    }
    if let IpNet::V6(net) = net
        && net.addr().to_ipv4_mapped().is_some()
    {
        return Err(format!("{text:?} is of IPv4 addresses mapped into IPv6; write the IPv4 prefix"));
    }
    Ok(net)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_and_addresses_are_read() {
        for (text, expected) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.7", "192.0.2.7/32"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:db8::/32", "2001:db8::/32"),
            ("2001:db8::1", "2001:db8::1/128"),
            ("127.0.0.0/8", "127.0.0.0/8"),
        ] {
            assert_eq!(parse(text).map(|net| net.to_string()), Ok(expected.to_owned()));
        }
    }

    #[test]
    fn what_is_no_prefix_is_told_with_the_remedy() {
        for (text, expected) in [
            ("192.0.2.1/24", "write \"192.0.2.0/24\""),
            ("192.0.2.0/33", "neither an address nor a prefix"),
            ("example.org", "neither an address nor a prefix"),
            ("", "neither an address nor a prefix"),
            ("::ffff:192.0.2.1", "write the IPv4 prefix"),
        ] {
            let error = parse(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
    }
}
