//! Network namespaces by name, and running code inside them.
#![forbid(unsafe_code)]

use std::{
    fs::{self, File},
    os::{fd::AsFd, unix::fs::MetadataExt},
    panic,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};
use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
    process::{Pid, Signal, kill_process},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

/// Where `ip netns` keeps names; the namespaces can be looked into with `ip -n NAME …`.
pub(crate) const NAMES: &str = "/run/netns";

/// A handle on a network namespace. Clones share it; the name is deleted by the lab.
#[derive(Clone, Debug)]
pub struct Netns {
    name: Arc<str>,
    file: Arc<File>,
}

impl Netns {
    /// Opens a namespace by its name.
    pub(crate) fn open(name: &str) -> Result<Self> {
        let path = Path::new(NAMES).join(name);
        let file = File::open(&path).with_context(|| format!("open network namespace {}", path.display()))?;
        Ok(Self { name: name.into(), file: file.into() })
    }

    /// The name, as in `ip netns list`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Moves the calling thread into the namespace for the rest of its life.
    ///
    /// Sockets and processes that the thread creates belong there, and `/proc/sys/net` is the namespace's.
    pub fn enter(&self) -> Result<()> {
        move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))
            .with_context(|| format!("enter network namespace {}: root is needed", self.name))
    }

    /// Runs a closure inside the namespace, on a thread of its own, and hands back what it returns.
    ///
    /// # Panics
    /// Panics when the closure does, and when the namespace cannot be entered.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                self.enter().expect("the namespace is open and the lab runs as root");
                work()
            });
            thread.join().unwrap_or_else(|payload| panic::resume_unwind(payload))
        })
    }
}

/// Kills every process of the namespaces with a name, and deletes the names.
///
/// The kernel removes the interfaces once no process and no socket is left in them.
pub(crate) fn delete(names: &[String]) {
    let paths: Vec<PathBuf> = names.iter().map(|name| Path::new(NAMES).join(name)).collect();
    let inodes: Vec<u64> = paths.iter().filter_map(|path| Some(fs::metadata(path).ok()?.ino())).collect();
    for pid in processes_in(&inodes) {
        // A process that ended meanwhile is as good as killed.
        let _ = kill_process(pid, Signal::KILL);
    }
    for path in paths {
        match unmount(&path, UnmountFlags::DETACH) {
            Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
            Err(error) => eprintln!("delete network namespace {}: {error}", path.display()),
        }
        let _ = fs::remove_file(path);
    }
}

/// Processes whose main thread is in one of the namespaces with an inode number.
fn processes_in(inodes: &[u64]) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let in_namespace = |pid: i32| {
        let inode = fs::metadata(format!("/proc/{pid}/ns/net")).map(|metadata| metadata.ino());
        inode.is_ok_and(|inode| inodes.contains(&inode))
    };
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid| in_namespace(*pid))
        .filter_map(Pid::from_raw)
        .collect()
}
