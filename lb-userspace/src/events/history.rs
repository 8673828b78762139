//! Answers what happened, from memory and from the ring on disk.

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::Semaphore;

use crate::events::{EventFilter, Recorder, ring, state};
use crate::failure::{Code, Failure};
use crate::view::events::{Events, StateAt};

/// Longest wait for an event, within what a request may take.
const LONGEST_WAIT: Duration = Duration::from_secs(20);
/// Callers that may wait at once; more are answered at once.
const FOLLOWERS: usize = 32;

/// The events of this instance.
pub struct History {
    recorder: Recorder,
    state_directory: PathBuf,
    followers: Semaphore,
}

impl History {
    /// Answers from a recorder's memory, and from the ring that it writes.
    #[must_use]
    pub fn new(recorder: Recorder, state_directory: PathBuf) -> Self {
        Self { recorder, state_directory, followers: Semaphore::new(FOLLOWERS) }
    }

    /// The events that match; with `wait_s`, waits for one to come after `after`.
    ///
    /// # Errors
    /// An unknown kind; a ring that cannot be read.
    pub async fn events(&self, filter: &EventFilter) -> Result<Events, Failure> {
        filter.kinds()?;
        let mut latest = self.recorder.latest();
        if let (Some(after), Some(wait)) = (filter.after, filter.wait_s)
            && let Ok(_place) = self.followers.try_acquire()
        {
            let wait = Duration::from_secs(wait).min(LONGEST_WAIT);
            // Nothing came in time: an empty answer.
            let _ = tokio::time::timeout(wait, latest.wait_for(|latest| *latest > after)).await;
        }
        let seen = *latest.borrow_and_update();
        if let Some(recent) = filter.after.and_then(|after| self.recorder.recent(after)) {
            let newest = recent.last().map_or(seen, |event| event.seq);
            return Ok(Events { events: filter.apply(recent)?, latest: newest, ..Events::default() });
        }
        let (directory, filter) = (self.state_directory.clone(), filter.clone());
        aside(move || listed(&directory, &filter)).await
    }

    /// The state at a time.
    ///
    /// # Errors
    /// Not found where the ring does not reach back to it; a ring that cannot be read.
    pub async fn state_at(&self, at: Timestamp) -> Result<StateAt, Failure> {
        let directory = self.state_directory.clone();
        aside(move || state_at(&directory, at)).await
    }
}

/// Reads files where nobody waits for it.
async fn aside<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(read).await {
        Ok(answer) => answer,
        Err(error) => Err(Failure::new(Code::Failed, format!("read events: {error}"))),
    }
}

/// The events of a state directory that match.
///
/// # Errors
/// An unknown kind; a ring that cannot be read.
pub fn listed(state_directory: &Path, filter: &EventFilter) -> Result<Events, Failure> {
    let content = read(state_directory, filter.after)?;
    let latest = content.events.last().map_or(0, |event| event.seq);
    let events = filter.apply(content.events)?;
    Ok(Events { events, latest, unreadable: content.unreadable, ..Events::default() })
}

/// The state at a time, by the events of a state directory.
///
/// # Errors
/// Not found where they do not reach back to it; a ring that cannot be read.
pub fn state_at(state_directory: &Path, at: Timestamp) -> Result<StateAt, Failure> {
    let events = read(state_directory, None)?.events;
    let first = events.first().map(|event| event.time);
    match (state::at(events, at), first) {
        (Some(state), _) => Ok(StateAt { api: Default::default(), at, state }),
        (None, Some(first)) => Err(Failure::new(
            Code::NotFound,
            format!(
                "nothing is known of {at}: what is kept begins at {first}; [events] max_bytes says how much is kept"
            ),
        )),
        (None, None) => Err(Failure::new(
            Code::NotFound,
            format!("no events in {}: no daemon has run there", state_directory.display()),
        )),
    }
}

fn read(state_directory: &Path, after: Option<u64>) -> Result<ring::Content, Failure> {
    ring::read(state_directory, after).map_err(|error| {
        Failure::new(Code::Failed, format!("read events of {}: {error}", state_directory.display()))
    })
}
