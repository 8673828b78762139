//! Lowering the MSS that a VIP's SYN-ACKs announce, so that what clients send still fits once it is inside a tunnel.
//!
//! Under DSR the answers bypass weir, so the backend does this on its way out. Receives every frame that leaves; reads,
//! and says what to replace. How is the frame's matter: the kernel alone knows whether a checksum is finished.

use super::ip::{Ip, V4, V6};
use super::link;
use super::prefix::Prefix;
use crate::layout::Family;
use crate::packet::Packet;
use crate::wire::{EtherType, TcpFlags, TcpStart};

/// Most options that are looked at before the MSS; systems put it first.
const MAX_OPTIONS: usize = 8;
/// Kinds of TCP options (RFC 9293 section 3.2).
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MSS: u8 = 2;
/// Bytes of the MSS option.
const MSS_LEN: usize = 4;
/// IP protocol number.
const TCP: u32 = 6;
/// Offset of the checksum in a TCP header.
const CHECKSUM_AT: usize = 16;

/// What was found about a SYN-ACK from a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Finding {
    /// Its MSS was larger than what fits, and was lowered.
    Lowered,
    /// Its MSS fits.
    Fits,
    /// It announces no MSS: the client then sends no more than the default, which fits.
    Absent,
    /// Its options end within one.
    Malformed,
}

impl Finding {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Lowered, Self::Fits, Self::Absent, Self::Malformed];
    /// Number of findings, the size of the counter array.
    pub const COUNT: usize = Self::ALL.len();

    /// The name in `status` and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lowered => "mss_lowered",
            Self::Fits => "mss_fits",
            Self::Absent => "mss_absent",
            Self::Malformed => "mss_malformed",
        }
    }
}

/// What to write into a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// Offset of the MSS.
    pub value_at: usize,
    /// The new MSS, big-endian.
    pub value: [u8; 2],
    /// Offset of the TCP checksum.
    pub checksum_at: usize,
    /// What the MSS was, as the checksum sums it: swapped where it is at an odd offset (RFC 1071 section 2B).
    pub old: [u8; 2],
    /// What it is now, likewise.
    pub new: [u8; 2],
}

/// A frame on its way out.
pub trait Outgoing: Packet {
    /// Writes an MSS and brings the checksum up to date.
    fn replace(&mut self, replacement: Replacement);
}

/// What the clamp asks of the maps.
pub trait Tables {
    /// Whether this host serves the address.
    fn is_vip(&self, address: &Prefix) -> bool;
    /// The largest MSS to announce; 0 leaves all as they are.
    fn limit(&self, family: Family) -> u16;
    /// Counts a SYN-ACK from a VIP.
    fn count(&self, finding: Finding, bytes: u64);
}

/// Lowers the MSS of a SYN-ACK from a VIP where it is too large; counts it, and says what was found. `None` for
/// everything else.
#[inline(always)]
pub fn clamp<O: Outgoing, T: Tables>(frame: &mut O, tables: &T) -> Option<Finding> {
    let found = look(frame, tables)?;
    let finding = match found {
        Ok(replacement) => {
            frame.replace(replacement);
            Finding::Lowered
        }
        Err(finding) => finding,
    };
    tables.count(finding, frame.length() as u64);
    Some(finding)
}

#[inline(always)]
fn look<O: Outgoing, T: Tables>(frame: &O, tables: &T) -> Option<Result<Replacement, Finding>> {
    let link = link::read(frame)?;
    match link.ethertype {
        EtherType::Ipv4 => answer::<V4, O, T>(frame, tables, link.length),
        EtherType::Ipv6 => answer::<V6, O, T>(frame, tables, link.length),
        EtherType::Vlan | EtherType::Other => None,
    }
}

/// Looks at the IP packet at `at`.
#[inline(always)]
fn answer<I: Ip, O: Outgoing, T: Tables>(
    frame: &O,
    tables: &T,
    at: usize,
) -> Option<Result<Replacement, Finding>> {
    let header = I::read(frame, at)?;
    if header.next != TCP || header.fragment != 0 {
        return None;
    }
    let tcp_at = at + header.header_length;
    let tcp: &TcpStart = frame.header(tcp_at)?;
    let syn_ack = TcpFlags::SYN | TcpFlags::ACK;
    if tcp.flags & syn_ack != syn_ack || !tables.is_vip(&header.source) {
        return None;
    }
    let options = ((tcp.data_offset >> 4) as usize) << 2;
    Some(option(frame, tcp_at, options, I::mss_limit(tables)))
}

/// Looks for the MSS among the options of the TCP header at `tcp_at`, which is `length` bytes long.
#[inline(always)]
pub(crate) fn option<P: Packet>(
    frame: &P,
    tcp_at: usize,
    length: usize,
    limit: u16,
) -> Result<Replacement, Finding> {
    // Relative to the TCP header.
    let mut at = size_of::<TcpStart>();
    for _ in 0..MAX_OPTIONS {
        // Where four bytes are not left there is no MSS.
        if at + MSS_LEN > length {
            return Err(Finding::Absent);
        }
        let Some(option) = frame.header::<[u8; MSS_LEN]>(tcp_at + at) else { return Err(Finding::Malformed) };
        let [kind, option_length, high, low] = *option;
        match kind {
            END => return Err(Finding::Absent),
            NO_OPERATION => at += 1,
            MSS if option_length as usize == MSS_LEN => return judge([high, low], tcp_at, at, limit),
            _ if kind == MSS || option_length < 2 => return Err(Finding::Malformed),
            _ => at += option_length as usize,
        }
    }
    Err(Finding::Absent)
}

/// Judges what the option at `at` announces.
#[inline(always)]
fn judge(announced: [u8; 2], tcp_at: usize, at: usize, limit: u16) -> Result<Replacement, Finding> {
    if limit == 0 || u16::from_be_bytes(announced) <= limit {
        return Err(Finding::Fits);
    }
    let value = limit.to_be_bytes();
    let as_summed = |[first, second]: [u8; 2]| if at & 1 == 0 { [first, second] } else { [second, first] };
    Ok(Replacement {
        value_at: tcp_at + at + 2,
        value,
        checksum_at: tcp_at + CHECKSUM_AT,
        old: as_summed(announced),
        new: as_summed(value),
    })
}
