//! Paths of the admin API.

use std::sync::Arc;

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Extension, FromRequest, FromRequestParts, Request, State};
use axum::http::{Method, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use jiff::Timestamp;
use serde::Deserialize;

use super::operations::Operations;
use super::peer::{Peer, Role};
use super::server::{BODY_LIMIT, REQUEST_TIME};
use crate::events::EventFilter;
use crate::explain::Frames;
use crate::failure::{Code, Failure};
use crate::rollout::request::RolloutRequest;
use crate::state::denied::DenyRequest;
use crate::state::limited::LimitRequest;
use crate::state::overlay::BackendName;
use crate::state::request::BackendRequest;
use crate::view::deny::DenyFilter;
use crate::view::drill::DrillRequest;
use crate::view::filter::{BackendFilter, FlowFilter, ServiceFilter};

/// Query parameters; what cannot be read is a usage failure.
#[derive(FromRequestParts)]
#[from_request(via(axum::extract::Query), rejection(Failure))]
struct Query<T>(T);

/// A JSON body; what cannot be read is a usage failure.
#[derive(FromRequest)]
#[from_request(via(axum::Json), rejection(Failure))]
struct Body<T>(T);

impl From<QueryRejection> for Failure {
    fn from(rejection: QueryRejection) -> Self {
        Self::new(Code::Usage, format!("read query: {}", rejection.body_text()))
    }
}

impl From<JsonRejection> for Failure {
    fn from(rejection: JsonRejection) -> Self {
        Self::new(Code::Usage, format!("read body: {}", rejection.body_text()))
    }
}

type Daemon<O> = State<Arc<O>>;

/// The routes over `operations`. Requests carry their [`Peer`] as an extension.
pub(super) fn router<O: Operations>(operations: Arc<O>) -> Router {
    let writes = Router::new()
        .route("/v1/reload", post(reload::<O>))
        .route("/v1/backends", post(change::<O>))
        .route("/v1/rollouts", post(rollout::<O>))
        .route("/v1/drills", post(drill::<O>))
        .route("/v1/deny", post(deny::<O>))
        .route("/v1/limits", post(limit::<O>))
        .route_layer(middleware::from_fn(to_its_end))
        .route_layer(middleware::from_fn(operators_only));
    Router::new()
        .route("/v1/status", get(status::<O>))
        .route("/v1/services", get(services::<O>))
        .route("/v1/backends", get(backends::<O>))
        .route("/v1/flows", get(flows::<O>))
        .route("/v1/explain", post(explain::<O>))
        .route("/v1/events", get(events::<O>))
        .route("/v1/events/state", get(state_at::<O>))
        .route("/v1/rollouts", get(rollouts::<O>))
        .route("/v1/drills", get(drill_report::<O>))
        .route("/v1/deny", get(denied::<O>))
        .route("/v1/limits", get(limits::<O>))
        .route("/v1/ready", get(ready::<O>))
        .route("/v1/drain", get(drain::<O>))
        .merge(writes)
        .fallback(no_such_path)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn(in_time))
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(operations)
}

async fn operators_only(Extension(peer): Extension<Peer>, request: Request, next: Next) -> Response {
    match peer.role {
        Role::Operator => next.run(request).await,
        Role::Viewer => Failure::new(
            Code::Forbidden,
            format!("user {} may look but not change: ask root or a member of group weir", peer.name),
        )
        .into_response(),
    }
}

tokio::task_local! {
    /// Set while a request is worked on.
    static ANSWERING: ();
}

/// Whether this task works on a request: where it panics its caller is told, and nobody else is concerned.
pub(crate) fn answering() -> bool {
    ANSWERING.try_with(|()| ()).is_ok()
}

/// Bounds how long a caller waits.
async fn in_time(request: Request, next: Next) -> Response {
    let limit = REQUEST_TIME.as_secs();
    let answer = tokio::time::timeout(REQUEST_TIME, ANSWERING.scope((), next.run(request))).await;
    let late = |_| failed(format!("the request took longer than {limit} s; what it changes goes on"));
    answer.unwrap_or_else(late)
}

/// Finishes what changes something also where the caller has gone: half of a reload would be neither config.
async fn to_its_end(request: Request, next: Next) -> Response {
    let answer = tokio::spawn(ANSWERING.scope((), next.run(request))).await;
    answer.unwrap_or_else(|_| failed("the request ended in a panic: see the daemon's log".to_owned()))
}

fn failed(message: String) -> Response {
    Failure::new(Code::Failed, message).into_response()
}

async fn no_such_path(uri: Uri) -> Failure {
    Failure::new(Code::NotFound, format!("no such path {:?}", uri.path()))
}

async fn no_such_method(method: Method, uri: Uri) -> Failure {
    Failure::new(Code::Usage, format!("{method} {}: not a method of this path", uri.path()))
}

async fn status<O: Operations>(State(daemon): Daemon<O>) -> Result<Response, Failure> {
    daemon.status().await.map(|view| Json(view).into_response())
}

async fn services<O: Operations>(
    State(daemon): Daemon<O>,
    Query(filter): Query<ServiceFilter>,
) -> Result<Response, Failure> {
    daemon.services(filter).await.map(|view| Json(view).into_response())
}

async fn backends<O: Operations>(
    State(daemon): Daemon<O>,
    Query(filter): Query<BackendFilter>,
) -> Result<Response, Failure> {
    daemon.backends(filter).await.map(|view| Json(view).into_response())
}

async fn flows<O: Operations>(
    State(daemon): Daemon<O>,
    Query(filter): Query<FlowFilter>,
) -> Result<Response, Failure> {
    daemon.flows(filter).await.map(|view| Json(view).into_response())
}

async fn explain<O: Operations>(
    State(daemon): Daemon<O>,
    Body(frames): Body<Frames>,
) -> Result<Response, Failure> {
    daemon.explain(frames).await.map(|view| Json(view).into_response())
}

async fn events<O: Operations>(
    State(daemon): Daemon<O>,
    Query(filter): Query<EventFilter>,
) -> Result<Response, Failure> {
    daemon.events(filter).await.map(|view| Json(view).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct At {
    at: Timestamp,
}

async fn state_at<O: Operations>(
    State(daemon): Daemon<O>,
    Query(At { at }): Query<At>,
) -> Result<Response, Failure> {
    daemon.state_at(at).await.map(|view| Json(view).into_response())
}

async fn drill<O: Operations>(
    State(daemon): Daemon<O>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<DrillRequest>,
) -> Result<Response, Failure> {
    let by = peer.on_record(request.on_behalf_of.as_deref());
    daemon.drill(request, by).await.map(|view| Json(view).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OfBackend {
    backend: String,
}

async fn drill_report<O: Operations>(
    State(daemon): Daemon<O>,
    Query(OfBackend { backend }): Query<OfBackend>,
) -> Result<Response, Failure> {
    daemon.drill_report(backend).await.map(|view| Json(view).into_response())
}

async fn rollouts<O: Operations>(State(daemon): Daemon<O>) -> Result<Response, Failure> {
    daemon.rollouts().await.map(|view| Json(view).into_response())
}

async fn rollout<O: Operations>(
    State(daemon): Daemon<O>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<RolloutRequest>,
) -> Result<Response, Failure> {
    // The command runs with the daemon's rights, which are more than an operator's.
    if request.guard_exec.is_some() && !peer.has_rights_of(rustix::process::geteuid().as_raw()) {
        let message = format!("guard-exec: only root may have the daemon run a command, not {}", peer.name);
        return Err(Failure::new(Code::Forbidden, message));
    }
    let by = peer.on_record(request.on_behalf_of.as_deref());
    daemon.rollout(request, by).await.map(|view| Json(view).into_response())
}

async fn limits<O: Operations>(State(daemon): Daemon<O>) -> Result<Response, Failure> {
    daemon.limits().await.map(|view| Json(view).into_response())
}

async fn limit<O: Operations>(
    State(daemon): Daemon<O>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<LimitRequest>,
) -> Result<Response, Failure> {
    let by = peer.on_record(request.on_behalf_of.as_deref());
    daemon.limit(request, by).await.map(|view| Json(view).into_response())
}

async fn denied<O: Operations>(
    State(daemon): Daemon<O>,
    Query(filter): Query<DenyFilter>,
) -> Result<Response, Failure> {
    daemon.denied(filter).await.map(|view| Json(view).into_response())
}

async fn deny<O: Operations>(
    State(daemon): Daemon<O>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<DenyRequest>,
) -> Result<Response, Failure> {
    let by = peer.on_record(request.on_behalf_of.as_deref());
    daemon.deny(request, by).await.map(|view| Json(view).into_response())
}

async fn ready<O: Operations>(State(daemon): Daemon<O>) -> Result<Response, Failure> {
    daemon.ready().await.map(|view| Json(view).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Drain {
    backends: String,
}

async fn drain<O: Operations>(
    State(daemon): Daemon<O>,
    Query(drain): Query<Drain>,
) -> Result<Response, Failure> {
    let name = |text: &str| match text.split_once('/') {
        Some((pool, name)) => Ok(BackendName::new(pool, name)),
        None => Err(Failure::new(Code::Usage, format!("backend {text:?}: write pool/name"))),
    };
    let backends = drain.backends.split(',').map(name).collect::<Result<_, _>>()?;
    daemon.drain_progress(backends).await.map(|view| Json(view).into_response())
}

async fn reload<O: Operations>(
    State(daemon): Daemon<O>,
    Extension(peer): Extension<Peer>,
) -> Result<Response, Failure> {
    daemon.reload(peer.on_record(None)).await.map(|view| Json(view).into_response())
}

async fn change<O: Operations>(
    State(daemon): Daemon<O>,
    Extension(peer): Extension<Peer>,
    Body(request): Body<BackendRequest>,
) -> Result<Response, Failure> {
    let by = peer.on_record(request.on_behalf_of.as_deref());
    daemon.change(request, by).await.map(|view| Json(view).into_response())
}
