//! The verbs' side of the admin API.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::answers::{DrainProgress, Readiness, Reloaded};
use super::server::REQUEST_TIME;
use crate::events::EventFilter;
use crate::explain::{ExplainedFrames, Frames};
use crate::failure::{Code, Failure, FailureDocument};
use crate::rollout::request::RolloutRequest;
use crate::state::denied::DenyRequest;
use crate::state::limited::LimitRequest;
use crate::state::request::{BackendRequest, Changed};
use crate::view::backends::Backends;
use crate::view::deny::{Denied, DenyFilter};
use crate::view::drill::{DrillReport, DrillRequest};
use crate::view::events::{Events, StateAt};
use crate::view::filter::{BackendFilter, FlowFilter, ServiceFilter};
use crate::view::flows::Flows;
use crate::view::limits::Limits;
use crate::view::rollouts::Rollouts;
use crate::view::services::Services;
use crate::view::status::Status;

/// Longest time for the daemon to accept.
const CONNECT_TIME: Duration = Duration::from_secs(2);
/// Longest time for an answer: the daemon's own limit and a little more.
const ANSWER_TIME: Duration = Duration::from_secs(REQUEST_TIME.as_secs() + 5);

/// Asks the daemon behind a socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

impl Client {
    /// A client of the daemon at `socket`. Nothing is opened yet.
    #[must_use]
    pub fn new(socket: &Path) -> Self {
        Self { socket: socket.to_owned() }
    }

    /// The status page.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn status(&self) -> Result<Status, Failure> {
        self.get("/v1/status", &()).await
    }

    /// The services that match.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn services(&self, filter: &ServiceFilter) -> Result<Services, Failure> {
        self.get("/v1/services", filter).await
    }

    /// The backends that match.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn backends(&self, filter: &BackendFilter) -> Result<Backends, Failure> {
        self.get("/v1/backends", filter).await
    }

    /// The flows that match.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn flows(&self, filter: &FlowFilter) -> Result<Flows, Failure> {
        self.get("/v1/flows", filter).await
    }

    /// Explains frames.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn explain(&self, frames: &Frames) -> Result<ExplainedFrames, Failure> {
        let body = serde_json::to_vec(frames).map_err(|error| self.failed(&error))?;
        self.send(Method::POST, "/v1/explain".to_owned(), body).await
    }

    /// The events that match.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn events(&self, filter: &EventFilter) -> Result<Events, Failure> {
        self.get("/v1/events", filter).await
    }

    /// The state at a time, by the events.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn state_at(&self, at: Timestamp) -> Result<StateAt, Failure> {
        self.get("/v1/events/state", &[("at", at)]).await
    }

    /// Rehearses a failure.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn drill(&self, request: &DrillRequest) -> Result<DrillReport, Failure> {
        let body = serde_json::to_vec(request).map_err(|error| self.failed(&error))?;
        self.send(Method::POST, "/v1/drills".to_owned(), body).await
    }

    /// The last drill of a backend, named `pool/name`.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn drill_report(&self, backend: &str) -> Result<DrillReport, Failure> {
        self.get("/v1/drills", &[("backend", backend)]).await
    }

    /// The rollouts.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn rollouts(&self) -> Result<Rollouts, Failure> {
        self.get("/v1/rollouts", &()).await
    }

    /// Starts, promotes, aborts or ends a rollout.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn rollout(&self, request: &RolloutRequest) -> Result<Rollouts, Failure> {
        let body = serde_json::to_vec(request).map_err(|error| self.failed(&error))?;
        self.send(Method::POST, "/v1/rollouts".to_owned(), body).await
    }

    /// The limits of new flows.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn limits(&self) -> Result<Limits, Failure> {
        self.get("/v1/limits", &()).await
    }

    /// Limits new flows at run time, or no longer.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn limit(&self, request: &LimitRequest) -> Result<Limits, Failure> {
        let body = serde_json::to_vec(request).map_err(|error| self.failed(&error))?;
        self.send(Method::POST, "/v1/limits".to_owned(), body).await
    }

    /// The lists that judge sources.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn denied(&self, filter: &DenyFilter) -> Result<Denied, Failure> {
        self.get("/v1/deny", filter).await
    }

    /// Denies prefixes at run time, or lets them in again.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn deny(&self, request: &DenyRequest) -> Result<Denied, Failure> {
        let body = serde_json::to_vec(request).map_err(|error| self.failed(&error))?;
        self.send(Method::POST, "/v1/deny".to_owned(), body).await
    }

    /// Whether the VIPs should be announced.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn ready(&self) -> Result<Readiness, Failure> {
        self.get("/v1/ready", &()).await
    }

    /// Live flows of backends, named `pool/name`.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn drain_progress(&self, backends: &[String]) -> Result<DrainProgress, Failure> {
        self.get("/v1/drain", &[("backends", backends.join(","))]).await
    }

    /// Has the daemon read its config again.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn reload(&self) -> Result<Reloaded, Failure> {
        self.send(Method::POST, "/v1/reload".to_owned(), Vec::new()).await
    }

    /// Changes backends at run time.
    ///
    /// # Errors
    /// Unreachable, or what the daemon answers.
    pub async fn change(&self, request: &BackendRequest) -> Result<Changed, Failure> {
        let body = serde_json::to_vec(request).map_err(|error| self.failed(&error))?;
        self.send(Method::POST, "/v1/backends".to_owned(), body).await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str, query: &impl Serialize) -> Result<T, Failure> {
        let query = serde_urlencoded::to_string(query).map_err(|error| self.failed(&error))?;
        let separator = if query.is_empty() { "" } else { "?" };
        self.send(Method::GET, format!("{path}{separator}{query}"), Vec::new()).await
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        target: String,
        body: Vec<u8>,
    ) -> Result<T, Failure> {
        let stream = match timeout(CONNECT_TIME, UnixStream::connect(&self.socket)).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(self.unreachable(&error)),
            Err(_) => return Err(self.silent("accept", CONNECT_TIME)),
        };
        match timeout(ANSWER_TIME, self.exchange(stream, method, target, body)).await {
            Ok(answer) => answer,
            Err(_) => Err(self.silent("answer", ANSWER_TIME)),
        }
    }

    async fn exchange<T: DeserializeOwned>(
        &self,
        stream: UnixStream,
        method: Method,
        target: String,
        body: Vec<u8>,
    ) -> Result<T, Failure> {
        let lost = |error: hyper::Error| {
            Failure::new(Code::Unreachable, format!("daemon at {}: {error}", self.socket.display()))
        };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(lost)?;
        // Its errors come out of the request, too.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(target)
            .header("host", "weir")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| self.failed(&error))?;
        let response = sender.send_request(request).await.map_err(lost)?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(lost)?.to_bytes();
        if status.is_success() {
            return serde_json::from_slice(&body).map_err(|error| self.failed(&error));
        }
        match serde_json::from_slice::<FailureDocument>(&body) {
            Ok(document) => Err(document.error),
            Err(_) => Err(self.failed(&format!("answered {status}"))),
        }
    }

    fn failed(&self, error: &impl std::fmt::Display) -> Failure {
        Failure::new(
            Code::Failed,
            format!("daemon at {}: {error}; is it the same version of weir?", self.socket.display()),
        )
    }

    fn silent(&self, what: &str, time: Duration) -> Failure {
        let (socket, seconds) = (self.socket.display(), time.as_secs());
        Failure::new(Code::Unreachable, format!("daemon at {socket} did not {what} within {seconds} s"))
    }

    fn unreachable(&self, error: &io::Error) -> Failure {
        let socket = self.socket.display();
        let message = match error.kind() {
            io::ErrorKind::NotFound => {
                format!("no daemon: {socket} does not exist; start `weir run`, or name its --socket")
            }
            io::ErrorKind::ConnectionRefused => {
                format!("no daemon: {socket} is left over from one that ended; start `weir run`")
            }
            io::ErrorKind::PermissionDenied => {
                format!("connect to {socket}: permission denied; be root or a member of group weir")
            }
            _ => format!("connect to {socket}: {error}"),
        };
        Failure::new(Code::Unreachable, message)
    }
}
