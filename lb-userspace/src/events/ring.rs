//! Events on disk: files of one JSON object a line, the oldest file removed when there are too many bytes.
//!
//! Every file begins with a snapshot, so that what is left always tells a state. A line is written by one call and
//! becomes durable within a second; a daemon killed at any point leaves at most its last line torn, which readers
//! skip, and the next daemon starts a new line. Reading takes no lock and needs no daemon.

#![forbid(unsafe_code)]

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::event::{Event, Kind};
use super::state::State;

/// The directory under the state directory.
const DIRECTORY: &str = "events";
/// Files that the limit is divided into.
const FILES: u64 = 8;
/// What a file's name begins and ends with; between them is the number of its first event.
const NAME: (&str, &str) = ("events-", ".jsonl");

/// The writing end. One process writes at a time; the daemon's lock sees to it.
#[derive(Debug)]
pub struct Ring {
    directory: PathBuf,
    limit: u64,
    next: u64,
    state: State,
    file: Option<Written>,
}

/// The file being written.
#[derive(Debug)]
struct Written {
    file: File,
    bytes: u64,
    /// Size of the snapshot that it began with.
    snapshot: u64,
}

/// What reading found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Content {
    /// Events in the order of their numbers, snapshots included.
    pub events: Vec<Event>,
    /// Lines that are no event.
    pub unreadable: u64,
}

impl Ring {
    /// Opens the ring of a state directory, made where it is missing, to hold at most `limit` bytes; one that is too
    /// small for two snapshots holds those.
    ///
    /// # Errors
    /// When the directory cannot be made or read.
    pub fn open(state_directory: &Path, limit: u64) -> io::Result<Self> {
        let directory = state_directory.join(DIRECTORY);
        DirBuilder::new().recursive(true).mode(0o750).create(&directory)?;
        let read = read(state_directory, None)?;
        let next = read.events.last().map_or(1, |event| event.seq + 1);
        let mut state = State::default();
        read.events.iter().for_each(|event| state.take(event));
        // A file that holds no readable event has a number, too.
        let next = files(&directory)?.last().map_or(next, |(first, _)| next.max(first + 1));
        Ok(Self { directory, limit, next, state, file: None })
    }

    /// Changes the limit; what is over it goes with the next file.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// The state after everything written.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Begins with a state: writes it as a snapshot.
    ///
    /// # Errors
    /// When it could not be written.
    pub fn begin(&mut self, state: State, now: Timestamp) -> io::Result<()> {
        self.state = state;
        self.start_file(now)
    }

    /// Numbers events and writes them in one call.
    ///
    /// # Errors
    /// When they could not be written; their numbers are used up.
    pub fn append(&mut self, events: &mut [Event], now: Timestamp) -> io::Result<()> {
        let size = self.limit / FILES;
        let full = self.file.as_ref().is_none_or(|file| file.bytes >= size.max(2 * file.snapshot));
        let ready = if full { self.start_file(now) } else { Ok(()) };
        let mut lines = Vec::new();
        for event in &mut *events {
            event.seq = self.next;
            self.next += 1;
            self.state.take(event);
            push_line(&mut lines, event)?;
        }
        ready?;
        let Some(written) = &mut self.file else { return Err(io::ErrorKind::NotFound.into()) };
        if let Err(error) = written.file.write_all(&lines) {
            // A part of a line may be there: the next lines go to another file.
            self.file = None;
            return Err(error);
        }
        written.bytes += lines.len() as u64;
        Ok(())
    }

    /// Makes everything written survive a power cut.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> io::Result<()> {
        self.file.as_ref().map_or(Ok(()), |written| written.file.sync_data())
    }

    /// Starts the next file, with a snapshot, and removes the oldest beyond the limit.
    fn start_file(&mut self, now: Timestamp) -> io::Result<()> {
        let state = serde_json::to_value(&self.state)?;
        let seq = self.next;
        self.next += 1;
        let snapshot = Event { seq, ..Event::new(Kind::Snapshot, now).with("state", state) };
        let mut line = Vec::new();
        push_line(&mut line, &snapshot)?;
        let path = self.directory.join(format!("{}{seq:020}{}", NAME.0, NAME.1));
        let mut file = OpenOptions::new().append(true).create(true).mode(0o640).open(&path)?;
        if file.seek(SeekFrom::End(0))? > 0 {
            line.insert(0, b'\n');
        }
        file.write_all(&line)?;
        let bytes = line.len() as u64;
        self.file = Some(Written { file, bytes, snapshot: bytes });
        self.remove_oldest()
    }

    /// Removes whole files from the oldest on, but never the one being written and never more than leaves room for
    /// one more file within the limit.
    fn remove_oldest(&self) -> io::Result<()> {
        let files = files(&self.directory)?;
        let sizes: Vec<u64> =
            files.iter().map(|(_, path)| fs::metadata(path).map_or(0, |file| file.len())).collect();
        let room = self.limit.saturating_sub(self.limit / FILES);
        let mut total: u64 = sizes.iter().sum();
        for ((_, path), size) in files.iter().zip(sizes).take(files.len().saturating_sub(1)) {
            if total <= room {
                break;
            }
            fs::remove_file(path)?;
            total -= size;
        }
        Ok(())
    }
}

fn push_line(lines: &mut Vec<u8>, event: &Event) -> io::Result<()> {
    serde_json::to_writer(&mut *lines, event)?;
    lines.push(b'\n');
    Ok(())
}

/// Reads the ring of a state directory; of files whose events all come before number `after` nothing. No ring is an
/// empty one.
///
/// # Errors
/// When the directory or a file cannot be read.
pub fn read(state_directory: &Path, after: Option<u64>) -> io::Result<Content> {
    let directory = state_directory.join(DIRECTORY);
    let files = match files(&directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Content::default()),
        files => files?,
    };
    let mut read = Content::default();
    for (index, (_, path)) in files.iter().enumerate() {
        let next = files.get(index + 1).map(|(first, _)| *first);
        if next.zip(after).is_some_and(|(next, after)| next <= after) {
            continue;
        }
        let mut bytes = Vec::new();
        match File::open(path).and_then(|mut file| file.read_to_end(&mut bytes)) {
            // Removed by the daemon meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            result => result?,
        };
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<Event>(line) {
                Ok(event) => read.events.push(event),
                Err(_) => read.unreadable += 1,
            }
        }
    }
    Ok(read)
}

/// The files by the number of their first event.
fn files(directory: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut files = Vec::new();
    for file in fs::read_dir(directory)? {
        let file = file?;
        let name = file.file_name();
        let number = name.to_str().and_then(|name| name.strip_prefix(NAME.0)?.strip_suffix(NAME.1));
        if let Some(number) = number.and_then(|number| number.parse().ok()) {
            files.push((number, file.path()));
        }
    }
    files.sort();
    Ok(files)
}

#[cfg(test)]
#[path = "ring_tests.rs"]
mod tests;
