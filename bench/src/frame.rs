//! The frames that the runner starts from; it writes Ethernet, source address and source port itself.

use std::net::{Ipv4Addr, Ipv6Addr};

use lb_common::wire::TcpFlags;

/// The VIP of all IPv4 services.
pub(crate) const VIP_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 10);
/// The VIP of all IPv6 services.
pub(crate) const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 10);
/// An address that is no VIP.
const OTHER: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 11);
/// The upper half of all IPv6 sources.
const CLIENTS_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0);
/// Ports of the services.
pub(crate) const IPIP_PORT: u16 = 80;
pub(crate) const DSR_PORT: u16 = 8080;
pub(crate) const GUE_PORT: u16 = 8081;
/// Of the `ipip` service that asks its VIP's lists.
pub(crate) const LISTED_PORT: u16 = 8082;

/// Shortest frame in bytes, without the checksum that the network card adds.
const MIN_FRAME: usize = 64;

/// Whom a packet is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum To {
    /// The IPv4 VIP's `ipip` service.
    Ipip,
    /// The IPv4 VIP's `dsr-l2` service.
    DsrL2,
    /// The IPv4 VIP's `gue` service.
    Gue,
    /// The IPv4 VIP's `ipip` service that asks deny lists first.
    Listed,
    /// The IPv6 VIP's `ipip` service.
    IpipV6,
    /// An IPv4 address that is no VIP.
    Other,
}

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Syn,
    Ack,
    Udp,
}

/// A packet's whole frame.
pub(crate) fn build(to: To, kind: Kind) -> Vec<u8> {
    let port = match to {
        To::DsrL2 => DSR_PORT,
        To::Gue => GUE_PORT,
        To::Listed => LISTED_PORT,
        To::Ipip | To::IpipV6 | To::Other => IPIP_PORT,
    };
    let mut transport = transport(kind, port);
    let ip_header = if to == To::IpipV6 { 40 } else { 20 };
    let padding = MIN_FRAME.saturating_sub(14 + ip_header + transport.len());
    transport.resize(transport.len() + padding, 0);
    if kind == Kind::Udp {
        let length = transport.len() as u16;
        transport[4..6].copy_from_slice(&length.to_be_bytes());
    }
    let protocol = if kind == Kind::Udp { 17 } else { 6 };
    let (ethertype, ip) = match to {
        To::IpipV6 => (0x86dd_u16, ipv6(transport.len(), protocol)),
        To::Other => (0x0800, ipv4(transport.len(), protocol, OTHER)),
        To::Ipip | To::DsrL2 | To::Gue | To::Listed => (0x0800, ipv4(transport.len(), protocol, VIP_V4)),
    };
    let mut frame = vec![0; 12];
    frame.extend(ethertype.to_be_bytes());
    frame.extend(ip);
    frame.extend(transport);
    frame
}

fn transport(kind: Kind, port: u16) -> Vec<u8> {
    let mut header = vec![0, 0];
    header.extend(port.to_be_bytes());
    let flags = match kind {
        Kind::Syn => TcpFlags::SYN,
        Kind::Ack => TcpFlags::ACK,
        Kind::Udp => {
            header.extend([0; 4]);
            return header;
        }
    };
    header.extend([0, 0, 0, 1, 0, 0, 0, 1, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    header
}

fn ipv4(payload: usize, protocol: u8, destination: Ipv4Addr) -> Vec<u8> {
    let mut header = vec![0x45, 0];
    header.extend((20 + payload as u16).to_be_bytes());
    header.extend([0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 0]);
    header.extend(destination.octets());
    header
}

fn ipv6(payload: usize, protocol: u8) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0];
    header.extend((payload as u16).to_be_bytes());
    header.extend([protocol, 64]);
    header.extend(CLIENTS_V6.octets());
    header.extend(VIP_V6.octets());
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_have_the_length_that_their_headers_claim() {
        for to in [To::Ipip, To::DsrL2, To::Gue, To::Listed, To::Other] {
            for kind in [Kind::Syn, Kind::Ack, Kind::Udp] {
                let frame = build(to, kind);
                let claimed = u16::from_be_bytes([frame[16], frame[17]]) as usize;
                assert_eq!((frame.len(), claimed), (MIN_FRAME, MIN_FRAME - 14), "{to:?} {kind:?}");
            }
        }
        let frame = build(To::IpipV6, Kind::Ack);
        assert_eq!(u16::from_be_bytes([frame[18], frame[19]]) as usize, frame.len() - 54);
    }
}
