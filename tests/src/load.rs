//! A steady load of HTTP requests, each on a fresh connection, sent when due whatever became of the
//! others.
#![forbid(unsafe_code)]

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use crate::{
    gate::monotonic,
    host::Host,
    http::{Get, HttpError},
};

/// What became of one request.
#[derive(Clone, Debug)]
pub struct Shot {
    /// When it was sent, by [`monotonic`].
    pub sent: Duration,
    /// How long it took, to its answer or failure.
    pub took: Duration,
    /// The status and the backend's name, or why it failed.
    pub outcome: Result<(u16, String), HttpError>,
}

impl Shot {
    /// The backend that answered with status 200.
    pub fn backend(&self) -> Option<&str> {
        match &self.outcome {
            Ok((200, backend)) => Some(backend),
            _ => None,
        }
    }

    /// Whether it failed or was answered with another status than 200.
    pub fn failed(&self) -> bool {
        self.backend().is_none()
    }
}

/// How much load.
#[derive(Clone, Debug)]
pub struct Rate {
    /// Requests a second.
    pub per_second: u32,
    /// Threads, and so the most requests under way. All of them stuck delay the load: see [`Load::late`].
    pub threads: u32,
}

impl Rate {
    /// A rate on sixteen threads.
    pub fn per_second(per_second: u32) -> Self {
        Self { per_second, threads: 16 }
    }
}

/// A running load; stopped when dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    shots: Mutex<Vec<Shot>>,
    stop: AtomicBool,
    next: AtomicU64,
    late: AtomicU64,
}

impl Load {
    /// Starts sending a request from a host at a rate, until stopped.
    pub fn start(client: &Host, request: Get, rate: Rate) -> Self {
        Self::start_each(client, vec![request], rate)
    }

    /// Starts sending requests in turn from a host at a rate, until stopped.
    ///
    /// # Panics
    /// Panics when there is no request to send.
    pub fn start_each(client: &Host, requests: Vec<Get>, rate: Rate) -> Self {
        assert!(!requests.is_empty(), "a load sends something");
        let shared = Arc::new(Shared {
            shots: Mutex::default(),
            stop: AtomicBool::new(false),
            next: AtomicU64::new(0),
            late: AtomicU64::new(0),
        });
        let requests = Arc::new(requests);
        let begin = Instant::now();
        let run = |_| {
            let (client, shared, requests) = (client.clone(), shared.clone(), requests.clone());
            thread::spawn(move || {
                client.netns().enter().expect("the lab runs as root");
                shared.send(&requests, begin, rate.per_second);
            })
        };
        let threads = (0..rate.threads.max(1)).map(run).collect();
        Self { shared, threads }
    }

    /// What became of the requests so far, in the order of their end.
    pub fn shots(&self) -> Vec<Shot> {
        self.shared.shots.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// What became of the requests that ended after the first `known` ones, in the order of their end.
    pub fn shots_after(&self, known: usize) -> Vec<Shot> {
        let shots = self.shared.shots.lock().unwrap_or_else(PoisonError::into_inner);
        shots.get(known..).unwrap_or_default().to_vec()
    }

    /// How many requests have ended; cheaper than `shots().len()`.
    pub fn count(&self) -> usize {
        self.shared.shots.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many requests were sent over 20 ms after they were due.
    pub fn late(&self) -> u64 {
        self.shared.late.load(Ordering::Relaxed)
    }

    /// Stops sending, waits for the requests under way, and hands back all, in the order they were sent.
    pub fn stop(mut self) -> Vec<Shot> {
        self.join();
        let mut shots = self.shots();
        shots.sort_by_key(|shot| shot.sent);
        shots
    }

    fn join(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of a sender has been printed; its requests are missing from the count.
            let _ = thread.join();
        }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.join();
    }
}

impl Shared {
    fn send(&self, requests: &[Get], begin: Instant, per_second: u32) {
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let due = begin + Duration::from_secs_f64(number as f64 / f64::from(per_second));
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if due.elapsed() > Duration::from_millis(20) {
                self.late.fetch_add(1, Ordering::Relaxed);
            }
            let request = &requests[(number % requests.len() as u64) as usize];
            let (sent, start) = (monotonic(), Instant::now());
            let outcome = request.send().map(|response| (response.status, response.backend));
            let shot = Shot { sent, took: start.elapsed(), outcome };
            self.shots.lock().unwrap_or_else(PoisonError::into_inner).push(shot);
        }
    }
}
