//! What checks cost the daemon: 1,000 backends, each asked every 100 ms.
//!
//! The time is the whole process's, of user and kernel. The backends are a program at the far end of the veth, so that
//! what hosts of their own would do does not count; the way there and back does, since it is worked off in the softirq that
//! ends each system call. A bare loop ([`bare`]) takes turns with the daemon, which is stopped meanwhile: what it costs is
//! what no prober gets below by sockets.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use aya::programs::Xdp;
use aya::programs::xdp::XdpMode;
use aya::{Ebpf, EbpfLoader};
use lb_userspace::objects;
use rustix::process::{Pid, Signal, kill_process};

use super::bare::{self, Plan};
use super::daemon::Daemon;
use super::tables::Scratch;
use crate::sheet::{Goal, Sheet};
use crate::veth::{NEAR, Veth};

const BACKENDS: u32 = 1_000;
const FIRST: Ipv4Addr = Ipv4Addr::new(10, 64, 0, 1);
const PORT: u16 = 8000;
const INTERVAL: Duration = Duration::from_millis(100);
/// Not counted: the first probes, and what follows from them.
const SETTLE: Duration = Duration::from_secs(2);
const SPAN: Duration = Duration::from_secs(5);
/// The kernel's unit of CPU time (`sysconf(_SC_CLK_TCK)`), the same on all Linux ports that weir has.
const TICKS_PER_SECOND: f64 = 100.0;
/// Each asks the same backends.
const KINDS: [(&str, u16); 3] = [("ping", 0), ("syn", PORT), ("tcp", PORT)];

/// Measures; leaves the calling thread in a namespace.
pub(super) fn measure(sheet: &mut Sheet, rounds: u32, binary: &Path) -> Result<()> {
    let veth = Veth::enter()?.with_router()?;
    let _backends = veth.on_router(answers)??;
    for (kind, port) in KINDS {
        let scratch = Scratch::new(&format!("checks-{kind}"))?;
        scratch.write("weir.toml", &text(kind, port))?;
        let (_, daemon) = Daemon::start(binary, scratch)?;
        thread::sleep(SETTLE);
        let process = Pid::from_raw(daemon.id().cast_signed()).context("find the daemon")?;
        let plan = Plan { first: FIRST, count: BACKENDS, port, interval: INTERVAL };
        let (mut shares, mut bares) = (Vec::new(), Vec::new());
        for _ in 0..rounds {
            let (begin, before) = (Instant::now(), cpu(daemon.id())?);
            thread::sleep(SPAN);
            shares.push((cpu(daemon.id())? - before) / begin.elapsed().as_secs_f64() * 100.0);
            // It stays attached: packets go the same way.
            kill_process(process, Signal::STOP)?;
            let bare = bare::run(kind, plan, SPAN);
            kill_process(process, Signal::CONT)?;
            bares.push(bare?);
            thread::sleep(SETTLE);
        }
        let up = daemon.up()?;
        ensure!(up == BACKENDS as usize, "{up} of {BACKENDS} backends are up:\n{}", daemon.log()?);
        let title =
            format!("daemon, {BACKENDS} backends checked by {kind} every 100 ms: CPU time of the process");
        let goal = Some(Goal::AtMost(10.0));
        sheet.row(&format!("checks_{kind}"), &title, "% of a core", &shares, goal);
        let title =
            format!("a bare loop, {BACKENDS} addresses asked by {kind} every 100 ms: CPU time of the thread");
        sheet.row(&format!("bare_{kind}"), &title, "% of a core", &bares, None);
    }
    Ok(())
}

/// Puts the program that answers for the backends at their end of the veth.
fn answers() -> Result<Ebpf> {
    let mut ebpf = EbpfLoader::new().load(objects::BENCH).context("load the bench's programs")?;
    let program: &mut Xdp = ebpf.program_mut("answer").context("find program answer")?.try_into()?;
    program.load().context("load program answer")?;
    program.attach(NEAR, XdpMode::Driver).context("attach program answer")?;
    Ok(ebpf)
}

fn text(kind: &str, port: u16) -> String {
    let port = if port == 0 { String::new() } else { format!("port = {port}\n") };
    let mut text = format!(
        "interfaces = [\"far\"]\n[limits]\nflows_v4 = 65536\nflows_v6 = 1024\nmaglev_slots = 1_048_576\n[[service]]\n\
         name = \"web\"\nvip = \"198.18.0.1\"\nport = 80\nprotocol = \"tcp\"\nmode = \"ipip\"\npool = \"web\"\n[[pool]]\n\
         name = \"web\"\n[[pool.health]]\ntype = \"{kind}\"\ninterval = \"100ms\"\ntimeout = \"500ms\"\n{port}"
    );
    for backend in 0..BACKENDS {
        let address = Ipv4Addr::from(u32::from(FIRST) + backend);
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
