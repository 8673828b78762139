//! Where the instance lives: its directory in a bpffs, its lock, its state directory.

use std::fs;
use std::io;
use std::path::Path;

use crate::cli::args::Global;
use crate::failure::{Code, Failure};
use crate::maps::bpffs;
use crate::maps::pins::Pins;
use crate::state::lock::Lock;
use crate::state::store::Store;

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
    bpffs::ensure(root).map_err(|error| failed("mount bpffs for", root, error))?;
    if !bpffs::holds(root).map_err(|error| failed("look at", root, error))? {
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
    let store = Store::open(&paths.state_dir)?;
    Ok(Place { pins, store, _lock: lock })
}
