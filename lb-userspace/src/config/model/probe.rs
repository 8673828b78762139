//! What the kinds of health check send and expect.

use std::path::PathBuf;
use std::time::Duration;

/// Details of an `http` or `https` check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpCheck {
    /// Request target.
    pub path: String,
    /// `Host` header; the backend's address where `None`.
    pub host: Option<String>,
    /// Inclusive ranges of accepted status codes.
    pub expect_status: Vec<(u16, u16)>,
    /// Text that the first 64 KiB of the body must contain.
    pub expect_body: Option<String>,
    /// Deadlines of its phases.
    pub phases: PhaseLimits,
}

/// Longest time of each phase of a request; the check's timeout where `None`, which bounds the whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct PhaseLimits {
    /// Until the connection is open.
    pub connect: Option<Duration>,
    /// From there until the TLS handshake is done.
    pub tls: Option<Duration>,
    /// From the request until the first byte of the answer.
    pub first_byte: Option<Duration>,
}

/// What an `https` check asks of the server's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsCheck {
    /// The name that is asked for and that the certificate must bear; the backend's address where `None`.
    pub name: Option<String>,
    /// Whose certificates are believed.
    pub trust: Trust,
}

/// Whose certificates are believed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Those that the host's root certificates vouch for.
    System,
    /// Those that the certificates of a file vouch for.
    File {
        /// The file, for messages.
        path: PathBuf,
        /// Its certificates in DER, as they were when the config was read.
        certificates: Vec<Vec<u8>>,
    },
    /// Anybody's.
    Anyone,
}

/// Details of a `udp` check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UdpCheck {
    /// The datagram.
    pub send: Vec<u8>,
    /// What the reply must contain; any reply will do where `None`.
    pub expect: Option<Vec<u8>>,
}

/// Details of a `dns` check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsCheck {
    /// The name asked for, without a final dot except for the root.
    pub query: String,
    /// The record type asked for.
    pub query_type: DnsType,
    /// The answer's code.
    pub expect_rcode: DnsRcode,
    /// What one record of the answer must say; any answer will do where `None`.
    pub expect_answer: Option<String>,
}

/// Record types that a `dns` check can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DnsType {
    /// IPv4 address.
    A,
    /// IPv6 address.
    Aaaa,
    /// Alias.
    Cname,
    /// Mail server.
    Mx,
    /// Name server.
    Ns,
    /// Name of an address.
    Ptr,
    /// Start of a zone.
    Soa,
    /// Text.
    Txt,
}

/// Answer codes that a `dns` check can expect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DnsRcode {
    /// There is an answer, or the name exists without such a record.
    NoError,
    /// The server failed.
    ServFail,
    /// There is no such name.
    NxDomain,
    /// The server does not answer this for us.
    Refused,
}

impl DnsRcode {
    /// The name used in config and messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoError => "NOERROR",
            Self::ServFail => "SERVFAIL",
            Self::NxDomain => "NXDOMAIN",
            Self::Refused => "REFUSED",
        }
    }
}

/// Details of an `exec` check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExecCheck {
    /// The program, by absolute path.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
}
