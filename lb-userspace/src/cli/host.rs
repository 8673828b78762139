//! What verbs do in this process, besides asking the daemon.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::args::Global;
use crate::capture::{Captured, Rules};
use crate::decap;
use crate::explain::{Explained, ExplainedFrames, Frames};
use crate::failure::Failure;
use crate::log::LogOptions;
use crate::maps::set::MapSet;
use crate::view::check::Checked;
use crate::view::from_maps::{Counters, FlowRow};
use crate::view::status::Interface;
use crate::view::{Api, Render};

/// The parts of weir that touch the kernel and the config, as the verbs need them.
pub trait Host {
    /// Runs the daemon until it is told to stop.
    ///
    /// # Errors
    /// Why it could not start, or ended.
    fn run(&self, paths: &Global, log: &LogOptions) -> Result<(), Failure>;

    /// Validates a config. An invalid one is an answer, not an error.
    ///
    /// # Errors
    /// When validation itself fails.
    fn check(&self, file: &Path) -> Result<Checked, Failure>;

    /// Takes the program off the interfaces and removes everything pinned under `bpffs`. The caller holds the lock
    /// or was told to go on without. Nothing pinned is an empty answer.
    ///
    /// # Errors
    /// What could not be removed.
    fn detach(&self, bpffs: &Path) -> Result<Detached, Failure>;

    /// Opens the maps pinned under `bpffs`, read only.
    ///
    /// # Errors
    /// Not found where nothing is pinned; what keeps them from being read.
    fn pinned(&self, bpffs: &Path) -> Result<Pinned, Failure>;

    /// Explains frames with the program and maps pinned under `bpffs`.
    ///
    /// # Errors
    /// Not found where nothing is pinned; an interface that does not exist; what keeps frames from being run.
    fn explain_pinned(&self, bpffs: &Path, request: &Frames) -> Result<ExplainedFrames, Failure>;

    /// Explains frames with a private instance of a config, and hands each answer over as it comes.
    ///
    /// # Errors
    /// An invalid config; what keeps frames from being run; what `each` says.
    fn explain_offline(
        &self,
        config: &Path,
        frames: &[Vec<u8>],
        each: &mut dyn FnMut(Explained) -> Result<(), Failure>,
    ) -> Result<(), Failure>;

    /// Attaches the backend's programs; what is pinned under `bpffs` is taken over.
    ///
    /// # Errors
    /// What keeps an interface from being attached; nothing was changed then.
    fn decap(&self, bpffs: &Path, settings: &decap::Settings) -> Result<decap::Status, Failure>;

    /// What the backend's programs did.
    ///
    /// # Errors
    /// Not found where nothing is pinned; what keeps it from being read.
    fn decap_status(&self, bpffs: &Path) -> Result<decap::Status, Failure>;

    /// Takes the backend's programs off and removes everything pinned under `bpffs`. Nothing pinned is an empty answer.
    ///
    /// # Errors
    /// What could not be removed.
    fn decap_detach(&self, bpffs: &Path) -> Result<Detached, Failure>;

    /// Writes sampled frames of the instance pinned under `bpffs` to a file, `-` for stdout, until the rules or an
    /// interrupt end it.
    ///
    /// # Errors
    /// Where nothing is pinned or attached, another capture runs, or the file cannot be written.
    fn capture(&self, bpffs: &Path, file: &Path, rules: Rules) -> Result<Captured, Failure>;

    /// The live entries of the flow tables.
    fn flow_rows<'a>(&self, maps: &'a MapSet) -> Box<dyn Iterator<Item = FlowRow> + 'a>;
}

/// Pinned objects, opened for reading.
pub struct Pinned {
    /// The array maps.
    pub maps: MapSet,
    /// Counters, summed.
    pub counters: Counters,
    /// Interfaces with a pinned link.
    pub interfaces: Vec<Interface>,
}

/// The document of `weir detach`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Detached {
    /// Version mark.
    pub api: Api,
    /// Interfaces that the program was attached to.
    pub interfaces: Vec<String>,
    /// Paths of the objects removed.
    pub unpinned: Vec<String>,
}

impl Render for Detached {
    fn render(&self, _now: Timestamp) -> String {
        if self.interfaces.is_empty() && self.unpinned.is_empty() {
            return "nothing was attached or pinned\n".to_owned();
        }
        let interfaces: String =
            self.interfaces.iter().map(|name| format!("detached from {name}\n")).collect();
        format!("{interfaces}removed {} pinned objects\n", self.unpinned.len())
    }
}
