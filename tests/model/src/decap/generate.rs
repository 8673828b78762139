//! Frames that come in to a backend, tunnelled in all ways, and answers that go out.

use std::net::IpAddr;

use super::VIPS;
use crate::choice::Choice;
use crate::packet::{PacketSpec, Transport};

/// Longest frame: what the kernel's test run takes without fragments.
const MAX_FRAME: usize = 3520;
const ETHERNET: usize = 14;

/// An outer header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outer {
    /// Source.
    pub source: IpAddr,
    /// Destination, of the same family.
    pub destination: IpAddr,
    /// DSCP and ECN.
    pub traffic_class: u8,
    /// The four bytes of a GUE header, behind UDP to this port; IP in IP without.
    pub gue: Option<(u16, [u8; 4])>,
    /// VLAN tags: ethertype and control information.
    pub tags: Vec<[u8; 4]>,
}

impl Outer {
    /// IP in IP from a source that is opened.
    #[must_use]
    pub fn ipip(source: &str, destination: &str) -> Self {
        let address = |text: &str| text.parse().unwrap_or(IpAddr::from([0; 4]));
        let (source, destination) = (address(source), address(destination));
        Self { source, destination, traffic_class: 0, gue: None, tags: Vec::new() }
    }

    /// The same by GUE to port 6080.
    #[must_use]
    pub fn gue(self, header: [u8; 4]) -> Self {
        Self { gue: Some((6080, header)), ..self }
    }

    /// A frame around the IP packet of `inner`, an untagged frame.
    #[must_use]
    pub fn around(&self, inner: &[u8]) -> Vec<u8> {
        let (link, packet) = inner.split_at(ETHERNET);
        let number = if packet.first().is_some_and(|first| first >> 4 == 6) { 41 } else { 4 };
        let (protocol, mut payload) = match self.gue {
            None => (number, Vec::new()),
            Some((port, header)) => {
                let [high, low] = ((packet.len() + 12) as u16).to_be_bytes();
                let [p, q] = port.to_be_bytes();
                (17, [&[0xc0, 0x01, p, q, high, low, 0, 0][..], &header].concat())
            }
        };
        payload.extend_from_slice(packet);
        let ip = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let [high, low] = ((payload.len() + 20) as u16).to_be_bytes();
                let mut ip = vec![0x45, self.traffic_class, high, low, 0, 0, 0x40, 0, 64, protocol, 0, 0];
                ip.extend(source.octets());
                ip.extend(destination.octets());
                let sum = (!(internet_sum(&ip) as u16)).to_be_bytes();
                ip[10..12].copy_from_slice(&sum);
                ip
            }
            (source, destination) => {
                let [high, low] = (payload.len() as u16).to_be_bytes();
                let class = self.traffic_class;
                let mut ip = vec![0x60 | class >> 4, class << 4, 0, 1, high, low, protocol, 64];
                for address in [source, destination] {
                    ip.extend(match address {
                        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
                        IpAddr::V6(address) => address.octets(),
                    });
                }
                ip
            }
        };
        let ethertype: [u8; 2] = if ip[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
        [&link[..12], self.tags.concat().as_slice(), &ethertype, &ip, &payload].concat()
    }
}

/// The ones' complement sum of bytes, folded to 16 bits (RFC 1071).
#[must_use]
pub fn internet_sum(bytes: &[u8]) -> u32 {
    let word = |pair: &[u8]| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
    let mut sum: u32 = bytes.chunks(2).map(word).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

fn address(choice: &mut impl Choice, texts: &[&str]) -> IpAddr {
    choice.pick(texts).parse().unwrap_or(IpAddr::from([0; 4]))
}

/// A frame that comes in: mostly tunnels for VIPs from sources that are opened, some of them damaged.
pub fn incoming(choice: &mut impl Choice) -> Vec<u8> {
    let mut frame = match choice.below(20) {
        0..2 => packet(choice).frame(),
        _ => tunnel(choice),
    };
    if choice.chance(25) {
        for _ in 0..=choice.below(2) {
            damage(&mut frame, choice);
        }
    }
    frame.resize(frame.len().clamp(ETHERNET, MAX_FRAME), 0);
    frame
}

fn packet(choice: &mut impl Choice) -> PacketSpec {
    let destination = match choice.below(10) {
        0 => address(choice, &["198.51.100.12", "2001:db8::11", "2001:db8:0:1::10"]),
        _ => address(choice, &VIPS),
    };
    let source = match destination {
        IpAddr::V4(_) => IpAddr::from([203, 0, 113, 9]),
        IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 9]),
    };
    let mut spec = PacketSpec::syn(source, destination, (choice.word() as u16, 80));
    spec.transport = choice.pick(&[
        Transport::Tcp { flags: 0x18, options: 3 },
        Transport::Tcp { flags: 2, options: 5 },
        Transport::Udp,
        Transport::Icmp,
        Transport::Other(47),
    ]);
    spec.traffic_class = choice.word() as u8;
    spec.payload = choice.pick(&[0, 1, 30, 1400]);
    spec.options = choice.pick(&[0, 0, 0, 4]);
    spec.flags_offset = choice.pick(&[0x4000, 0x4000, 0, 0x2000, 0x0010]);
    spec
}

fn tunnel(choice: &mut impl Choice) -> Vec<u8> {
    let mut outer = match choice.chance(50) {
        true => Outer::ipip("10.0.9.7", "10.0.1.11"),
        false => Outer::ipip("fd00::2", "fd00:1::11"),
    };
    if choice.chance(10) {
        outer.source = match outer.source {
            IpAddr::V4(_) => address(choice, &["10.0.0.2", "10.0.16.0", "10.0.0.1", "192.0.2.1"]),
            IpAddr::V6(_) => address(choice, &["fd00:0:0:1::1", "fd01::1", "2001:db8::1"]),
        };
    }
    outer.traffic_class = choice.word() as u8;
    let inner = packet(choice);
    if choice.chance(50) {
        let number = if inner.destination.is_ipv4() { 4 } else { 41 };
        let odd = [[0x40, number, 0, 0], [0x20, number, 0, 0], [0x01, number, 0, 0], [0, number, 0x80, 0]];
        let header = match choice.below(10) {
            0 => choice.pick(&odd),
            1 => [0, choice.word() as u8, 0, 0],
            2 => [0x45, 0, 0, 20],
            _ => [0, number, 0, 0],
        };
        let port = if choice.chance(95) { 6080 } else { choice.pick(&[6081, 53]) };
        outer.gue = Some((port, header));
    }
    let tags = choice.pick(&[0, 0, 0, 0, 1, 2, 3]);
    outer.tags = (0..tags).map(|_| choice.pick(&[[0x81, 0, 0, 100], [0x88, 0xa8, 0x60, 7]])).collect();
    let mut frame = outer.around(&inner.frame());
    if choice.chance(10) {
        frame.resize(frame.len().max(60), 0);
    }
    frame
}

/// Changes a byte that something is read from, or the frame's length. Where the outer IPv4 header changed, its checksum
/// is mostly made right again, so that what comes after it is looked at.
fn damage(frame: &mut Vec<u8>, choice: &mut impl Choice) {
    match choice.below(8) {
        0 => frame.truncate(choice.below(frame.len())),
        1 => frame.truncate(ETHERNET + choice.below(120)),
        2 => frame.resize((frame.len() + choice.below(40)).min(MAX_FRAME), 0xaa),
        // Outer version and length, flags, protocol.
        3..6 => {
            let at = ETHERNET + choice.pick(&[0, 0, 2, 3, 4, 5, 6, 6, 7, 9, 24, 25]);
            set(frame, at, choice.word() as u8);
        }
        _ => {
            let at = ETHERNET + choice.below(frame.len().min(110));
            set(frame, at, choice.word() as u8);
        }
    }
    if choice.chance(70) && frame.len() >= ETHERNET + 20 && frame[12] == 8 {
        let header = &mut frame[ETHERNET..ETHERNET + 20];
        header[10..12].fill(0);
        let sum = (!(internet_sum(header) as u16)).to_be_bytes();
        header[10..12].copy_from_slice(&sum);
    }
}

fn set(frame: &mut [u8], at: usize, value: u8) {
    if let Some(byte) = frame.get_mut(at) {
        *byte = value;
    }
}

/// A frame that goes out: mostly SYN-ACKs of VIPs, with options in many orders.
pub fn answer(choice: &mut impl Choice) -> Vec<u8> {
    let source = match choice.below(10) {
        0 => address(choice, &["198.51.100.12", "10.0.1.11", "fd00:1::11"]),
        _ => address(choice, &VIPS),
    };
    let destination = match source {
        IpAddr::V4(_) => IpAddr::from([203, 0, 113, 9]),
        IpAddr::V6(_) => IpAddr::from([0x2001, 0xdb8, 0xc, 0, 0, 0, 0, 9]),
    };
    let mut spec = PacketSpec::syn(source, destination, (80, choice.word() as u16));
    let flags = choice.pick(&[0x12, 0x12, 0x12, 0x12, 0x52, 0x02, 0x10, 0x18]);
    let words = choice.pick(&[0, 1, 3, 5, 8, 10]);
    spec.transport = Transport::Tcp { flags, options: words };
    spec.options = choice.pick(&[0, 0, 0, 2]);
    let mut frame = spec.frame();
    let options_at = frame.len() - words * 4;
    let options = options(choice, words * 4);
    frame[options_at..].copy_from_slice(&options);
    let checksum_at = options_at - 20 + 16;
    let pseudo: Vec<u8> = match source {
        IpAddr::V4(_) => frame[26..34].to_vec(),
        IpAddr::V6(_) => frame[22..54].to_vec(),
    };
    frame[checksum_at..checksum_at + 2].fill(0);
    let segment = &frame[options_at - 20..];
    let length = (segment.len() as u16).to_be_bytes();
    let covered = [&pseudo[..], &[0, 6], &length, segment].concat();
    let sum = (!(internet_sum(&covered) as u16)).to_be_bytes();
    frame[checksum_at..checksum_at + 2].copy_from_slice(&sum);
    if choice.chance(10) {
        // The kernel's test run takes no less than an IP header.
        let least = ETHERNET + if source.is_ipv4() { 20 } else { 40 };
        frame.truncate(least + choice.below(frame.len() - least));
    }
    frame
}

/// Options of `length` bytes, the last of which may be cut off.
fn options(choice: &mut impl Choice, length: usize) -> Vec<u8> {
    let mut options = Vec::new();
    while options.len() < length {
        let [high, low] = choice.pick(&[1460_u16, 1408, 1409, 1389, 536, 8960, 0, 65_535]).to_be_bytes();
        match choice.below(12) {
            0..4 => options.extend([2, 4, high, low]),
            4..6 => options.push(1),
            6 => options.extend([4, 2]),
            7 => options.extend([8, 10, 0, 0, 0, 1, 0, 0, 0, 0]),
            8 => options.extend([3, 3, 7]),
            9 => options.extend([2, choice.word() as u8, high, low]),
            10 => options.extend([choice.word() as u8, choice.below(6) as u8]),
            _ => options.push(0),
        }
    }
    options.truncate(length);
    options
}
