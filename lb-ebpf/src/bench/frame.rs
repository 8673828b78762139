//! Frames as the references read and write them: IPv4 without options, TCP or UDP.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::programs::XdpContext;

const ETHERNET_LEN: usize = 14;
const IPV4_LEN: usize = 20;
pub(crate) const TCP: u8 = 6;
const UDP: u8 = 17;
const TTL: u8 = 64;
const IPIP: u8 = 4;
const DONT_FRAGMENT: u16 = u16::to_be(0x4000);
pub(crate) const ETHERTYPE_IPV4: u16 = u16::to_be(0x0800);

#[repr(C, packed)]
pub(crate) struct Ethernet {
    macs: [u32; 3],
    ethertype: u16,
}

#[repr(C, packed)]
pub(crate) struct Ipv4 {
    version_ihl: u8,
    tos: u8,
    total_len: u16,
    id: u16,
    fragment: u16,
    ttl: u8,
    protocol: u8,
    checksum: u16,
    source: u32,
    destination: u32,
}

#[repr(C, packed)]
struct Transport {
    ports: u32,
    sequence: u32,
    acknowledgement: u32,
    data_offset: u8,
    flags: u8,
}

/// A packet; addresses and ports in network byte order.
pub(crate) struct Packet {
    pub(crate) source: u32,
    pub(crate) destination: u32,
    pub(crate) ports: u32,
    pub(crate) protocol: u8,
    pub(crate) syn: bool,
    pub(crate) length: u16,
}

/// Points at a header at `offset`, if the frame holds all of it.
#[inline(always)]
pub(crate) fn header<T>(context: &XdpContext, offset: usize) -> Option<*mut T> {
    let start = context.data() + offset;
    (start + size_of::<T>() <= context.data_end()).then_some(start as *mut T)
}

/// Reads a TCP or UDP packet.
#[inline(always)]
pub(crate) fn parse(context: &XdpContext) -> Option<Packet> {
    // SAFETY: the frame holds the header, whose fields have no alignment.
    let ethernet: &Ethernet = unsafe { &*header(context, 0)? };
    if ethernet.ethertype != ETHERTYPE_IPV4 {
        return None;
    }
    // SAFETY: as above.
    let ip: &Ipv4 = unsafe { &*header(context, ETHERNET_LEN)? };
    let length = u16::from_be(ip.total_len);
    if ip.version_ihl != 0x45
        || u16::from_be(ip.fragment) & 0x3fff != 0
        || ETHERNET_LEN + length as usize > context.data_end() - context.data()
    {
        return None;
    }
    // SAFETY: as above.
    let transport: &Transport = unsafe { &*header(context, ETHERNET_LEN + IPV4_LEN)? };
    let (syn, held) = match ip.protocol {
        TCP => (transport.flags & 0x02 != 0, u16::from(transport.data_offset >> 4) * 4),
        UDP => (false, u16::from_be((transport.sequence & 0xffff) as u16)),
        _ => return None,
    };
    if held < 8 || IPV4_LEN + held as usize > length as usize {
        return None;
    }
    Some(Packet {
        source: ip.source,
        destination: ip.destination,
        ports: transport.ports,
        protocol: ip.protocol,
        syn,
        length,
    })
}

/// Puts an outer IPv4 header with these addresses in front of the packet.
#[inline(always)]
pub(crate) fn encapsulate(
    context: &XdpContext,
    inner_length: u16,
    source: u32,
    destination: u32,
) -> Option<()> {
    // SAFETY: the context is the program's own; packet pointers from before are not used after.
    if unsafe { bpf_xdp_adjust_head(context.as_ptr().cast(), -(IPV4_LEN as i32)) } != 0 {
        return None;
    }
    let length = inner_length + IPV4_LEN as u16;
    let outer = Ipv4 {
        version_ihl: 0x45,
        tos: 0,
        total_len: length.to_be(),
        id: 0,
        fragment: DONT_FRAGMENT,
        ttl: TTL,
        protocol: IPIP,
        checksum: checksum(length, source, destination),
        source,
        destination,
    };
    let ethernet: *mut Ethernet = header(context, 0)?;
    // SAFETY: the frame holds the header, whose fields have no alignment.
    unsafe { *ethernet = Ethernet { macs: [0x0200_0000, 0x0200, 0x0100_0000], ethertype: ETHERTYPE_IPV4 } };
    let ip: *mut Ipv4 = header(context, ETHERNET_LEN)?;
    // SAFETY: as above.
    unsafe { *ip = outer };
    Some(())
}

/// Checksum of the outer header (RFC 1071), in the byte order of memory.
#[inline(always)]
fn checksum(length: u16, source: u32, destination: u32) -> u16 {
    const CONSTANT: u32 = 0x45 + DONT_FRAGMENT as u32 + TTL as u32 + ((IPIP as u32) << 8);
    let mut sum = CONSTANT + length.to_be() as u32;
    for address in [source, destination] {
        sum += (address & 0xffff) + (address >> 16);
    }
    sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}
