//! Packets built by hand: IPv4, IPv6, UDP, TCP SYN, ICMP echo, tunnels; and sending them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

/// IP protocol number of IPv4 in IP.
pub const IPV4: u8 = 4;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of IPv6 in IP.
pub const IPV6: u8 = 41;

/// The Internet checksum (RFC 1071) of some bytes.
pub fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// An IP packet around a payload, TTL 64.
///
/// # Panics
/// Panics when the addresses are of different families.
pub fn ip(source: IpAddr, destination: IpAddr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => ipv4_header(source, destination, protocol, payload),
        (IpAddr::V6(source), IpAddr::V6(destination)) => ipv6_header(source, destination, protocol, payload),
        _ => panic!("{source} and {destination} are of different families"),
    };
    packet.extend_from_slice(payload);
    packet
}

fn ipv4_header(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    header[2..4].copy_from_slice(&(payload.len() as u16 + 20).to_be_bytes());
    header.extend(source.octets());
    header.extend(destination.octets());
    let sum = checksum(&header).to_be_bytes();
    header[10..12].copy_from_slice(&sum);
    header
}

fn ipv6_header(source: Ipv6Addr, destination: Ipv6Addr, protocol: u8, payload: &[u8]) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
    header[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    header.extend(source.octets());
    header.extend(destination.octets());
    header
}

/// A UDP packet.
pub fn udp(source: SocketAddr, destination: SocketAddr, data: &[u8]) -> Vec<u8> {
    let mut datagram = ports(source, destination);
    datagram.extend((data.len() as u16 + 8).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend_from_slice(data);
    finish(source.ip(), destination.ip(), UDP, datagram, 6)
}

/// TCP flags: SYN.
pub const SYN: u8 = 0x02;
/// TCP flags: RST.
pub const RST: u8 = 0x04;
/// TCP flags: ACK.
pub const ACK: u8 = 0x10;

/// A TCP packet without data and options.
pub fn tcp(source: SocketAddr, destination: SocketAddr, sequence: u32, flags: u8) -> Vec<u8> {
    let mut segment = ports(source, destination);
    segment.extend(sequence.to_be_bytes());
    segment.extend([0, 0, 0, 0, 5 << 4, flags, 0xff, 0xff, 0, 0, 0, 0]);
    finish(source.ip(), destination.ip(), TCP, segment, 16)
}

fn ports(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat()
}

/// Fills in the checksum at `at` over the pseudo header and the segment, and wraps it.
fn finish(source: IpAddr, destination: IpAddr, protocol: u8, mut segment: Vec<u8>, at: usize) -> Vec<u8> {
    let mut covered = octets(source);
    covered.extend(octets(destination));
    covered.extend((segment.len() as u32).to_be_bytes());
    covered.extend([0, 0, 0, protocol]);
    covered.extend(&segment);
    let sum = checksum(&covered).to_be_bytes();
    segment[at..at + 2].copy_from_slice(&sum);
    ip(source, destination, protocol, &segment)
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// A tunnel packet around an IP packet.
pub fn tunnel(source: IpAddr, destination: IpAddr, inner: &[u8]) -> Vec<u8> {
    let protocol = if inner[0] >> 4 == 4 { IPV4 } else { IPV6 };
    ip(source, destination, protocol, inner)
}

/// A GUE packet (variant 0, to port 6080) around an IP packet.
pub fn gue(source: IpAddr, destination: IpAddr, inner: &[u8]) -> Vec<u8> {
    let protocol = if inner[0] >> 4 == 4 { IPV4 } else { IPV6 };
    let payload = [&[0, protocol, 0, 0], inner].concat();
    udp(SocketAddr::new(source, 49_152), SocketAddr::new(destination, 6080), &payload)
}

/// An Ethernet frame around an IP packet.
pub fn ethernet(destination: [u8; 6], source: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let ethertype: [u8; 2] = if packet[0] >> 4 == 4 { [0x08, 0x00] } else { [0x86, 0xdd] };
    [&destination[..], &source[..], &ethertype[..], packet].concat()
}

/// Sends whole Ethernet frames out of one interface of the calling thread's namespace.
#[derive(Debug)]
pub struct FrameSocket {
    socket: Socket,
    address: SockAddr,
}

impl FrameSocket {
    /// Opens a socket on an interface.
    pub fn open(interface: &str) -> Result<Self> {
        let socket = Socket::new(Domain::PACKET, Type::RAW, None)
            .with_context(|| format!("open packet socket on {interface}: CAP_NET_RAW is needed"))?;
        let ifindex = rustix::net::netdevice::name_to_index(&socket, interface)
            .with_context(|| format!("find interface {interface}"))?;
        let link = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: 0,
            sll_ifindex: ifindex as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 6,
            sll_addr: [0; 8],
        };
        let init = |storage: *mut socket2::SockAddrStorage, len: *mut libc::socklen_t| {
            // SAFETY: the storage is larger than a sockaddr_ll and aligned for every address type.
            unsafe { storage.cast::<libc::sockaddr_ll>().write(link) };
            // SAFETY: the length belongs to the same call and is writable.
            unsafe { *len = size_of::<libc::sockaddr_ll>() as libc::socklen_t };
            io::Result::Ok(())
        };
        // SAFETY: `init` fills in a whole sockaddr_ll and its length.
        let ((), address) = unsafe { SockAddr::try_init(init) }?;
        Ok(Self { socket, address })
    }

    /// Sends one frame; a full queue of the interface is an error.
    pub fn send(&self, frame: &[u8]) -> io::Result<()> {
        self.socket.send_to(frame, &self.address).map(drop)
    }
}

/// Sends IP packets by the routes of the calling thread's namespace.
#[derive(Debug)]
pub struct PacketSocket {
    socket: Socket,
}

impl PacketSocket {
    /// Opens a socket for packets of the family of an address.
    pub fn open(family: crate::plan::Family) -> Result<Self> {
        let domain = match family {
            crate::plan::Family::V4 => Domain::IPV4,
            crate::plan::Family::V6 => Domain::IPV6,
        };
        // IPPROTO_RAW: the packet brings its own header.
        let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(libc::IPPROTO_RAW)))
            .context("open raw socket: CAP_NET_RAW is needed")?;
        Ok(Self { socket })
    }

    /// Sends one packet, header and all, to the next hop of its destination.
    pub fn send(&self, destination: IpAddr, packet: &[u8]) -> io::Result<()> {
        self.socket.send_to(packet, &SocketAddr::new(destination, 0).into()).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_with_its_checksum_sums_to_zero() {
        let packet =
            ip(Ipv4Addr::new(10, 0, 0, 1).into(), Ipv4Addr::new(10, 0, 0, 2).into(), UDP, &[1, 2, 3]);
        assert_eq!(checksum(&packet[..20]), 0);
        assert_eq!(packet.len(), 23);
    }
}
