//! The program that gets what weir passes: found, judged, put into its place.

use std::path::{Path, PathBuf};

use aya::maps::{Map, MapData, MapError, ProgramArray};
use aya::programs::{ProgramInfo, Xdp};
use aya_obj::generated::bpf_prog_type;
use aya_obj::programs::XdpAttachType;
use thiserror::Error;

use super::pins::{PinError, Pins, innermost};

/// Why a program cannot get what weir passes.
#[derive(Debug, Error)]
pub enum NextProgramError {
    /// Nothing is pinned there, or it cannot be opened.
    #[error("next_program {path}: {cause}; pin an XDP program there before weir is started or reloaded")]
    Open {
        /// The pin.
        path: PathBuf,
        /// What the kernel says.
        cause: String,
    },
    /// It is one of weir's.
    #[error("next_program {path}: this is weir's own; name the program that is to get what weir passes")]
    Own {
        /// The pin.
        path: PathBuf,
    },
    /// It is of another type.
    #[error("next_program {path}: a program of type {found}, not xdp")]
    Type {
        /// The pin.
        path: PathBuf,
        /// Its type.
        found: String,
    },
    /// The kernel does not let weir's program call it.
    #[error(
        "next_program {path}: the kernel refuses to call it from weir's program ({cause}); it must be an XDP program \
         without multi-buffer support (section `xdp`, not `xdp.frags`), not bound to a device"
    )]
    Unfit {
        /// The pin.
        path: PathBuf,
        /// What the kernel says.
        cause: String,
    },
    /// The place cannot be opened.
    #[error(transparent)]
    Place(#[from] PinError),
}

/// A program that was found and judged, or none; and the place for it.
pub struct NextProgram {
    place: ProgramArray<MapData>,
    at: PathBuf,
    program: Option<(PathBuf, Xdp)>,
}

impl NextProgram {
    /// Puts the program into its place, or empties that. Packets in flight finish with the one before.
    ///
    /// # Errors
    /// The place is then as it was.
    pub fn put(mut self) -> Result<(), NextProgramError> {
        let Some((path, program)) = self.program else {
            return match self.place.clear_index(&0) {
                Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
                // What is empty already.
                Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(2) => Ok(()),
                Err(error) => Err(PinError::Open { path: self.at, cause: innermost(&error) }.into()),
            };
        };
        let fd = program
            .fd()
            .map_err(|error| NextProgramError::Open { path: path.clone(), cause: innermost(&error) })?;
        let put = self.place.set(0, fd, 0);
        put.map_err(|error| NextProgramError::Unfit { path, cause: innermost(&error) })
    }
}

/// Finds the program pinned at `path`, or none where there is no path.
///
/// # Errors
/// Where it cannot follow weir's; only the kernel's own answer is left for [`NextProgram::put`].
pub fn find(pins: &Pins, path: Option<&Path>) -> Result<NextProgram, NextProgramError> {
    let (place, at) = (place(pins)?, pins.map("next_program"));
    let Some(path) = path else { return Ok(NextProgram { place, at, program: None }) };
    let open = |cause: String| NextProgramError::Open { path: path.to_owned(), cause };
    if !path.exists() {
        return Err(open("nothing is pinned there".to_owned()));
    }
    let info = ProgramInfo::from_pin(path).map_err(|error| open(innermost(&error)))?;
    match info.program_type() {
        bpf_prog_type::BPF_PROG_TYPE_XDP => {}
        found => {
            let found = format!("{found:?}").trim_start_matches("BPF_PROG_TYPE_").to_lowercase();
            return Err(NextProgramError::Type { path: path.to_owned(), found });
        }
    }
    if own(pins, &info) || path.starts_with(pins.root()) {
        return Err(NextProgramError::Own { path: path.to_owned() });
    }
    let program = Xdp::from_pin(path, XdpAttachType::Interface).map_err(|error| open(innermost(&error)))?;
    Ok(NextProgram { place, at, program: Some((path.to_owned(), program)) })
}

/// Whether a program is one that is pinned for this instance.
fn own(pins: &Pins, info: &ProgramInfo) -> bool {
    [pins.program(), pins.explain()]
        .iter()
        .filter(|pin| pin.exists())
        .filter_map(|pin| ProgramInfo::from_pin(pin).ok())
        .any(|own| own.id() == info.id())
}

fn place(pins: &Pins) -> Result<ProgramArray<MapData>, PinError> {
    let path = pins.map("next_program");
    let error =
        |error: &dyn std::error::Error| PinError::Open { path: path.clone(), cause: innermost(error) };
    let map = MapData::from_pin(&path).map_err(|cause| error(&cause))?;
    ProgramArray::try_from(Map::ProgramArray(map)).map_err(|cause| error(&cause))
}
