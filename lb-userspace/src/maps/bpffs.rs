//! The filesystem that pins live in.

use std::io;
use std::path::Path;

use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};

/// Where bpffs is mounted by convention.
pub const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// Mounts bpffs at its usual place, where `path` is there or below and nobody has.
///
/// # Errors
/// Those of statfs(2) and mount(2).
pub fn ensure(path: &Path) -> io::Result<()> {
    if !path.starts_with(BPFFS) || holds(path)? {
        return Ok(());
    }
    mount("bpf", BPFFS, "bpf", MountFlags::empty(), None)?;
    tracing::info!("mounted bpffs at {BPFFS}");
    Ok(())
}

/// Whether `path`, or the closest ancestor that exists, is in a bpffs.
///
/// # Errors
/// Those of statfs(2).
pub fn holds(path: &Path) -> io::Result<bool> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    Ok(statfs(existing)?.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC)
}
