//! What a driver does to packets before XDP or a backend sees them, by the `SIOCETHTOOL` ioctl.
//!
//! The ioctl rather than ethtool's netlink family: four commands that every supported kernel has, on fixed
//! structures of `linux/ethtool.h`, against a second netlink crate for one question.

use std::io;
use std::mem;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

/// Driver features of one interface; `None` where the driver does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverFeatures {
    /// Large receive offload: merges packets irreversibly.
    pub lro: Option<Switch>,
    /// Generic receive offload: merges packets, reversibly.
    pub gro: Option<Switch>,
    /// VLAN tags taken off before XDP sees the frame.
    pub rx_vlan: Option<Switch>,
    /// VLAN tags put on by the card.
    pub tx_vlan: Option<Switch>,
    /// Checksums left to the card.
    pub tx_checksum: Option<Switch>,
}

/// A feature's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// On.
    On,
    /// Off.
    Off,
}

const ETHTOOL_GTXCSUM: u32 = 0x16;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETH_FLAG_TXVLAN: u32 = 1 << 7;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const ETH_FLAG_LRO: u32 = 1 << 15;

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Asks the driver of the interface with this name, in the namespace of the calling thread.
///
/// # Errors
/// When no socket can be opened, or the interface does not exist.
pub fn features(interface: &str) -> io::Result<DriverFeatures> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
    let switch = |on: bool| if on { Switch::On } else { Switch::Off };
    let flags = value(&socket, interface, ETHTOOL_GFLAGS)?;
    let flag = |bit: u32| flags.map(|flags| switch(flags & bit != 0));
    Ok(DriverFeatures {
        lro: flag(ETH_FLAG_LRO),
        gro: value(&socket, interface, ETHTOOL_GGRO)?.map(|on| switch(on != 0)),
        rx_vlan: flag(ETH_FLAG_RXVLAN),
        tx_vlan: flag(ETH_FLAG_TXVLAN),
        tx_checksum: value(&socket, interface, ETHTOOL_GTXCSUM)?.map(|on| switch(on != 0)),
    })
}

/// One number from the driver; `None` where it does not know the command.
fn value(socket: &Socket, interface: &str, cmd: u32) -> io::Result<Option<u32>> {
    let mut name = [0; libc::IFNAMSIZ];
    if interface.len() >= name.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "interface name too long"));
    }
    for (to, from) in name.iter_mut().zip(interface.bytes()) {
        *to = from.cast_signed();
    }
    let mut value = EthtoolValue { cmd, data: 0 };
    let mut request = libc::ifreq {
        ifr_name: name,
        ifr_ifru: libc::__c_anonymous_ifr_ifru { ifru_data: (&raw mut value).cast() },
    };
    // SAFETY: `request` is a complete `struct ifreq` with a terminated name, and its data pointer leads to a
    // `struct ethtool_value`, which is all that the kernel reads and writes for the commands of this module;
    // both outlive the call, and the socket is open.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result == 0 {
        return Ok(Some(value.data));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::EINVAL) => Ok(None),
        _ => Err(error),
    }
}

const _: () = assert!(mem::size_of::<EthtoolValue>() == 8);
