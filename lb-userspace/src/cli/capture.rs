//! `weir capture`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use super::args::Global;
use super::host::Host;
use super::output::Output;
use crate::capture::Rules;
use crate::config::decap::source as prefix;
use crate::failure::{Code, Failure};
use crate::view::parse_duration;

/// What to capture, and where to.
#[derive(Args, Debug)]
pub struct CaptureArgs {
    /// The file, `-` for stdout.
    #[arg(short, long, value_name = "FILE")]
    write: PathBuf,
    /// Only frames from or to these addresses: a prefix, or one address.
    #[arg(long, value_name = "PREFIX", value_parser = prefix)]
    host: Option<IpNet>,
    /// Sample one frame in so many, by chance.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    one_in: u32,
    /// Most frames that one CPU samples in a second.
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    per_second: u32,
    /// Most bytes of a frame that are kept.
    #[arg(long, value_name = "BYTES", default_value_t = 2048, value_parser = clap::value_parser!(u32).range(64..=4096))]
    snap: u32,
    /// End after so many frames; 0 goes on until interrupted.
    #[arg(long, value_name = "N", default_value_t = 0)]
    count: u64,
    /// End after this time: 10s, 5m.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    time: Option<Duration>,
}

/// Captures until it is enough, and says on stderr what was written.
pub(super) fn run(
    host: &impl Host,
    paths: &Global,
    args: &CaptureArgs,
    output: &mut Output<'_, '_>,
) -> Result<(), Failure> {
    let CaptureArgs { ref write, one_in, per_second, snap, host: only, count, time } = *args;
    let rules = Rules { one_in, snap, per_second, host: only, count, time };
    let captured = host.capture(&paths.bpffs, write, rules)?;
    let lost = match captured.lost {
        0 => String::new(),
        lost => format!(", {lost} samples lost: raise --one-in or lower --per-second"),
    };
    output.message(&format!("{} frames written to {}{lost}", captured.frames, write.display()));
    if captured.frames == 0 {
        return Err(Failure::new(Code::Failed, "no frame came by"));
    }
    Ok(())
}
