//! The smallest HTTP/1.1 client that tells a test all it needs: one GET on one fresh connection.
#![forbid(unsafe_code)]

use std::{
    fmt,
    io::{self, Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use socket2::{Domain, Socket, Type};

/// A request: where to, from where, how long.
#[derive(Clone, Debug)]
pub struct Get {
    /// The server.
    pub target: SocketAddr,
    /// The path.
    pub path: String,
    /// The address to send from; with port 0 the kernel picks one, without an address it picks both.
    pub source: Option<SocketAddr>,
    /// The limit for everything together.
    pub timeout: Duration,
}

impl Get {
    /// A request of `/` with a limit of two seconds.
    pub fn new(target: SocketAddr) -> Self {
        Self { target, path: "/".into(), source: None, timeout: Duration::from_secs(2) }
    }

    /// Asks for another path.
    pub fn path(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    /// Sends from an address of the host.
    pub fn from(mut self, source: SocketAddr) -> Self {
        self.source = Some(source);
        self
    }

    /// Sets another limit.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The request as it is sent.
    pub(crate) fn text(&self) -> String {
        format!("GET {} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n", self.path)
    }

    /// Sends the request from the calling thread's namespace and reads the whole answer.
    pub fn send(&self) -> Result<Response, HttpError> {
        let deadline = Instant::now() + self.timeout;
        let mut stream = self.connect().map_err(HttpError::at(Stage::Connect))?;
        let local = stream.local_addr().map_err(HttpError::at(Stage::Connect))?;
        stream.write_all(self.text().as_bytes()).map_err(HttpError::at(Stage::Send))?;
        let bytes = read_all(&mut stream, deadline).map_err(HttpError::at(Stage::Receive))?;
        let short = || HttpError::at(Stage::Receive)(io::ErrorKind::UnexpectedEof.into());
        let head = Head::parse(&bytes).ok_or_else(short)?;
        let body = bytes[head.len..].to_vec();
        if head.body_len.is_some_and(|expected| body.len() as u64 != expected) {
            return Err(short());
        }
        Ok(Response { status: head.status, backend: head.backend, body, local })
    }

    fn connect(&self) -> io::Result<TcpStream> {
        let socket = Socket::new(Domain::for_address(self.target), Type::STREAM, None)?;
        if let Some(source) = self.source {
            socket.set_reuse_address(true)?;
            socket.bind(&source.into())?;
        }
        socket.connect_timeout(&self.target.into(), self.timeout)?;
        Ok(socket.into())
    }
}

fn read_all(stream: &mut TcpStream, deadline: Instant) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 16384];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(bytes),
            Ok(len) => bytes.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// An answer, complete.
#[derive(Clone, Debug)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The backend's name, from `X-Backend`; empty where the header is missing.
    pub backend: String,
    /// The body.
    pub body: Vec<u8>,
    /// The client's end of the connection.
    pub local: SocketAddr,
}

/// How far a request came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The connection was not accepted.
    Connect,
    /// The request could not be sent.
    Send,
    /// The answer did not come, or not all of it.
    Receive,
}

/// Why a request failed.
#[derive(Clone, Debug)]
pub struct HttpError {
    /// How far it came.
    pub stage: Stage,
    /// The operating system's kind of error.
    pub kind: io::ErrorKind,
}

impl HttpError {
    pub(crate) fn at(stage: Stage) -> impl Fn(io::Error) -> Self {
        move |error| Self { stage, kind: error.kind() }
    }
}

impl fmt::Display for HttpError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let stage = match self.stage {
            Stage::Connect => "connect",
            Stage::Send => "send request",
            Stage::Receive => "receive answer",
        };
        write!(formatter, "{stage}: {}", self.kind)
    }
}

impl std::error::Error for HttpError {}

/// The head of an answer.
#[derive(Debug, PartialEq)]
pub(crate) struct Head {
    /// Where the body begins.
    pub(crate) len: usize,
    pub(crate) status: u16,
    pub(crate) backend: String,
    pub(crate) body_len: Option<u64>,
}

impl Head {
    /// Reads the head at the start of some bytes; nothing while it is incomplete.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        let len = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let text = std::str::from_utf8(&bytes[..len]).ok()?;
        let mut lines = text.split("\r\n");
        let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
        let headers: Vec<_> = lines.filter_map(|line| line.split_once(": ")).collect();
        let header = |wanted: &str| {
            headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(wanted)).map(|(_, value)| *value)
        };
        let backend = header("x-backend").unwrap_or_default().to_owned();
        let body_len = header("content-length").and_then(|value| value.parse().ok());
        Some(Self { len, status, backend, body_len })
    }
}

/// An address with a free port to send from, in the family of a target.
pub fn any_port(source: crate::plan::Addresses, target: SocketAddr) -> SocketAddr {
    SocketAddr::new(if target.is_ipv4() { source.v4.into() } else { source.v6.into() }, 0)
}

/// The URL of a path on a server.
pub fn url(target: SocketAddr, path: &str) -> String {
    format!("http://{target}{path}")
}

/// The unspecified address of a target's family, with a port: binds a source port without an address.
pub fn source_port(target: SocketAddr, port: u16) -> SocketAddr {
    let address: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    SocketAddr::new(address, port)
}

impl crate::host::Host {
    /// Sends a request from this host.
    pub fn get(&self, request: &Get) -> Result<Response> {
        self.run(|| request.send()).with_context(|| format!("get {} from {}", request.target, self.name()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_once_it_is_complete() {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\nX-Backend: direct-1\r\n\r\nabc";
        let head = Head { len: answer.len() - 3, status: 200, backend: "direct-1".into(), body_len: Some(3) };
        assert_eq!(Head::parse(answer), Some(head));
        assert_eq!(Head::parse(&answer[..40]), None);
    }
}
