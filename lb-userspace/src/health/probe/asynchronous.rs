//! Probes that run on the async runtime: `http`, `https`, `exec`. The probe thread starts them and never waits.

#![forbid(unsafe_code)]

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

use tokio::sync::Semaphore;

use super::connect::Outcome;
use super::http::Tls;
use super::trust::TlsSettings;
use super::{exec, http};
use crate::config::model::{Check, CheckKind};
use crate::health::board::StreamId;
use crate::health::command::Waker;
use crate::health::judge::Sequence;

/// Programs of all checks that may run at a time.
const PROGRAMS: usize = 64;

/// How a probe went.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) stream: StreamId,
    pub(super) seq: Sequence,
    pub(super) outcome: Outcome,
}

/// Starts probes, and collects how they went.
#[derive(Debug)]
pub(super) struct AsyncProbes {
    runtime: tokio::runtime::Handle,
    reports: Receiver<Report>,
    done: Sender<Report>,
    waker: Arc<Waker>,
    programs: Arc<Semaphore>,
    tls: TlsSettings,
}

impl AsyncProbes {
    pub(super) fn new(runtime: tokio::runtime::Handle, waker: Arc<Waker>) -> Self {
        let (done, reports) = channel();
        let programs = Arc::new(Semaphore::new(PROGRAMS));
        Self { runtime, reports, done, waker, programs, tls: TlsSettings::new() }
    }

    /// Takes the settings that `https` checks need.
    pub(super) fn set_tls(&mut self, tls: TlsSettings) {
        self.tls = tls;
    }

    /// Starts a probe; it reports within a little more than the check's timeout.
    ///
    /// # Errors
    /// When it cannot be started now.
    pub(super) fn start(
        &self,
        to: SocketAddr,
        (stream, seq): (StreamId, Sequence),
        check: &Check,
        backend: &str,
    ) -> io::Result<()> {
        let limit = check.timeout;
        match &check.kind {
            CheckKind::Http(http) => {
                let http = http.clone();
                self.spawn(stream, seq, async move { http::probe(to, &http, None, limit).await });
            }
            CheckKind::Https(http, tls) => {
                let config = self.tls.get(&tls.trust).ok_or_else(|| io::Error::other("no TLS settings"))?;
                let tls = Tls { config: config.clone(), name: tls.name.clone() };
                let http = http.clone();
                self.spawn(stream, seq, async move { http::probe(to, &http, Some(tls), limit).await });
            }
            CheckKind::Exec(exec) => {
                let permit = self.programs.clone().try_acquire_owned().map_err(|_| {
                    let text =
                        format!("{PROGRAMS} programs of exec checks are running; raise their intervals");
                    io::Error::other(text)
                })?;
                let (exec, backend) = (exec.clone(), backend.to_owned());
                self.spawn(stream, seq, async move {
                    let outcome = exec::probe(to, &exec, &backend, limit).await;
                    drop(permit);
                    outcome
                });
            }
            _ => return Err(io::Error::other("no check of the async runtime")),
        }
        Ok(())
    }

    /// The next report.
    pub(super) fn next(&self) -> Option<Report> {
        self.reports.try_recv().ok()
    }

    fn spawn(&self, stream: StreamId, seq: Sequence, probe: impl Future<Output = Outcome> + Send + 'static) {
        let (done, waker) = (self.done.clone(), self.waker.clone());
        self.runtime.spawn(async move {
            let outcome = probe.await;
            // The prober is gone only when the daemon stops.
            let _ = done.send(Report { stream, seq, outcome });
            waker.wake();
        });
    }
}
