//! `http`: one GET over a fresh connection, on the async runtime.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connect;
use crate::config::model::HttpCheck;
use crate::health::judge::Failure;

/// Part of the body that is searched for the expected text.
const BODY_LIMIT: usize = 64 * 1024;

/// What a request gave.
#[derive(Debug)]
pub(super) enum Outcome {
    /// As expected.
    Passed,
    /// Not as expected.
    Failed(Failure),
    /// This host could not try.
    NotTried(io::Error),
}

/// Requests `check` of `to` within `limit`.
pub(super) async fn probe(to: SocketAddr, check: &HttpCheck, limit: Duration) -> Outcome {
    match timeout(limit, request(to, check)).await {
        Ok(outcome) => outcome,
        Err(_) => Outcome::Failed(Failure::Silent),
    }
}

async fn request(to: SocketAddr, check: &HttpCheck) -> Outcome {
    let stream = match TcpStream::connect(to).await {
        Ok(stream) => stream,
        Err(error) => {
            return match connect::failure(&error) {
                Some(failure) => Outcome::Failed(failure),
                None => Outcome::NotTried(error),
            };
        }
    };
    match exchange(stream, to, check).await {
        Ok(()) => Outcome::Passed,
        Err(failure) => Outcome::Failed(failure),
    }
}

/// Sends the request and judges the answer; the connection closes with it.
async fn exchange(stream: TcpStream, to: SocketAddr, check: &HttpCheck) -> Result<(), Failure> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| protocol(&e))?;
    let host = check.host.clone().unwrap_or_else(|| match to.port() {
        80 => SocketAddr::new(to.ip(), 0).to_string().trim_end_matches(":0").to_owned(),
        _ => to.to_string(),
    });
    let request = Request::get(check.path.as_str())
        .header(header::HOST, host)
        .header(header::USER_AGENT, "weir")
        .header(header::CONNECTION, "close")
        .body(Empty::<Bytes>::new())
        .map_err(|error| Failure::Protocol(error.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| protocol(&e))?;
        judge(response, check).await
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

/// Whether `text` occurs in `data`.
fn contains(data: &[u8], text: &[u8]) -> bool {
    text.is_empty() || data.windows(text.len()).any(|window| window == text)
}

/// Tells a connection that broke from an answer that is not HTTP.
fn protocol(error: &hyper::Error) -> Failure {
    if error.is_parse() {
        return Failure::Protocol(error.to_string());
    }
    Failure::Closed
}
