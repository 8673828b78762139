//! `cargo xtask bench flood`: what becomes of known flows and of new connections while packets of random flows arrive
//! as fast as the machine makes them.
//!
//! Two parts: in the kernel, one core floods and another runs known flows over the same maps; in the lab, frames of
//! random flows pour into weir's interface while clients make HTTP connections and download.

mod kernel;
mod lab;

use std::thread;

use anyhow::{Result, bail, ensure};

use crate::frame::Kind;
use crate::publish::Output;
use crate::sheet::Sheet;

/// Measures what floods do. Needs root, and nginx for the lab.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds over all kinds of packets.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each flood in the lab.
    #[arg(long, default_value_t = 6)]
    seconds: u32,
    /// Only these parts.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Kernel, Part::Lab])]
    parts: Vec<Part>,
    #[command(flatten)]
    output: Output,
}

/// A part of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    Kernel,
    Lab,
}

/// What arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Flood {
    id: &'static str,
    title: &'static str,
    kind: Option<Kind>,
}

const FLOODS: [Flood; 4] = [
    Flood { id: "quiet", title: "no flood", kind: None },
    Flood { id: "syn", title: "SYN flood", kind: Some(Kind::Syn) },
    Flood { id: "ack", title: "ACK flood", kind: Some(Kind::Ack) },
    Flood { id: "udp", title: "UDP flood", kind: Some(Kind::Udp) },
];

/// Measures and prints.
pub(crate) fn run(args: &Args) -> Result<()> {
    let all = [Part::Kernel, Part::Lab].iter().all(|part| args.parts.contains(part));
    ensure!(all || args.output.publish.is_none(), "--publish takes all parts");
    let mut sheet = Sheet::new("flood", args.rounds)?;
    if args.parts.contains(&Part::Kernel) {
        // On a thread of its own: it keeps to one core, and what the lab starts would too.
        let measured = thread::scope(|scope| scope.spawn(|| kernel::measure(&mut sheet, args.rounds)).join());
        measured.unwrap_or_else(|_| bail!("the measuring thread panicked"))?;
    }
    if args.parts.contains(&Part::Lab) {
        lab::measure(&mut sheet, args.seconds)?;
    }
    sheet.finish(&args.output)
}
