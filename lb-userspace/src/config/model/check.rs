//! Health checks.

use std::net::IpAddr;
use std::time::Duration;

use super::{Backend, DnsCheck, ExecCheck, HttpCheck, Mode, TlsCheck, UdpCheck};

/// Most checks of all backends together, one through a tunnel counted for each VIP. A SYN's number tells four times as many
/// streams apart: an update may replace them all, and hosts are pinged beside tunnels.
pub const MOST_CHECKS: usize = 1 << 18;

/// A health check (`[[pool.health]]`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Check {
    /// What is sent and expected.
    pub kind: CheckKind,
    /// Destination port; `None` for checks without ports, filled from the service otherwise.
    pub port: Option<u16>,
    /// Whose port that is.
    pub port_of: PortOf,
    /// Time between probes, from 1 ms; probes overlap.
    pub interval: Duration,
    /// Longest wait for one probe's answer.
    pub timeout: Duration,
    /// Consecutive successes until up.
    pub rise: u32,
    /// Failures until down; for `ping` and `syn` unanswered probes besides the oldest one's age, for `bfd` the detection
    /// multiplier.
    pub fall: u32,
    /// Whether the check takes the service's tunnel.
    pub through: Through,
    /// What it asks for there; `None` for a direct check.
    pub inside: Option<Inside>,
}

/// Whose port a check asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PortOf {
    /// Its own.
    Check,
    /// The service's; a backend that has a port of its own is asked there.
    Service,
}

impl Check {
    /// The check as this backend is asked.
    #[must_use]
    pub fn of(&self, backend: &Backend) -> Self {
        let port = match (self.port_of, self.through, self.port, backend.port) {
            (PortOf::Service, Through::Direct, Some(_), Some(port)) => Some(port),
            _ => self.port,
        };
        Self { port, port_of: PortOf::Check, ..self.clone() }
    }
}

/// The kinds of health check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CheckKind {
    /// Never checked: always up.
    None,
    /// Full connect.
    Tcp,
    /// Half-open connect, never reaches `accept`.
    Syn,
    /// A GET over plain HTTP/1.1.
    Http(HttpCheck),
    /// A GET over TLS.
    Https(HttpCheck, TlsCheck),
    /// ICMP echo.
    Ping,
    /// An idle connection, watched for its end.
    Tripwire,
    /// A BFD session, single hop.
    Bfd,
    /// A datagram, and its reply.
    Udp(UdpCheck),
    /// A DNS query over UDP.
    Dns(DnsCheck),
    /// A program of the operator's.
    Exec(ExecCheck),
}

/// Which way a probe takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Through {
    /// From the host's own address to the backend's `address`.
    Direct,
    /// Inside the backend's encapsulation, to the VIP.
    Tunnel,
}

/// What a check through a tunnel asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Inside {
    /// The VIP that has to answer.
    pub vip: IpAddr,
    /// How its packets reach the backend.
    pub mode: Mode,
    /// Destination port of the outer header by [`Mode::Gue`].
    pub gue_port: u16,
    /// How large the probes are.
    pub size: ProbeSize,
}

/// How large probes are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeSize {
    /// As small as they can be.
    Small,
    /// The largest that fits the path in its encapsulation.
    Full,
}
