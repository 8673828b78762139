//! A host, a daemon and a command line that touch no kernel.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::admin::answers::{DrainProgress, Readiness, Reloaded};
use crate::admin::operations::Operations;
use crate::admin::server::Server;
use crate::capture::{Captured, Rules};
use crate::cli::args::Global;
use crate::cli::host::{Detached, Host, Pinned};
use crate::cli::output::{Audience, Streams};
use crate::decap;
use crate::events::{EventFilter, History, Recorder};
use crate::explain::{Explained, ExplainedFrames, Frames, to_hex};
use crate::failure::{Code, Exit, Failure};
use crate::log::LogOptions;
use crate::maps::set::MapSet;
use crate::rollout::request::RolloutRequest;
use crate::state::change::{Member, NewFlows, change};
use crate::state::denied::DenyRequest;
use crate::state::limited::LimitRequest;
use crate::state::overlay::{BackendName, Overlay};
use crate::state::request::{BackendRequest, Changed, ChangedBackend};
use crate::view::backends::Backends;
use crate::view::check::{Checked, Problem};
use crate::view::deny::{Denied, DenyFilter};
use crate::view::drill::{DrillReport, DrillRequest};
use crate::view::events::{Events, StateAt};
use crate::view::filter::{BackendFilter, FlowFilter, ServiceFilter};
use crate::view::flows::Flows;
use crate::view::from_maps::{self, FlowCounts, FlowRow};
use crate::view::limits::Limits;
use crate::view::rollouts::Rollouts;
use crate::view::services::Services;
use crate::view::status::Status;
use crate::view::{Api, tests as sample};

/// A host whose pinned maps are plain memory.
pub(super) struct Memory {
    pub(super) pinned: bool,
}

impl Host for Memory {
    fn run(&self, _paths: &Global, options: &LogOptions) -> Result<(), Failure> {
        Err(Failure::new(Code::Failed, format!("run at {}", options.level)))
    }

    fn check(&self, file: &Path) -> Result<Checked, Failure> {
        let problem = Problem {
            severity: "error".to_owned(),
            file: file.to_owned(),
            line: Some(3),
            column: Some(1),
            message: "unknown key `prot`; did you mean `port`?".to_owned(),
            source_line: Some("prot = 80".to_owned()),
        };
        Ok(Checked {
            api: Api,
            file: file.to_owned(),
            valid: false,
            problems: vec![problem],
            maps: Vec::new(),
            total_bytes: 0,
            pools: Vec::new(),
        })
    }

    fn detach(&self, _bpffs: &Path) -> Result<Detached, Failure> {
        Ok(Detached {
            interfaces: vec!["eth0".to_owned()],
            unpinned: vec!["program".to_owned()],
            ..Detached::default()
        })
    }

    fn explain_pinned(&self, bpffs: &Path, _request: &Frames) -> Result<ExplainedFrames, Failure> {
        Err(Failure::new(Code::NotFound, format!("nothing is pinned under {}", bpffs.display())))
    }

    fn explain_offline(
        &self,
        config: &Path,
        frames: &[Vec<u8>],
        each: &mut dyn FnMut(Explained) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let reason = config.display().to_string();
        let explained = |frame: &Vec<u8>| Explained {
            reason: reason.clone(),
            output: to_hex(frame),
            ..Default::default()
        };
        frames.iter().try_for_each(|frame| each(explained(frame)))
    }

    fn capture(&self, _bpffs: &Path, _file: &Path, rules: Rules) -> Result<Captured, Failure> {
        Ok(Captured { frames: rules.count, lost: u64::from(rules.one_in) - 1 })
    }

    fn decap(&self, bpffs: &Path, settings: &decap::Settings) -> Result<decap::Status, Failure> {
        Err(Failure::new(Code::Failed, format!("decap in {}: {settings:?}", bpffs.display())))
    }

    fn decap_status(&self, bpffs: &Path) -> Result<decap::Status, Failure> {
        Err(Failure::new(Code::NotFound, format!("nothing is pinned in {}", bpffs.display())))
    }

    fn decap_detach(&self, bpffs: &Path) -> Result<Detached, Failure> {
        Ok(Detached { interfaces: vec![bpffs.display().to_string()], ..Detached::default() })
    }

    fn pinned(&self, bpffs: &Path) -> Result<Pinned, Failure> {
        match self.pinned {
            true => Ok(Pinned { maps: sample::maps(), counters: sample::counters(), interfaces: Vec::new() }),
            false => {
                Err(Failure::new(Code::NotFound, format!("nothing is pinned under {}", bpffs.display())))
            }
        }
    }

    fn flow_rows<'a>(&self, _maps: &'a MapSet) -> Box<dyn Iterator<Item = FlowRow> + 'a> {
        Box::new(sample::rows().into_iter())
    }
}

/// A daemon over the same maps, whose drained backends lose `leave` flows with every look.
pub(super) struct Daemon {
    flows: AtomicU64,
    leave: u64,
    history: History,
}

impl Daemon {
    fn counts(maps: &MapSet) -> FlowCounts {
        FlowCounts::of(maps, sample::rows().into_iter())
    }
}

impl Operations for Daemon {
    async fn explain(&self, request: Frames) -> Result<ExplainedFrames, Failure> {
        let explained = |frame: &String| Explained { output: frame.clone(), ..Explained::default() };
        Ok(ExplainedFrames {
            explained: request.frames.iter().map(explained).collect(),
            ..Default::default()
        })
    }

    async fn status(&self) -> Result<Status, Failure> {
        let maps = sample::maps();
        Ok(from_maps::status(&maps, &sample::counters(), &Self::counts(&maps), Vec::new()))
    }

    async fn services(&self, filter: ServiceFilter) -> Result<Services, Failure> {
        let maps = sample::maps();
        filter.apply(from_maps::services(&maps, &sample::counters(), &Self::counts(&maps)))
    }

    async fn backends(&self, filter: BackendFilter) -> Result<Backends, Failure> {
        let maps = sample::maps();
        filter.apply(from_maps::backends(&maps, &sample::counters(), &Self::counts(&maps)))
    }

    async fn flows(&self, filter: FlowFilter) -> Result<Flows, Failure> {
        from_maps::flows(&sample::maps(), sample::rows().into_iter(), &filter)
    }

    async fn events(&self, filter: EventFilter) -> Result<Events, Failure> {
        self.history.events(&filter).await
    }

    async fn state_at(&self, at: jiff::Timestamp) -> Result<StateAt, Failure> {
        self.history.state_at(at).await
    }

    async fn drill(&self, request: DrillRequest, by: String) -> Result<DrillReport, Failure> {
        Err(Failure::new(
            Code::Refused,
            format!("{} by {by}", serde_json::to_string(&request).expect("json")),
        ))
    }

    async fn drill_report(&self, backend: String) -> Result<DrillReport, Failure> {
        Err(Failure::new(Code::NotFound, format!("no drill of {backend}")))
    }

    async fn limits(&self) -> Result<Limits, Failure> {
        Ok(Limits::default())
    }

    async fn limit(&self, _: LimitRequest, _: String) -> Result<Limits, Failure> {
        Ok(Limits::default())
    }

    async fn denied(&self, _: DenyFilter) -> Result<Denied, Failure> {
        Ok(Denied::default())
    }

    async fn deny(&self, request: DenyRequest, by: String) -> Result<Denied, Failure> {
        let effect = format!("{:?} {} by {by}", request.action, request.prefixes.join(" "));
        Ok(Denied { effects: vec![effect], ..Denied::default() })
    }

    async fn rollouts(&self) -> Result<Rollouts, Failure> {
        Ok(Rollouts::default())
    }

    async fn rollout(&self, request: RolloutRequest, by: String) -> Result<Rollouts, Failure> {
        Err(Failure::new(
            Code::Refused,
            format!("{} by {by}", serde_json::to_string(&request).expect("json")),
        ))
    }

    async fn ready(&self) -> Result<Readiness, Failure> {
        let ready = self.leave > 0;
        let reasons =
            if ready { Vec::new() } else { vec!["backend web/web-1 has no verdict yet".to_owned()] };
        Ok(Readiness { ready, reasons, ..Readiness::default() })
    }

    async fn drain_progress(&self, backends: Vec<BackendName>) -> Result<DrainProgress, Failure> {
        let flows = self.flows.load(Ordering::Relaxed);
        self.flows.store(flows.saturating_sub(self.leave), Ordering::Relaxed);
        let backends = backends.into_iter().map(|BackendName { pool, name }| ChangedBackend {
            pool,
            name,
            admin: "draining".to_owned(),
            weight: 100,
            flows,
        });
        Ok(DrainProgress { backends: backends.collect(), flows, ..DrainProgress::default() })
    }

    async fn reload(&self, _by: String) -> Result<Reloaded, Failure> {
        Err(Failure::new(Code::InvalidConfig, "weir.toml:3: unknown key `prot`"))
    }

    async fn change(&self, request: BackendRequest, by: String) -> Result<Changed, Failure> {
        let member = |name| Member { pool: "web", name, host: None, file_weight: 100 };
        let members = ["web-1", "web-2", "web-3"].map(member);
        let new_flows = |member: &Member<'_>| match member.name {
            "web-3" => NewFlows::Refused,
            _ => NewFlows::Taken,
        };
        let now = jiff::Timestamp::now();
        let change = change(&members, &new_flows, &Overlay::default(), &request, &by, now)?;
        let flows = |name: BackendName| match name.name.as_str() {
            "web-1" => 812,
            "web-2" => 5,
            _ => 0,
        };
        let flows: Vec<u64> = change.backends().map(flows).collect();
        change.told(&flows)
    }
}

pub(super) struct Ran {
    pub(super) exit: Exit,
    pub(super) out: String,
    pub(super) err: String,
}

pub(super) struct Lab {
    pub(super) directory: tempfile::TempDir,
    pub(super) host: Memory,
}

impl Lab {
    pub(super) fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("directory"), host: Memory { pinned: true } }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("weir.sock")
    }

    /// Starts a daemon on a thread of its own, which ends with the test.
    pub(super) fn daemon(&self, flows: u64, leave: u64) {
        let (socket, directory) = (self.socket(), self.directory.path().to_owned());
        let (tell, bound) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let server = Server::bind(&socket).expect("binds");
                tell.send(()).expect("waited for");
                let runtime = tokio::runtime::Handle::current();
                let recorder = Recorder::start(&directory, 1 << 20, &[], runtime).expect("records");
                let history = History::new(recorder, directory);
                server.serve(Arc::new(Daemon { flows: AtomicU64::new(flows), leave, history })).await;
            });
        });
        bound.recv().expect("daemon");
    }

    pub(super) fn args(&self, line: &str) -> Vec<OsString> {
        let mut args: Vec<OsString> = vec!["weir".into()];
        args.extend([
            "--socket".into(),
            self.socket().into(),
            "--bpffs".into(),
            self.directory.path().into(),
            "--state-dir".into(),
            self.directory.path().into(),
        ]);
        args.extend(line.split_whitespace().map(OsString::from));
        args
    }

    pub(super) fn run(&self, line: &str) -> Ran {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let mut streams = Streams { out: &mut out, err: &mut err, audience: Audience::Log };
        let exit = crate::cli::main(&self.host, self.args(line), &mut streams);
        let text = |bytes: Vec<u8>| {
            let text = String::from_utf8(bytes).expect("text");
            anstream::adapter::strip_str(&text)
                .to_string()
                .replace(&*self.directory.path().to_string_lossy(), "DIR")
        };
        Ran { exit, out: text(out), err: text(err) }
    }
}
