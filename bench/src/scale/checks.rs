//! What checks cost the daemon: 1,000 backends, each asked every 100 ms.
//!
//! The time is the whole process's, of user and kernel. The backends' host is in the same kernel, and a part of what its
//! side of the veth does counts as the sender's: the figures are too large by that.

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use super::daemon::Daemon;
use super::tables::Scratch;
use crate::sheet::{Goal, Sheet};
use crate::veth::Veth;

const BACKENDS: u32 = 1_000;
const PORT: u16 = 8000;
/// Not counted: the first probes, and what follows from them.
const SETTLE: Duration = Duration::from_secs(2);
const SPAN: Duration = Duration::from_secs(5);
/// The kernel's unit of CPU time (`sysconf(_SC_CLK_TCK)`), the same on all Linux ports that weir has.
const TICKS_PER_SECOND: f64 = 100.0;
/// Each asks the same backends.
const KINDS: [(&str, &str); 3] = [("ping", ""), ("syn", "port = 8000\n"), ("tcp", "port = 8000\n")];

/// Measures; leaves the calling thread in a namespace.
pub(super) fn measure(sheet: &mut Sheet, rounds: u32, binary: &Path) -> Result<()> {
    let veth = Veth::enter()?.with_router()?;
    let listener = veth.on_router(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)))??;
    // Ends with the process: what it waits for does not.
    thread::spawn(move || listener.incoming().for_each(drop));
    for (kind, port) in KINDS {
        let scratch = Scratch::new(&format!("checks-{kind}"))?;
        scratch.write("weir.toml", &text(kind, port))?;
        let (_, daemon) = Daemon::start(binary, scratch)?;
        thread::sleep(SETTLE);
        let mut shares = Vec::new();
        for _ in 0..rounds {
            let (begin, before) = (Instant::now(), cpu(daemon.id())?);
            thread::sleep(SPAN);
            shares.push((cpu(daemon.id())? - before) / begin.elapsed().as_secs_f64() * 100.0);
        }
        let up = daemon.up()?;
        ensure!(up == BACKENDS as usize, "{up} of {BACKENDS} backends are up:\n{}", daemon.log()?);
        let title =
            format!("daemon, {BACKENDS} backends checked by {kind} every 100 ms: CPU time of the process");
        let goal = Some(Goal::AtMost(10.0));
        sheet.row(&format!("checks_{kind}"), &title, "% of a core", &shares, goal);
    }
    Ok(())
}

fn text(kind: &str, port: &str) -> String {
    let mut text = format!(
        "interfaces = [\"far\"]\n[limits]\nflows_v4 = 65536\nflows_v6 = 1024\nmaglev_slots = 1_048_576\n[[service]]\n\
         name = \"web\"\nvip = \"198.18.0.1\"\nport = 80\nprotocol = \"tcp\"\nmode = \"ipip\"\npool = \"web\"\n[[pool]]\n\
         name = \"web\"\n[[pool.health]]\ntype = \"{kind}\"\ninterval = \"100ms\"\ntimeout = \"500ms\"\n{port}"
    );
    for backend in 0..BACKENDS {
        let address = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 64, 0, 1)) + backend);
        let _ = writeln!(text, "[[pool.backend]]\nname = \"backend-{backend}\"\naddress = \"{address}\"");
    }
    text
}

/// Seconds of CPU time that a process has had, of user and kernel.
fn cpu(process: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // pid (name) state …; the name may hold anything. utime and stime are the 14th and 15th fields.
    let fields = stat.rsplit_once(") ").map(|(_, rest)| rest.split(' ').collect::<Vec<_>>());
    let fields = fields.context("read the process's state")?;
    let ticks =
        |at: usize| fields.get(at).and_then(|field| field.parse::<f64>().ok()).context("read CPU time");
    Ok((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}
