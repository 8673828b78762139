//! The `weir` binary.

use std::io::{IsTerminal, stderr, stdout};
use std::path::Path;
use std::process::ExitCode;

use lb_userspace::cli::args::Global;
use lb_userspace::cli::host::{Detached, Host, Pinned};
use lb_userspace::cli::output::{Audience, Streams};
use lb_userspace::failure::{Code, Failure};
use lb_userspace::log::{self, LogOptions};
use lb_userspace::maps::set::MapSet;
use lb_userspace::view::check::Checked;
use lb_userspace::view::from_maps::FlowRow;

/// This process.
struct Process;

impl Host for Process {
    fn run(&self, _paths: &Global, options: &LogOptions) -> Result<(), Failure> {
        log::init(options)?;
        Err(without("run the daemon"))
    }

    fn check(&self, _file: &Path) -> Result<Checked, Failure> {
        Err(without("check a config"))
    }

    fn detach(&self, _bpffs: &Path) -> Result<Detached, Failure> {
        Err(without("detach"))
    }

    fn pinned(&self, _bpffs: &Path) -> Result<Pinned, Failure> {
        Err(without("read pinned maps"))
    }

    fn flow_rows<'a>(&self, _maps: &'a MapSet) -> Box<dyn Iterator<Item = FlowRow> + 'a> {
        Box::new(std::iter::empty())
    }
}

fn without(what: &str) -> Failure {
    Failure::new(Code::Failed, format!("{what}: this build has no data plane"))
}

fn main() -> ExitCode {
    let audience = if stderr().is_terminal() { Audience::Terminal } else { Audience::Log };
    let (mut out, mut err) = (anstream::AutoStream::auto(stdout()), anstream::AutoStream::auto(stderr()));
    let mut streams = Streams { out: &mut out, err: &mut err, audience };
    lb_userspace::cli::main(&Process, std::env::args_os(), &mut streams).into()
}
