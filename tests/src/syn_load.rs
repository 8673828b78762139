//! New TCP connections at a steady pace: SYNs from addresses that nobody has, so that no client's port
//! numbers, time-outs or retransmissions blur when a backend was last sent one.
#![forbid(unsafe_code)]

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    ops::Deref,
    time::Duration,
};

use anyhow::Result;

use crate::{
    frame::{self, PacketSocket},
    host::Host,
    paced::{Deed, Paced},
    plan::Family,
};

/// The first source port; each source address uses those from here to the last.
const FIRST_PORT: u16 = 1024;

/// A running load; stopped when dropped.
///
/// The answers go to the edge, which drops them. A connection stays half-open at its backend, so that
/// backends should run with [`answer_without_memory`].
#[derive(Debug)]
pub struct SynLoad(Paced);

impl Deref for SynLoad {
    type Target = Paced;

    fn deref(&self) -> &Paced {
        &self.0
    }
}

/// Lets a backend answer SYNs without keeping them: half-open connections would fill its queue.
pub fn answer_without_memory(backend: &Host) -> Result<()> {
    backend.sysctl("ipv4/tcp_syncookies", "2")
}

impl SynLoad {
    /// Starts sending SYNs from a host to targets in turn; each opens a connection that was never seen.
    ///
    /// # Panics
    /// Panics when there is no target.
    pub fn start(client: &Host, targets: &[SocketAddr], per_second: u32) -> Result<Self> {
        assert!(!targets.is_empty(), "a load has a target");
        let open = |family| client.run(|| PacketSocket::open(family));
        let sockets = [open(Family::V4)?, open(Family::V6)?];
        let targets = targets.to_vec();
        let act = move |number: u32| {
            let target = targets[number as usize % targets.len()];
            let packet = frame::tcp(source(number, target), target, number, frame::SYN);
            let socket = if target.is_ipv4() { &sockets[0] } else { &sockets[1] };
            // A full queue loses a SYN as a network does; the gap shows it.
            match socket.send(target.ip(), &packet) {
                Ok(_) => Deed::Done,
                Err(_) => Deed::Missed,
            }
        };
        Ok(Self(Paced::start("syn-load", Duration::from_secs(1) / per_second, act)?))
    }
}

/// A source that no earlier SYN had: 192.0.2.0/24 and 2001:db8:bad::/64 are on no segment.
fn source(number: u32, target: SocketAddr) -> SocketAddr {
    let ports = u32::from(u16::MAX - FIRST_PORT);
    let port = FIRST_PORT + (number % ports) as u16;
    let host = (number / ports) as u16;
    let address = match target {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::new(192, 0, 2, host as u8)),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0xbad, 0, 0, 0, 0, host)),
    };
    SocketAddr::new(address, port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_connections_share_a_source() {
        let target: SocketAddr = "198.51.100.10:80".parse().expect("an address");
        let mut sources: Vec<_> = (0..200_000).map(|number| source(number, target)).collect();
        sources.sort();
        sources.dedup();
        assert_eq!(sources.len(), 200_000);
    }
}
