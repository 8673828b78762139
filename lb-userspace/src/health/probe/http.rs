//! `http` and `https`: one GET over a fresh connection, on the async runtime.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{self, ClientConfig};

use super::connect::{self, Outcome};
use super::phases::TimeLeft;
use super::text::contains;
use crate::config::model::HttpCheck;
use crate::health::judge::{Failure, Phase};

/// Part of the body that is searched for the expected text.
const BODY_LIMIT: usize = 64 * 1024;

/// TLS of an `https` check.
#[derive(Clone, Debug)]
pub(super) struct Tls {
    pub(super) config: Arc<ClientConfig>,
    /// The name that the certificate must bear; the address where `None`.
    pub(super) name: Option<String>,
}

/// Requests `check` of `to` within `limit`.
pub(super) async fn probe(to: SocketAddr, check: &HttpCheck, tls: Option<Tls>, limit: Duration) -> Outcome {
    let mut left = TimeLeft::new(limit);
    let connected = left.phase(Phase::Connect, check.phases.connect, TcpStream::connect(to)).await;
    let stream = match connected {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return connect::outcome(error),
        Err(failure) => return Outcome::Failed(failure),
    };
    let default_port = if tls.is_some() { 443 } else { 80 };
    let done = match tls {
        None => exchange(stream, host(check, to, default_port), check, &mut left).await,
        Some(tls) => {
            let handshake = encrypt(stream, to, tls);
            match left.phase(Phase::Tls, check.phases.tls, handshake).await {
                Ok(Ok(stream)) => exchange(stream, host(check, to, default_port), check, &mut left).await,
                Ok(Err(failure)) | Err(failure) => Err(failure),
            }
        }
    };
    done.map_or_else(Outcome::Failed, |()| Outcome::Open)
}

/// The `Host` header.
fn host(check: &HttpCheck, to: SocketAddr, default_port: u16) -> String {
    let by_address = || match (to.port() == default_port, to) {
        (false, _) => to.to_string(),
        (true, SocketAddr::V4(to)) => to.ip().to_string(),
        (true, SocketAddr::V6(to)) => format!("[{}]", to.ip()),
    };
    check.host.clone().unwrap_or_else(by_address)
}

/// The TLS handshake.
async fn encrypt(
    stream: TcpStream,
    to: SocketAddr,
    tls: Tls,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
    let name = match tls.name {
        Some(name) => ServerName::try_from(name).map_err(|error| Failure::Tls(error.to_string()))?,
        None => ServerName::from(to.ip()),
    };
    TlsConnector::from(tls.config).connect(name, stream).await.map_err(|error| not_encrypted(&error))
}

/// Tells a handshake that failed from a connection that broke.
fn not_encrypted(error: &io::Error) -> Failure {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => Failure::Tls(error.to_string()),
        None => Failure::Closed,
    }
}

/// Sends the request and judges the answer; the connection closes with it.
async fn exchange<S>(stream: S, host: String, check: &HttpCheck, left: &mut TimeLeft) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| protocol(&e))?;
    let request = Request::get(check.path.as_str())
        .header(header::HOST, host)
        .header(header::USER_AGENT, "weir")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::Protocol(error.to_string()))?;
    let answer = async {
        let response = sender.send_request(request);
        let response = left.phase(Phase::FirstByte, check.phases.first_byte, response).await?;
        let response = response.map_err(|e| protocol(&e))?;
        left.phase(Phase::Body, None, judge(response, check)).await?
    };
    tokio::pin!(answer);
    tokio::select! {
        biased;
        judged = &mut answer => judged,
        // The connection is done before the answer when the server closes: the rest is buffered.
        _ = connection => answer.await,
    }
}

/// Judges status and body.
async fn judge(response: Response<Incoming>, check: &HttpCheck) -> Result<(), Failure> {
    let status = response.status().as_u16();
    if !check.expect_status.iter().any(|(first, last)| (*first..=*last).contains(&status)) {
        return Err(Failure::Status(status));
    }
    let Some(text) = &check.expect_body else { return Ok(()) };
    let mut body = response.into_body();
    let mut seen: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| protocol(&e))?;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        seen.extend_from_slice(&data[..data.len().min(BODY_LIMIT - seen.len())]);
        if contains(&seen, text.as_bytes()) {
            return Ok(());
        }
        if seen.len() == BODY_LIMIT {
            break;
        }
    }
    Err(Failure::Body)
}

/// Tells a connection that broke from an answer that is not HTTP.
fn protocol(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        return Failure::Protocol(error.to_string());
    }
    Failure::Closed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_header_is_the_address_without_the_usual_port() {
        let check = HttpCheck {
            path: "/".to_owned(),
            host: None,
            expect_status: vec![],
            expect_body: None,
            phases: crate::config::model::PhaseLimits::default(),
        };
        let header = |to: &str, default_port| host(&check, to.parse().expect("an address"), default_port);
        assert_eq!(header("192.0.2.1:80", 80), "192.0.2.1");
        assert_eq!(header("192.0.2.1:80", 443), "192.0.2.1:80");
        assert_eq!(header("[2001:db8::1]:443", 443), "[2001:db8::1]");
        assert_eq!(header("[2001:db8::1]:8443", 443), "[2001:db8::1]:8443");
        let named = HttpCheck { host: Some("www.example".to_owned()), ..check };
        assert_eq!(host(&named, "192.0.2.1:8080".parse().expect("an address"), 80), "www.example");
    }
}
