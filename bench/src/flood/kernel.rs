//! One core floods, another runs known flows, over the same maps.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use aya::programs::ProgramFd;
use lb_common::flow::Class;
use lb_common::reason::Reason;
use lb_common::time::Tick;
use lb_userspace::config::model::Limits;
use lb_userspace::flows::{list, now_ns};
use lb_userspace::maps::set::MapSet;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::{FLOODS, Flood};
use crate::cases::Flows;
use crate::engine::Engine;
use crate::frame::{Kind, To, VIP_V4};
use crate::instance::Instance;
use crate::sheet::{Goal, Sheet};
use crate::world;

/// Known flows.
const KNOWN: Flows = Flows::Same(16);
/// Packets of known flows in a batch.
const BATCH: u32 = 1 << 19;
/// Packets of a flood between two looks at whether it shall end. Many: before and after each run of a program the kernel
/// waits for a grace period (its dispatcher of XDP programs changes), tens of milliseconds in which nothing arrives.
const BURST: u32 = 1 << 21;
const TX: u32 = 3;
/// Longest wait for a flood to begin.
const BEGINNING: Duration = Duration::from_secs(2);

/// Backends of the proven flows, by client.
type Bindings = HashMap<(IpAddr, u16), u16>;

/// What one kind of flood did.
#[derive(Default)]
struct Seen {
    known_ns: Vec<f64>,
    flood_mpps: Vec<f64>,
    lost: Vec<f64>,
}

pub(super) fn measure(sheet: &mut Sheet, rounds: u32) -> Result<()> {
    let mut weir = Instance::load("flood", &Limits::default())?;
    world::fill(&weir.set, &weir.geometry)?;
    // Lists name flows by their VIP.
    let [a, b, c, d] = VIP_V4.octets();
    weir.set.vip_info.update(1, |info| {
        info.address[..4].copy_from_slice(&[a, b, c, d]);
        info.family = 4;
    });
    let program = weir.fd()?;
    let (mut known, flood) = (Engine::load()?, Mutex::new(Engine::load()?));
    for kind in [Kind::Syn, Kind::Ack, Kind::Ack] {
        known.batch(&program, To::Ipip, kind, KNOWN, 1 << KNOWN.bits(), TX)?;
    }
    let before = proven(&weir.set);
    ensure!(before.len() * 1000 >= 999 << KNOWN.bits(), "{} flows are proven", before.len());
    let mut seen: Vec<Seen> = FLOODS.iter().map(|_| Seen::default()).collect();
    on_cpu(1);
    for _ in 0..rounds {
        for (flooding, seen) in FLOODS.iter().zip(&mut seen) {
            one(&mut known, &flood, &program, &weir, flooding, seen)?;
            let after = proven(&weir.set);
            let lost = before.iter().filter(|(client, backend)| after.get(*client) != Some(*backend)).count();
            seen.lost.push(lost as f64);
        }
    }
    report(sheet, &seen);
    Ok(())
}

fn report(sheet: &mut Sheet, seen: &[Seen]) {
    for (Flood { id, title, kind }, seen) in FLOODS.iter().zip(seen) {
        if kind.is_some() {
            let title = format!("{title}: random flows a second on the other core");
            sheet.row(&format!("{id}_rate"), &title, "Mpps", &seen.flood_mpps, None);
        }
        let title_ns = format!("{title}: packet of 64K known flows, the runner included");
        sheet.row(&format!("{id}_known"), &title_ns, "ns", &seen.known_ns, None);
        let title = format!("{title}: proven flows of 64K lost or moved");
        sheet.row(&format!("{id}_lost"), &title, "flows", &seen.lost, Some(Goal::AtMost(0.0)));
    }
}

/// Known flows' packets beside one flood.
fn one(
    known: &mut Engine,
    flood: &Mutex<Engine>,
    program: &ProgramFd,
    weir: &Instance,
    flooding: &Flood,
    seen: &mut Seen,
) -> Result<()> {
    let stop = AtomicBool::new(false);
    let before = weir.count(Reason::FlowKnown);
    thread::scope(|scope| {
        let stop = &stop;
        let idle = of_the_flood(weir);
        let other = flooding.kind.map(|kind| scope.spawn(move || pour(flood, program, kind, stop)));
        let spawned = Instant::now();
        while other.is_some() && of_the_flood(weir) == idle && spawned.elapsed() < BEGINNING {
            thread::sleep(Duration::from_millis(1));
        }
        let begun = other.is_none() || of_the_flood(weir) > idle;
        let (begin, poured) = (Instant::now(), of_the_flood(weir));
        let spent = known.batch(program, To::Ipip, Kind::Ack, KNOWN, BATCH, TX);
        let (time, poured) = (begin.elapsed(), of_the_flood(weir) - poured);
        stop.store(true, Ordering::Relaxed);
        if let Some(other) = other {
            match other.join() {
                Ok(result) => result?,
                Err(_) => bail!("the flooding thread panicked"),
            }
        }
        ensure!(begun, "{}: the flood did not begin within {BEGINNING:?}", flooding.id);
        seen.known_ns.push(spent?.as_secs_f64() * 1e9 / f64::from(BATCH));
        seen.flood_mpps.push(poured as f64 / time.as_secs_f64() / 1e6);
        Ok(())
    })?;
    let counted = weir.count(Reason::FlowKnown) - before;
    ensure!(counted >= u64::from(BATCH), "{}: {counted} of {BATCH} packets were of known flows", flooding.id);
    Ok(())
}

/// Packets so far that were not of known flows.
fn of_the_flood(weir: &Instance) -> u64 {
    let others = Reason::ALL.iter().filter(|reason| **reason != Reason::FlowKnown);
    others.map(|reason| weir.count(*reason)).sum()
}

fn pour(flood: &Mutex<Engine>, program: &ProgramFd, kind: Kind, stop: &AtomicBool) -> Result<()> {
    on_cpu(0);
    let Ok(mut engine) = flood.lock() else { bail!("an earlier flood panicked") };
    while !stop.load(Ordering::Relaxed) {
        engine.batch(program, To::Ipip, kind, Flows::Fresh, BURST, TX)?;
    }
    Ok(())
}

fn proven(maps: &MapSet) -> Bindings {
    let flows = list(maps, Tick::from_ns(now_ns()));
    flows
        .filter(|flow| flow.class == Class::Proven)
        .map(|flow| ((flow.client, flow.client_port), flow.backend))
        .collect()
}

/// Keeps this thread on one of the cores; on a machine with fewer it stays where it is.
fn on_cpu(number: usize) {
    let mut set = CpuSet::new();
    set.set(number);
    // Not allowed to choose is no reason not to measure.
    let _ = sched_setaffinity(None, &set);
}
