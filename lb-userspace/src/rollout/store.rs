//! Rollouts on disk: one JSON file in the state directory, replaced atomically.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::plan::Rollout;
use crate::failure::{Code, Failure};
use crate::state::store::replace;

const FILE: &str = "rollouts.json";
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    rollouts: Vec<Rollout>,
}

/// Reads the rollouts of a state directory; no file is none.
///
/// # Errors
/// A file that cannot be read, or is not what this version writes.
pub fn load(directory: &Path) -> Result<BTreeMap<String, Rollout>, Failure> {
    let path = directory.join(FILE);
    let failed = |cause: &dyn std::fmt::Display| {
        let path = path.display();
        Failure::new(Code::Failed, format!("read {path}: {cause}"))
    };
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        text => text.map_err(|error| failed(&error))?,
    };
    let document: Document = serde_json::from_str(&text).map_err(|error| failed(&error))?;
    if document.version != VERSION {
        return Err(failed(&format!("version {}, this weir reads {VERSION}", document.version)));
    }
    Ok(document.rollouts.into_iter().map(|rollout| (rollout.pool.clone(), rollout)).collect())
}

/// A file of rollouts that could not be read and is kept for the operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetAside {
    path: PathBuf,
    why: String,
}

impl SetAside {
    /// The problem as `status` tells it, until the file is removed.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        let told = || format!("rollouts are not in force: {}; kept as {}", self.why, self.path.display());
        self.path.exists().then(told)
    }
}

/// Reads the rollouts of a state directory; a file that cannot be read is moved aside.
#[must_use]
pub fn load_or_set_aside(directory: &Path) -> (BTreeMap<String, Rollout>, Option<SetAside>) {
    match load(directory) {
        Ok(rollouts) => (rollouts, None),
        Err(failure) => {
            let path = directory.join(format!("{FILE}.unreadable"));
            let why = match fs::rename(directory.join(FILE), &path) {
                Ok(()) => failure.message,
                Err(error) => format!("{}; move it aside: {error}", failure.message),
            };
            tracing::warn!("{why}");
            (BTreeMap::new(), Some(SetAside { path, why }))
        }
    }
}

/// Replaces the rollouts of a state directory.
///
/// # Errors
/// When they could not be made durable; the old ones are then in the file.
pub fn save<'a>(directory: &Path, rollouts: impl Iterator<Item = &'a Rollout>) -> Result<(), Failure> {
    let document = Document { version: VERSION, rollouts: rollouts.cloned().collect() };
    let bytes = serde_json::to_vec_pretty(&document);
    let bytes = bytes.map_err(|error| Failure::new(Code::Failed, format!("write {FILE}: {error}")))?;
    Ok(replace(directory, FILE, bytes)?)
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::*;
    use crate::rollout::guard::Guard;
    use crate::rollout::plan::{Stage, Steps};
    use crate::state::overlay::Note;

    #[test]
    fn rollouts_survive_a_restart_and_a_damaged_file_is_an_error() {
        let directory = tempfile::tempdir().expect("directory");
        assert_eq!(load(directory.path()), Ok(BTreeMap::new()));
        let since = Timestamp::constant(1_795_000_000, 0);
        let rollout = Rollout {
            pool: "web".to_owned(),
            canary: ["web-1".to_owned()].into(),
            stage: Stage::Running,
            percent: 35,
            steps: Some(Steps { by: 25, every_s: 120 }),
            guards: Guard::list("probe_p99_ms<50").expect("reads"),
            guard_exec: Some("true".to_owned()),
            since,
            why: String::new(),
            note: Note { by: "root".to_owned(), since, reason: "new build".to_owned() },
        };
        save(directory.path(), [&rollout].into_iter()).expect("saves");
        assert_eq!(load(directory.path()), Ok([("web".to_owned(), rollout)].into()));
        for text in ["", "{\"version\":1}", "{\"version\":2,\"rollouts\":[]}"] {
            fs::write(directory.path().join(FILE), text).expect("writes");
            let failure = load(directory.path()).expect_err("refused");
            assert!(failure.message.contains("rollouts.json"), "{failure}");
            let (rollouts, aside) = load_or_set_aside(directory.path());
            assert!(rollouts.is_empty() && aside.is_some_and(|aside| aside.problem().is_some()));
            assert_eq!(load(directory.path()), Ok(BTreeMap::new()), "out of the way");
        }
    }
}
