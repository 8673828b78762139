//! Runtime changes on disk: one JSON file in the state directory, replaced atomically.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::denied::{Denial, Denied, Target};
use super::limited::{LimitChange, Limited};
use super::overlay::{BackendName, Entry, Overlay};
use crate::failure::{Code, Failure};

/// Version of the file.
const VERSION: u32 = 1;
/// Name of the file in the state directory.
const FILE: &str = "runtime.json";
/// What names of files that could not be read begin with.
const ASIDE: &str = "runtime.json.unreadable-";

/// Why runtime changes cannot be read or written.
#[derive(Debug, Error)]
pub enum StateError {
    /// The operating system refused.
    #[error("{operation} {}: {source}", path.display())]
    Io {
        /// `read`, `write`, ….
        operation: &'static str,
        /// Of what.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Written by a newer weir.
    #[error(
        "read {}: version {found}, this weir reads {VERSION}; run the weir that wrote it, or move the file away",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

impl From<StateError> for Failure {
    fn from(error: StateError) -> Self {
        Self::new(Code::Failed, error.to_string())
    }
}

/// A file of runtime changes that could not be read and is kept for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    /// Where it is kept.
    pub path: PathBuf,
}

impl SetAside {
    /// The problem as `status` and the log tell it.
    #[must_use]
    pub fn problem(&self) -> String {
        format!(
            "runtime changes could not be read and are not in force: repeat them, then remove {}",
            self.path.display()
        )
    }
}

/// What a state directory holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Loaded {
    /// The changes.
    pub overlay: Overlay,
    /// Files that could not be read, from this time or an earlier one, until the operator removes them.
    pub set_aside: Vec<SetAside>,
}

/// The state directory.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    backends: Vec<Row>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    denied: Vec<DeniedRow>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    limited: BTreeMap<String, LimitChange>,
}

#[derive(Serialize, Deserialize)]
struct DeniedRow {
    #[serde(flatten)]
    target: Target,
    #[serde(flatten)]
    denial: Denial,
}

#[derive(Serialize, Deserialize)]
struct Row {
    #[serde(flatten)]
    backend: BackendName,
    #[serde(flatten)]
    entry: Entry,
}

#[derive(Deserialize)]
struct Version {
    version: u32,
}

impl Store {
    /// The state directory at `directory`, made where it is missing (0750).
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(directory: &Path) -> Result<Self, StateError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(directory)
            .map_err(|source| io_error("create", directory, source))?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// The state directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The file of the changes.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Reads the changes; no file is no change. A file that is not what weir writes is moved aside and reported, now
    /// and at every later call until it is removed.
    ///
    /// # Errors
    /// When the file cannot be read or moved, or is of a newer version.
    pub fn load(&self, now: Timestamp) -> Result<Loaded, StateError> {
        let path = self.path();
        let overlay = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Overlay::default(),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => self.move_aside(now)?,
            Err(source) => return Err(io_error("read", &path, source)),
            Ok(text) => match serde_json::from_str::<Version>(&text) {
                Ok(Version { version }) if version > VERSION => {
                    return Err(StateError::Version { path, found: version });
                }
                _ => match parse(&text) {
                    Some(overlay) => overlay,
                    None => self.move_aside(now)?,
                },
            },
        };
        Ok(Loaded { overlay, set_aside: self.set_aside()? })
    }

    /// Replaces the changes on disk. After a crash at any point the file holds the old or the new ones.
    ///
    /// # Errors
    /// When they could not be made durable; the old ones are then in the file.
    pub fn save(&self, overlay: &Overlay) -> Result<(), StateError> {
        let rows = overlay.entries.iter();
        let backends = rows.map(|(backend, entry)| Row { backend: backend.clone(), entry: entry.clone() });
        let rows = overlay.denied.entries.iter();
        let denied =
            rows.map(|(target, denial)| DeniedRow { target: target.clone(), denial: denial.clone() });
        let limited = overlay.limited.entries.clone();
        let document =
            Document { version: VERSION, backends: backends.collect(), denied: denied.collect(), limited };
        let path = self.path();
        let failed = |source| io_error("write", &path, source);
        let bytes = serde_json::to_vec_pretty(&document).map_err(|error| failed(error.into()))?;
        replace(&self.directory, FILE, bytes)
    }

    fn move_aside(&self, now: Timestamp) -> Result<Overlay, StateError> {
        let (from, to) = (self.path(), self.directory.join(format!("{ASIDE}{}", now.as_millisecond())));
        fs::rename(&from, &to).map_err(|source| io_error("move aside", &from, source))?;
        Ok(Overlay::default())
    }

    fn set_aside(&self) -> Result<Vec<SetAside>, StateError> {
        let failed = |source| io_error("list", &self.directory, source);
        let mut kept = Vec::new();
        for file in fs::read_dir(&self.directory).map_err(failed)? {
            let file = file.map_err(failed)?;
            if file.file_name().to_string_lossy().starts_with(ASIDE) {
                kept.push(SetAside { path: file.path() });
            }
        }
        kept.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(kept)
    }
}

/// Replaces a file of a state directory, which then ends in a newline. After a crash at any point it is the old or the
/// new one.
///
/// # Errors
/// When it could not be made durable; the old one is then in place.
pub(crate) fn replace(directory: &Path, name: &str, mut bytes: Vec<u8>) -> Result<(), StateError> {
    let path = directory.join(name);
    let failed = |source| io_error("write", &path, source);
    bytes.push(b'\n');
    let next = directory.join(format!(".{name}.next"));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&next).map_err(failed)?;
    file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&next, &path).map_err(failed)?;
    // The name is durable once the directory is.
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed)
}

fn parse(text: &str) -> Option<Overlay> {
    let document: Document = serde_json::from_str(text).ok()?;
    let entries = document.backends.into_iter().map(|row| (row.backend, row.entry)).collect();
    let denied = document.denied.into_iter().map(|row| (row.target, row.denial)).collect();
    let limited = Limited { entries: document.limited };
    (document.version == VERSION).then_some(Overlay { entries, denied: Denied { entries: denied }, limited })
}

fn io_error(operation: &'static str, path: &Path, source: io::Error) -> StateError {
    StateError::Io { operation, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::super::overlay::{AdminChange, Note, Out, WeightChange};
    use super::*;
    use crate::health::pool_view::Remaining;

    const NOW: Timestamp = Timestamp::constant(1_795_000_000, 0);

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().expect("directory");
        let store = Store::open(&directory.path().join("weir")).expect("opens");
        (directory, store)
    }

    fn overlay() -> Overlay {
        let note = || Note { by: "root".to_owned(), since: NOW, reason: "kernel update".to_owned() };
        let mut overlay = Overlay::default();
        let web_1 = BackendName::new("web", "web-1");
        overlay.set_admin(
            &web_1,
            Some(AdminChange {
                state: Out::Draining,
                remaining: Remaining::Reset,
                until: Some(NOW),
                note: note(),
            }),
        );
        overlay.set_weight(
            &web_1,
            Some(WeightChange { weight: 50, file_weight: 100, until: None, note: note() }),
        );
        overlay.set_admin(
            &BackendName::new("api", "gone"),
            Some(AdminChange {
                state: Out::Maintenance,
                remaining: Remaining::Usual,
                until: None,
                note: note(),
            }),
        );
        let target = |vip| Target { vip, prefix: "192.0.2.0/24".parse().expect("a prefix") };
        let denial = |until| Denial { until, note: note() };
        let entries = [(target(None), denial(None)), (target(Some("edge".to_owned())), denial(Some(NOW)))];
        let limit = |text: &str| serde_json::from_str(text).expect("a limit");
        let limit = limit(r#"{"per_source":"100/s","prefix_v4":24,"prefix_v6":64,"total":null}"#);
        let changes = [Some(limit), None].map(|limit| LimitChange { limit, until: Some(NOW), note: note() });
        let limited = ["web".to_owned(), "api".to_owned()].into_iter().zip(changes).collect();
        overlay.with_denied(Denied { entries: entries.into() }).with_limited(Limited { entries: limited })
    }

    #[test]
    fn changes_survive_a_restart() {
        let (_directory, store) = store();
        assert_eq!(store.load(NOW).expect("loads"), Loaded::default());
        store.save(&overlay()).expect("saves");
        let again = Store::open(&store.directory).expect("opens");
        assert_eq!(again.load(NOW).expect("loads"), Loaded { overlay: overlay(), set_aside: Vec::new() });
    }

    #[test]
    fn an_interrupted_write_leaves_the_changes_before_it() {
        let (_directory, store) = store();
        store.save(&overlay()).expect("saves");
        fs::write(store.directory.join(".runtime.json.next"), "{\"vers").expect("writes");
        assert_eq!(store.load(NOW).expect("loads").overlay, overlay());
        store.save(&Overlay::default()).expect("saves");
        assert_eq!(store.load(NOW).expect("loads"), Loaded::default());
    }

    #[test]
    fn a_file_that_cannot_be_read_is_kept_and_reported_until_it_is_removed() {
        for content in
            [&b"{\"version\":1,\"backends\":[{\"pool\""[..], b"", b"\xff\xfe", b"{\"version\":1}", b"[]"]
        {
            let (_directory, store) = store();
            fs::write(store.path(), content).expect("writes");
            for _ in 0..2 {
                let loaded = store.load(NOW).expect("loads");
                assert_eq!((loaded.overlay, loaded.set_aside.len()), (Overlay::default(), 1));
                let kept = &loaded.set_aside[0];
                assert_eq!(fs::read(&kept.path).expect("kept"), content);
                assert!(kept.problem().contains(&kept.path.display().to_string()));
            }
            let kept = store.load(NOW).expect("loads").set_aside.remove(0);
            fs::remove_file(kept.path).expect("removes");
            assert_eq!(store.load(NOW).expect("loads"), Loaded::default());
        }
    }

    #[test]
    fn a_file_of_a_newer_version_is_refused_and_left_alone() {
        let (_directory, store) = store();
        fs::write(store.path(), "{\"version\":2,\"all\":\"new\"}").expect("writes");
        let error = store.load(NOW).expect_err("refused").to_string();
        assert!(error.contains("version 2, this weir reads 1"), "{error}");
        assert!(store.path().exists());
    }
}
