//! What the verbs need of the kernel and the config, in this process.

use std::io::{IsTerminal as _, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aya::maps::MapData;
use tokio::signal::unix::{SignalKind, signal};

use crate::capture::{Captured, Rules, Session};
use crate::cli::args::Global;
use crate::cli::host::{Detached, Host, Pinned};
use crate::config::{self, Loaded};
use crate::decap;
use crate::explain::{Explained, ExplainedFrames, Explainer, Frames, from_hex};
use crate::failure::{Code, Failure};
use crate::flows;
use crate::log::{self, LogOptions};
use crate::maps::attach;
use crate::maps::counters::{CounterKind, CounterMaps};
use crate::maps::load;
use crate::maps::mapping::Access;
use crate::maps::pins::Pins;
use crate::maps::set::MapSet;
use crate::view::check::{Checked, MapMemory, PoolDetection, Problem};
use crate::view::from_maps::{Counters, FlowRow};
use crate::view::status::Interface;
use lb_common::time::Tick;

/// How long the kernel may take to take programs off interfaces, which it does after their links are gone. A daemon that
/// still runs holds them longer.
const DETACHING: Duration = Duration::from_secs(3);

/// This process.
pub struct Process;

impl Host for Process {
    fn run(&self, paths: &Global, options: &LogOptions) -> Result<(), Failure> {
        log::init(options)?;
        super::run(paths)
    }

    fn check(&self, file: &Path) -> Result<Checked, Failure> {
        let mut checked = Checked {
            api: Default::default(),
            file: file.to_owned(),
            valid: false,
            problems: Vec::new(),
            maps: Vec::new(),
            total_bytes: 0,
            pools: Vec::new(),
        };
        match config::load(file) {
            Err(problems) => checked.problems = problems.0.iter().map(problem).collect(),
            Ok(Loaded { config, warnings }) => {
                let report = config::check_report(&config);
                checked.valid = true;
                checked.problems = warnings.0.iter().map(problem).collect();
                checked.maps = report
                    .maps
                    .into_iter()
                    .map(|map| MapMemory { map: map.map.to_owned(), bytes: map.bytes })
                    .collect();
                checked.total_bytes = report.total_bytes;
                checked.pools = report
                    .pools
                    .into_iter()
                    .map(|pool| PoolDetection {
                        pool: pool.pool,
                        silent_host_ms: pool.silent_host_ms,
                        silent_server_ms: pool.silent_server_ms,
                        checks: pool.checks.iter().map(|check| check.check.to_owned()).collect(),
                    })
                    .collect();
            }
        }
        Ok(checked)
    }

    fn detach(&self, bpffs: &Path) -> Result<Detached, Failure> {
        let pins = Pins::new(bpffs);
        let failed = |error: std::io::Error| {
            Failure::new(Code::Failed, format!("remove what is pinned in {}: {error}", bpffs.display()))
        };
        let interfaces = attach::pinned(&pins).map_err(failed)?;
        let unpinned = pins.all().map_err(failed)?;
        let programs = attach::own_programs(&pins);
        // The kernel empties an array of programs that nobody holds, maybe before it has taken the program off that calls
        // them. Absent where a start was cut off.
        let called = [pins.stages(), pins.stages_capture(), pins.map("next_program")].map(MapData::from_pin);
        pins.remove_all().map_err(failed)?;
        attach::wait_until_unloaded(&programs, DETACHING);
        drop(called);
        Ok(Detached {
            interfaces,
            unpinned: unpinned.iter().map(|path| path.display().to_string()).collect(),
            ..Detached::default()
        })
    }

    fn pinned(&self, bpffs: &Path) -> Result<Pinned, Failure> {
        let pins = Pins::new(bpffs);
        let (_, maps) = load::open(&pins, Access::ReadOnly)?;
        let interfaces = attach::pinned(&pins).unwrap_or_default();
        let interfaces =
            interfaces.into_iter().map(|name| Interface { name, mode: String::new(), attached: true });
        let counters = counters(&CounterMaps::open(&pins)?);
        Ok(Pinned { maps, counters, interfaces: interfaces.collect() })
    }

    fn explain_pinned(&self, bpffs: &Path, request: &Frames) -> Result<ExplainedFrames, Failure> {
        explain_frames(&Pins::new(bpffs), request)
    }

    fn explain_offline(
        &self,
        config: &Path,
        frames: &[Vec<u8>],
        each: &mut dyn FnMut(Explained) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let Loaded { config, .. } = config::load(config).map_err(super::engine::invalid)?;
        let mut explainer = Explainer::offline(&config)?;
        frames.iter().try_for_each(|frame| {
            let mut explained = explainer.explain(frame, None)?;
            explained.hand_on(config.next_program.as_deref());
            each(explained)
        })
    }

    fn capture(&self, bpffs: &Path, file: &Path, rules: Rules) -> Result<Captured, Failure> {
        let create =
            |error: std::io::Error| Failure::new(Code::Failed, format!("create {}: {error}", file.display()));
        let stdout = file == Path::new("-");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Failure::new(Code::Failed, format!("start: {error}")))?;
        if stdout && std::io::stdout().is_terminal() {
            let message = "stdout is a terminal: give --write a file, or pipe it";
            return Err(Failure::new(Code::Usage, message));
        }
        // Before signals are caught: whoever opens a pipe that nobody reads waits.
        let opened = (!stdout).then(|| Destination::open(file)).transpose().map_err(create)?;
        let interrupted = Arc::new(AtomicBool::new(false));
        let seen = interrupted.clone();
        std::thread::spawn(move || {
            runtime.block_on(async {
                let mut terminate = signal(SignalKind::terminate()).ok()?;
                tokio::select! { _ = tokio::signal::ctrl_c() => {}, _ = terminate.recv() => {} }
                Some(())
            });
            seen.store(true, Ordering::Relaxed);
        });
        let mut session = Session::start(&Pins::new(bpffs), rules, interface_name)?;
        let writer: Box<dyn Write> = match opened {
            None => Box::new(std::io::stdout().lock()),
            Some(opened) => Box::new(std::io::BufWriter::new(opened.begin().map_err(create)?)),
        };
        session.run(writer, &|| interrupted.load(Ordering::Relaxed))
    }

    fn decap(&self, bpffs: &Path, settings: &decap::Settings) -> Result<decap::Status, Failure> {
        decap::apply(bpffs, settings)
    }

    fn decap_status(&self, bpffs: &Path) -> Result<decap::Status, Failure> {
        decap::status(bpffs)
    }

    fn decap_detach(&self, bpffs: &Path) -> Result<Detached, Failure> {
        decap::detach(bpffs)
    }

    fn flow_rows<'a>(&self, maps: &'a MapSet) -> Box<dyn Iterator<Item = FlowRow> + 'a> {
        Box::new(flow_rows(maps))
    }
}

/// A file that is written once it is known that there is something to write: until then it is as it was.
struct Destination<'a> {
    path: &'a Path,
    file: Option<std::fs::File>,
    /// It was not there.
    made: bool,
}

impl<'a> Destination<'a> {
    fn open(path: &'a Path) -> std::io::Result<Self> {
        let made = std::fs::OpenOptions::new().write(true).create_new(true).open(path);
        match made {
            Ok(file) => Ok(Self { path, file: Some(file), made: true }),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                let file = std::fs::OpenOptions::new().write(true).open(path)?;
                Ok(Self { path, file: Some(file), made: false })
            }
            Err(error) => Err(error),
        }
    }

    /// The file, empty.
    fn begin(mut self) -> std::io::Result<std::fs::File> {
        let file = self.file.take().ok_or(std::io::ErrorKind::NotFound)?;
        if file.metadata()?.is_file() {
            file.set_len(0)?;
        }
        Ok(file)
    }
}

impl Drop for Destination<'_> {
    fn drop(&mut self) {
        if self.made && self.file.is_some() {
            // Nothing was written.
            let _ = std::fs::remove_file(self.path);
        }
    }
}

/// Explains frames with what is pinned.
pub(super) fn explain_frames(pins: &Pins, request: &Frames) -> Result<ExplainedFrames, Failure> {
    let interface = match &request.interface {
        Some(name) => Some(name.clone()),
        None => attach::pinned(pins).unwrap_or_default().into_iter().next(),
    };
    let ingress = interface.map(|name| interface_index(&name)).transpose()?;
    let mut explainer = Explainer::pinned(pins)?;
    let mut answer = ExplainedFrames::default();
    for frame in &request.frames {
        let frame = from_hex(frame).map_err(|error| Failure::new(Code::Usage, error.to_string()))?;
        answer.explained.push(explainer.explain(&frame, ingress)?);
    }
    Ok(answer)
}

/// The name of an interface of this network namespace.
fn interface_name(index: u32) -> Option<String> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).ok()?;
    netdevice::index_to_name(&socket, index).ok()
}

/// The index of an interface of this network namespace.
fn interface_index(name: &str) -> Result<u32, Failure> {
    use rustix::net::{AddressFamily, SocketType, netdevice, socket};
    let failed = |error| Failure::new(Code::NotFound, format!("no interface {name:?}: {error}"));
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None).map_err(failed)?;
    netdevice::name_to_index(&socket, name).map_err(failed)
}

fn problem(problem: &config::Problem) -> Problem {
    let subject = if problem.subject.is_empty() { String::new() } else { format!("{}: ", problem.subject) };
    Problem {
        severity: problem.severity.name().to_owned(),
        file: problem.file.clone(),
        line: problem.line,
        column: problem.column,
        message: format!("{subject}{}", problem.message),
        source_line: problem.source_line.clone(),
    }
}

/// The sums of all counters.
pub(super) fn counters(maps: &CounterMaps) -> Counters {
    Counters {
        reasons: maps.sums(CounterKind::Reasons),
        services: maps.sums(CounterKind::Services),
        backends: maps.sums(CounterKind::Backends),
    }
}

/// The live flows.
pub(super) fn flow_rows(maps: &MapSet) -> impl Iterator<Item = FlowRow> {
    flows::list(maps, Tick::from_ns(flows::now_ns())).map(|flow| FlowRow {
        client: flow.client,
        client_port: flow.client_port,
        vip: flow.vip_id.into(),
        port: flow.port,
        protocol: flow.protocol,
        service: flow.service.unwrap_or(0).into(),
        backend: flow.backend.into(),
        class: flow.class,
        idle_s: flow.idle_s.unwrap_or(0),
    })
}
