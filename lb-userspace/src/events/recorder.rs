//! Takes events from anywhere without making anybody wait, and sees to ring, followers and hooks.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tokio::sync::watch;
use tracing::warn;

use super::event::Event;
use super::hook::RunningHook;
use super::ring::Ring;
use super::state::State;
use crate::config::model::Hook;

/// Events that wait to be written; beyond them events are lost and counted.
const QUEUE: usize = 65_536;
/// Events written in one call.
const BATCH: usize = 4096;
/// The latest events, kept for followers.
const RECENT: usize = 2048;
/// What was written is durable after this time.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// Own trouble with writing is logged this often.
const COMPLAIN_EVERY: Duration = Duration::from_secs(60);
/// Longest wait for the last events at the end.
const LAST_WAIT: Duration = Duration::from_secs(2);

enum Message {
    Event(Box<Event>),
    Begin(Box<State>),
    Limit(u64),
    End(SyncSender<()>),
}

/// Takes events. Clones record into the same ring.
#[derive(Clone)]
pub struct Recorder {
    queue: SyncSender<Message>,
    shared: Arc<Shared>,
    runtime: tokio::runtime::Handle,
}

struct Shared {
    recent: Mutex<VecDeque<Arc<Event>>>,
    latest: watch::Sender<u64>,
    hooks: Mutex<Vec<RunningHook>>,
    lost: AtomicU64,
    trouble: Mutex<Option<String>>,
}

impl Recorder {
    /// Opens the ring of a state directory and starts the thread that writes; hooks run on `runtime`.
    ///
    /// # Errors
    /// When the ring cannot be opened or the thread not be started.
    pub fn start(
        state_directory: &Path,
        limit: u64,
        hooks: &[Hook],
        runtime: tokio::runtime::Handle,
    ) -> io::Result<Self> {
        let ring = Ring::open(state_directory, limit)?;
        let (queue, messages) = sync_channel(QUEUE);
        let shared = Arc::new(Shared {
            recent: Mutex::default(),
            latest: watch::Sender::new(0),
            hooks: Mutex::default(),
            lost: AtomicU64::new(0),
            trouble: Mutex::default(),
        });
        let writer = Writer { ring, shared: shared.clone(), unsynced: None, complained: None };
        std::thread::Builder::new().name("weir-events".to_owned()).spawn(move || writer.run(&messages))?;
        let recorder = Self { queue, shared, runtime };
        recorder.set_hooks(hooks);
        Ok(recorder)
    }

    /// Begins with the state that the events after this lead from.
    pub fn begin(&self, state: State) {
        self.send(Message::Begin(Box::new(state)));
    }

    /// Records an event. Never waits: where too many are waiting it is lost and counted.
    pub fn record(&self, event: Event) {
        self.send(Message::Event(Box::new(event)));
    }

    /// Takes over the settings of a config that was just applied. A hook that stays as it is keeps its queue.
    pub fn configure(&self, limit: u64, hooks: &[Hook]) {
        self.send(Message::Limit(limit));
        self.set_hooks(hooks);
    }

    fn set_hooks(&self, wanted: &[Hook]) {
        let mut hooks = lock(&self.shared.hooks);
        let mut before = std::mem::take(&mut *hooks);
        for hook in wanted {
            let kept = before.iter().position(|running| running.hook == *hook);
            let running = kept.map(|position| before.remove(position));
            hooks.push(running.unwrap_or_else(|| RunningHook::start(hook.clone(), &self.runtime)));
        }
    }

    fn send(&self, message: Message) {
        match self.queue.try_send(message) {
            Ok(()) => {}
            // The thread ends with the daemon only.
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// The events after number `after`, if the latest that are kept in memory reach back to it.
    #[must_use]
    pub fn recent(&self, after: u64) -> Option<Vec<Event>> {
        let recent = lock(&self.shared.recent);
        let reaches = recent.front().is_some_and(|oldest| oldest.seq <= after + 1);
        reaches.then(|| recent.iter().filter(|event| event.seq > after).map(|e| Event::clone(e)).collect())
    }

    /// The number of the latest event, and its changes.
    #[must_use]
    pub fn latest(&self) -> watch::Receiver<u64> {
        self.shared.latest.subscribe()
    }

    /// What an operator should know: hooks that fail or drop, events that were lost.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut problems: Vec<String> =
            lock(&self.shared.hooks).iter().filter_map(RunningHook::problem).collect();
        problems.extend(lock(&self.shared.trouble).clone());
        let lost = self.shared.lost.load(Ordering::Relaxed);
        if lost > 0 {
            problems.push(format!("{lost} events were lost: too many at once"));
        }
        problems
    }

    /// Writes what waits; for the end of the daemon.
    pub fn finish(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.send(Message::End(done)).is_ok() {
            // Whatever a disk that hangs keeps longer is lost.
            let _ = wait.recv_timeout(LAST_WAIT);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread that writes.
struct Writer {
    ring: Ring,
    shared: Arc<Shared>,
    /// Since when something is not durable.
    unsynced: Option<Instant>,
    complained: Option<Instant>,
}

impl Writer {
    fn run(mut self, messages: &Receiver<Message>) {
        loop {
            let first = match self.unsynced {
                None => messages.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => messages.recv_timeout(SYNC_EVERY.saturating_sub(since.elapsed())),
            };
            match first {
                Ok(message) => self.take(message, messages),
                Err(RecvTimeoutError::Timeout) => self.sync(),
                Err(RecvTimeoutError::Disconnected) => return self.sync(),
            }
            if self.unsynced.is_some_and(|since| since.elapsed() >= SYNC_EVERY) {
                self.sync();
            }
        }
    }

    /// Takes a message; events together with those that wait behind them.
    fn take(&mut self, message: Message, more: &Receiver<Message>) {
        let mut events = Vec::new();
        let mut next = Some(message);
        while let Some(message) = next.take() {
            match message {
                Message::Event(event) => {
                    events.push(*event);
                    next = (events.len() < BATCH).then(|| more.try_recv().ok()).flatten();
                }
                other => {
                    self.write(std::mem::take(&mut events));
                    self.obey(other);
                }
            }
        }
        self.write(events);
    }

    fn obey(&mut self, message: Message) {
        match message {
            Message::Event(event) => self.write(vec![*event]),
            Message::Begin(state) => {
                let begun = self.ring.begin(*state, Timestamp::now());
                self.judge(begun);
            }
            Message::Limit(limit) => self.ring.set_limit(limit),
            Message::End(done) => {
                self.sync();
                // Nobody waits any longer when it took too long.
                let _ = done.send(());
            }
        }
    }

    fn write(&mut self, mut events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let written = self.ring.append(&mut events, Timestamp::now());
        self.judge(written);
        let Some(last) = events.last().map(|event| event.seq) else { return };
        let events: Vec<Arc<Event>> = events.into_iter().map(Arc::new).collect();
        for hook in &*lock(&self.shared.hooks) {
            events.iter().for_each(|event| hook.offer(event));
        }
        let mut recent = lock(&self.shared.recent);
        recent.extend(events);
        let over = recent.len().saturating_sub(RECENT);
        recent.drain(..over);
        drop(recent);
        self.shared.latest.send_replace(last);
    }

    fn sync(&mut self) {
        if let Err(error) = self.ring.sync() {
            self.judge(Err(error));
        }
        // Durable, or complained about: either way there is nothing to wait for.
        self.unsynced = None;
    }

    /// Notes that something was written, or says why not.
    fn judge(&mut self, written: io::Result<()>) {
        let now = Instant::now();
        match written {
            Ok(()) => {
                self.unsynced.get_or_insert(now);
                lock(&self.shared.trouble).take();
            }
            Err(error) => {
                let told = format!("events are not kept: write to the state directory: {error}");
                if self.complained.is_none_or(|at| now.duration_since(at) >= COMPLAIN_EVERY) {
                    warn!("{told}");
                    self.complained = Some(now);
                }
                *lock(&self.shared.trouble) = Some(told);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Kind, ring};

    fn event(number: usize) -> Event {
        Event::new(Kind::Health, Timestamp::now()).of_backend("web", format!("web-{number}")).is("down")
    }

    #[tokio::test]
    async fn what_was_recorded_is_on_disk_and_known_to_followers() {
        let directory = tempfile::tempdir().expect("directory");
        let runtime = tokio::runtime::Handle::current();
        let recorder = Recorder::start(directory.path(), 1 << 20, &[], runtime).expect("starts");
        let mut latest = recorder.latest();
        recorder.begin(State::default());
        (0..3).for_each(|number| recorder.record(event(number)));
        recorder.finish();
        assert!(*latest.borrow_and_update() >= 4, "the snapshot is number 1");
        let read = ring::read(directory.path(), None).expect("reads").events;
        assert_eq!(read.iter().map(|event| event.seq).collect::<Vec<_>>(), [1, 2, 3, 4]);
        assert_eq!(recorder.recent(2).expect("reaches back"), read[2..]);
        assert_eq!(recorder.recent(0), None, "the ring knows the rest");
        assert_eq!(recorder.problems(), Vec::<String>::new());
    }

    #[tokio::test]
    async fn a_ring_that_cannot_be_written_is_a_problem_and_holds_up_nobody() {
        let directory = tempfile::tempdir().expect("directory");
        let runtime = tokio::runtime::Handle::current();
        let recorder = Recorder::start(directory.path(), 1 << 20, &[], runtime).expect("starts");
        std::fs::remove_dir_all(directory.path().join("events")).expect("removes");
        recorder.record(event(1));
        recorder.finish();
        let problems = recorder.problems();
        assert!(problems[0].contains("events are not kept"), "{problems:?}");
        assert_eq!(recorder.recent(1).map(|events| events.len()), Some(1), "followers and hooks have it");
    }
}
