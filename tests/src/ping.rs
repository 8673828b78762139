//! One ICMP echo, from a raw socket of the calling thread's namespace.
#![forbid(unsafe_code)]

use std::{
    io::Read,
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use socket2::{Domain, Protocol, Socket, Type};

use crate::frame;

/// Tells the echoes of concurrent pings apart: the upper half is the identifier, the lower the sequence.
static NEXT: AtomicU32 = AtomicU32::new(0x7e17_0000);

/// Sends an echo request and waits for its reply.
pub(crate) fn echo(target: IpAddr, timeout: Duration) -> Result<Duration> {
    let token = NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let (domain, protocol, request, reply) = match target {
        IpAddr::V4(_) => (Domain::IPV4, Protocol::ICMPV4, 8, 0),
        IpAddr::V6(_) => (Domain::IPV6, Protocol::ICMPV6, 128, 129),
    };
    let mut socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    let mut message = vec![request, 0, 0, 0, token[0], token[1], token[2], token[3]];
    message.extend_from_slice(b"weir lab");
    if target.is_ipv4() {
        // The kernel fills in the ICMPv6 checksum only.
        let sum = frame::checksum(&message).to_be_bytes();
        message[2..4].copy_from_slice(&sum);
    }
    let start = Instant::now();
    socket.send_to(&message, &SocketAddr::new(target, 0).into())?;
    let mut buffer = [0; 2048];
    loop {
        let Some(left) = timeout.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else {
            bail!("no echo reply within {timeout:?}");
        };
        socket.set_read_timeout(Some(left))?;
        let Ok(len) = socket.read(&mut buffer) else { continue };
        // IPv4 raw sockets deliver the IP header, IPv6 ones do not.
        let header = if target.is_ipv4() { usize::from(buffer[0] & 0x0f) * 4 } else { 0 };
        let message = buffer.get(header..len).unwrap_or_default();
        if message.len() >= 8 && message[0] == reply && message[4..8] == token {
            return Ok(start.elapsed());
        }
    }
}
