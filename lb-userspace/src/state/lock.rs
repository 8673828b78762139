//! One daemon per bpffs directory.
//!
//! The lock is an flock(2) on the directory itself: it cannot go stale, and two daemons with different state
//! directories still meet.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock, major, minor};
use thiserror::Error;

use crate::failure::{Code, Failure};

/// Why the directory cannot be locked.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another daemon holds it.
    #[error(
        "lock {}: another weir{} runs on this directory; stop it, or give this one its own --bpffs",
        path.display(),
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Held {
        /// The directory.
        path: PathBuf,
        /// The holder, where it can be seen from this pid namespace.
        pid: Option<u32>,
    },
    /// The operating system refused.
    #[error("lock {}: {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl From<LockError> for Failure {
    fn from(error: LockError) -> Self {
        Self::new(Code::Failed, error.to_string())
    }
}

/// The lock; dropping it, or the end of the process, releases it.
#[derive(Debug)]
pub struct Lock {
    _directory: File,
}

impl Lock {
    /// Locks `directory`, which must exist.
    ///
    /// # Errors
    /// When another process holds the lock, or the directory cannot be opened.
    pub fn acquire(directory: &Path) -> Result<Self, LockError> {
        let failed = |source| LockError::Io { path: directory.to_owned(), source };
        let file = File::open(directory).map_err(failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _directory: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(LockError::Held { path: directory.to_owned(), pid: holder(&file) })
            }
            Err(error) => Err(failed(error.into())),
        }
    }
}

/// The process that holds the lock on an open directory, from /proc/locks.
fn holder(file: &File) -> Option<u32> {
    let data = file.metadata().ok()?;
    let locks = std::fs::read_to_string("/proc/locks").ok()?;
    find_holder(&locks, &format!("{:02x}:{:02x}:{}", major(data.dev()), minor(data.dev()), data.ino()))
}

/// The pid of the flock line for `object` (`major:minor:inode`, the numbers of the device in hexadecimal).
fn find_holder(locks: &str, object: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        match fields.as_slice() {
            [_, "FLOCK", _, _, pid, locked, ..] if *locked == object => {
                pid.parse().ok().filter(|pid| *pid != 0)
            }
            _ => None,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_daemon_is_refused_and_told_who_holds_the_lock() {
        let directory = tempfile::tempdir().expect("directory");
        let first = Lock::acquire(directory.path()).expect("locks");
        let error = Lock::acquire(directory.path()).expect_err("refused").to_string();
        let expected = format!("another weir (pid {}) runs on this directory", std::process::id());
        assert!(error.contains(&expected), "{error}");
        drop(first);
        Lock::acquire(directory.path()).expect("free again");
    }

    #[test]
    fn a_missing_directory_is_named() {
        let error = Lock::acquire(Path::new("/nonexistent/weir")).expect_err("refused").to_string();
        assert!(error.starts_with("lock /nonexistent/weir: "), "{error}");
    }

    #[test]
    fn the_holder_is_found_by_device_and_inode() {
        let locks = "1: POSIX  ADVISORY  WRITE 77 08:01:41 0 EOF\n\
                     2: FLOCK  ADVISORY  WRITE 88 08:01:41 0 EOF\n\
                     3: FLOCK  ADVISORY  WRITE 0 08:01:42 0 EOF\n\
                     3: -> FLOCK  ADVISORY  WRITE 99 08:01:43 0 EOF\n";
        assert_eq!(find_holder(locks, "08:01:41"), Some(88));
        assert_eq!(find_holder(locks, "08:01:42"), None);
        assert_eq!(find_holder(locks, "08:01:43"), None);
    }
}
