//! What a lab owns on this machine: a directory, a bpffs and namespaces, all under one unique name.
#![forbid(unsafe_code)]

use std::{
    fs::{self, File, TryLockError},
    io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::netns;

/// Where the labs of all processes have their directories.
const ROOT: &str = "/run/weir-lab";

/// Numbers the labs of this process.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A lab's name and everything under it, deleted when dropped.
///
/// The lock on its file lives as long as this process, so that a sweep knows a dead lab by its free lock.
#[derive(Debug)]
pub(crate) struct Claim {
    name: String,
    directory: PathBuf,
    _lock: File,
}

impl Claim {
    /// Claims a fresh name.
    pub(crate) fn new() -> Result<Self> {
        fs::create_dir_all(ROOT).with_context(|| format!("create {ROOT}: root is needed"))?;
        let _guard = guard()?;
        let name = format!("weirlab-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = Path::new(ROOT).join(&name);
        // A former process with this id may have left one.
        remove(&name).with_context(|| format!("remove stale lab {name}"))?;
        fs::create_dir(&directory).with_context(|| format!("create {}", directory.display()))?;
        let lock = File::create(directory.join("lock"))?;
        lock.lock()?;
        let claim = Self { name, directory, _lock: lock };
        fs::create_dir(claim.bpffs())?;
        mount("bpf", claim.bpffs(), "bpf", MountFlags::empty(), None)
            .with_context(|| format!("mount bpffs on {}", claim.bpffs().display()))?;
        Ok(claim)
    }

    /// The name, which prefixes those of the namespaces.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The directory for configurations and logs.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    /// A bpffs of its own: unmounting it drops all pins, whatever a test left there.
    pub(crate) fn bpffs(&self) -> PathBuf {
        self.directory.join("bpf")
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("remove lab {}: {error}", self.name);
        }
    }
}

/// Removes the labs of processes that died without doing so; returns their names.
pub(crate) fn sweep() -> Result<Vec<String>> {
    fs::create_dir_all(ROOT).with_context(|| format!("create {ROOT}: root is needed"))?;
    let _guard = guard()?;
    let mut swept = Vec::new();
    for entry in fs::read_dir(ROOT)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() && is_stale(&entry.path())? {
            let name = entry.file_name().to_string_lossy().into_owned();
            remove(&name).with_context(|| format!("remove stale lab {name}"))?;
            swept.push(name);
        }
    }
    Ok(swept)
}

/// Keeps sweeps away from directories that have no locked file yet.
fn guard() -> Result<File> {
    let file = File::create(Path::new(ROOT).join("guard"))?;
    file.lock()?;
    Ok(file)
}

fn is_stale(directory: &Path) -> Result<bool> {
    let file = match File::open(directory.join("lock")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error).with_context(|| format!("open {}/lock", directory.display())),
    };
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error.into()),
    }
}

/// Namespaces first, with their processes; then pins; the directory last, as it is what a sweep goes by.
fn remove(name: &str) -> io::Result<()> {
    let prefix = format!("{name}-");
    let entries = fs::read_dir(netns::NAMES).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    netns::delete(&names.filter(|name| name.starts_with(&prefix)).collect::<Vec<_>>());
    let directory = Path::new(ROOT).join(name);
    // Not mounted when set-up ended early.
    let _ = unmount(directory.join("bpf"), UnmountFlags::DETACH);
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
