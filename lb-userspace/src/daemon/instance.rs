//! The loaded program and its maps: new, adopted, or made anew beside the old ones.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use lb_common::layout::Meta;
use lb_common::time::Tick;
use tracing::{debug, info, warn};

use crate::config::model::Limits;
use crate::failure::{Code, Failure};
use crate::flows;
use crate::maps::counters::{CounterKind, CounterMaps, PacketCounters};
use crate::maps::load::{self, LoadError, Loaded};
use crate::maps::mapping::Access;
use crate::maps::next_program::NextProgramError;
use crate::maps::pins::{PinError, Pins, innermost};
use crate::maps::set::MapSet;
use crate::maps::sizes::Sizes;

/// The program that interfaces run, or will.
enum Program {
    Loaded(Box<Loaded>),
    Pinned(Box<Xdp>),
}

/// Maps that are to be replaced by this instance's.
struct Predecessor {
    pins: Pins,
    /// Those that are taken over; the others are empty.
    maps: MapSet,
    reasons: Reasons,
}

/// Whether the numbers of reasons mean what they mean here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reasons {
    Same,
    Others,
}

/// A program and its maps.
pub(super) struct Instance {
    pub(super) pins: Pins,
    pub(super) maps: Arc<MapSet>,
    pub(super) counters: Arc<CounterMaps>,
    program: Program,
    predecessor: Option<Predecessor>,
    /// The maps were made by this start and are nobody's yet.
    made: bool,
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
        Self::new(Code::Failed, error.to_string())
    }
}

impl From<NextProgramError> for Failure {
    fn from(error: NextProgramError) -> Self {
        Self::new(Code::Failed, error.to_string())
    }
}

impl From<PinError> for Failure {
    fn from(error: PinError) -> Self {
        let code = if matches!(error, PinError::Absent(_)) { Code::NotFound } else { Code::Failed };
        Self::new(code, error.to_string())
    }
}

impl Instance {
    /// Adopts what is pinned, or loads the program.
    ///
    /// Pinned maps of other sizes, or of a version whose flows can be read, are left as they are; new ones are made beside
    /// them and take over with [`Instance::commit`].
    pub(super) fn open(pins: &Pins, limits: &Limits) -> Result<Self, Failure> {
        finish_take_over(pins)?;
        if !pins.exist() || pins.unfinished()? {
            let instance = Self::fresh(pins.clone(), limits)?;
            info!("loaded the program with new maps");
            return Ok(instance);
        }
        let reasons = match pins.meta() {
            Ok(meta) if load::limits_of(&meta) == *limits => match pins.check(&Sizes::of(limits)) {
                Ok(()) => return Self::adopt(pins.clone(), &meta),
                Err(other) => {
                    debug!("{other}");
                    info!("pinned maps are not as this build makes them: new maps are made, flows copied");
                    Reasons::Others
                }
            },
            Ok(_) => {
                info!("[limits] changed: new maps are made, flows and counters copied");
                Reasons::Same
            }
            Err(PinError::Older { theirs, .. }) => {
                info!("pinned maps have layout version {theirs}: new maps are made, flows copied");
                Reasons::Others
            }
            Err(error) => return Err(error.into()),
        };
        let maps = pins.open_carried()?;
        let mut instance = Self::fresh(pins.successor(), limits)?;
        instance.predecessor = Some(Predecessor { pins: pins.clone(), maps, reasons });
        Ok(instance)
    }

    fn fresh(pins: Pins, limits: &Limits) -> Result<Self, Failure> {
        remove(&pins)?;
        pins.create().map_err(|error| failed("make directories in", pins.root().to_owned(), &error))?;
        let sizes = Sizes::of(limits);
        let geometry = sizes.geometry(secret()?);
        let loaded = load::load(&pins, &sizes, &geometry);
        let finished = loaded.and_then(|loaded| {
            Ok((loaded, pins.open_set(&sizes, Access::ReadWrite)?, CounterMaps::open(&pins)?))
        });
        let finished = finished.map_err(Failure::from).and_then(|mut finished| {
            pin_stages(&pins, &mut finished.0)?;
            Ok(finished)
        });
        let (loaded, maps, counters) = match finished {
            Ok(finished) => finished,
            Err(error) => {
                // A half-made set would keep the next start from working.
                remove(&pins)?;
                return Err(error);
            }
        };
        load::describe(&maps, limits, geometry);
        let program = Program::Loaded(Box::new(loaded));
        let (maps, counters) = (Arc::new(maps), Arc::new(counters));
        Ok(Self { pins, maps, counters, program, predecessor: None, made: true })
    }

    fn adopt(pins: Pins, meta: &Meta) -> Result<Self, Failure> {
        let sizes = Sizes::of(&load::limits_of(meta));
        let maps = Arc::new(pins.open_set(&sizes, Access::ReadWrite)?);
        let counters = Arc::new(CounterMaps::open(&pins)?);
        let pinned = Xdp::from_pin(pins.program(), XdpAttachType::Interface);
        let same = meta.object == load::object_digest() && pins.stages().exists();
        if let (true, Ok(program)) = (same, pinned) {
            info!("adopted the running program and its maps");
            let program = Program::Pinned(Box::new(program));
            return Ok(Self { pins, maps, counters, program, predecessor: None, made: false });
        }
        let mut loaded = load::load(&pins, &sizes, &meta.geometry)?;
        pin_stages(&pins, &mut loaded)?;
        let program = Program::Loaded(Box::new(loaded));
        info!("adopted the maps; the program is another build and is replaced");
        Ok(Self { pins, maps, counters, program, predecessor: None, made: false })
    }

    /// Whether this start made the maps: no program runs on them yet.
    pub(super) fn made(&self) -> bool {
        self.made
    }

    /// The maps that these replace.
    pub(super) fn predecessor_maps(&self) -> Option<&MapSet> {
        self.predecessor.as_ref().map(|predecessor| &predecessor.maps)
    }

    /// The program, to be attached.
    pub(super) fn program(&mut self) -> Result<&mut Xdp, Failure> {
        Ok(match &mut self.program {
            Program::Loaded(loaded) => loaded.program()?,
            Program::Pinned(program) => program,
        })
    }

    /// Copies flows and counters of the maps that these replace. The config must have been applied: names tell which
    /// ids are the same.
    pub(super) fn carry_over(&self) -> Result<(), Failure> {
        let Some(Predecessor { pins, maps: from, reasons }) = &self.predecessor else { return Ok(()) };
        let ids = flows::Translation::between(from, &self.maps);
        let carried = flows::carry(from, &self.maps, &ids, Tick::from_ns(flows::now_ns()));
        info!("copied flows to the new maps: {carried:?}");
        // Last: packets counted between here and the attaching are not in the new sums.
        let old = match PacketCounters::open(pins) {
            Ok(old) => old,
            Err(error) => {
                warn!("counters begin anew: {error}");
                return Ok(());
            }
        };
        let mut new = PacketCounters::open(&self.pins)?;
        let mut copy = |kind, from, to| {
            let counter = old.sum(kind, from);
            new.set(kind, to, counter)
                .map_err(|error| failed("copy counters to", self.pins.maps().to_owned(), &error))
        };
        if *reasons == Reasons::Same {
            for index in 0..lb_common::reason::Reason::COUNT as u32 {
                copy(CounterKind::Reasons, index, index)?;
            }
        }
        for (from, to) in ids.services() {
            copy(CounterKind::Services, from.into(), to.into())?;
        }
        for (from, to) in ids.backends() {
            copy(CounterKind::Backends, from.into(), to.into())?;
        }
        Ok(())
    }

    /// Copies flows that were made while the program was being replaced. Those that the new maps have stay as they are.
    pub(super) fn carry_late_flows(&self) {
        let Some(Predecessor { maps: from, .. }) = &self.predecessor else { return };
        let ids = flows::Translation::between(from, &self.maps);
        let carried = flows::carry(from, &self.maps, &ids, Tick::from_ns(flows::now_ns()));
        debug!("looked at the old maps again: {carried:?}");
    }

    /// Makes program and maps the instance's, once the program is attached.
    pub(super) fn commit(&mut self) -> Result<(), Failure> {
        self.pin_program()?;
        self.made = false;
        self.maps.meta.update(0, |meta| meta.object = load::object_digest());
        let Some(Predecessor { pins, .. }) = self.predecessor.take() else { return Ok(()) };
        remove(&pins)?;
        let renamed = fs::rename(self.pins.maps(), pins.maps());
        renamed.map_err(|error| failed("rename", self.pins.maps().to_owned(), &error))?;
        self.pins = pins;
        Ok(())
    }

    /// Removes what this start made; what was pinned before stays.
    pub(super) fn abandon(&mut self) {
        // Absent unless this start loaded a program.
        let _ = fs::remove_file(self.pins.stages_next());
        if !std::mem::take(&mut self.made) {
            return;
        }
        if let Err(error) = self.pins.remove_maps() {
            warn!("remove {}: {error}", self.pins.maps().display());
        }
        // Holds links where weir ran before.
        let _ = fs::remove_dir(self.pins.links());
    }

    /// Pins the program and its stages in place of those that are pinned.
    fn pin_program(&mut self) -> Result<(), Failure> {
        let Program::Loaded(loaded) = &mut self.program else { return Ok(()) };
        let (path, next) = (self.pins.program(), self.pins.root().join("program_next"));
        let pin = |error: &dyn std::error::Error| failed("pin the program as", path.clone(), error);
        // Left by a start that was cut off; absent otherwise.
        let _ = fs::remove_file(&next);
        loaded.pin(&next).map_err(|error| pin(&error))?;
        // What explained the program that this one replaces; absent where nobody asked.
        let _ = fs::remove_file(self.pins.explain());
        let _ = fs::remove_file(self.pins.stages_explain());
        // The stages before the program: one that is found under its name has its stages pinned.
        fs::rename(self.pins.stages_next(), self.pins.stages()).map_err(|error| pin(&error))?;
        fs::rename(&next, &path).map_err(|error| pin(&error))
    }
}

/// Pins the stages of a program that is about to be attached: were this process to die between the two, the program
/// would run on without them.
fn pin_stages(pins: &Pins, loaded: &mut Loaded) -> Result<(), Failure> {
    let next = pins.stages_next();
    // Left by a start that was cut off; absent otherwise.
    let _ = fs::remove_file(&next);
    loaded.pin_stages(&next).map_err(|error| failed("pin the program's stages as", next, &error))
}

/// Ends a take-over that was cut off after the old maps were removed.
fn finish_take_over(pins: &Pins) -> Result<(), Failure> {
    let successor = pins.successor();
    if pins.exist() || !successor.exist() {
        return Ok(());
    }
    warn!("an earlier start was cut off while it took over new maps; they are used");
    remove(pins)?;
    fs::rename(successor.maps(), pins.maps())
        .map_err(|error| failed("rename", successor.maps().to_owned(), &error))
}

fn remove(pins: &Pins) -> Result<(), Failure> {
    pins.remove_maps().map_err(|error| failed("remove", pins.maps().to_owned(), &error))
}

/// A secret that cannot be guessed from outside.
fn secret() -> Result<u64, Failure> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())
        .map_err(|error| Failure::new(Code::Failed, format!("draw the flow table's secret: {error}")))?;
    Ok(u64::from_ne_bytes(bytes))
}

fn failed(what: &str, path: PathBuf, error: &dyn std::error::Error) -> Failure {
    Failure::new(Code::Failed, format!("{what} {}: {}", path.display(), innermost(error)))
}
