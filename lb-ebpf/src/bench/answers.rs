//! Backends that cost nothing: the far end of the checks' lab answers by itself, as hosts of their own would.
//!
//! IPv4 echo requests get replies, TCP SYNs get SYN-ACKs; whatever else belongs to a connection ends here.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_TX};
use aya_ebpf::helpers::generated::bpf_csum_diff;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;

use crate::frame::{ETHERTYPE_IPV4, TCP, header};

const ICMP: u8 = 1;
const ECHO_REQUEST: u8 = 8;
const SYN: u8 = 0x02;
const ACK: u8 = 0x10;

/// Ethernet, IPv4 without options, and what both a TCP and an ICMP header are at least.
#[repr(C, packed)]
struct Frame {
    to: [u16; 3],
    from: [u16; 3],
    ethertype: u16,
    version_ihl: u8,
    skipped: [u8; 8],
    protocol: u8,
    ip_checksum: u16,
    source: u32,
    destination: u32,
    inner: [u8; 8],
}

/// Ports to checksum of a TCP header; all in network byte order.
#[repr(C, packed)]
struct Tcp {
    source: u16,
    destination: u16,
    sequence: u32,
    acknowledgement: u32,
    data_offset: u8,
    flags: u8,
    window: u16,
    checksum: u16,
    urgent: u16,
}

const TCP_AT: usize = 34;

#[inline(always)]
fn swap_ends(frame: &mut Frame) {
    (frame.to, frame.from) = (frame.from, frame.to);
    (frame.source, frame.destination) = (frame.destination, frame.source);
}

#[inline(always)]
fn fold(sum: u32) -> u16 {
    let sum = (sum >> 16) + (sum & 0xffff);
    !(((sum >> 16) + sum) as u16)
}

/// The checksum of a TCP header of `LENGTH` bytes; what the kernel left there is not one yet.
#[inline(always)]
fn checksum<const LENGTH: usize>(context: &XdpContext, frame: &Frame) -> Option<u16> {
    let segment: *mut [u8; LENGTH] = header(context, TCP_AT)?;
    let pseudo = u64::from(frame.source)
        + u64::from(frame.destination)
        + u64::from(u32::to_be((TCP as u32) << 16 | LENGTH as u32));
    let seed = (pseudo & 0xffff_ffff) + (pseudo >> 32);
    let seed = (seed + (seed >> 32)) as u32;
    // SAFETY: the frame holds as many bytes as the array that is pointed to.
    let sum = unsafe { bpf_csum_diff(core::ptr::null_mut(), 0, segment.cast(), LENGTH as u32, seed) };
    Some(fold(sum as u32))
}

#[inline(always)]
fn reply(context: &XdpContext) -> Option<u32> {
    // SAFETY: the frame holds the header, whose fields have no alignment.
    let frame: &mut Frame = unsafe { &mut *header(context, 0)? };
    if frame.ethertype != ETHERTYPE_IPV4 || frame.version_ihl != 0x45 {
        return None;
    }
    match frame.protocol {
        ICMP if frame.inner[0] == ECHO_REQUEST => {
            swap_ends(frame);
            frame.inner[0] = 0;
            let sum = u32::from(u16::from_be_bytes([frame.inner[2], frame.inner[3]]));
            let sum = sum + u32::from(ECHO_REQUEST) * 256;
            let [high, low] = ((sum + (sum >> 16)) as u16).to_be_bytes();
            (frame.inner[2], frame.inner[3]) = (high, low);
            Some(XDP_TX)
        }
        TCP => {
            // SAFETY: as above.
            let tcp: &mut Tcp = unsafe { &mut *header(context, TCP_AT)? };
            if tcp.flags & (SYN | ACK) != SYN {
                return Some(XDP_DROP);
            }
            swap_ends(frame);
            (tcp.source, tcp.destination) = (tcp.destination, tcp.source);
            tcp.acknowledgement = u32::from_be(tcp.sequence).wrapping_add(1).to_be();
            tcp.flags = SYN | ACK;
            tcp.checksum = 0;
            // With the options of weir's SYN, and with those of the kernel's.
            tcp.checksum = match tcp.data_offset >> 4 {
                6 => checksum::<24>(context, frame)?,
                10 => checksum::<40>(context, frame)?,
                _ => return Some(XDP_DROP),
            };
            Some(XDP_TX)
        }
        _ => None,
    }
}

/// Answers for hosts.
#[xdp]
fn answer(context: XdpContext) -> u32 {
    reply(&context).unwrap_or(XDP_PASS)
}
