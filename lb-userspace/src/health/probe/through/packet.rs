//! Builds the IP packets of probes through tunnels, lengths and checksums included.

#![forbid(unsafe_code)]

use std::net::{IpAddr, SocketAddr};

use super::super::checksum::{checksum, pseudo_header};
use super::super::echo::Family;
use super::super::half_open;

/// IP protocol number of TCP.
pub(super) const TCP: u8 = 6;

/// What a probe through a tunnel carries.
pub(in super::super) enum Carried<'a> {
    /// An echo request, complete but for an ICMPv6 checksum.
    Echo(&'a [u8]),
    /// A SYN from a port.
    Syn { port: u16, initial: u32 },
    /// The end of a connection that a SYN half opened.
    Reset { port: u16, initial: u32 },
}

/// Builds the IP packet from `source` to the VIP, filled up to `length` bytes if that is more.
pub(in super::super) fn packet(
    source: IpAddr,
    vip: SocketAddr,
    carried: &Carried<'_>,
    length: usize,
) -> Vec<u8> {
    let family = Family::of(vip.ip());
    let header = family.header_length();
    let (protocol, mut payload) = match *carried {
        Carried::Echo(request) => (family.icmp(), request.to_vec()),
        Carried::Syn { port, initial } => (TCP, half_open::syn(source, port, vip, initial).to_vec()),
        Carried::Reset { port, initial } => (TCP, half_open::reset(port, vip.port(), initial).to_vec()),
    };
    payload.resize(payload.len().max(length.saturating_sub(header)), 0);
    let checksum_at = match carried {
        Carried::Echo(_) => 2,
        Carried::Syn { .. } | Carried::Reset { .. } => 16,
    };
    payload[checksum_at..checksum_at + 2].fill(0);
    // IPv4's ICMP alone covers no addresses.
    let covered = match (family, carried) {
        (Family::V4, Carried::Echo(_)) => vec![],
        _ => {
            let length = u16::try_from(payload.len()).unwrap_or(u16::MAX);
            pseudo_header(source, vip.ip(), protocol, length).to_vec()
        }
    };
    let sum = checksum(&[&covered, &payload]);
    payload[checksum_at..checksum_at + 2].copy_from_slice(&sum);
    let mut packet = ip_header(source, vip.ip(), protocol, payload.len());
    packet.extend_from_slice(&payload);
    packet
}

/// An IP header: TTL 64, not to be fragmented.
fn ip_header(source: IpAddr, to: IpAddr, protocol: u8, payload: usize) -> Vec<u8> {
    let length = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    match (source, to) {
        (IpAddr::V4(source), IpAddr::V4(to)) => {
            let [high, low] = length(payload + 20);
            let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
            header.extend(source.octets().into_iter().chain(to.octets()));
            let sum = checksum(&[&header]);
            header[10..12].copy_from_slice(&sum);
            header
        }
        (source, to) => {
            let octets = |address: IpAddr| match address {
                IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                IpAddr::V6(address) => address.octets(),
            };
            let [high, low] = length(payload);
            let mut header = vec![0x60, 0, 0, 0, high, low, protocol, 64];
            header.extend(octets(source).into_iter().chain(octets(to)));
            header
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound(packet: &[u8], protocol: u8) -> bool {
        let family = if packet[0] >> 4 == 4 { Family::V4 } else { Family::V6 };
        let (_, found, payload) = family.open(packet).expect("an IP packet");
        let covered = match family {
            Family::V4 if protocol == 1 => vec![],
            Family::V4 => pseudo_header(
                IpAddr::from(<[u8; 4]>::try_from(&packet[12..16]).expect("four bytes")),
                IpAddr::from(<[u8; 4]>::try_from(&packet[16..20]).expect("four bytes")),
                protocol,
                payload.len() as u16,
            )
            .to_vec(),
            Family::V6 => pseudo_header(
                IpAddr::from(<[u8; 16]>::try_from(&packet[8..24]).expect("sixteen bytes")),
                IpAddr::from(<[u8; 16]>::try_from(&packet[24..40]).expect("sixteen bytes")),
                protocol,
                payload.len() as u16,
            )
            .to_vec(),
        };
        let header_sum = family == Family::V6 || checksum(&[&packet[..20]]) == [0, 0];
        found == protocol && header_sum && checksum(&[&covered, payload]) == [0, 0]
    }

    #[test]
    fn packets_of_every_kind_family_and_size_have_sound_lengths_and_checksums() {
        let ends = [("192.0.2.1", "198.51.100.10:80", 1), ("2001:db8::1", "[2001:db8::10]:80", 58)];
        for (source, vip, icmp) in ends {
            let (source, vip): (IpAddr, SocketAddr) =
                (source.parse().expect("an address"), vip.parse().expect("an address and port"));
            let request = [8, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8];
            for (carried, protocol) in [
                (Carried::Echo(&request), icmp),
                (Carried::Syn { port: 4000, initial: 7 }, TCP),
                (Carried::Reset { port: 4000, initial: 7 }, TCP),
            ] {
                for length in [0, 1000, 1480] {
                    let built = packet(source, vip, &carried, length);
                    assert!(built.len() >= length && (length < 100 || built.len() == length));
                    assert!(sound(&built, protocol), "{source} {protocol} {length}");
                }
            }
        }
    }
}
