//! `cargo xtask bench live`: frames a second through a veth, on one core.
//!
//! One thread sends frames into the near end of a veth; the program under test runs natively at the far end, in the
//! same thread's softirq, and what it sends back is counted at the near end. Generator, veth and counter cost the same
//! in every case: the ratio to an empty program that returns every frame tells what the balancer costs of a real
//! driver's path.

use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::xdp::XdpMode;
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::layout::{NextHop, NextHopCopy};
use lb_common::reason::Reason;
use lb_userspace::config::model::Limits;
use lb_userspace::objects;
use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

use crate::engine::FACTOR;
use crate::frame::{self, Kind, To};
use crate::instance::Instance;
use crate::publish::Output;
use crate::sheet::{Goal, Sheet};
use crate::veth::{FAR, NEAR, Veth};
use crate::world;

/// Measures frames a second through a veth. Needs root.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds over all cases.
    #[arg(long, default_value_t = 9)]
    rounds: u32,
    /// Frames of a batch.
    #[arg(long, default_value_t = 1 << 20)]
    frames: u32,
    #[command(flatten)]
    output: Output,
}

/// Frames that the kernel sends before it lets them be received: what one poll of a driver takes.
const BURST: u32 = 64;

/// What runs at the far end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Far {
    Drop,
    Empty,
    Weir,
}

struct Case {
    id: &'static str,
    title: &'static str,
    far: Far,
    /// Flows, as a power of two.
    bits: u32,
    /// Least share of the empty program's rate.
    goal: Option<f64>,
}

const fn case(id: &'static str, title: &'static str, far: Far, bits: u32, goal: Option<f64>) -> Case {
    Case { id, title, far, bits, goal }
}

const CASES: [Case; 7] = [
    case("drop", "drop", Far::Drop, 0, None),
    case("empty", "empty program, frames returned", Far::Empty, 0, None),
    case("weir_1", "weir, 1 known flow, IPIP", Far::Weir, 0, Some(0.85)),
    case("empty_64k", "empty program, 64K flows sent", Far::Empty, 16, None),
    case("weir_64k", "weir, 64K known flows, IPIP", Far::Weir, 16, Some(0.6)),
    case("empty_1m", "empty program, 1M flows sent", Far::Empty, 20, None),
    case("weir_1m", "weir, 1M known flows, IPIP", Far::Weir, 20, Some(0.6)),
];

/// Measures and prints.
pub(crate) fn run(args: &Args) -> Result<()> {
    // A thread of its own, for its namespace, core and priority.
    let sheet = thread::scope(|scope| {
        let measured = scope.spawn(|| measure(args));
        measured.join().unwrap_or_else(|_| bail!("the measuring thread panicked"))
    })?;
    sheet.finish(&args.output)
}

fn measure(args: &Args) -> Result<Sheet> {
    let veth = Veth::enter()?;
    let mut sheet = Sheet::new("live", args.rounds)?;
    stay_alone();
    let mut wire = Wire::attach(&veth)?;
    let mut weir = Instance::load("live", &Limits::default())?;
    prepare(&weir, veth.index(FAR)?)?;
    enter_flows(&mut wire, &mut weir)?;
    let mut rates = vec![Vec::new(); CASES.len()];
    for round in 0..args.rounds as usize {
        for place in 0..CASES.len() {
            // Another first case each time: none has always the same one before it.
            let number = (round + place) % CASES.len();
            rates[number].push(wire.measure(&CASES[number], &mut weir, args.frames)?);
        }
    }
    for (case, rates) in CASES.iter().zip(&rates) {
        sheet.row(case.id, case.title, "Mpps", rates, None);
    }
    let empty = &rates[1];
    for (case, rates) in CASES.iter().zip(&rates) {
        if let Some(goal) = case.goal {
            let ratios: Vec<f64> = rates.iter().zip(empty).map(|(rate, empty)| rate / empty).collect();
            let title = format!("{}, to the empty program", case.title);
            sheet.row(&format!("{}_to_empty", case.id), &title, "ratio", &ratios, Some(Goal::AtLeast(goal)));
        }
    }
    Ok(sheet)
}

/// One core, before everybody else on it: what others do there is not what is measured.
fn stay_alone() {
    let last = thread::available_parallelism().map_or(1, std::num::NonZero::get) - 1;
    let mut set = CpuSet::new();
    set.set(last);
    // Not allowed to choose is no reason not to measure.
    let _ = sched_setaffinity(None, &set);
    let _ = setpriority_process(None, -20);
}

/// Frames leave by the interface that they came by.
fn prepare(weir: &Instance, far: u32) -> Result<()> {
    world::fill(&weir.set, &weir.geometry)?;
    weir.set.next_hops.update(1, |hop| {
        hop.copies[0] = NextHopCopy { port: far, ..hop.copies[0] };
        hop.select.set(NextHop::selector(0, true));
    });
    Ok(())
}

/// Enters the flows of all cases and proves them.
fn enter_flows(wire: &mut Wire, weir: &mut Instance) -> Result<()> {
    let link = weir.program()?.attach(FAR, XdpMode::Driver)?;
    for case in CASES.iter().filter(|case| case.far == Far::Weir) {
        for kind in [Kind::Syn, Kind::Ack, Kind::Ack] {
            wire.send(kind, case.bits, (1 << case.bits).max(BURST))?;
        }
    }
    weir.program()?.detach(link)?;
    Ok(())
}

/// The generator and the counter at the near end.
struct Wire {
    ebpf: Ebpf,
    live: Array<MapData, [u64; 5]>,
    counted: PerCpuArray<MapData, u64>,
    near: u32,
    next: u64,
    batches: u64,
}

impl Wire {
    fn attach(veth: &Veth) -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(objects::BENCH).context("load the bench's programs")?;
        for name in ["live_send", "live_count", "empty"] {
            own(&mut ebpf, name)?.load().with_context(|| format!("load program {name}"))?;
        }
        own(&mut ebpf, "live_count")?.attach(NEAR, XdpMode::Driver).context("attach the counter")?;
        let live = Array::try_from(ebpf.take_map("LIVE").context("find map LIVE")?)?;
        let counted = PerCpuArray::try_from(ebpf.take_map("COUNTED").context("find map COUNTED")?)?;
        Ok(Self { ebpf, live, counted, near: veth.index(NEAR)?, next: 0, batches: 0 })
    }

    /// Sends frames; all of them have been received when it returns.
    fn send(&mut self, kind: Kind, bits: u32, frames: u32) -> Result<()> {
        let half = u64::from(bits.div_ceil(2).max(1));
        // Not in the order in which they were entered, which is that of some tables' memory.
        let factor = FACTOR.wrapping_mul(2 * self.batches + 1);
        self.live.set(0, [self.next, (1 << bits) - 1, half, factor, self.near.into()], 0)?;
        self.next += u64::from(frames);
        self.batches += 1;
        let frame = frame::build(To::Ipip, kind);
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: frames,
            attrs: TestRunAttrs::new().xdp_live_frames(BURST),
            ..TestRunOptions::new()
        };
        own(&mut self.ebpf, "live_send")?.test_run(options).context("send live frames")?;
        Ok(())
    }

    fn counted(&self) -> Result<u64> {
        Ok(self.counted.get(&0, 0)?.iter().sum())
    }

    /// Millions of frames a second of this core's time.
    fn measure(&mut self, case: &Case, weir: &mut Instance, frames: u32) -> Result<f64> {
        let link = match case.far {
            Far::Drop => own(&mut self.ebpf, "live_count")?.attach(FAR, XdpMode::Driver),
            Far::Empty => own(&mut self.ebpf, "empty")?.attach(FAR, XdpMode::Driver),
            Far::Weir => weir.program()?.attach(FAR, XdpMode::Driver),
        }
        .with_context(|| format!("attach the program of {}", case.id))?;
        // Caches and the frames' pages.
        self.send(Kind::Ack, case.bits, frames / 16)?;
        let (known, counted) = (weir.count(Reason::FlowKnown), self.counted()?);
        let before = cpu_time();
        self.send(Kind::Ack, case.bits, frames)?;
        let spent = cpu_time() - before;
        let counted = self.counted()? - counted;
        let known = weir.count(Reason::FlowKnown) - known;
        match case.far {
            Far::Drop => own(&mut self.ebpf, "live_count")?.detach(link),
            Far::Empty => own(&mut self.ebpf, "empty")?.detach(link),
            Far::Weir => weir.program()?.detach(link),
        }?;
        if counted * 100 < u64::from(frames) * 99 {
            bail!("{}: {counted} of {frames} frames were counted", case.id);
        }
        if case.far == Far::Weir && known * 1000 < counted * 999 {
            bail!("{}: {known} of {counted} frames were of known flows", case.id);
        }
        Ok(counted as f64 / spent.as_secs_f64() / 1e6)
    }
}

fn own<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("find program {name}"))?.try_into()?)
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
