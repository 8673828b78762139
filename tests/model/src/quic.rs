//! Datagrams that begin with a QUIC header.

use crate::packet::PacketSpec;

/// The forms of a QUIC header (RFC 8999 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuicHeader {
    /// Of an open connection: the connection ID's length is not told.
    Short,
    /// With the version, and both connection IDs' lengths.
    Long,
}

/// The frame of a datagram whose payload begins with a QUIC header to this connection ID.
///
/// # Panics
/// Where the payload has no room for it.
#[must_use]
pub fn quic(spec: PacketSpec, header: QuicHeader, cid: &[u8]) -> Vec<u8> {
    let mut frame = spec.frame();
    let mut bytes = match header {
        QuicHeader::Short => vec![0x41],
        QuicHeader::Long => vec![0xc3, 0, 0, 0, 1, cid.len() as u8],
    };
    bytes.extend_from_slice(cid);
    let start = frame.len() - spec.payload;
    frame[start..start + bytes.len()].copy_from_slice(&bytes);
    frame
}
