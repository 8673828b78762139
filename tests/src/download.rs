//! Many downloads at once, on one thread: do established flows survive?
#![forbid(unsafe_code)]

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    runtime, task,
    time::{sleep, timeout},
};

use crate::{
    host::Host,
    http::{Get, Head, HttpError, Stage},
};

/// Time between two reads of a slow download, of 8 KiB at most.
const SLOW_READ: Duration = Duration::from_millis(500);

/// How far a download is.
#[derive(Clone, Debug, Default)]
pub struct Download {
    /// The backend's name, once the head of the answer is there.
    pub backend: Option<String>,
    /// Bytes of the body received.
    pub received: u64,
    /// Bytes of the body announced, once the head of the answer is there.
    pub expected: Option<u64>,
    /// How it ended, once it has: every announced byte arrived, or what broke it.
    pub end: Option<Result<(), HttpError>>,
}

impl Download {
    /// Whether it ended before its last byte.
    pub fn broken(&self) -> bool {
        matches!(self.end, Some(Err(_)))
    }

    /// Whether the body comes in and nothing has ended it.
    pub fn in_progress(&self) -> bool {
        self.end.is_none() && self.received > 0
    }
}

/// Downloads under way; cut off when dropped.
#[derive(Debug)]
pub struct Downloads {
    states: Arc<Mutex<Vec<Download>>>,
    hurry: Arc<AtomicBool>,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Downloads {
    /// Starts one download for each request, all at once. A request's timeout bounds each wait for
    /// data, not the whole download.
    pub fn start(client: &Host, requests: Vec<Get>) -> Self {
        Self::start_at(client, requests, Arc::new(true.into()))
    }

    /// Starts downloads that the client reads slowly, at most 16 KiB a second each, until told to hurry: they last as
    /// long as a test needs them, however busy the machine. Servers should send at full speed.
    pub fn start_slow(client: &Host, requests: Vec<Get>) -> Self {
        Self::start_at(client, requests, Arc::default())
    }

    /// Lets the client read at full speed from here on.
    pub fn hurry(&self) {
        self.hurry.store(true, Ordering::Relaxed);
    }

    fn start_at(client: &Host, requests: Vec<Get>, hurry: Arc<AtomicBool>) -> Self {
        let states = Arc::new(Mutex::new(vec![Download::default(); requests.len()]));
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        let (client, shared, pace) = (client.clone(), states.clone(), hurry.clone());
        let thread = thread::spawn(move || {
            client.netns().enter().expect("the lab runs as root");
            let runtime = runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime needs only file descriptors").block_on(async move {
                let mut tasks = task::JoinSet::new();
                for (index, request) in requests.into_iter().enumerate() {
                    tasks.spawn(run(request, Slot { states: shared.clone(), index }, pace.clone()));
                }
                tokio::select! {
                    _ = stopped => {}
                    () = async { while tasks.join_next().await.is_some() {} } => {}
                }
            });
        });
        Self { states, hurry, stop: Some(stop), thread: Some(thread) }
    }

    /// How far each download is, in the order of the requests.
    pub fn states(&self) -> Vec<Download> {
        lock(&self.states).clone()
    }

    /// Waits until every download has received a part of its body; fails if one breaks before.
    pub fn wait_started(&self, limit: Duration) -> Result<()> {
        self.wait(limit, |download| download.received > 0)
    }

    /// Waits until every download has ended, and hands all back; a broken one is not an error here.
    pub fn finish(self, limit: Duration) -> Result<Vec<Download>> {
        let deadline = Instant::now() + limit;
        while lock(&self.states).iter().any(|download| download.end.is_none()) {
            if Instant::now() > deadline {
                bail!("downloads still run after {limit:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(self.states())
    }

    fn wait(&self, limit: Duration, reached: impl Fn(&Download) -> bool) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            let states = lock(&self.states);
            if let Some(Err(error)) = states.iter().find_map(|download| download.end.as_ref()) {
                return Err(error.clone()).context("a download broke");
            }
            let waiting = states.iter().filter(|download| !reached(download)).count();
            drop(states);
            if waiting == 0 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("{waiting} downloads have not begun after {limit:?}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Downloads {
    fn drop(&mut self) {
        // Refused when all downloads have ended.
        let _ = self.stop.take().map(|stop| stop.send(()));
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed.
            let _ = thread.join();
        }
    }
}

fn lock(states: &Mutex<Vec<Download>>) -> MutexGuard<'_, Vec<Download>> {
    states.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One download's place among the states.
struct Slot {
    states: Arc<Mutex<Vec<Download>>>,
    index: usize,
}

impl Slot {
    fn update(&self, change: impl FnOnce(&mut Download)) {
        change(&mut lock(&self.states)[self.index]);
    }
}

async fn run(request: Get, slot: Slot, hurry: Arc<AtomicBool>) {
    let end = download(&request, &slot, &hurry).await;
    slot.update(|download| download.end = Some(end));
}

async fn download(request: &Get, slot: &Slot, hurry: &AtomicBool) -> Result<(), HttpError> {
    let bound = request.timeout;
    let mut stream = timeout(bound, connect(request))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        .map_err(HttpError::at(Stage::Connect))?;
    stream.write_all(request.text().as_bytes()).await.map_err(HttpError::at(Stage::Send))?;
    let (mut head, mut buffer): (Vec<u8>, Vec<u8>) = (Vec::new(), vec![0; 8192]);
    let mut left: Option<u64> = None;
    while left != Some(0) {
        let read = timeout(bound, stream.read(&mut buffer)).await;
        let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let len = match read.map_err(HttpError::at(Stage::Receive))? {
            0 => return Err(HttpError::at(Stage::Receive)(io::ErrorKind::UnexpectedEof.into())),
            len => len,
        };
        let body = if let Some(left) = &mut left {
            *left = left.saturating_sub(len as u64);
            len as u64
        } else {
            head.extend_from_slice(&buffer[..len]);
            let Some(parsed) = Head::parse(&head) else { continue };
            let body = (head.len() - parsed.len) as u64;
            left = Some(parsed.body_len.unwrap_or(0).saturating_sub(body));
            slot.update(|download| {
                download.backend = Some(parsed.backend);
                download.expected = parsed.body_len;
            });
            body
        };
        slot.update(|download| download.received += body);
        if !hurry.load(Ordering::Relaxed) {
            sleep(SLOW_READ).await;
        }
    }
    Ok(())
}

async fn connect(request: &Get) -> io::Result<TcpStream> {
    let socket = if request.target.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(source) = request.source {
        socket.set_reuseaddr(true)?;
        socket.bind(source)?;
    }
    socket.connect(request.target).await
}
