//! The address of a packet socket's frames, which no safe interface offers.

use std::io;

use socket2::{SockAddr, SockAddrStorage};

/// The address of an interface, for frames that are complete.
pub(super) fn of_interface(interface: u32) -> io::Result<SockAddr> {
    let link = libc::sockaddr_ll {
        sll_family: libc::AF_PACKET as u16,
        sll_protocol: 0,
        sll_ifindex: i32::try_from(interface).map_err(|_| io::ErrorKind::InvalidInput)?,
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 6,
        sll_addr: [0; 8],
    };
    let init = |storage: *mut SockAddrStorage, length: *mut libc::socklen_t| {
        // SAFETY: the storage is larger than a sockaddr_ll and aligned for every address type.
        unsafe { storage.cast::<libc::sockaddr_ll>().write(link) };
        // SAFETY: the length belongs to the same call and is writable.
        unsafe { *length = size_of::<libc::sockaddr_ll>() as libc::socklen_t };
        io::Result::Ok(())
    };
    // SAFETY: `init` fills in a whole sockaddr_ll and its length.
    let ((), address) = unsafe { SockAddr::try_init(init) }?;
    Ok(address)
}
