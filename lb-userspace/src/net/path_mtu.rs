//! Path MTU towards backends behind tunnels: what routers say of weir's outer packets (RFC 1191, RFC 8201).
//!
//! Such errors go to the outer source, an address of this host, and the kernel has no tunnel to tell. A path that was
//! told narrower is believed for ten minutes, so that the packet program answers clients with what fits.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, recvfrom};
use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::sync::mpsc;

/// How long a path is taken to be as narrow as was said (RFC 1191 section 6.3).
pub const BELIEVED_FOR: Duration = Duration::from_secs(600);
/// Narrower paths are not believed: the kernel's own floor over IPv4 (`net.ipv4.route.min_pmtu`), RFC 8200 over IPv6.
const LEAST: [u32; 2] = [552, 1280];
/// Bytes of an ICMP error before the packet that it is about.
const HEADER: usize = 8;
/// Errors that wait to be acted on; more are dropped, as what they tell is told again.
const WAITING: usize = 256;

/// A router's word that a packet inside an encapsulation did not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig {
    /// Outer source.
    pub source: IpAddr,
    /// Outer destination: the backend.
    pub to: IpAddr,
    /// Largest outer packet that fits, in bytes.
    pub mtu: u32,
    /// Who says so.
    pub from: IpAddr,
}

/// What was learned of the paths, by backend address.
#[derive(Debug, Default)]
pub struct PathMtus {
    learned: BTreeMap<IpAddr, Learned>,
}

#[derive(Debug)]
struct Learned {
    mtu: u32,
    from: IpAddr,
    until: Instant,
}

impl PathMtus {
    /// Takes what was said of a path of which `mtu` bytes are believed now; whether it is narrower than that.
    pub fn take(&mut self, said: TooBig, mtu: u32, now: Instant) -> bool {
        let least = LEAST[usize::from(said.to.is_ipv6())];
        if said.mtu < least || said.mtu >= mtu {
            return false;
        }
        self.learned.insert(said.to, Learned { mtu: said.mtu, from: said.from, until: now + BELIEVED_FOR });
        true
    }

    /// The width of a path of which `mtu` bytes are otherwise known.
    #[must_use]
    pub fn of(&self, to: IpAddr, mtu: u32) -> u32 {
        self.learned.get(&to).map_or(mtu, |learned| learned.mtu.min(mtu))
    }

    /// Forgets what was said too long ago; whether there was such.
    pub fn expire(&mut self, now: Instant) -> bool {
        let before = self.learned.len();
        self.learned.retain(|_, learned| learned.until > now);
        self.learned.len() < before
    }

    /// What is believed, in words.
    pub fn notes(&self) -> impl Iterator<Item = String> {
        self.learned.iter().map(|(to, Learned { mtu, from, .. })| {
            format!(
                "path to backend {to}: takes packets of {mtu} bytes, says {from}; clients are told what fits. Forgotten \
                 after {} minutes; widen the path, or set `mtu`",
                BELIEVED_FOR.as_secs() / 60
            )
        })
    }
}

/// Listens to ICMP errors about packets inside IP or UDP, in this namespace, until the receiver is dropped.
///
/// # Errors
/// Where no raw socket can be opened: `CAP_NET_RAW` is missing.
pub fn watch() -> io::Result<mpsc::Receiver<TooBig>> {
    let (told, receiver) = mpsc::channel(WAITING);
    for family in [Domain::IPV4, Domain::IPV6] {
        let socket = match open(family) {
            Ok(socket) => socket,
            // A host may run without IPv6.
            Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => continue,
            Err(error) => return Err(error),
        };
        let told = told.clone();
        thread::Builder::new().name("weir-path-mtu".to_owned()).spawn(move || {
            while !told.is_closed() {
                if let Ok(Some(said)) = receive(family, &socket) {
                    // A full queue holds the same already.
                    let _ = told.try_send(said);
                }
            }
        })?;
    }
    Ok(receiver)
}

fn open(family: Domain) -> io::Result<Socket> {
    let v4 = family == Domain::IPV4;
    let protocol = if v4 { Protocol::ICMPV4 } else { Protocol::ICMPV6 };
    let (kind, code) = if v4 { (3, 4) } else { (2, 0) };
    let header_length = match v4 {
        true => SockFilter::new(0xb1, 0, 0, 0), // ldx 4*([0]&0xf): the IP header that the socket hands out
        false => SockFilter::new(0x01, 0, 0, 0), // ldx #0: it hands out none
    };
    let socket = Socket::new(family, Type::RAW.cloexec(), Some(protocol))?;
    socket.attach_filter(&[
        header_length,
        SockFilter::new(0x50, 0, 0, 0),        // ldb [x + 0]: type
        SockFilter::new(0x15, 0, 3, kind),     // jeq, else none
        SockFilter::new(0x50, 0, 0, 1),        // ldb [x + 1]: code
        SockFilter::new(0x15, 0, 1, code),     // jeq, else none
        SockFilter::new(0x06, 0, 0, u32::MAX), // ret all
        SockFilter::new(0x06, 0, 0, 0),        // ret none
    ])?;
    Ok(socket)
}

/// One error from the socket; `None` for one about something else.
fn receive(family: Domain, socket: &Socket) -> io::Result<Option<TooBig>> {
    let mut buffer = [0; 256];
    let (length, _, from) = recvfrom(socket, &mut buffer, RecvFlags::empty())?;
    let from = from.and_then(|from| SocketAddr::try_from(from).ok()).map(|from| from.ip());
    let packet = buffer.get(..length.min(buffer.len())).unwrap_or_default();
    let message = match family {
        Domain::IPV4 => packet.first().and_then(|first| packet.get(usize::from(first & 0xf) * 4..)),
        _ => Some(packet),
    };
    Ok(message.zip(from).and_then(|(message, from)| read(family, from, message)))
}

/// Reads "fragmentation needed" (RFC 792, RFC 1191) and "packet too big" (RFC 4443 section 3.2).
fn read(family: Domain, from: IpAddr, message: &[u8]) -> Option<TooBig> {
    let word = |bytes: &[u8]| Some(u32::from_be_bytes(bytes.try_into().ok()?));
    let about = message.get(HEADER..)?;
    let (source, to, carries, mtu) = match family {
        Domain::IPV4 => {
            let address =
                |at: usize| word(about.get(at..at + 4)?).map(|bits| IpAddr::from(Ipv4Addr::from(bits)));
            (address(12)?, address(16)?, *about.get(9)?, word(message.get(4..8)?)? & 0xffff)
        }
        _ => {
            let address = |at: usize| {
                let octets: [u8; 16] = about.get(at..at + 16)?.try_into().ok()?;
                Some(IpAddr::from(Ipv6Addr::from(octets)))
            };
            (address(8)?, address(24)?, *about.get(6)?, word(message.get(4..8)?)?)
        }
    };
    // IPv4 or IPv6 inside IP, or UDP: whether it is weir's is asked where the ways are known.
    matches!(carries, 4 | 41 | 17).then_some(TooBig { source, to, mtu, from })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn said(mtu: u32) -> TooBig {
        TooBig { source: ip("10.0.0.1"), to: ip("10.0.0.11"), mtu, from: ip("10.9.9.9") }
    }

    #[test]
    fn fragmentation_needed_tells_the_path_and_its_width() {
        let mut message = vec![3, 4, 0, 0, 0, 0, 5, 120, 0x45, 0, 5, 220, 0, 0, 64, 0, 64, 4, 0, 0];
        message.extend([10, 0, 0, 1, 10, 0, 0, 11]);
        assert_eq!(read(Domain::IPV4, ip("10.9.9.9"), &message), Some(said(1400)));
        for end in 0..message.len() {
            assert_eq!(read(Domain::IPV4, ip("10.9.9.9"), &message[..end]), None, "{end}");
        }
        message[17] = 6;
        assert_eq!(read(Domain::IPV4, ip("10.9.9.9"), &message), None, "TCP is somebody else's");
    }

    #[test]
    fn packet_too_big_tells_the_same() {
        let mut message = vec![2, 0, 0, 0, 0, 0, 5, 120, 0x60, 0, 0, 0, 5, 0, 41, 64];
        let (source, to) = (Ipv6Addr::LOCALHOST, "2001:db8::11".parse::<Ipv6Addr>().expect("an address"));
        message.extend(source.octets());
        message.extend(to.octets());
        let wanted = TooBig { source: source.into(), to: to.into(), mtu: 1400, from: ip("2001:db8::9") };
        assert_eq!(read(Domain::IPV6, ip("2001:db8::9"), &message), Some(wanted));
        assert_eq!(read(Domain::IPV6, ip("2001:db8::9"), &message[..47]), None);
    }

    #[test]
    fn a_path_is_believed_narrower_for_a_time_and_never_wider_or_absurd() {
        let (mut paths, now) = (PathMtus::default(), Instant::now());
        assert!(!paths.take(said(1500), 1500, now) && !paths.take(said(68), 1500, now));
        assert!(!paths.take(said(0), 1500, now), "routers older than RFC 1191 tell no width");
        assert!(paths.take(said(1400), 1500, now));
        assert_eq!((paths.of(said(0).to, 1500), paths.of(said(0).to, 1300)), (1400, 1300));
        assert_eq!(paths.of(ip("10.0.0.12"), 1500), 1500);
        assert!(!paths.take(said(1450), 1400, now), "wider than what is believed");
        assert_eq!(paths.notes().count(), 1);
        assert!(!paths.expire(now + BELIEVED_FOR / 2) && paths.expire(now + BELIEVED_FOR));
        assert_eq!(paths.of(said(0).to, 1500), 1500);
    }
}
