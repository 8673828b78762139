//! Loading the packet program.

use std::hash::{DefaultHasher, Hasher as _};
use std::num::NonZero;
use std::os::fd::AsFd as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::{io, iter, thread};

use aya::maps::{Map, ProgramArray};
use aya::programs::{Program, ProgramError, ProgramFd, Xdp};
use aya::{Ebpf, EbpfError, EbpfLoader};
use lb_common::layout::{Geometry, LAYOUT_VERSION, MAGIC, Meta};
use lb_common::pipeline::{Stage, Variant};
use rustix::process::setpriority_process;
use thiserror::Error;

use super::mapping::{Access, MapValue, Mapping};
use super::pins::{PinError, Pins, innermost};
use super::schema::{self, MapSpec};
use super::set::{MapSet, MapSource};
use super::sizes::Sizes;
use crate::config::model::Limits;
use crate::objects;

/// The symbol of the program array that holds the stages.
const STAGES: &str = "STAGES";

/// The priority, below that of ordinary work (setpriority(2)), of threads that load what is not traffic's.
const NICE: i32 = 10;

/// Why the program cannot be loaded.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The kernel refuses for lack of privileges.
    #[error(
        "load the packet program: operation not permitted; run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    NotPermitted,
    /// The verifier refuses.
    #[error("load the packet program: {cause}")]
    Verifier {
        /// What the kernel says, with the end of the verifier's log.
        cause: String,
    },
    /// Anything else.
    #[error("load the packet program: {cause}")]
    Other {
        /// What failed.
        cause: String,
    },
    /// The maps that it made cannot be opened.
    #[error(transparent)]
    Pins(#[from] PinError),
}

/// A digest of the embedded object, to tell whether a pinned program came from it.
#[must_use]
pub fn object_digest() -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(objects::XDP);
    hasher.finish()
}

/// A loaded packet program; its maps live as long as it or their pins do.
pub struct Loaded {
    ebpf: Ebpf,
    /// What [`Loaded::program`] is built for.
    variant: Variant,
}

impl Loaded {
    /// The program where every packet starts.
    ///
    /// # Errors
    /// None for the embedded object.
    pub fn program(&mut self) -> Result<&mut Xdp, LoadError> {
        let name = Stage::Fast.program(self.variant);
        let program = self.ebpf.program_mut(name);
        let program = program.ok_or_else(|| other(&format!("the object has no program `{name}`")))?;
        program.try_into().map_err(|error: ProgramError| other(&error.to_string()))
    }

    /// Pins the program; it lives on after this process.
    ///
    /// # Errors
    /// Those of the kernel, and where something is pinned there.
    pub fn pin(&mut self, path: &Path) -> io::Result<()> {
        self.program().map_err(io::Error::other)?.pin(path).map_err(io::Error::other)
    }

    /// Takes a map of the object that is not pinned.
    ///
    /// # Errors
    /// Where the object has none of that name, or it was taken.
    pub fn take_map(&mut self, symbol: &str) -> Result<Map, LoadError> {
        self.ebpf.take_map(symbol).ok_or_else(|| other(&format!("the object has no map `{symbol}`")))
    }

    /// Pins the program array of the stages. The kernel empties one that is neither pinned nor open, though the program
    /// still runs.
    ///
    /// # Errors
    /// As [`Loaded::pin`].
    pub fn pin_stages(&mut self, path: &Path) -> io::Result<()> {
        let map = self.ebpf.map(STAGES).ok_or_else(|| io::Error::other("no program array"))?;
        map.pin(path).map_err(io::Error::other)
    }

    /// Instructions that the verifier walked through, and bytes of machine code, by program.
    ///
    /// # Errors
    /// Where the kernel does not tell.
    pub fn sizes(&mut self) -> Result<Vec<(&'static str, u32, u32)>, LoadError> {
        let size = |stage: &Stage| {
            let name = stage.program(self.variant);
            let program = self.ebpf.program(name).ok_or_else(|| other("no program"))?;
            let program: &Xdp = program.try_into().map_err(program_error)?;
            let info = program.info().map_err(program_error)?;
            let verified = info.verified_instruction_count().unwrap_or_default();
            Ok((name, verified, info.size_jitted()))
        };
        Stage::ALL.iter().map(size).collect()
    }
}

impl MapSource for Loaded {
    fn open<T: MapValue>(&self, spec: &MapSpec, access: Access) -> Result<Mapping<T>, PinError> {
        let path = || PathBuf::from(spec.symbol);
        let missing = || PinError::Foreign { path: path(), what: "no such map in the object".to_owned() };
        let Some(Map::Array(data)) = self.ebpf.map(spec.symbol) else { return Err(missing()) };
        Mapping::of_map(data.fd().as_fd(), spec.entries as usize, access)
            .map_err(|cause| PinError::Memory { path: path(), cause })
    }
}

/// Loads the program of every stage, several at a time, and puts it in its place. An older build of the object may lack
/// some; the first stage is there always.
fn load_stages(ebpf: &mut Ebpf, variant: Variant) -> Result<(), LoadError> {
    let place = |name: &str| {
        let stage = Stage::ALL.iter().find(|stage| stage.program(variant) == name);
        stage.map(|stage| stage.place(variant))
    };
    let programs = ebpf.programs_mut().filter_map(|(name, program)| Some((place(name)?, program)));
    let programs: Vec<(u32, &mut Program)> = programs.collect();
    if !programs.iter().any(|(place, _)| *place == Stage::Fast.place(variant)) {
        return Err(other(&format!("the object has no program `{}`", Stage::Fast.program(variant))));
    }
    let cores = thread::available_parallelism().map_or(1, NonZero::get).min(programs.len());
    let queue = Mutex::new(programs.into_iter());
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).next();
    let load_some = || {
        if variant != Variant::Live {
            // Verifying takes seconds of a core, which checks and other work go before. Refused to nobody.
            let _ = setpriority_process(None, NICE);
        }
        let load = |(place, program)| load_one(program).map(|fd| (place, fd));
        iter::from_fn(next).map(load).collect::<Result<Vec<_>, _>>()
    };
    let loaded: Vec<Result<Vec<_>, _>> = thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(load_some)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic))).collect()
    });
    let map = ebpf.map_mut(STAGES).ok_or_else(|| other("the object has no program array"))?;
    let mut places = ProgramArray::try_from(map).map_err(|error| other(&error.to_string()))?;
    for some in loaded {
        for (place, fd) in some? {
            places.set(place, &fd, 0).map_err(|error| other(&innermost(&error)))?;
        }
    }
    Ok(())
}

fn load_one(program: &mut Program) -> Result<ProgramFd, LoadError> {
    let program: &mut Xdp = program.try_into().map_err(program_error)?;
    program.load().map_err(program_error)?;
    let fd = program.fd().map_err(program_error)?;
    fd.try_clone().map_err(|error| other(&error.to_string()))
}

/// Loads the program over the maps pinned in `pins`; those that are missing are made and pinned.
///
/// # Errors
/// Where the kernel refuses, or where a pinned map is of another type or size.
pub fn load(pins: &Pins, sizes: &Sizes, geometry: &Geometry) -> Result<Loaded, LoadError> {
    load_object(objects::XDP, pins, sizes, geometry)
}

/// As [`load`], for another build of the object.
///
/// # Errors
/// As [`load`].
pub fn load_object(
    object: &[u8],
    pins: &Pins,
    sizes: &Sizes,
    geometry: &Geometry,
) -> Result<Loaded, LoadError> {
    load_variant(object, Some(pins), sizes, geometry, Variant::Live)
}

/// Loads the program that samples frames for `weir capture`, over the pinned maps.
///
/// # Errors
/// As [`load`].
pub fn load_capture(pins: &Pins, sizes: &Sizes, geometry: &Geometry) -> Result<Loaded, LoadError> {
    load_variant(objects::XDP, Some(pins), sizes, geometry, Variant::Capture)
}

/// Loads the program that explains, over the pinned maps.
///
/// # Errors
/// As [`load`].
pub fn load_explain(pins: &Pins, sizes: &Sizes, geometry: &Geometry) -> Result<Loaded, LoadError> {
    load_variant(objects::XDP, Some(pins), sizes, geometry, Variant::Explain)
}

/// Loads the program that explains with maps of its own, which nothing pins.
///
/// # Errors
/// As [`load`].
pub fn load_offline(sizes: &Sizes, geometry: &Geometry) -> Result<(Loaded, MapSet), LoadError> {
    let loaded = load_variant(objects::XDP, None, sizes, geometry, Variant::Offline)?;
    let maps = MapSet::open(&loaded, sizes, Access::ReadWrite)?;
    Ok((loaded, maps))
}

fn load_variant(
    object: &[u8],
    pins: Option<&Pins>,
    sizes: &Sizes,
    geometry: &Geometry,
    variant: Variant,
) -> Result<Loaded, LoadError> {
    if let Some(pins) = pins.filter(|pins| pins.exist()) {
        pins.check(sizes)?;
    }
    let bytes = geometry_bytes(geometry);
    let specs = schema::maps(sizes);
    let mut loader = EbpfLoader::new();
    loader.override_global("GEOMETRY", bytes.as_slice(), true);
    for spec in &specs {
        loader.map_max_entries(spec.symbol, spec.entries);
        if let Some(pins) = pins {
            loader.map_pin_path(spec.symbol, pins.map(spec.pin));
        }
    }
    let mut ebpf = loader.load(object).map_err(ebpf_error)?;
    load_stages(&mut ebpf, variant)?;
    Ok(Loaded { ebpf, variant })
}

/// Writes the `meta` value of new maps.
pub fn describe(set: &MapSet, limits: &Limits, geometry: Geometry) {
    set.meta.update(0, |meta| {
        *meta = Meta {
            magic: MAGIC,
            layout_version: LAYOUT_VERSION,
            backends: limits.backends,
            services: limits.services,
            maglev_slots: limits.maglev_slots,
            flows_v4: limits.flows_v4,
            flows_v6: limits.flows_v6,
            prefixes: limits.prefixes,
            nat_ports: limits.nat_ports,
            geometry,
            object: object_digest(),
        };
    });
}

/// The limits that pinned maps were made with.
#[must_use]
pub fn limits_of(meta: &Meta) -> Limits {
    Limits {
        flows_v4: meta.flows_v4,
        flows_v6: meta.flows_v6,
        services: meta.services,
        backends: meta.backends,
        maglev_slots: meta.maglev_slots,
        prefixes: meta.prefixes,
        nat_ports: meta.nat_ports,
    }
}

/// Opens pinned maps without loading anything.
///
/// # Errors
/// As [`Pins::meta`] and [`Pins::open_set`].
pub fn open(pins: &Pins, access: Access) -> Result<(Meta, MapSet), PinError> {
    let meta = pins.meta()?;
    let set = pins.open_set(&Sizes::of(&limits_of(&meta)), access)?;
    Ok((meta, set))
}

/// The bytes of the program's `GEOMETRY`, in the order of its fields.
fn geometry_bytes(geometry: &Geometry) -> Vec<u8> {
    let Geometry {
        secret,
        fixed_now_ns,
        vip_v4_mask,
        vip_v6_mask,
        port_mask,
        flows_v4_mask,
        flows_v6_mask,
        fragments_mask,
        servers_mask,
        nat_mask,
    } = *geometry;
    let words = [secret, fixed_now_ns].into_iter().flat_map(u64::to_ne_bytes);
    let masks = [vip_v4_mask, vip_v6_mask, port_mask, flows_v4_mask, flows_v6_mask, fragments_mask];
    let masks = masks.into_iter().chain([servers_mask, nat_mask]);
    words.chain(masks.flat_map(u32::to_ne_bytes)).collect()
}

fn other(cause: &str) -> LoadError {
    LoadError::Other { cause: cause.to_owned() }
}

pub(crate) fn ebpf_error(error: EbpfError) -> LoadError {
    if is_not_permitted(&error) {
        LoadError::NotPermitted
    } else {
        other(&format!("{error}: {}", innermost(&error)))
    }
}

pub(crate) fn program_error(error: ProgramError) -> LoadError {
    match &error {
        // A verifier that refuses says EACCES too, but tells why.
        ProgramError::LoadError { io_error, verifier_log } if !verifier_log.to_string().trim().is_empty() => {
            let log = verifier_log.to_string();
            let end: Vec<&str> = log.lines().rev().take(12).collect();
            let end: Vec<&str> = end.into_iter().rev().collect();
            LoadError::Verifier { cause: format!("{io_error}\n{}", end.join("\n")) }
        }
        error if is_not_permitted(error) => LoadError::NotPermitted,
        error => other(&format!("{error}: {}", innermost(error))),
    }
}

/// Whether the root cause is EPERM or EACCES.
fn is_not_permitted(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return io.kind() == io::ErrorKind::PermissionDenied;
        }
        next = error.source();
    }
    false
}
