//! The `weir` binary.

use std::io::{IsTerminal as _, stderr, stdout};
use std::process::ExitCode;

use lb_userspace::cli::output::{Audience, Streams};
use lb_userspace::daemon::process::Process;

fn main() -> ExitCode {
    let audience = if stderr().is_terminal() { Audience::Terminal } else { Audience::Log };
    let (mut out, mut err) = (anstream::AutoStream::auto(stdout()), anstream::AutoStream::auto(stderr()));
    let mut streams = Streams { out: &mut out, err: &mut err, audience };
    lb_userspace::cli::main(&Process, std::env::args_os(), &mut streams).into()
}
