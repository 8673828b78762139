//! Where an instance's objects are pinned, and whether what is there fits.

use std::fs;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{MapData, MapType};
use lb_common::layout::{CARRIED_SINCE, LAYOUT_VERSION, MAGIC, Meta, MetaHead};
use thiserror::Error;

use super::mapping::{Access, MapValue, Mapping};
use super::schema::{self, Kind, MapSpec};
use super::set::{MapSet, MapSource};
use super::sizes::Sizes;

/// `BPF_F_MMAPABLE` (linux/bpf.h).
const MMAPABLE: u32 = 1 << 10;

/// Pinned programs, and what a start that was cut off leaves.
const PROGRAMS: [&str; 8] = [
    "program",
    "stages",
    "explain",
    "program_next",
    "stages_next",
    "stages_explain",
    "stages_capture",
    "link_next",
];

/// The pinned objects of an instance: `program`, `links/<interface>`, `maps/<name>`.
#[derive(Clone, Debug)]
pub struct Pins {
    root: PathBuf,
    maps: PathBuf,
}

/// Why pinned maps cannot be opened.
#[derive(Debug, Error)]
pub enum PinError {
    /// Nothing is pinned.
    #[error("no pinned maps in {0}: weir has not run here, or `weir detach` removed them")]
    Absent(PathBuf),
    /// Not allowed, or not a BPF object.
    #[error("open pinned map {path}: {cause}; run as root or with CAP_BPF")]
    Open {
        /// The pin.
        path: PathBuf,
        /// What the kernel says.
        cause: String,
    },
    /// Not weir's, of another version, or damaged.
    #[error("pinned maps in {path}: {what}; `weir detach` removes them")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Of a version that a start takes over.
    #[error(
        "pinned maps in {path}: layout version {theirs}, this weir reads version {ours}; `weir run` takes their flows over"
    )]
    Older {
        /// The directory.
        path: PathBuf,
        /// Their version.
        theirs: u32,
        /// The version that this weir reads.
        ours: u32,
    },
    /// mmap(2) failed.
    #[error("map {path} into memory: {cause}")]
    Memory {
        /// The pin.
        path: PathBuf,
        /// What the kernel says.
        cause: io::Error,
    },
}

impl Pins {
    /// The pins below `root`, for example `/sys/fs/bpf/weir`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), maps: root.join("maps") }
    }

    /// The same instance with its maps in a directory beside `maps`, where their successors are prepared.
    #[must_use]
    pub fn successor(&self) -> Self {
        Self { root: self.root.clone(), maps: self.root.join("maps_next") }
    }

    /// The directory of the instance.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory of the maps.
    #[must_use]
    pub fn maps(&self) -> &Path {
        &self.maps
    }

    /// The pin of a map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps.join(name)
    }

    /// The pin of the packet program.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.root.join("program")
    }

    /// The pin of the program that explains; the first explanation makes it.
    #[must_use]
    pub fn explain(&self) -> PathBuf {
        self.root.join("explain")
    }

    /// The pin of the stages of the program that explains.
    #[must_use]
    pub fn stages_explain(&self) -> PathBuf {
        self.root.join("stages_explain")
    }

    /// The pin of the program array of the stages.
    #[must_use]
    pub fn stages(&self) -> PathBuf {
        self.root.join("stages")
    }

    /// The pin of the stages of a program that is being attached.
    #[must_use]
    pub fn stages_next(&self) -> PathBuf {
        self.root.join("stages_next")
    }

    /// The pin of the stages of a capture's program.
    #[must_use]
    pub fn stages_capture(&self) -> PathBuf {
        self.root.join("stages_capture")
    }

    /// The directory of the links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// The pin of an interface's link. A bpffs takes no names with dots, an interface none with colons.
    #[must_use]
    pub fn link(&self, interface: &str) -> PathBuf {
        self.links().join(interface.replace('.', ":"))
    }

    /// Makes the directories.
    ///
    /// # Errors
    /// Those of mkdir(2).
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(&self.maps)?;
        fs::create_dir_all(self.links())
    }

    /// Whether maps are pinned, as far as this process may see.
    #[must_use]
    pub fn exist(&self) -> bool {
        self.map("meta").exists()
    }

    /// Whether maps are pinned.
    ///
    /// # Errors
    /// Where this process may not look.
    pub fn try_exist(&self) -> Result<bool, PinError> {
        let path = self.map("meta");
        path.try_exists().map_err(|error| PinError::Open { path, cause: error.to_string() })
    }

    /// Whether the maps were never described: the start that made them was killed before anything ran on them.
    ///
    /// # Errors
    /// Where what is pinned as `meta` cannot be read as such.
    pub fn unfinished(&self) -> Result<bool, PinError> {
        let MetaHead { magic, layout_version, .. } = self.head()?;
        Ok((magic, layout_version) == (0, 0))
    }

    /// Removes the maps' pins; `meta` first, by which the others are found to be there.
    ///
    /// # Errors
    /// Those of unlink(2) and rmdir(2).
    pub fn remove_maps(&self) -> io::Result<()> {
        ignore_missing(fs::remove_file(self.map("meta")))?;
        remove_dir(&self.maps)
    }

    /// Every pin of the instance that exists.
    ///
    /// # Errors
    /// Those of readdir(3).
    pub fn all(&self) -> io::Result<Vec<PathBuf>> {
        let mut pins = Vec::new();
        for directory in [self.links(), self.maps.clone(), self.successor().maps] {
            match fs::read_dir(&directory) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
                Ok(entries) => {
                    for entry in entries {
                        pins.push(entry?.path());
                    }
                }
            }
        }
        pins.extend(PROGRAMS.iter().map(|name| self.root.join(name)).filter(|path| path.exists()));
        Ok(pins)
    }

    /// Removes every pin of the instance, and its directory.
    ///
    /// # Errors
    /// Those of unlink(2) and rmdir(2); a missing pin is none.
    pub fn remove_all(&self) -> io::Result<()> {
        remove_dir(&self.successor().maps)?;
        // Before the links: a daemon that still runs sees by it that the instance is taken down.
        ignore_missing(fs::remove_file(self.map("meta")))?;
        remove_dir(&self.links())?;
        // After the links, though the kernel may take longer over those: whoever wants no packet lost holds the maps
        // open until the program is gone.
        for name in PROGRAMS {
            ignore_missing(fs::remove_file(self.root.join(name)))?;
        }
        remove_dir(&self.maps)?;
        // Other files in the directory are not weir's to remove.
        match fs::remove_dir(&self.root) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            other => ignore_missing(other),
        }
    }

    /// Reads the `meta` map.
    ///
    /// # Errors
    /// Where it is absent, unreadable, or not of this layout.
    pub fn meta(&self) -> Result<Meta, PinError> {
        if !self.try_exist()? {
            return Err(PinError::Absent(self.maps.clone()));
        }
        let MetaHead { magic, layout_version: theirs, .. } = self.head()?;
        if magic != MAGIC {
            return Err(self.foreign("not made by weir, or never finished".to_owned()));
        }
        match theirs {
            LAYOUT_VERSION => {
                let spec = schema::maps(&Sizes::NONE)[0];
                self.open(&spec, Access::ReadOnly).map(|meta: Mapping<Meta>| meta[0])
            }
            CARRIED_SINCE..LAYOUT_VERSION => {
                Err(PinError::Older { path: self.maps.clone(), theirs, ours: LAYOUT_VERSION })
            }
            _ => {
                Err(self
                    .foreign(format!("layout version {theirs}, this weir reads version {LAYOUT_VERSION}")))
            }
        }
    }

    fn head(&self) -> Result<MetaHead, PinError> {
        self.open_beginnings("meta").map(|head: Mapping<MetaHead>| head[0])
    }

    /// Opens an array map of which each value begins with a `T`, for reading. One value, or values of its very size.
    fn open_beginnings<T: MapValue>(&self, pin: &str) -> Result<Mapping<T>, PinError> {
        let path = self.map(pin);
        let open =
            |cause: &dyn std::error::Error| PinError::Open { path: path.clone(), cause: innermost(cause) };
        let data = MapData::from_pin(&path).map_err(|error| open(&error))?;
        let info = data.info().map_err(|error| open(&error))?;
        let (size, entries) = (info.value_size() as usize, info.max_entries() as usize);
        let fits = size == size_of::<T>() || size > size_of::<T>() && entries == 1;
        let shared = info.map_flags() & MMAPABLE != 0;
        if info.map_type().map_err(|error| open(&error))? != MapType::Array || !shared || !fits {
            return Err(self.foreign(format!("{pin}: {entries} values of {size} bytes")));
        }
        Mapping::of_map(data.fd().as_fd(), entries, Access::ReadOnly)
            .map_err(|cause| PinError::Memory { path, cause })
    }

    /// Opens what a start takes over ([`CARRIED_SINCE`]), of whatever sizes. The other maps are empty ones.
    ///
    /// # Errors
    /// Where one is absent, unreadable, or has values of another size.
    pub fn open_carried(&self) -> Result<MapSet, PinError> {
        let memory = |cause| PinError::Memory { path: self.maps.clone(), cause };
        let rest = MapSet::anonymous(&Sizes::NONE).map_err(memory)?;
        let secret = self.head()?.secret;
        rest.meta.update(0, |meta| meta.geometry.secret = secret);
        Ok(MapSet {
            backends: self.open_beginnings("backends")?,
            flows_v4: self.open_beginnings("flows_v4")?,
            flows_v6: self.open_beginnings("flows_v6")?,
            backend_info: self.open_beginnings("backend_info")?,
            service_info: self.open_beginnings("service_info")?,
            pool_info: self.open_beginnings("pool_info")?,
            vip_info: self.open_beginnings("vip_info")?,
            ..rest
        })
    }

    /// Opens all array maps; their sizes are those that `meta` implies.
    ///
    /// # Errors
    /// Where one is absent, unreadable, or of another type or size.
    pub fn open_set(&self, sizes: &Sizes, access: Access) -> Result<MapSet, PinError> {
        MapSet::open(self, sizes, access)
    }

    /// Checks that every map is pinned with the type and size of these sizes.
    ///
    /// # Errors
    /// The first that is not.
    pub fn check(&self, sizes: &Sizes) -> Result<(), PinError> {
        schema::maps(sizes).iter().try_for_each(|spec| self.checked(spec).map(drop))
    }

    /// Opens a map of the expected type and size.
    fn checked(&self, spec: &MapSpec) -> Result<OwnedFd, PinError> {
        let path = self.map(spec.pin);
        let open =
            |cause: &dyn std::error::Error| PinError::Open { path: path.clone(), cause: innermost(cause) };
        let data = MapData::from_pin(&path).map_err(|error| open(&error))?;
        let info = data.info().map_err(|error| open(&error))?;
        let (kind, flags) = match spec.kind {
            Kind::Shared => (MapType::Array, MMAPABLE),
            Kind::PerCpu => (MapType::PerCpuArray, 0),
            Kind::Ports => (MapType::DevMapHash, 0),
            Kind::Programs => (MapType::ProgramArray, 0),
        };
        let found = (info.value_size(), info.max_entries(), info.map_flags() & MMAPABLE);
        let expected = (spec.value_size, spec.entries, flags);
        if info.map_type().map_err(|error| open(&error))? != kind || found != expected {
            return Err(self.foreign(format!(
                "{}: {} values of {} bytes where {} of {} are expected",
                spec.pin, found.1, found.0, expected.1, expected.0
            )));
        }
        data.fd().as_fd().try_clone_to_owned().map_err(|error| open(&error))
    }

    fn foreign(&self, what: String) -> PinError {
        PinError::Foreign { path: self.maps.clone(), what }
    }
}

impl MapSource for Pins {
    fn open<T: MapValue>(&self, spec: &MapSpec, access: Access) -> Result<Mapping<T>, PinError> {
        let fd = self.checked(spec)?;
        Mapping::of_map(fd.as_fd(), spec.entries as usize, access)
            .map_err(|cause| PinError::Memory { path: self.map(spec.pin), cause })
    }
}

/// The text of the last cause: what the kernel said.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(entries) => {
            for entry in entries {
                ignore_missing(fs::remove_file(entry?.path()))?;
            }
            ignore_missing(fs::remove_dir(path))
        }
    }
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
