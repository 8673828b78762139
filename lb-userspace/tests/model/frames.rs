//! Frames of clients.

use std::net::IpAddr;

/// Bytes before a frame for outer headers.
pub(crate) const HEADROOM: usize = 64;
const LENGTH: usize = HEADROOM + 14 + 40 + 20;

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Syn,
    Ack,
    Fin,
    Rst,
    Udp,
}

/// A packet from a client to a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Packet {
    pub(crate) client: IpAddr,
    pub(crate) client_port: u16,
    pub(crate) vip: IpAddr,
    pub(crate) port: u16,
    pub(crate) kind: Kind,
}

impl Packet {
    /// The frame in a buffer with headroom: the bytes and where they end.
    pub(crate) fn frame(&self) -> ([u8; LENGTH], usize) {
        let mut buffer = [0; LENGTH];
        let transport = match self.kind {
            Kind::Udp => 8,
            _ => 20,
        };
        let protocol = match self.kind {
            Kind::Udp => 17,
            _ => 6,
        };
        let mut at = HEADROOM + 12;
        let mut put = |bytes: &[u8]| {
            buffer[at..at + bytes.len()].copy_from_slice(bytes);
            at += bytes.len();
        };
        match (self.client, self.vip) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => {
                put(&[0x08, 0x00, 0x45, 0, 0, 20 + transport as u8, 0, 0, 0x40, 0, 64, protocol, 0, 0]);
                put(&client.octets());
                put(&vip.octets());
            }
            (IpAddr::V6(client), IpAddr::V6(vip)) => {
                put(&[0x86, 0xdd, 0x60, 0, 0, 0, 0, transport as u8, protocol, 64]);
                put(&client.octets());
                put(&vip.octets());
            }
            _ => panic!("client and vip of two families"),
        }
        put(&self.client_port.to_be_bytes());
        put(&self.port.to_be_bytes());
        match self.kind {
            Kind::Udp => put(&[0, 8, 0, 0]),
            kind => {
                let flags = match kind {
                    Kind::Syn => 0x02,
                    Kind::Fin => 0x11,
                    Kind::Rst => 0x04,
                    _ => 0x10,
                };
                put(&[0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags, 0, 0, 0, 0, 0, 0]);
            }
        }
        (buffer, at)
    }
}
