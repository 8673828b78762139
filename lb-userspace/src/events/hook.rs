//! Hands events to commands and webhooks, in order, one at a time, without anybody waiting for them.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::event::Event;
use crate::command;
use crate::config::model::{Hook, HookTarget};

/// The log tells of drops and failures of one hook this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);

/// A hook at work. Dropping it ends it, and what it was about to hand on.
#[derive(Debug)]
pub(super) struct RunningHook {
    pub(super) hook: Hook,
    queue: Arc<Queue>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Queue {
    inner: Mutex<Inner>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    waiting: VecDeque<Arc<Event>>,
    dropped: u64,
    failed: u64,
    last_failure: Option<String>,
    /// The drops that the log has told of, and when it last did.
    told: (u64, Option<Instant>),
}

impl RunningHook {
    /// Starts handing on.
    pub(super) fn start(hook: Hook, runtime: &tokio::runtime::Handle) -> Self {
        let queue = Arc::new(Queue { inner: Mutex::default(), more: Notify::new() });
        let task = runtime.spawn(work(hook.clone(), queue.clone()));
        Self { hook, queue, task }
    }

    /// Queues an event if the hook wants its kind; drops the oldest where the queue is full.
    pub(super) fn offer(&self, event: &Arc<Event>) {
        if !self.hook.kinds.is_empty() && !self.hook.kinds.contains(&event.kind) {
            return;
        }
        let mut inner = self.queue.lock();
        if inner.waiting.len() >= self.hook.queue {
            inner.waiting.pop_front();
            inner.dropped += 1;
            inner.tell_drops(&self.hook, Instant::now());
        }
        inner.waiting.push_back(event.clone());
        drop(inner);
        self.queue.more.notify_one();
    }

    /// What an operator should know of it.
    pub(super) fn problem(&self) -> Option<String> {
        let inner = self.queue.lock();
        let Inner { dropped, failed, last_failure, .. } = &*inner;
        let dropped = (*dropped > 0).then(|| format!("{dropped} events dropped, its queue was full"));
        let failed = last_failure.as_ref().map(|last| format!("{failed} events failed, the last: {last}"));
        let told: Vec<String> = dropped.into_iter().chain(failed).collect();
        (!told.is_empty()).then(|| format!("hook {}: {}", self.hook.name, told.join("; ")))
    }
}

impl Drop for RunningHook {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Queue {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tell_drops(&mut self, hook: &Hook, now: Instant) {
        let (told, at) = self.told;
        if at.is_none_or(|at| now.duration_since(at) >= COMPLAIN_EVERY) {
            let new = self.dropped - told;
            let (name, queue, total) = (&hook.name, hook.queue, self.dropped);
            warn!(
                hook = name,
                "{new} events dropped, the oldest of a queue of {queue}; {total} since it runs"
            );
            self.told = (self.dropped, Some(now));
        }
    }
}

/// Hands on what is queued, forever.
async fn work(hook: Hook, queue: Arc<Queue>) {
    let mut complained: Option<Instant> = None;
    loop {
        let next = queue.lock().waiting.pop_front();
        let Some(event) = next else {
            queue.more.notified().await;
            continue;
        };
        let handed = hand_on(&hook.target, &event, hook.timeout).await;
        let mut inner = queue.lock();
        match handed {
            Ok(()) => {
                if inner.last_failure.take().is_some() {
                    info!(hook = hook.name, "works again");
                }
            }
            Err(cause) => {
                inner.failed += 1;
                let now = Instant::now();
                if complained.is_none_or(|at| now.duration_since(at) >= COMPLAIN_EVERY) {
                    warn!(hook = hook.name, "event {} was not handed on: {cause}", event.seq);
                    complained = Some(now);
                }
                inner.last_failure = Some(cause);
            }
        }
    }
}

async fn hand_on(target: &HookTarget, event: &Event, limit: Duration) -> Result<(), String> {
    let mut body = serde_json::to_vec(event).map_err(|error| error.to_string())?;
    body.push(b'\n');
    match target {
        HookTarget::Exec(words) => command::run(words, &[], &body, limit).await,
        HookTarget::Post { host, port, path } => {
            let posted = tokio::time::timeout(limit, post(host, *port, path, body)).await;
            posted.unwrap_or_else(|_| Err(format!("not done within {} ms", limit.as_millis())))
        }
    }
}

async fn post(host: &str, port: u16, path: &str, body: Vec<u8>) -> Result<(), String> {
    let to = format!("{host}:{port}");
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{what} {to}: {error}");
    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port)).await;
    let stream = stream.map_err(|error| failed("connect to", &error))?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(|error| failed("speak to", &error))?;
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, &to)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::CONNECTION, "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| failed("build a request for", &error))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|error| failed("post to", &error))?;
        let status = response.status();
        // Read to its end, so that the server is not reset over an answer that nobody wants.
        let _ = response.into_body().collect().await;
        if status.is_success() { Ok(()) } else { Err(failed("post to", &status)) }
    };
    tokio::pin!(answer);
    tokio::select! {
        biased;
        answered = &mut answer => answered,
        _ = connection => answer.await,
    }
}

#[cfg(test)]
#[path = "hook_tests.rs"]
mod tests;
