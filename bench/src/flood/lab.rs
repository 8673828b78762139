//! Real HTTP connections through weir while frames of random flows pour into its interface.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, MapData};
use aya::programs::{TestRun as _, TestRunAttrs, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_userspace::objects;
use weir_tests::{Downloads, Family, Get, Lab, Load, Rate, Web};

use super::FLOODS;
use crate::engine::FACTOR;
use crate::frame::{self, Kind, To, VIP_V4};
use crate::sheet::{Goal, Sheet};

const CONFIG: &str = r#"
interfaces = ["eth0", "eth1"]

[limits]
flows_v4 = 65_536
flows_v6 = 16_384
maglev_slots = 65_536

[[pool]]
name = "web"
[[pool.health]]
type = "none"
[[pool.backend]]
name = "direct-1"
address = "10.0.1.11"
[[pool.backend]]
name = "direct-2"
address = "10.0.1.12"

[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = ["tcp", "udp"]
mode = "dsr-l2"
pool = "web"
"#;

/// HTTP connections a second.
const PER_SECOND: u32 = 100;
/// How long a connection may take, repeats of lost packets included.
const PATIENCE: Duration = Duration::from_secs(5);
/// Downloads that are there before the flood.
const DOWNLOADS: usize = 40;
/// Flows that a flood takes its packets from, as a power of two.
const BITS: u32 = 39;
/// Frames that the kernel sends before it lets them be received.
const BURST: u32 = 64;
/// Frames between two looks at whether the flood shall end. Many: around each run the kernel waits for grace periods (see
/// `kernel.rs`), and with a sixteenth of these 0.2 million a second came instead of 1.3.
const SHARE: u32 = 1 << 17;

pub(super) fn measure(sheet: &mut Sheet, seconds: u32) -> Result<()> {
    let seconds = Duration::from_secs(seconds.into());
    let web = Web { ports: vec![80], big_bytes: 4 << 20, big_rate: 64 << 10, ..Web::default() };
    let lab = Lab::builder().direct(2).web(web).start()?;
    let vip = lab.vip().of(Family::V4);
    if vip != VIP_V4 {
        bail!("the lab's VIP is {vip}, the flood's is {VIP_V4}");
    }
    let _weir = lab.weir(CONFIG)?;
    let get = Get::new((vip, 80).into()).timeout(PATIENCE);
    let downloads =
        Downloads::start(lab.client(), vec![get.clone().path("/big").timeout(PATIENCE * 4); DOWNLOADS]);
    downloads.wait_started(PATIENCE)?;
    for flood in FLOODS {
        let load = Load::start(lab.client(), get.clone(), Rate { per_second: PER_SECOND, threads: 64 });
        let rate = match flood.kind {
            None => {
                thread::sleep(seconds);
                0.0
            }
            Some(kind) => pour(&lab, kind, seconds)?,
        };
        let shots = load.stop();
        let good = shots.iter().filter(|shot| !shot.failed()).count();
        let share = good as f64 / shots.len().max(1) as f64;
        let title = format!("lab, {}: new HTTP connections that succeed, of {}", flood.title, shots.len());
        sheet.row(&format!("lab_{}_new", flood.id), &title, "share", &[share], Some(Goal::AtLeast(0.99)));
        if flood.kind.is_some() {
            let title = format!("lab, {}: random flows a second", flood.title);
            sheet.row(&format!("lab_{}_rate", flood.id), &title, "Mpps", &[rate], None);
        }
        let times: Vec<f64> = shots.iter().map(|shot| shot.took.as_secs_f64() * 1e3).collect();
        let title = format!("lab, {}: time of a connection", flood.title);
        sheet.row(&format!("lab_{}_time", flood.id), &title, "ms", &times, None);
        let broken = downloads.states().iter().filter(|download| download.broken()).count();
        let title = format!("lab, {}: downloads of {DOWNLOADS} that broke so far", flood.title);
        sheet.row(
            &format!("lab_{}_broken", flood.id),
            &title,
            "downloads",
            &[broken as f64],
            Some(Goal::AtMost(0.0)),
        );
    }
    Ok(())
}

/// Pours frames into weir's interface from the edge router; gives the millions a second.
fn pour(lab: &Lab, kind: Kind, time: Duration) -> Result<f64> {
    let index: u32 = lab
        .edge()
        .ip("-o link show to-weir")?
        .split(':')
        .next()
        .and_then(|number| number.trim().parse().ok())
        .context("find the edge router's interface")?;
    let mut ebpf = EbpfLoader::new().load(objects::BENCH).context("load the bench's programs")?;
    program(&mut ebpf)?.load().context("load program live_send")?;
    let mut live: Array<MapData, [u64; 5]> =
        Array::try_from(ebpf.take_map("LIVE").context("find map LIVE")?)?;
    live.set(0, [0, (1 << BITS) - 1, u64::from(BITS.div_ceil(2)), FACTOR, index.into()], 0)?;
    let (stop, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    let begin = Instant::now();
    thread::scope(|scope| {
        let pouring = scope.spawn(|| {
            // The interface's number means something on the edge router only.
            lab.edge().run(|| send(&mut ebpf, kind, &stop, &sent))
        });
        thread::sleep(time);
        stop.store(true, Ordering::Relaxed);
        pouring.join().unwrap_or_else(|_| bail!("the flooding thread panicked"))
    })?;
    Ok(sent.load(Ordering::Relaxed) as f64 / begin.elapsed().as_secs_f64() / 1e6)
}

fn send(ebpf: &mut Ebpf, kind: Kind, stop: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    let frame = frame::build(To::Ipip, kind);
    while !stop.load(Ordering::Relaxed) {
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: SHARE,
            attrs: TestRunAttrs::new().xdp_live_frames(BURST),
            ..TestRunOptions::new()
        };
        program(ebpf)?.test_run(options).context("send live frames")?;
        sent.fetch_add(SHARE.into(), Ordering::Relaxed);
    }
    Ok(())
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp> {
    Ok(ebpf.program_mut("live_send").context("find program live_send")?.try_into()?)
}
