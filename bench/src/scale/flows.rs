//! Millions of flows: what a packet costs, what a list takes, and whether the list costs packets anything.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{Result, ensure};
use lb_common::time::Tick;
use lb_userspace::flows::{list, now_ns};
use lb_userspace::maps::set::MapSet;
use rustix::thread::{CpuSet, sched_setaffinity};

use super::config::{Checks, Size, text};
use super::packets::Packets;
use super::tables::{Scratch, applied, load, timed};
use crate::instance::Instance;
use crate::sheet::{Goal, Sheet};
use crate::statistics::{median, range};

const SERVICES: u32 = 1_000;
const BACKENDS: u32 = 10_000;

/// Both sizes.
pub(super) fn measure(sheet: &mut Sheet, rounds: u32) -> Result<()> {
    let mut packets = Packets::load()?;
    for (bits, name, goal) in [(20, "1m", Some(Goal::AtMost(250.0))), (23, "8m", None)] {
        let size = Size { services: SERVICES, backends: BACKENDS, flows_v4: 1 << bits };
        let scratch = Scratch::new("flows")?;
        let config = load(&scratch.write("weir.toml", &text(size, Checks::None, 100))?)?;
        let (mut instance, _applier, _) = applied("flows", &config)?;
        let weir = instance.fd()?;
        packets.enter(&weir, SERVICES, bits)?;
        let costs: Vec<f64> =
            (0..rounds).map(|_| packets.cost(&weir, SERVICES, bits)).collect::<Result<_>>()?;
        sheet.row(
            &format!("packet_{name}"),
            &format!("{} known flows: packet over empty", 1u32 << bits),
            "ns",
            &costs,
            None,
        );
        dump(sheet, rounds, &instance, (name, 1 << bits), goal)?;
        if bits == 20 {
            beside_a_dump(sheet, rounds, &mut instance, &mut packets)?;
        }
    }
    Ok(())
}

/// Reads all flows into memory.
fn read(maps: &MapSet) -> usize {
    let flows: Vec<_> = list(maps, Tick::from_ns(now_ns())).collect();
    flows.len()
}

fn dump(
    sheet: &mut Sheet,
    rounds: u32,
    instance: &Instance,
    (name, flows): (&str, usize),
    goal: Option<Goal>,
) -> Result<()> {
    let mut times = Vec::new();
    for _ in 0..rounds {
        let (time, found) = timed(|| read(&instance.set));
        ensure!(found * 1000 >= flows * 999, "{found} flows of {flows} were listed");
        times.push(time);
    }
    sheet.row(&format!("dump_{name}"), &format!("{flows} flows read and decoded"), "ms", &times, goal);
    Ok(())
}

/// Costs of known flows, with and without another core that reads the whole table all the time.
fn beside_a_dump(
    sheet: &mut Sheet,
    rounds: u32,
    instance: &mut Instance,
    packets: &mut Packets,
) -> Result<()> {
    const BITS: u32 = 20;
    let weir = instance.fd()?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    on_cpu(1);
    for _ in 0..rounds.max(5) {
        alone.push(packets.run_known(&weir, SERVICES, BITS)?);
        let (maps, stop) = (instance.set.clone(), AtomicBool::new(false));
        let cost = thread::scope(|scope| {
            scope.spawn(|| {
                on_cpu(0);
                while !stop.load(Ordering::Relaxed) {
                    read(&maps);
                }
            });
            let cost = packets.run_known(&weir, SERVICES, BITS);
            stop.store(true, Ordering::Relaxed);
            cost
        });
        beside.push(cost?);
    }
    on_any_cpu();
    let (_, highest) = range(&alone);
    let spread = highest / median(&alone);
    sheet.row("known_alone", "1M known flows: packet, nobody lists flows", "ns", &alone, None);
    let title = "1M known flows: packet, another core lists flows all the time";
    sheet.row(
        "known_beside_dump",
        title,
        "ns",
        &beside,
        Some(Goal::AtMost((spread * median(&alone) * 1000.0).round() / 1000.0)),
    );
    Ok(())
}

/// Keeps this thread on one of the cores; on a machine with fewer it stays where it is.
fn on_cpu(number: usize) {
    let mut set = CpuSet::new();
    set.set(number);
    // Not allowed to choose is no reason not to measure.
    let _ = sched_setaffinity(None, &set);
}

fn on_any_cpu() {
    let mut set = CpuSet::new();
    (0..CpuSet::MAX_CPU).for_each(|number| set.set(number));
    // As above.
    let _ = sched_setaffinity(None, &set);
}
