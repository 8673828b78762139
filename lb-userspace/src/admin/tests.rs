//! Client and server over a real socket, around an instance in memory.

use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::Body;
use axum::http::Request;
use axum::{Extension, Router};
use http_body_util::BodyExt;
use hyper_util::service::TowerToHyperService;

use super::answers::{DrainProgress, Readiness, Reloaded};
use super::client::Client;
use super::operations::Operations;
use super::peer::{Peer, Role};
use super::router::router;
use super::server::{BindError, REQUEST_TIME, Server};
use crate::events::EventFilter;
use crate::explain::{Explained, ExplainedFrames, Frames};
use crate::failure::{Code, Failure};
use crate::rollout::request::RolloutRequest;
use crate::state::denied::DenyRequest;
use crate::state::limited::LimitRequest;
use crate::state::overlay::BackendName;
use crate::state::request::{Action, BackendRequest, Changed, Force, Targets};
use crate::view::backends::Backends;
use crate::view::deny::{Denied, DenyFilter};
use crate::view::drill::{DrillReport, DrillRequest};
use crate::view::events::{Events, StateAt};
use crate::view::filter::{BackendFilter, FlowFilter, ServiceFilter};
use crate::view::flows::Flows;
use crate::view::limits::Limits;
use crate::view::nearest::not_found;
use crate::view::rollouts::Rollouts;
use crate::view::services::Services;
use crate::view::status::Status;

/// How long an instance in memory takes for a reload.
const RELOAD_TIME: Duration = Duration::from_millis(20);

/// Remembers what it was asked.
#[derive(Default)]
struct Instance {
    asked: Mutex<Vec<String>>,
}

impl Instance {
    fn note(&self, what: String) {
        self.asked.lock().expect("lock").push(what);
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("lock").clone()
    }
}

impl Operations for Instance {
    async fn explain(&self, request: Frames) -> Result<ExplainedFrames, Failure> {
        let explained = |frame: &String| Explained { output: frame.clone(), ..Explained::default() };
        Ok(ExplainedFrames {
            explained: request.frames.iter().map(explained).collect(),
            ..Default::default()
        })
    }

    async fn status(&self) -> Result<Status, Failure> {
        Ok(Status {
            problems: vec!["interface eth1: the program is not attached".to_owned()],
            ..Status::default()
        })
    }

    async fn services(&self, filter: ServiceFilter) -> Result<Services, Failure> {
        filter.apply(Services::default())
    }

    async fn backends(&self, filter: BackendFilter) -> Result<Backends, Failure> {
        self.note(format!("{filter:?}"));
        Ok(Backends::default())
    }

    async fn flows(&self, filter: FlowFilter) -> Result<Flows, Failure> {
        self.note(format!("{filter:?}"));
        Ok(Flows { total: 7, ..Flows::default() })
    }

    async fn events(&self, filter: EventFilter) -> Result<Events, Failure> {
        self.note(format!("{filter:?}"));
        Ok(Events::default())
    }

    async fn state_at(&self, at: jiff::Timestamp) -> Result<StateAt, Failure> {
        Err(Failure::new(Code::NotFound, format!("nothing is known of {at}")))
    }

    async fn drill(&self, request: DrillRequest, by: String) -> Result<DrillReport, Failure> {
        Err(Failure::new(
            Code::Refused,
            format!("{} by {by}", serde_json::to_string(&request).expect("json")),
        ))
    }

    async fn drill_report(&self, backend: String) -> Result<DrillReport, Failure> {
        Err(Failure::new(Code::NotFound, format!("no drill of {backend}")))
    }

    async fn limits(&self) -> Result<Limits, Failure> {
        Ok(Limits::default())
    }

    async fn limit(&self, _: LimitRequest, _: String) -> Result<Limits, Failure> {
        Ok(Limits::default())
    }

    async fn denied(&self, _: DenyFilter) -> Result<Denied, Failure> {
        Ok(Denied::default())
    }

    async fn deny(&self, request: DenyRequest, by: String) -> Result<Denied, Failure> {
        let effect = format!("{:?} {} by {by}", request.action, request.prefixes.join(" "));
        Ok(Denied { effects: vec![effect], ..Denied::default() })
    }

    async fn rollouts(&self) -> Result<Rollouts, Failure> {
        Ok(Rollouts::default())
    }

    async fn rollout(&self, request: RolloutRequest, by: String) -> Result<Rollouts, Failure> {
        Err(Failure::new(
            Code::Refused,
            format!("{} by {by}", serde_json::to_string(&request).expect("json")),
        ))
    }

    async fn ready(&self) -> Result<Readiness, Failure> {
        std::future::pending().await
    }

    async fn drain_progress(&self, backends: Vec<BackendName>) -> Result<DrainProgress, Failure> {
        Ok(DrainProgress { flows: backends.len() as u64, ..DrainProgress::default() })
    }

    async fn reload(&self, by: String) -> Result<Reloaded, Failure> {
        tokio::time::sleep(RELOAD_TIME).await;
        self.note(format!("reload by {by}"));
        Err(Failure::new(Code::InvalidConfig, "weir.toml:3: unknown key `prot`"))
    }

    async fn change(&self, request: BackendRequest, by: String) -> Result<Changed, Failure> {
        self.note(format!("{:?} {:?} by {by}", request.action, request.targets.names));
        Err(not_found("backend", "web-9", ["web-1"]))
    }
}

struct Running {
    instance: Arc<Instance>,
    socket: PathBuf,
    _directory: tempfile::TempDir,
    task: tokio::task::JoinHandle<()>,
}

fn start() -> Running {
    let directory = tempfile::tempdir().expect("directory");
    let socket = directory.path().join("run/weir.sock");
    let instance = Arc::new(Instance::default());
    let server = Server::bind(&socket).expect("binds");
    let task = tokio::spawn(server.serve(Arc::clone(&instance)));
    Running { instance, socket, _directory: directory, task }
}

fn request(action: Action) -> BackendRequest {
    BackendRequest {
        action,
        targets: Targets { names: vec!["web/web-9".to_owned()], pool: None, host: None },
        reason: "kernel update".to_owned(),
        for_s: None,
        force: Force::Unforced,
        on_behalf_of: Some("alice".to_owned()),
    }
}

fn raw(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).expect("connects");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("sets");
    stream.write_all(request).expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    answer
}

#[tokio::test]
async fn views_travel_whole() {
    let running = start();
    let client = Client::new(&running.socket);
    let status = client.status().await.expect("answers");
    assert_eq!(status.problems, ["interface eth1: the program is not attached"]);
    assert_eq!(client.services(&ServiceFilter::default()).await, Ok(Services::default()));
    let progress = client.drain_progress(&["web/web-1".to_owned(), "web/web-2".to_owned()]).await;
    assert_eq!(progress.expect("answers").flows, 2);
}

#[tokio::test]
async fn filters_arrive_as_they_were_given() {
    let running = start();
    let client = Client::new(&running.socket);
    let filter = BackendFilter { backend: Some("web/web-* & é".to_owned()), ..BackendFilter::default() };
    client.backends(&filter).await.expect("answers");
    let flows = FlowFilter {
        client: Some("2001:db8::/32".to_owned()),
        limit: Some(5),
        count: true,
        ..FlowFilter::default()
    };
    assert_eq!(client.flows(&flows).await.expect("answers").total, 7);
    assert_eq!(running.instance.asked(), [format!("{filter:?}"), format!("{flows:?}")]);
}

#[tokio::test]
async fn failures_keep_their_code_and_message() {
    let running = start();
    let client = Client::new(&running.socket);
    let failure = client.change(&request(Action::Drain)).await.expect_err("not found");
    assert_eq!(failure, not_found("backend", "web-9", ["web-1"]));
    let failure = client.reload().await.expect_err("invalid");
    assert_eq!(failure, Failure::new(Code::InvalidConfig, "weir.toml:3: unknown key `prot`"));
    let filter = ServiceFilter { service: Some("web".to_owned()), pool: None };
    assert_eq!(client.services(&filter).await.expect_err("not found").code, Code::NotFound);
}

#[tokio::test]
async fn changes_are_on_record_with_the_callers_name() {
    let running = start();
    let client = Client::new(&running.socket);
    assert!(client.change(&request(Action::Drain)).await.is_err());
    let accounts = super::peer::Accounts::of_host();
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    let by = accounts.peer(uid, gid, uid).on_record(Some("alice"));
    assert_eq!(running.instance.asked(), [format!("Drain [\"web/web-9\"] by {by}")]);
}

#[tokio::test]
async fn a_missing_and_a_stale_socket_are_unreachable_with_the_remedy() {
    let running = start();
    let missing = Client::new(&running.socket.with_extension("other")).status().await.expect_err("none");
    assert_eq!(missing.code, Code::Unreachable);
    assert!(missing.message.contains("does not exist; start `weir run`"), "{missing}");

    let stale = running.socket.with_extension("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("binds"));
    let left_over = Client::new(&stale).status().await.expect_err("none");
    assert_eq!(left_over.code, Code::Unreachable);
    assert!(left_over.message.contains("left over"), "{left_over}");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
    let running = start();
    let refused = Server::bind(&running.socket).expect_err("in use");
    assert!(matches!(refused, BindError::InUse { .. }), "{refused}");
    running.task.abort();
    assert!(running.task.await.expect_err("aborted").is_cancelled());
    assert!(!running.socket.exists());

    drop(std::os::unix::net::UnixListener::bind(&running.socket).expect("binds"));
    let server = Server::bind(&running.socket).expect("replaces");
    let mode = std::fs::metadata(&running.socket).expect("exists").permissions().mode();
    assert_eq!(mode & 0o7777, 0o660);
    drop(server);
    assert!(!running.socket.exists());

    std::fs::write(&running.socket, "precious").expect("writes");
    assert!(matches!(Server::bind(&running.socket), Err(BindError::NotSocket { .. })));
    assert_eq!(std::fs::read_to_string(&running.socket).expect("still there"), "precious");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_get_a_clear_answer() {
    let running = start();
    let socket = running.socket.clone();
    let check = move || {
        let post = |body: &str| {
            let head = "POST /v1/backends HTTP/1.1\r\nhost: weir\r\ncontent-type: application/json";
            raw(&socket, format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())
        };
        let answer = post(r#"{"action":"drain","names":["web-1"],"forse":true}"#);
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("unknown field `forse`"), "{answer}");
        let answer = post("{");
        assert!(answer.contains(r#""code":"usage","message":"read body: "#), "{answer}");
        let answer = post(&format!("{{\"reason\":\"{}\"}}", "x".repeat(70_000)));
        assert!(answer.contains("length limit exceeded"), "{answer}");
        let get = |path: &str| raw(&socket, format!("GET {path} HTTP/1.1\r\nhost: weir\r\n\r\n").as_bytes());
        assert!(
            get("/v1/nothing").contains(r#""code":"not_found","message":"no such path \"/v1/nothing\"""#)
        );
        assert!(get("/v1/flows?limit=many").contains(r#""code":"usage""#));
        assert!(get("/v1/flows?colour=green").contains("unknown field `colour`"));
        assert!(get("/v1/reload").contains("GET /v1/reload: not a method of this path"));
        assert!(raw(&socket, b"\x16\x03\x01 hello\r\n\r\n").starts_with("HTTP/1.1 400 "));
    };
    tokio::task::spawn_blocking(check).await.expect("checks");
    assert!(running.instance.asked().is_empty(), "nothing reached the daemon");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_sends_nothing_is_let_go() {
    let running = start();
    let socket = running.socket.clone();
    let started = std::time::Instant::now();
    tokio::task::spawn_blocking(move || raw(&socket, b"GET /v1/status HT")).await.expect("closed");
    assert!(started.elapsed() < Duration::from_secs(15));
}

fn role(role: Role) -> Router {
    asking(Arc::new(Instance::default()), role)
}

fn asking(instance: Arc<Instance>, role: Role) -> Router {
    let peer = Peer { uid: 1001, name: "bob".to_owned(), role };
    router(instance).layer(Extension(peer))
}

async fn ask(router: Router, method: &str, path: &str) -> (u16, String) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("request");
    let service = TowerToHyperService::new(router);
    let response = hyper::service::Service::call(&service, request).await.expect("infallible");
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.expect("body").to_bytes();
    (status, String::from_utf8(body.to_vec()).expect("text"))
}

#[tokio::test]
async fn viewers_may_look_but_not_change() {
    let (status, _) = ask(role(Role::Viewer), "GET", "/v1/status").await;
    assert_eq!(status, 200);
    for path in ["/v1/reload", "/v1/backends"] {
        let (status, body) = ask(role(Role::Viewer), "POST", path).await;
        assert_eq!(status, 403);
        assert_eq!(
            body,
            r#"{"api":"weir/v1","error":{"code":"forbidden","message":"user bob may look but not change: ask root or a member of group weir"}}"#
        );
    }
    let (status, _) = ask(role(Role::Operator), "POST", "/v1/reload").await;
    assert_eq!(status, 422);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_takes_too_long_is_answered() {
    let (status, body) = ask(role(Role::Viewer), "GET", "/v1/ready").await;
    assert_eq!(status, 500);
    assert!(body.contains(&format!("longer than {} s", REQUEST_TIME.as_secs())), "{body}");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_finished_though_its_caller_has_gone() {
    let instance = Arc::new(Instance::default());
    let asked = ask(asking(Arc::clone(&instance), Role::Operator), "POST", "/v1/reload");
    tokio::time::timeout(RELOAD_TIME / 2, asked).await.expect_err("the caller goes");
    assert!(instance.asked().is_empty());
    tokio::time::sleep(RELOAD_TIME).await;
    assert_eq!(instance.asked(), ["reload by bob"]);
}
