//! The loaded program and its maps: new, adopted, or made anew beside the old ones.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use lb_common::layout::Meta;
use lb_common::time::Tick;
use tracing::{info, warn};

use crate::config::model::Limits;
use crate::failure::{Code, Failure};
use crate::flows;
use crate::maps::load::{self, CounterKind, CounterMaps, LoadError, Loaded};
use crate::maps::mapping::Access;
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
    maps: MapSet,
}

/// A program and its maps.
pub(super) struct Instance {
    pub(super) pins: Pins,
    pub(super) maps: Arc<MapSet>,
    program: Program,
    predecessor: Option<Predecessor>,
}

impl From<LoadError> for Failure {
    fn from(error: LoadError) -> Self {
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
    /// Pinned maps of other sizes are left as they are; the new ones are made beside them and take over with
    /// [`Instance::take_over`].
    pub(super) fn open(pins: &Pins, limits: &Limits) -> Result<Self, Failure> {
        finish_take_over(pins)?;
        if !pins.exist() {
            let mut instance = Self::fresh(pins.clone(), limits)?;
            instance.pin_program()?;
            info!("loaded the program with new maps");
            return Ok(instance);
        }
        match pins.meta() {
            Ok(meta) if load::limits_of(&meta) == *limits => Self::adopt(pins.clone(), &meta),
            Ok(meta) => {
                let maps = pins.open_set(&Sizes::of(&load::limits_of(&meta)), Access::ReadOnly)?;
                info!("[limits] changed: new maps are made, flows and counters copied");
                let mut instance = Self::fresh(pins.successor(), limits)?;
                instance.predecessor = Some(Predecessor { pins: pins.clone(), maps });
                Ok(instance)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn fresh(pins: Pins, limits: &Limits) -> Result<Self, Failure> {
        remove(&pins)?;
        pins.create().map_err(|error| failed("make directories in", pins.root().to_owned(), &error))?;
        let sizes = Sizes::of(limits);
        let geometry = sizes.geometry(secret()?);
        let loaded = load::load(&pins, &sizes, &geometry);
        let finished = loaded.and_then(|loaded| Ok((loaded, pins.open_set(&sizes, Access::ReadWrite)?)));
        let (loaded, maps) = match finished {
            Ok(finished) => finished,
            Err(error) => {
                // A half-made set would keep the next start from working.
                remove(&pins)?;
                return Err(error.into());
            }
        };
        load::describe(&maps, limits, geometry);
        let program = Program::Loaded(Box::new(loaded));
        Ok(Self { pins, maps: Arc::new(maps), program, predecessor: None })
    }

    fn adopt(pins: Pins, meta: &Meta) -> Result<Self, Failure> {
        let sizes = Sizes::of(&load::limits_of(meta));
        pins.check(&sizes)?;
        let maps = Arc::new(pins.open_set(&sizes, Access::ReadWrite)?);
        let pinned = Xdp::from_pin(pins.program(), XdpAttachType::Interface);
        if let (true, Ok(program)) = (meta.object == load::object_digest(), pinned) {
            info!("adopted the running program and its maps");
            return Ok(Self { pins, maps, program: Program::Pinned(Box::new(program)), predecessor: None });
        }
        let loaded = load::load(&pins, &sizes, &meta.geometry)?;
        maps.meta.update(0, |meta| meta.object = load::object_digest());
        info!("adopted the maps; the program is another build and is replaced");
        let mut instance = Self { pins, maps, program: Program::Loaded(Box::new(loaded)), predecessor: None };
        instance.pin_program()?;
        Ok(instance)
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
        let Some(Predecessor { pins, maps: from }) = &self.predecessor else { return Ok(()) };
        let ids = flows::Translation::between(from, &self.maps);
        let carried = flows::carry(from, &self.maps, &ids, Tick::from_ns(flows::now_ns()));
        info!("copied flows to the new maps: {carried:?}");
        let (old, mut new) = (CounterMaps::open(pins)?, CounterMaps::open(&self.pins)?);
        let mut copy = |kind, from, to| {
            let counter = old.sum(kind, from);
            new.set(kind, to, counter)
                .map_err(|error| failed("copy counters to", self.pins.maps().to_owned(), &error))
        };
        for index in 0..lb_common::reason::Reason::COUNT as u32 {
            copy(CounterKind::Reasons, index, index)?;
        }
        for (from, to) in ids.services() {
            copy(CounterKind::Services, from.into(), to.into())?;
        }
        for (from, to) in ids.backends() {
            copy(CounterKind::Backends, from.into(), to.into())?;
        }
        Ok(())
    }

    /// Makes these maps the instance's, once the program that uses them is attached.
    pub(super) fn take_over(&mut self) -> Result<(), Failure> {
        let Some(Predecessor { pins, .. }) = self.predecessor.take() else { return Ok(()) };
        self.pin_program()?;
        remove(&pins)?;
        let renamed = fs::rename(self.pins.maps(), pins.maps());
        renamed.map_err(|error| failed("rename", self.pins.maps().to_owned(), &error))?;
        self.pins = pins;
        Ok(())
    }

    /// Pins the program in place of the one that is pinned.
    fn pin_program(&mut self) -> Result<(), Failure> {
        let Program::Loaded(loaded) = &mut self.program else { return Ok(()) };
        let (path, next) = (self.pins.program(), self.pins.root().join("program_next"));
        let pin = |error: &dyn std::error::Error| failed("pin the program as", path.clone(), error);
        // Left by a start that was cut off; absent otherwise.
        let _ = fs::remove_file(&next);
        loaded.pin(&next).map_err(|error| pin(&error))?;
        fs::rename(&next, &path).map_err(|error| pin(&error))
    }
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
