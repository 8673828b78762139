//! Where the instance lives: its directory in a bpffs, its lock, its state directory.

use std::fs;
use std::io;
use std::path::Path;

use rustix::fs::statfs;
use rustix::mount::{MountFlags, mount};

use crate::cli::args::Global;
use crate::failure::{Code, Failure};
use crate::maps::pins::Pins;
use crate::state::lock::Lock;
use crate::state::store::Store;

/// `BPF_FS_MAGIC` (linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;
/// Where bpffs is mounted by convention.
const BPFFS: &str = "/sys/fs/bpf";

/// The instance's directories, held by this process.
pub(super) struct Place {
    pub(super) pins: Pins,
    pub(super) store: Store,
    /// Keeps a second daemon out for as long as it lives.
    _lock: Lock,
}

/// Makes the directories and takes the lock.
pub(super) fn take(paths: &Global) -> Result<Place, Failure> {
    let failed = |what: &str, path: &Path, error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::PermissionDenied => "; run as root",
            _ => "",
        };
        Failure::new(Code::Failed, format!("{what} {}: {error}{hint}", path.display()))
    };
    let root = &paths.bpffs;
    ensure_bpffs(root).map_err(|error| failed("mount bpffs for", root, error))?;
    if !on_bpffs(root).map_err(|error| failed("look at", root, error))? {
        return Err(Failure::new(
            Code::Failed,
            format!(
                "{}: not in a bpffs, so nothing can be pinned there; `mount -t bpf bpf DIR`",
                root.display()
            ),
        ));
    }
    fs::create_dir_all(root).map_err(|error| failed("make", root, error))?;
    let lock = Lock::acquire(root)?;
    let pins = Pins::new(root);
    pins.create().map_err(|error| failed("make directories in", root, error))?;
    let store = Store::open(&paths.state_dir)?;
    Ok(Place { pins, store, _lock: lock })
}

/// Mounts bpffs at its usual place, where `root` is below that and nobody has.
fn ensure_bpffs(root: &Path) -> io::Result<()> {
    if !root.starts_with(BPFFS) || on_bpffs(root)? {
        return Ok(());
    }
    mount("bpf", BPFFS, "bpf", MountFlags::empty(), None)?;
    tracing::info!("mounted bpffs at {BPFFS}");
    Ok(())
}

/// Whether `path`, or the closest ancestor that exists, is in a bpffs.
fn on_bpffs(path: &Path) -> io::Result<bool> {
    let existing = path.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    Ok(statfs(existing)?.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC)
}
