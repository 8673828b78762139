//! The parts of TCP (RFC 9293), UDP (RFC 768) and SCTP (RFC 9260) headers that selection reads.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Transport protocols that weir balances; the numbers are those of flow keys and indexes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    /// IP protocol 6.
    Tcp = 1,
    /// IP protocol 17.
    Udp = 2,
    /// IP protocol 132.
    Sctp = 3,
}

impl Protocol {
    /// The protocol with this IP protocol number.
    #[inline(always)]
    #[must_use]
    pub fn from_ip(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            132 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The protocol with this number in flow keys.
    #[must_use]
    pub fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Tcp),
            2 => Some(Self::Udp),
            3 => Some(Self::Sctp),
            _ => None,
        }
    }

    /// What a packet in mid-flow is.
    #[must_use]
    pub fn steady(self) -> Segment {
        match self {
            Self::Tcp | Self::Sctp => Segment::Data,
            Self::Udp => Segment::Datagram,
        }
    }

    /// Bytes of the shortest header.
    #[inline(always)]
    #[must_use]
    pub fn header_length(self) -> usize {
        match self {
            Self::Tcp => 20,
            Self::Udp => 8,
            Self::Sctp => 12,
        }
    }
}

/// Source and destination port, at the start of all three protocols.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
pub struct Ports {
    /// Source port, big-endian.
    pub source: [u8; 2],
    /// Destination port, big-endian.
    pub destination: [u8; 2],
}

impl Ports {
    /// Source and destination port, host order.
    #[inline(always)]
    #[must_use]
    pub fn both(&self) -> (u16, u16) {
        (u16::from_be_bytes(self.source), u16::from_be_bytes(self.destination))
    }
}

/// A TCP header without options.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
pub struct TcpStart {
    /// Ports.
    pub ports: Ports,
    /// Sequence number, big-endian.
    pub sequence: [u8; 4],
    /// Acknowledgement number, big-endian.
    pub acknowledgement: [u8; 4],
    /// Header length in 32-bit words (upper 4 bits).
    pub data_offset: u8,
    /// Control bits.
    pub flags: u8,
    /// Window, checksum, urgent pointer.
    pub rest: [u8; 6],
}

/// TCP control bits.
pub struct TcpFlags;

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// Acknowledgement field is significant.
    pub const ACK: u8 = 0x10;
}

/// An SCTP common header and the type of the first chunk.
#[repr(C)]
#[derive(Clone, Copy, FromBytes, IntoBytes, Unaligned, Immutable, KnownLayout)]
pub struct SctpStart {
    /// Ports.
    pub ports: Ports,
    /// Verification tag; 0 only on INIT.
    pub tag: [u8; 4],
    /// CRC32c.
    pub checksum: [u8; 4],
    /// Type of the first chunk.
    pub chunk: u8,
}

/// What a packet means for its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Segment {
    /// Belongs to a connection.
    Data = 0,
    /// Opens a connection: SYN without ACK, INIT.
    Open = 1,
    /// The client has no more to send: FIN, SHUTDOWN.
    Close = 2,
    /// The connection is over: RST, ABORT.
    Abort = 3,
    /// UDP: any packet may be the first.
    Datagram = 4,
}

/// By FIN, SYN, RST (index bits 0–2) and ACK (bit 3). A table instead of branches: each branch on the way to a backend
/// doubles the paths that the verifier follows, while what a table holds is one unknown number to it.
static BY_TCP_FLAGS: [Segment; 16] = {
    let mut table = [Segment::Data; 16];
    let mut flags = 0;
    while flags < 16 {
        if flags & 4 != 0 {
            table[flags] = Segment::Abort;
        } else if flags & 2 != 0 {
            if flags & 8 == 0 {
                table[flags] = Segment::Open;
            }
        } else if flags & 1 != 0 {
            table[flags] = Segment::Close;
        }
        flags += 1;
    }
    table
};

/// By the chunk types 0–15 (RFC 9260 section 3.2): INIT, ABORT, SHUTDOWN, SHUTDOWN COMPLETE.
static BY_SCTP_CHUNK: [Segment; 16] = {
    let mut table = [Segment::Data; 16];
    table[1] = Segment::Open;
    table[6] = Segment::Abort;
    table[7] = Segment::Close;
    table[14] = Segment::Close;
    table
};

impl Segment {
    /// The segment with this number; an unknown one reads as data.
    #[inline(always)]
    #[must_use]
    pub const fn from_code(code: u8) -> Self {
        match code {
            1 => Self::Open,
            2 => Self::Close,
            3 => Self::Abort,
            4 => Self::Datagram,
            _ => Self::Data,
        }
    }

    /// Of a TCP segment with these control bits; RST wins over SYN, SYN over FIN.
    #[inline(always)]
    #[must_use]
    pub fn of_tcp(flags: u8) -> Self {
        BY_TCP_FLAGS[(flags & 7 | (flags & TcpFlags::ACK) >> 1) as usize]
    }

    /// Of an SCTP packet by its first chunk.
    #[inline(always)]
    #[must_use]
    pub fn of_sctp(chunk: u8) -> Self {
        if chunk > 15 { Self::Data } else { BY_SCTP_CHUNK[(chunk & 15) as usize] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tcp_flags_give_segments() {
        let cases = [
            (TcpFlags::SYN, Segment::Open),
            (TcpFlags::SYN | TcpFlags::ACK, Segment::Data),
            (TcpFlags::ACK, Segment::Data),
            (TcpFlags::FIN | TcpFlags::ACK, Segment::Close),
            (TcpFlags::SYN | TcpFlags::FIN, Segment::Open),
            (TcpFlags::RST, Segment::Abort),
            (TcpFlags::RST | TcpFlags::ACK | TcpFlags::SYN, Segment::Abort),
            (0xc0 | 0x28, Segment::Data),
            (0, Segment::Data),
        ];
        for (flags, segment) in cases {
            assert_eq!(Segment::of_tcp(flags), segment, "{flags:#04x}");
        }
    }

    #[test]
    fn sctp_chunks_give_segments() {
        let cases = [(1, Segment::Open), (6, Segment::Abort), (7, Segment::Close), (14, Segment::Close)];
        for chunk in 0..=255 {
            let expected =
                cases.iter().find(|(of, _)| *of == chunk).map_or(Segment::Data, |(_, segment)| *segment);
            assert_eq!(Segment::of_sctp(chunk), expected, "{chunk}");
        }
    }
}
