//! Running frames through the variant of the program that explains.

use std::fs::{self, File};
use std::path::Path;

use aya::TestRun as _;
use aya::programs::{TestRunOptions, Xdp};
use aya_obj::programs::XdpAttachType;
use lb_common::layout::Geometry;
use lb_common::trace::Trace;
use rustix::fs::{FlockOperation, flock};

use super::answer::Explained;
use super::flow_frame::to_hex;
use super::{offline, steps};
use crate::config::model::Config;
use crate::failure::{Code, Failure};
use crate::maps::load::{self, Loaded};
use crate::maps::mapping::{Access, Mapping};
use crate::maps::pins::{Pins, innermost};
use crate::maps::schema;
use crate::maps::set::{MapSet, MapSource as _};
use crate::maps::sizes::Sizes;

/// Lengths of a frame that the kernel runs: an Ethernet header, and what a page holds beside headroom and tail room.
pub const FRAME_LENGTHS: std::ops::RangeInclusive<usize> = 14..=3520;
/// Bytes that a frame can grow by.
const GROWTH: usize = 256;

enum Program {
    Pinned(Box<Xdp>),
    Private(Box<Loaded>),
}

/// A program that explains, and its maps.
pub struct Explainer {
    program: Program,
    maps: MapSet,
    trace: Mapping<Trace>,
    /// Held while the trace is in use: an instance has one.
    turn: Option<File>,
}

impl Explainer {
    /// Against what is pinned: the live maps, of which nothing changes. The first one loads the program, which takes
    /// seconds, and pins it.
    ///
    /// # Errors
    /// Where nothing is pinned, or it cannot be opened; where the program is to be loaded and the running one is of
    /// another build.
    pub fn pinned(pins: &Pins) -> Result<Self, Failure> {
        let meta = pins.meta()?;
        if !pins.explain().exists() && meta.object != load::object_digest() {
            return Err(Failure::new(
                Code::Failed,
                "the running program is of another build: ask with the `weir` that runs it",
            ));
        }
        Self::pinned_of(pins, &Sizes::of(&load::limits_of(&meta)), &meta.geometry)
    }

    /// As [`Explainer::pinned`], for maps of sizes that no limits give.
    ///
    /// # Errors
    /// As [`Explainer::pinned`].
    pub fn pinned_of(pins: &Pins, sizes: &Sizes, geometry: &Geometry) -> Result<Self, Failure> {
        let maps = pins.open_set(sizes, Access::ReadOnly)?;
        let specs = schema::maps(sizes);
        let spec = specs.iter().find(|spec| spec.pin == "trace").expect("the schema has the trace");
        let trace = pins.open(spec, Access::ReadWrite)?;
        let failed = |what: &str, path: &Path, cause: &dyn std::error::Error| {
            Failure::new(Code::Failed, format!("{what} {}: {}", path.display(), innermost(cause)))
        };
        let turn = File::open(pins.maps()).map_err(|error| failed("open", pins.maps(), &error))?;
        flock(&turn, FlockOperation::LockExclusive).map_err(|error| failed("lock", pins.maps(), &error))?;
        let (path, stages) = (pins.explain(), pins.stages_explain());
        if !path.exists() {
            let mut loaded = load::load_explain(pins, sizes, geometry)?;
            // Left by one that was cut off; absent otherwise.
            let _ = fs::remove_file(&stages);
            loaded.pin_stages(&stages).map_err(|error| failed("pin stages as", &stages, &error))?;
            loaded.pin(&path).map_err(|error| failed("pin the program as", &path, &error))?;
        }
        let program = Xdp::from_pin(&path, XdpAttachType::Interface)
            .map_err(|error| failed("open the pinned program", &path, &error))?;
        flock(&turn, FlockOperation::Unlock).map_err(|error| failed("unlock", pins.maps(), &error))?;
        Ok(Self { program: Program::Pinned(Box::new(program)), maps, trace, turn: Some(turn) })
    }

    /// With maps of its own, filled from a config.
    ///
    /// # Errors
    /// Where the config does not fit its limits, or the kernel refuses.
    pub fn offline(config: &Config) -> Result<Self, Failure> {
        let offline::Instance { loaded, maps, trace } = offline::instance(config)?;
        Ok(Self { program: Program::Private(Box::new(loaded)), maps, trace, turn: None })
    }

    /// Explains one frame that comes in by the interface with this index; by the loopback interface where there is none.
    ///
    /// # Errors
    /// Where the kernel does not run it.
    pub fn explain(&mut self, frame: &[u8], ingress: Option<u32>) -> Result<Explained, Failure> {
        if !FRAME_LENGTHS.contains(&frame.len()) {
            let (shortest, longest) = (FRAME_LENGTHS.start(), FRAME_LENGTHS.end());
            return Err(Failure::new(
                Code::Usage,
                format!("frame of {} bytes: the kernel runs frames of {shortest} to {longest}", frame.len()),
            ));
        }
        let failed = |error: &dyn std::error::Error| {
            Failure::new(Code::Failed, format!("run the frame: {}", innermost(error)))
        };
        if let Some(turn) = &self.turn {
            flock(turn, FlockOperation::LockExclusive).map_err(|error| failed(&error))?;
        }
        let run = self.run(frame, ingress);
        let trace = self.trace.first().copied().unwrap_or(Trace::EMPTY);
        self.trace.update(0, |trace| *trace = Trace::EMPTY);
        if let Some(turn) = &self.turn {
            flock(turn, FlockOperation::Unlock).map_err(|error| failed(&error))?;
        }
        let (action, output) = run.map_err(|error| match (ingress, error.raw_os_error()) {
            // The kernel says so of an interface that went, or that another network namespace has.
            (Some(index), Some(libc::ENODEV | libc::EINVAL)) => Failure::new(
                Code::Failed,
                format!("run the frame as if it came by interface {index}: {error}; is it there still?"),
            ),
            _ => failed(&error),
        })?;
        let verdict = match action {
            1 => "drop",
            2 => "pass",
            3 => "tx",
            4 => "redirect",
            _ => "aborted",
        };
        Ok(steps::explained(&self.maps, &trace, verdict, to_hex(&output)))
    }

    fn run(&mut self, frame: &[u8], ingress: Option<u32>) -> std::io::Result<(u32, Vec<u8>)> {
        let mut output = vec![0; frame.len() + GROWTH];
        // `struct xdp_md` (linux/bpf.h): data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex.
        let context: Vec<u8> = match ingress {
            Some(index) => {
                [0, frame.len() as u32, 0, index, 0, 0].into_iter().flat_map(u32::to_ne_bytes).collect()
            }
            None => Vec::new(),
        };
        let options = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut output),
            ctx_in: ingress.map(|_| context.as_slice()),
            ..TestRunOptions::default()
        };
        let program = match &mut self.program {
            Program::Pinned(program) => program,
            Program::Private(loaded) => loaded.program().map_err(std::io::Error::other)?,
        };
        let result = program.test_run(options).map_err(|error| {
            let cause = innermost_io(&error).and_then(std::io::Error::raw_os_error);
            cause.map_or_else(|| std::io::Error::other(innermost(&error)), std::io::Error::from_raw_os_error)
        })?;
        output.truncate(result.data_size_out as usize);
        Ok((result.return_value, output))
    }
}

fn innermost_io<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a std::io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(io) = error.downcast_ref() {
            return Some(io);
        }
        next = error.source();
    }
    None
}
