//! A bare loop beside the daemon's checks: the same packets at the same pace, by the system calls that the least is done
//! with; nobody is judged, nothing is noted.
//!
//! What it costs is the kernel's part, with that of the backends' host, and thereby what no prober gets below.

use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::sockopt::{Ipv4PathMtuDiscovery, set_ip_mtu_discover, set_socket_linger};
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, connect, connect_unspec, ipproto,
    recv, sendto, socket_with,
};
use rustix::time::{ClockId, clock_gettime};

/// Time between two bundles of probes: the grid of weir's timers.
const STEP: Duration = Duration::from_millis(2);
/// Any port that nobody uses: the kernel answers a SYN-ACK to it with a reset, as it does weir's.
const FROM_PORT: u16 = 9;

/// Whom to ask, and how often.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) first: Ipv4Addr,
    pub(super) count: u32,
    pub(super) port: u16,
    /// Each is asked once in this time.
    pub(super) interval: Duration,
}

/// Runs for a time on the calling thread; gives its CPU time in percent of a core.
pub(super) fn run(kind: &str, plan: Plan, span: Duration) -> Result<f64> {
    let mut probes = Probes::open(kind, plan)?;
    let each = (f64::from(plan.count) * STEP.as_secs_f64() / plan.interval.as_secs_f64()).round();
    let (begin, before) = (Instant::now(), cpu());
    let (mut due, mut sent) = (begin, 0_u32);
    while begin.elapsed() < span {
        probes.take()?;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        due += STEP;
        for _ in 0..each as u32 {
            probes.send(sent)?;
            sent += 1;
        }
    }
    let share = (cpu() - before).as_secs_f64() / begin.elapsed().as_secs_f64() * 100.0;
    probes.take()?;
    ensure!(probes.answers() * 100 >= sent * 99, "{} of {sent} probes were answered", probes.answers());
    Ok(share)
}

/// CPU time of the calling thread.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}

/// The sockets of a kind of check.
enum Probes {
    Raw { socket: OwnedFd, source: Ipv4Addr, plan: Plan, answers: u32 },
    Connects { epoll: OwnedFd, sockets: Vec<OwnedFd>, idle: Vec<usize>, plan: Plan, answers: u32 },
}

impl Probes {
    fn open(kind: &str, plan: Plan) -> Result<Self> {
        let raw = |protocol| -> Result<Self> {
            let socket = open(SocketType::RAW, protocol)?;
            set_ip_mtu_discover(&socket, Ipv4PathMtuDiscovery::PROBE)?;
            // Connecting a datagram socket sends nothing.
            let way = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
            way.connect((plan.first, FROM_PORT))?;
            let std::net::IpAddr::V4(source) = way.local_addr()?.ip() else {
                bail!("no way to the backends")
            };
            Ok(Self::Raw { socket, source, plan, answers: 0 })
        };
        match kind {
            "ping" => raw(ipproto::ICMP),
            "syn" => raw(ipproto::TCP),
            "tcp" => {
                let epoll = epoll::create(CreateFlags::CLOEXEC)?;
                Ok(Self::Connects { epoll, sockets: Vec::new(), idle: Vec::new(), plan, answers: 0 })
            }
            _ => bail!("no bare loop for {kind}"),
        }
    }

    fn answers(&self) -> u32 {
        match self {
            Self::Raw { answers, .. } | Self::Connects { answers, .. } => *answers,
        }
    }

    fn send(&mut self, number: u32) -> Result<()> {
        match self {
            Self::Raw { socket, source, plan, .. } => {
                let to = target(*plan, number);
                let packet = if plan.port == 0 { echo(number) } else { syn(*source, to, number) };
                sendto(&*socket, &packet, SendFlags::empty(), &SocketAddrV4::new(*to.ip(), 0))?;
            }
            Self::Connects { epoll, sockets, idle, plan, .. } => {
                let at = match idle.pop() {
                    Some(at) => at,
                    None => {
                        let socket = open(SocketType::STREAM, ipproto::TCP)?;
                        set_socket_linger(&socket, Some(Duration::ZERO))?;
                        let interest = EventFlags::OUT | EventFlags::ET;
                        epoll::add(&*epoll, &socket, EventData::new_u64(sockets.len() as u64), interest)?;
                        sockets.push(socket);
                        sockets.len() - 1
                    }
                };
                match connect(&sockets[at], &target(*plan, number)) {
                    Err(Errno::INPROGRESS) => {}
                    other => bail!("connect: {other:?}"),
                }
            }
        }
        Ok(())
    }

    /// Takes all answers that are there.
    fn take(&mut self) -> Result<()> {
        match self {
            Self::Raw { socket, answers, .. } => {
                let mut packet = [0; 128];
                loop {
                    match recv(&*socket, &mut packet[..], RecvFlags::DONTWAIT) {
                        Ok(_) => *answers += 1,
                        Err(Errno::AGAIN) => return Ok(()),
                        Err(error) => return Err(error).context("receive"),
                    }
                }
            }
            Self::Connects { epoll, sockets, idle, answers, .. } => {
                let mut events = Vec::<Event>::with_capacity(256);
                epoll::wait(&*epoll, rustix::buffer::spare_capacity(&mut events), Some(&Default::default()))?;
                for event in events {
                    let flags = event.flags;
                    // One that is hung up is idle.
                    if flags.contains(EventFlags::HUP) {
                        continue;
                    }
                    let at = event.data.u64() as usize;
                    connect_unspec(&sockets[at])?;
                    idle.push(at);
                    *answers += 1;
                }
                Ok(())
            }
        }
    }
}

fn open(kind: SocketType, protocol: Protocol) -> Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    socket_with(AddressFamily::INET, kind, flags, Some(protocol)).context("open a socket")
}

/// Whom a probe asks: all in turn.
fn target(plan: Plan, number: u32) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(u32::from(plan.first) + number % plan.count), plan.port)
}

/// An echo request as long as weir's.
fn echo(number: u32) -> Vec<u8> {
    let mut packet = vec![0; 32];
    packet[0] = 8;
    packet[8..12].copy_from_slice(&number.to_be_bytes());
    let sum = checksum(&[&packet]);
    packet[2..4].copy_from_slice(&sum);
    packet
}

/// A SYN as long as weir's.
fn syn(source: Ipv4Addr, to: SocketAddrV4, number: u32) -> Vec<u8> {
    let mut segment = vec![0; 24];
    segment[0..2].copy_from_slice(&FROM_PORT.to_be_bytes());
    segment[2..4].copy_from_slice(&to.port().to_be_bytes());
    segment[4..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9).to_be_bytes());
    segment[12..14].copy_from_slice(&[6 << 4, 2]);
    segment[14..16].copy_from_slice(&64_240_u16.to_be_bytes());
    segment[20..24].copy_from_slice(&[2, 4, 2, 24]);
    let pseudo = [source.octets(), to.ip().octets(), [0, 6, 0, 24]].concat();
    let sum = checksum(&[&pseudo, &segment]);
    segment[16..18].copy_from_slice(&sum);
    segment
}

/// The Internet checksum (RFC 1071) of parts of even length.
fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let words = parts.iter().flat_map(|part| part.chunks_exact(2));
    let mut sum: u32 = words.map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    (!(sum as u16)).to_be_bytes()
}
