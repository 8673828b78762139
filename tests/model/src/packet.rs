//! Frames from a description, with right lengths and checksums.

use std::net::IpAddr;

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// With these control bits and this many words of options.
    Tcp {
        /// Control bits.
        flags: u8,
        /// Words of options, at most 10.
        options: usize,
    },
    /// A datagram.
    Udp,
    /// With a first chunk of this type.
    Sctp {
        /// Type of the first chunk.
        chunk: u8,
    },
    /// An echo request of the packet's family.
    Icmp,
    /// Another protocol, by its IP protocol number.
    Other(u8),
}

/// An IPv6 extension header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    /// Hop-by-hop options, with so many further 8-byte units.
    HopByHop(u8),
    /// Routing, with so many further 8-byte units; no segments left.
    Routing(u8),
    /// Destination options, with so many further 8-byte units.
    Destination(u8),
    /// Authentication, with so many 4-byte units past the fixed part.
    Authentication(u8),
    /// Fragment, with this offset and flags word.
    Fragment(u16),
}

impl Extension {
    fn number(self) -> u8 {
        match self {
            Self::HopByHop(_) => 0,
            Self::Routing(_) => 43,
            Self::Fragment(_) => 44,
            Self::Authentication(_) => 51,
            Self::Destination(_) => 60,
        }
    }

    fn bytes(self, next: u8) -> Vec<u8> {
        match self {
            // One PadN option that fills the header (RFC 8200 section 4.2).
            Self::HopByHop(units) | Self::Destination(units) => {
                let length = (usize::from(units) + 1) * 8;
                let mut bytes = vec![next, units];
                let mut left = length - 2;
                while left > 0 {
                    let option = left.min(257);
                    if option == 1 {
                        bytes.push(0);
                    } else {
                        bytes.extend([1, (option - 2) as u8]);
                        bytes.resize(bytes.len() + option - 2, 0);
                    }
                    left -= option;
                }
                bytes
            }
            Self::Routing(units) => {
                let mut bytes = vec![0; (usize::from(units) + 1) * 8];
                bytes[..4].copy_from_slice(&[next, units, 253, 0]);
                bytes
            }
            Self::Authentication(units) => {
                let mut bytes = vec![0; (usize::from(units) + 2) * 4];
                bytes[..2].copy_from_slice(&[next, units]);
                bytes
            }
            Self::Fragment(word) => {
                let [high, low] = word.to_be_bytes();
                vec![next, 0, high, low, 0, 0, 0, 7]
            }
        }
    }
}

/// An IP packet in an Ethernet frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PacketSpec {
    /// Source address, of the destination's family.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source and destination port.
    pub ports: (u16, u16),
    /// What it carries.
    pub transport: Transport,
    /// IPv4: words of options (NOP), at most 10.
    pub options: usize,
    /// IPv4: flags and fragment offset.
    pub flags_offset: u16,
    /// IPv4: identification.
    pub id: u16,
    /// IPv6: extension headers.
    pub extensions: Vec<Extension>,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// Bytes after the transport header.
    pub payload: usize,
}

impl PacketSpec {
    /// A TCP SYN without options.
    #[must_use]
    pub fn syn(source: IpAddr, destination: IpAddr, ports: (u16, u16)) -> Self {
        Self {
            source,
            destination,
            ports,
            transport: Transport::Tcp { flags: 2, options: 0 },
            options: 0,
            flags_offset: 0x4000,
            id: 9,
            extensions: Vec::new(),
            traffic_class: 0,
            payload: 0,
        }
    }

    /// The same with another transport.
    #[must_use]
    pub fn carrying(mut self, transport: Transport) -> Self {
        self.transport = transport;
        self
    }

    /// The frame.
    #[must_use]
    pub fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        let (protocol, transport) = self.transport();
        match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let header = 20 + self.options * 4;
                let [high, low] = ((header + transport.len()) as u16).to_be_bytes();
                let [flags, offset] = self.flags_offset.to_be_bytes();
                let mut ip = vec![0x40 | (header / 4) as u8, self.traffic_class, high, low];
                ip.extend(self.id.to_be_bytes());
                ip.extend([flags, offset]);
                ip.extend([63, protocol, 0, 0]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                ip.resize(header, 1);
                let sum = checksum(&ip, 0);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                frame.extend([0x08, 0x00]);
                frame.extend(ip);
            }
            (source, destination) => {
                let (first, chain) = self.chain(protocol);
                let [high, low] = ((chain.len() + transport.len()) as u16).to_be_bytes();
                let class = self.traffic_class;
                frame.extend([0x86, 0xdd, 0x60 | class >> 4, class << 4, 0, 0, high, low, first, 63]);
                frame.extend(octets(source));
                frame.extend(octets(destination));
                frame.extend(chain);
            }
        }
        frame.extend(transport);
        frame
    }

    /// The packet in fragments with so many bytes of payload each, which must be a multiple of 8. Extension headers go
    /// into the first.
    #[must_use]
    pub fn fragments(&self, id: u32, size: usize) -> Vec<Vec<u8>> {
        let whole = self.frame();
        let header = if self.destination.is_ipv4() { 34 + self.options * 4 } else { 54 };
        let (header, body) = whole.split_at(header);
        let pieces = body.len().div_ceil(size);
        let fragment = |(number, piece): (usize, &[u8])| {
            let (offset, more) = ((number * size) as u16, number + 1 < pieces);
            let mut frame = header.to_vec();
            if self.destination.is_ipv4() {
                frame[16..18].copy_from_slice(&((header.len() - 14 + piece.len()) as u16).to_be_bytes());
                frame[18..20].copy_from_slice(&(id as u16).to_be_bytes());
                let flags_offset = u16::from(more) << 13 | offset >> 3;
                frame[20..22].copy_from_slice(&flags_offset.to_be_bytes());
                frame[24..26].copy_from_slice(&[0; 2]);
                let sum = checksum(&frame[14..], 0);
                frame[24..26].copy_from_slice(&sum.to_be_bytes());
            } else {
                frame[18..20].copy_from_slice(&((8 + piece.len()) as u16).to_be_bytes());
                let next = std::mem::replace(&mut frame[20], 44);
                frame.extend([next, 0]);
                frame.extend((offset | u16::from(more)).to_be_bytes());
                frame.extend(id.to_be_bytes());
            }
            frame.extend(piece);
            frame
        };
        body.chunks(size).enumerate().map(fragment).collect()
    }

    /// The number of the first header after the IPv6 header, and the extension headers' bytes.
    fn chain(&self, protocol: u8) -> (u8, Vec<u8>) {
        let mut chain = Vec::new();
        let mut next = protocol;
        for extension in self.extensions.iter().rev() {
            chain.splice(0..0, extension.bytes(next));
            next = extension.number();
        }
        (next, chain)
    }

    /// The IP protocol number and the bytes from the transport header on.
    fn transport(&self) -> (u8, Vec<u8>) {
        let [s, t] = self.ports.0.to_be_bytes();
        let [d, e] = self.ports.1.to_be_bytes();
        let (protocol, mut bytes, checksum_at) = match self.transport {
            Transport::Tcp { flags, options } => {
                let mut tcp = vec![s, t, d, e, 0, 0, 0, 1, 0, 0, 0, 2, (5 + options as u8) << 4, flags];
                tcp.extend([0x20, 0, 0, 0, 0, 0]);
                tcp.resize(20 + options * 4, 1);
                (6, tcp, Some(16))
            }
            Transport::Udp => {
                let [high, low] = ((8 + self.payload) as u16).to_be_bytes();
                (17, vec![s, t, d, e, high, low, 0, 0], Some(6))
            }
            Transport::Sctp { chunk } => {
                (132, vec![s, t, d, e, 0, 0, 0, 5, 0, 0, 0, 0, chunk, 0, 0, 4], None)
            }
            Transport::Icmp if self.destination.is_ipv6() => (58, vec![128, 0, 0, 0, 0, 1, 0, 1], Some(2)),
            Transport::Icmp => (1, vec![8, 0, 0, 0, 0, 1, 0, 1], Some(2)),
            Transport::Other(protocol) => (protocol, vec![], None),
        };
        let start = bytes.len();
        bytes.extend((start..start + self.payload).map(|index| index as u8));
        if let Some(at) = checksum_at {
            let pseudo = if protocol == 1 {
                0
            } else {
                pseudo_sum(self.source, self.destination, protocol, bytes.len())
            };
            let sum = checksum(&bytes, pseudo);
            bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
        }
        (protocol, bytes)
    }

    /// A packet of the same flow in the other direction, with the same transport.
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            ports: (self.ports.1, self.ports.0),
            ..self.clone()
        }
    }
}

/// The pseudo-header's sum (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub(crate) fn pseudo_sum(source: IpAddr, destination: IpAddr, protocol: u8, length: usize) -> u32 {
    sum(&octets(source)) + sum(&octets(destination)) + u32::from(protocol) + length as u32
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    bytes.chunks(2).map(word).sum()
}

/// The Internet checksum (RFC 1071) of `bytes` and a partial sum.
pub(crate) fn checksum(bytes: &[u8], partial: u32) -> u16 {
    let mut sum = sum(bytes) + partial;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
