//! Keys of `udp` and `dns` checks.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::config::keys;
use crate::config::model::{DnsCheck, DnsRcode, DnsType, UdpCheck};
use crate::config::reader::{Node, Table};

/// Longest payload: it fits one packet of every path.
const LONGEST_PAYLOAD: usize = 1200;

const TYPES: &[(&str, Option<DnsType>)] = &[
    ("A", Some(DnsType::A)),
    ("AAAA", Some(DnsType::Aaaa)),
    ("CNAME", Some(DnsType::Cname)),
    ("MX", Some(DnsType::Mx)),
    ("NS", Some(DnsType::Ns)),
    ("PTR", Some(DnsType::Ptr)),
    ("SOA", Some(DnsType::Soa)),
    ("TXT", Some(DnsType::Txt)),
];

const RCODES: &[(&str, Option<DnsRcode>)] = &[
    ("NOERROR", Some(DnsRcode::NoError)),
    ("SERVFAIL", Some(DnsRcode::ServFail)),
    ("NXDOMAIN", Some(DnsRcode::NxDomain)),
    ("REFUSED", Some(DnsRcode::Refused)),
];

/// Reads a `udp` check.
pub(super) fn udp(table: &Table<'_>) -> UdpCheck {
    let send = table.required("send", "send = \"ping\"").and_then(|node| payload(&node, "send"));
    let expect = table.value("expect").and_then(|node| payload(&node, "expect"));
    UdpCheck { send: send.unwrap_or_default(), expect }
}

/// `"text"` or `{ hex = "0a 0b" }`.
pub(super) fn payload(node: &Node<'_>, key: &str) -> Option<Vec<u8>> {
    let bytes = match node.is_table() {
        false => node.string("a text, or { hex = \"…\" }")?.as_bytes().to_vec(),
        true => {
            let table = node.table(key.to_owned(), keys::HEX)?;
            let hex = table.required("hex", "hex = \"0a 0b\"")?;
            let text = hex.string("hexadecimal digits")?;
            let bytes = unhex(text);
            if bytes.is_none() {
                hex.fail(format_args!(
                    "{text:?} must be pairs of hexadecimal digits, with or without spaces"
                ));
            }
            bytes?
        }
    };
    if bytes.is_empty() || bytes.len() > LONGEST_PAYLOAD {
        node.fail(format_args!("must be 1 to {LONGEST_PAYLOAD} bytes, got {}", bytes.len()));
        return None;
    }
    Some(bytes)
}

/// Bytes of pairs of hexadecimal digits; spaces between them do not matter.
fn unhex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u8>> = text
        .chars()
        .filter(|digit| !digit.is_ascii_whitespace())
        .map(|digit| digit.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect();
    let digits = digits?;
    (digits.len() % 2 == 0).then(|| digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

/// Reads a `dns` check.
pub(super) fn dns(table: &Table<'_>) -> DnsCheck {
    let query = table.required("query", "query = \"www.example.com\"").and_then(|node| name(&node));
    let query_type = table.value("query_type").and_then(|node| node.word(TYPES)).unwrap_or(DnsType::A);
    let rcode = table.value("expect_rcode");
    let expect_rcode = rcode.as_ref().and_then(|node| node.word(RCODES)).unwrap_or(DnsRcode::NoError);
    let expect_answer = table.value("expect_answer").and_then(|node| {
        let text = answer(&node)?;
        let fits = match query_type {
            DnsType::A => text.parse::<Ipv4Addr>().is_ok(),
            DnsType::Aaaa => text.parse::<Ipv6Addr>().is_ok(),
            _ => !text.is_empty(),
        };
        if !fits {
            node.fail(format_args!("{text:?} is nothing that a record of the type asked for can say"));
            return None;
        }
        if expect_rcode != DnsRcode::NoError {
            node.fail(format_args!("an answer {} has no records: leave it out", expect_rcode.name()));
        }
        Some(text.to_owned())
    });
    DnsCheck { query: query.unwrap_or_default(), query_type, expect_rcode, expect_answer }
}

/// Checks the values of `dns` checks in `[defaults]`, each for itself.
pub(super) fn validate_defaults(defaults: &Table<'_>) {
    defaults.value("query").map(|node| name(&node));
    defaults.value("query_type").map(|node| node.word(TYPES));
    defaults.value("expect_rcode").map(|node| node.word(RCODES));
    defaults.value("expect_answer").map(|node| answer(&node).is_some());
}

fn answer<'a>(node: &Node<'a>) -> Option<&'a str> {
    node.string("a text such as \"192.0.2.1\"")
}

/// A domain name, as text (RFC 1035, section 2.3.4).
fn name(node: &Node<'_>) -> Option<String> {
    let text = node.string("a domain name")?;
    let relative = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| (1..=63).contains(&label.len()) && label.bytes().all(|b| b.is_ascii_graphic());
    if text != "." && (relative.len() > 253 || !relative.split('.').all(label)) {
        node.fail(format_args!(
            "{text:?} is no domain name: labels of 1 to 63 characters, at most 253 in all"
        ));
        return None;
    }
    Some(relative.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_payloads_are_pairs_of_digits() {
        assert_eq!(unhex("0a 0B\tff"), Some(vec![0x0a, 0x0b, 0xff]));
        assert_eq!(unhex(""), Some(vec![]));
        assert_eq!(unhex("0a0"), None);
        assert_eq!(unhex("0x0a"), None);
    }
}
