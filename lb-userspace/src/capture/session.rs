//! Sampling frames of a running instance.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant, SystemTime};

use aya::maps::perf::{PerfEvent, PerfEventArray, PerfEventArrayBuffer};
use aya::maps::{Array, MapData};
use aya::programs::Xdp;
use aya_obj::programs::XdpAttachType;
use ipnet::IpNet;
use lb_common::capture::{CaptureRules, Hosts, RULE_WORDS, Sample};
use lb_common::layout::Family;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FlockOperation, flock};

use super::file::{CaptureFile, NameOf};
use crate::failure::{Code, Failure};
use crate::flows;
use crate::maps::attach;
use crate::maps::load::{self, Loaded};
use crate::maps::pins::{Pins, innermost};
use crate::maps::sizes::Sizes;

/// Pages of each CPU's buffer.
const PAGES: usize = 64;
/// How often the end is looked for while no frames come.
const LOOK: Duration = Duration::from_millis(100);

/// Which frames are sampled, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// One in so many, by chance.
    pub one_in: u32,
    /// Most bytes of each.
    pub snap: u32,
    /// Most in a second on each CPU.
    pub per_second: u32,
    /// Only frames from or to these addresses.
    pub host: Option<IpNet>,
    /// Ends after so many; 0 is no end.
    pub count: u64,
    /// Ends after this time.
    pub time: Option<Duration>,
}

/// What a capture gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// Frames written.
    pub frames: u64,
    /// Samples that the buffers had no room for.
    pub lost: u64,
}

/// A capture that runs. Dropping it puts the ordinary program back.
pub struct Session {
    pins: Pins,
    /// Keeps the programs of rare packets in their places.
    _loaded: Loaded,
    buffers: Vec<PerfEventArrayBuffer<MapData>>,
    name: NameOf,
    rules: Rules,
    interfaces: Vec<String>,
    /// Held for as long as the capture runs: an instance has one at a time.
    _turn: File,
}

fn failed(what: &str, cause: &dyn std::error::Error) -> Failure {
    Failure::new(Code::Failed, format!("{what}: {}", innermost(cause)))
}

impl Session {
    /// Loads the sampling program and puts it on the interfaces of the instance.
    ///
    /// # Errors
    /// Where nothing is pinned or attached, where another capture runs, and those of the kernel.
    pub fn start(pins: &Pins, rules: Rules, name: NameOf) -> Result<Self, Failure> {
        let meta = pins.meta()?;
        let turn = File::open(pins.links()).map_err(|error| failed("open the links' directory", &error))?;
        flock(&turn, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| Failure::new(Code::Refused, "another capture of this instance is running"))?;
        let interfaces = attach::pinned(pins).map_err(|error| failed("list the links", &error))?;
        if interfaces.is_empty() {
            return Err(Failure::new(Code::NotFound, "the program is attached to no interface"));
        }
        let mut loaded = load::load_capture(pins, &Sizes::of(&load::limits_of(&meta)), &meta.geometry)?;
        let buffers = buffers(&mut loaded, rules)?;
        // The programs of rare packets stay in their places even if this process is killed.
        let stages = pins.stages_capture();
        let _ = fs::remove_file(&stages);
        loaded.pin_stages(&stages).map_err(|error| failed("pin the program's stages", &error))?;
        let session =
            Self { pins: pins.clone(), _loaded: loaded, buffers, name, rules, interfaces, _turn: turn };
        session.attached()
    }

    fn attached(mut self) -> Result<Self, Failure> {
        for interface in &self.interfaces {
            let program = self._loaded.program()?;
            attach::put_back(&self.pins, program, interface)
                .map_err(|error| failed(&format!("put the sampling program on {interface}"), &error))?;
        }
        Ok(self)
    }

    /// Writes samples until the rules or `ended` say that it is enough.
    ///
    /// # Errors
    /// Those of the writer.
    pub fn run(&mut self, writer: impl Write, ended: &dyn Fn() -> bool) -> Result<Captured, Failure> {
        let unix = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let epoch = unix.saturating_sub(Duration::from_nanos(flows::now_ns()));
        let write = |error: &io::Error| failed("write the capture", error);
        let mut file =
            CaptureFile::new(writer, self.rules.snap, epoch, self.name).map_err(|error| write(&error))?;
        let (started, mut lost) = (Instant::now(), 0);
        loop {
            lost += self.read(&mut file).map_err(|error| write(&error))?;
            file.flush().map_err(|error| write(&error))?;
            let enough = self.rules.count > 0 && file.frames() >= self.rules.count;
            let over = self.rules.time.is_some_and(|time| started.elapsed() >= time);
            if enough || over || ended() {
                return Ok(Captured { frames: file.frames(), lost });
            }
            let wait = Timespec::try_from(LOOK).expect("a tenth of a second fits");
            let mut fds: Vec<PollFd<'_>> = self
                .buffers
                .iter()
                .map(|buffer| PollFd::from_borrowed_fd(buffer.as_fd(), PollFlags::IN))
                .collect();
            // A signal ends the wait; what it means is asked above.
            let _ = poll(&mut fds, Some(&wait));
        }
    }

    /// Reads what the buffers hold; the answer is how many samples they had no room for.
    fn read(&mut self, file: &mut CaptureFile<impl Write>) -> io::Result<u64> {
        let (mut lost, mut result) = (0, Ok(()));
        for buffer in &mut self.buffers {
            buffer.for_each(|event| match event {
                PerfEvent::Lost { count } => lost += count,
                PerfEvent::Sample { head, tail } => {
                    let bytes = [head, tail].concat();
                    if let (Some((sample, frame)), true) = (decode(&bytes), result.is_ok()) {
                        result = file.take(sample, frame);
                    }
                }
            });
        }
        result.map(|()| lost)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let mut ordinary = Xdp::from_pin(self.pins.program(), XdpAttachType::Interface);
        let mut put_back = || -> Result<(), Failure> {
            let program = ordinary.as_mut().map_err(|error| failed("open the pinned program", error))?;
            for interface in &self.interfaces {
                attach::put_back(&self.pins, program, interface)
                    .map_err(|error| failed(&format!("put the program back on {interface}"), &error))?;
            }
            Ok(())
        };
        match put_back() {
            // Nothing runs by these places any more.
            Ok(()) => drop(fs::remove_file(self.pins.stages_capture())),
            Err(failure) => tracing::error!("{failure}; the sampling program stays, and forwards the same"),
        }
    }
}

/// Tells the program what to sample, and opens a buffer for each CPU.
fn buffers(loaded: &mut Loaded, rules: Rules) -> Result<Vec<PerfEventArrayBuffer<MapData>>, Failure> {
    let Rules { one_in, snap, per_second, .. } = rules;
    let [one_in, snap, per_second] = [one_in, snap, per_second].map(u64::from);
    let set = CaptureRules { one_in, snap, per_second, hosts: rules.host.map_or_else(Hosts::default, hosts) };
    let map = Array::<MapData, [u64; RULE_WORDS]>::try_from(loaded.take_map("CAPTURE")?);
    let mut map = map.map_err(|error| failed("open the capture's rules", &error))?;
    map.set(0, set.words(), 0).map_err(|error| failed("write the capture's rules", &error))?;
    let samples = PerfEventArray::try_from(loaded.take_map("SAMPLES")?);
    let mut samples = samples.map_err(|error| failed("open the sample buffers", &error))?;
    let cpus = aya::util::online_cpus().map_err(|(what, error)| failed(what, &error))?;
    let open =
        |cpu| samples.open(cpu, Some(PAGES)).map_err(|error| failed("open a CPU's sample buffer", &error));
    cpus.into_iter().map(open).collect()
}

fn hosts(net: IpNet) -> Hosts {
    match net.network() {
        IpAddr::V4(address) => {
            let [a, b, c, d] = address.octets();
            Hosts::of(Family::V4, [[a, b, c, d, 0, 0, 0, 0], [0; 8]], net.prefix_len())
        }
        IpAddr::V6(address) => {
            let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = address.octets();
            Hosts::of(Family::V6, [[a, b, c, d, e, f, g, h], [i, j, k, l, m, n, o, p]], net.prefix_len())
        }
    }
}

/// The sample's head, and the frame's bytes with what pads them.
fn decode(bytes: &[u8]) -> Option<(Sample, &[u8])> {
    let (head, frame) = bytes.split_at_checked(size_of::<Sample>())?;
    let long = |at: usize| Some(u64::from_ne_bytes(head.get(at..at + 8)?.try_into().ok()?));
    let word = |at: usize| Some(u32::from_ne_bytes(head.get(at..at + 4)?.try_into().ok()?));
    let sample = Sample {
        number: long(0)?,
        time_ns: long(8)?,
        moment: word(16)?,
        interface: word(20)?,
        length: word(24)?,
        reason: word(28)?,
    };
    Some((sample, frame))
}
