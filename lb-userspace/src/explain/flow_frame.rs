//! Frames to explain: from a flow's addresses, or from hexadecimal.

use std::net::{IpAddr, SocketAddr};

use etherparse::{EtherType, Ethernet2Header, IpNumber, PacketBuilder, SingleVlanHeader, VlanId};
use thiserror::Error;

/// Addresses of the frame's Ethernet header; the decision does not depend on them.
const MACS: [[u8; 6]; 2] = [[2, 0, 0, 0, 0, 2], [2, 0, 0, 0, 0, 1]];
const TTL: u8 = 64;

/// Why no frame can be made.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum FrameError {
    /// One IPv4 and one IPv6 address.
    #[error("--from {from} and --to {to}: addresses of one family are needed")]
    Families {
        /// Source.
        from: IpAddr,
        /// Destination.
        to: IpAddr,
    },
    /// Out of the range of VLAN ids.
    #[error("--vlan {0}: a VLAN id is 0 to 4094")]
    Vlan(u16),
    /// More tags than a frame takes here.
    #[error("--vlan: at most two tags, the outer one first")]
    Vlans,
    /// Not hexadecimal.
    #[error("--packet {text:?}: {what}; a whole Ethernet frame in hexadecimal is needed")]
    Hex {
        /// What was given.
        text: String,
        /// What is wrong with it.
        what: &'static str,
    },
}

/// A TCP control bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[expect(missing_docs, reason = "the names are the protocol's")]
pub enum Flag {
    Syn,
    Ack,
    Fin,
    Rst,
}

/// What a packet carries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[expect(missing_docs, reason = "the names are the protocols'")]
pub enum Transport {
    #[default]
    Tcp,
    Udp,
    Sctp,
    /// An echo request; ports are not used.
    Icmp,
}

/// A packet told by its flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowFrame {
    /// Source address and port.
    pub from: SocketAddr,
    /// Destination address and port.
    pub to: SocketAddr,
    /// Protocol.
    pub transport: Transport,
    /// TCP control bits.
    pub flags: Vec<Flag>,
    /// VLAN ids, the outer one first.
    pub vlans: Vec<u16>,
}

impl FlowFrame {
    /// The Ethernet frame, with right lengths and checksums.
    ///
    /// # Errors
    /// Where the parts do not fit together.
    pub fn frame(&self) -> Result<Vec<u8>, FrameError> {
        let ip = self.ip()?;
        let mut frame = Vec::new();
        let ether_type = if self.from.is_ipv4() { EtherType::IPV4 } else { EtherType::IPV6 };
        let (outer, tags) = match *self.vlans.as_slice() {
            [] => (ether_type, Vec::new()),
            [one] => (EtherType::VLAN_TAGGED_FRAME, vec![(one, ether_type)]),
            [outer, inner] => (
                EtherType::PROVIDER_BRIDGING,
                vec![(outer, EtherType::VLAN_TAGGED_FRAME), (inner, ether_type)],
            ),
            _ => return Err(FrameError::Vlans),
        };
        let [source, destination] = MACS;
        frame.extend(Ethernet2Header { source, destination, ether_type: outer }.to_bytes());
        for (id, ether_type) in tags {
            let vlan_id = VlanId::try_new(id).ok().filter(|_| id < 4095).ok_or(FrameError::Vlan(id))?;
            let tag = SingleVlanHeader { vlan_id, ether_type, ..SingleVlanHeader::default() };
            frame.extend(tag.to_bytes());
        }
        frame.extend(ip);
        Ok(frame)
    }

    fn ip(&self) -> Result<Vec<u8>, FrameError> {
        let ip = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => PacketBuilder::ipv4(from.octets(), to.octets(), TTL),
            (IpAddr::V6(from), IpAddr::V6(to)) => PacketBuilder::ipv6(from.octets(), to.octets(), TTL),
            (from, to) => return Err(FrameError::Families { from, to }),
        };
        let (source, destination) = (self.from.port(), self.to.port());
        let mut bytes = Vec::new();
        // Writing to a vector fails only where the payload is too long for a length field.
        let written = match self.transport {
            Transport::Tcp => {
                let has = |flag| self.flags.contains(&flag);
                let mut tcp = ip.tcp(source, destination, 1, u16::MAX);
                if has(Flag::Syn) {
                    tcp = tcp.syn();
                }
                if has(Flag::Ack) {
                    tcp = tcp.ack(1);
                }
                if has(Flag::Fin) {
                    tcp = tcp.fin();
                }
                if has(Flag::Rst) {
                    tcp = tcp.rst();
                }
                tcp.write(&mut bytes, &[])
            }
            Transport::Udp => ip.udp(source, destination).write(&mut bytes, &[]),
            Transport::Sctp => {
                let [[a, b], [c, d]] = [source.to_be_bytes(), destination.to_be_bytes()];
                // INIT (RFC 9260 section 3.3.2); the checksum is the receiver's to judge.
                let mut init = vec![a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 20, 0, 0, 0, 1];
                init.extend([0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
                ip.write(&mut bytes, IpNumber::SCTP, &init)
            }
            Transport::Icmp if self.to.is_ipv4() => ip.icmpv4_echo_request(1, 1).write(&mut bytes, b"weir"),
            Transport::Icmp => ip.icmpv6_echo_request(1, 1).write(&mut bytes, b"weir"),
        };
        debug_assert!(written.is_ok(), "a packet without payload is short");
        Ok(bytes)
    }
}

/// The bytes that hexadecimal text tells; colons and white space between bytes are skipped.
///
/// # Errors
/// Where it is not hexadecimal.
pub fn from_hex(text: &str) -> Result<Vec<u8>, FrameError> {
    let wrong = |what| FrameError::Hex { text: text.chars().take(40).collect(), what };
    let digits = text.chars().filter(|char| *char != ':' && !char.is_whitespace());
    let digits: Option<Vec<u8>> =
        digits.map(|char| char.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let digits = digits.ok_or_else(|| wrong("not hexadecimal"))?;
    let (pairs, rest) = digits.as_chunks::<2>();
    match rest {
        [] => Ok(pairs.iter().map(|[high, low]| high << 4 | low).collect()),
        _ => Err(wrong("an odd number of digits")),
    }
}

/// Bytes in hexadecimal.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow(from: &str, to: &str, transport: Transport) -> FlowFrame {
        let address = |text: &str| text.parse().expect("an address and a port");
        let (from, to) = (address(from), address(to));
        FlowFrame { from, to, transport, flags: vec![Flag::Syn], vlans: Vec::new() }
    }

    #[test]
    fn frames_have_the_addresses_ports_and_flags_that_were_asked_for() {
        let frame = flow("203.0.113.9:51000", "198.51.100.10:80", Transport::Tcp).frame().unwrap();
        assert_eq!(frame.len(), 54);
        assert_eq!(frame[12..14], [0x08, 0x00]);
        assert_eq!(frame[26..34], [203, 0, 113, 9, 198, 51, 100, 10]);
        assert_eq!(frame[34..38], [0xc7, 0x38, 0, 80]);
        assert_eq!(frame[47], 2);
        let v6 = flow("[2001:db8::1]:1", "[2001:db8::10]:53", Transport::Udp).frame().unwrap();
        assert_eq!((v6.len(), v6[20]), (62, 17));
        let sctp = flow("203.0.113.9:1", "198.51.100.10:2", Transport::Sctp).frame().unwrap();
        assert_eq!((sctp[23], sctp[46]), (132, 1));
        let echo = flow("[2001:db8::1]:0", "[2001:db8::10]:0", Transport::Icmp).frame().unwrap();
        assert_eq!((echo[20], echo[54]), (58, 128));
    }

    #[test]
    fn tags_are_outermost_first() {
        let mut flow = flow("203.0.113.9:51000", "198.51.100.10:80", Transport::Tcp);
        flow.vlans = vec![200, 100];
        let frame = flow.frame().unwrap();
        assert_eq!(frame[12..22], [0x88, 0xa8, 0, 200, 0x81, 0, 0, 100, 0x08, 0]);
        flow.vlans = vec![1, 2, 3];
        assert_eq!(flow.frame(), Err(FrameError::Vlans));
        flow.vlans = vec![4095];
        assert_eq!(flow.frame(), Err(FrameError::Vlan(4095)));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let mixed = flow("203.0.113.9:51000", "[2001:db8::10]:80", Transport::Tcp);
        assert!(mixed.frame().unwrap_err().to_string().contains("one family"));
    }

    #[test]
    fn hexadecimal_is_read_with_and_without_colons() {
        assert_eq!(from_hex("02:00 ff"), Ok(vec![2, 0, 255]));
        assert_eq!(to_hex(&[2, 0, 255]), "0200ff");
        assert!(from_hex("020").unwrap_err().to_string().contains("odd number"));
        assert!(from_hex("0x20").unwrap_err().to_string().contains("not hexadecimal"));
    }
}
