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
pub enum Segment {
    /// Opens a connection: SYN without ACK, INIT.
    Open,
    /// Belongs to a connection.
    Data,
    /// The client has no more to send: FIN, SHUTDOWN.
    Close,
    /// The connection is over: RST, ABORT.
    Abort,
    /// UDP: any packet may be the first.
    Datagram,
}

impl Segment {
    /// Of a TCP segment with these control bits; RST wins over SYN, SYN over FIN.
    #[inline(always)]
    #[must_use]
    pub fn of_tcp(flags: u8) -> Self {
        if flags & (TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST) == 0 {
            Self::Data
        } else if flags & TcpFlags::RST != 0 {
            Self::Abort
        } else if flags & TcpFlags::SYN != 0 {
            if flags & TcpFlags::ACK == 0 { Self::Open } else { Self::Data }
        } else {
            Self::Close
        }
    }

    /// Of an SCTP packet by its first chunk (RFC 9260 section 3.2).
    #[inline(always)]
    #[must_use]
    pub fn of_sctp(chunk: u8) -> Self {
        match chunk {
            1 => Self::Open,
            6 => Self::Abort,
            7 | 14 => Self::Close,
            _ => Self::Data,
        }
    }
}
