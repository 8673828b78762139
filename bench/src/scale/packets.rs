//! Packets spread over services.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_userspace::objects;
use rustix::time::{ClockId, clock_gettime};

use crate::engine::FACTOR;
use crate::frame::{self, Kind, To};

/// Packets of a batch.
const BATCH: u32 = 1 << 19;
/// What XDP programs return to send a frame back.
const TX: u32 = 3;

/// The runner and the empty program.
pub(super) struct Packets {
    ebpf: Ebpf,
    under_test: ProgramArray<MapData>,
    run: Array<MapData, [u64; 5]>,
    services: Array<MapData, u64>,
    next: u64,
    batches: u64,
}

impl Packets {
    pub(super) fn load() -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(objects::BENCH).context("load the bench's programs")?;
        for name in ["run_services", "empty"] {
            program(&mut ebpf, name)?.load().with_context(|| format!("load program {name}"))?;
        }
        let mut take = |name: &str| ebpf.take_map(name).with_context(|| format!("find map {name}"));
        let under_test = ProgramArray::try_from(take("UNDER_TEST")?)?;
        let (run, services) = (Array::try_from(take("RUN")?)?, Array::try_from(take("SERVICES")?)?);
        Ok(Self { ebpf, under_test, run, services, next: 0, batches: 0 })
    }

    /// Nanoseconds of a known flow's packet over the empty program; 2ᵇⁱᵗˢ flows over the largest power of two of
    /// `services`. The flows are entered first.
    pub(super) fn cost(&mut self, weir: &ProgramFd, services: u32, bits: u32) -> Result<f64> {
        let known = self.known(weir, services, bits)?;
        let empty = program(&mut self.ebpf, "empty")?.fd()?.try_clone()?;
        let empty = self.batch(&empty, services, bits, Kind::Ack, BATCH)?;
        Ok((known.as_secs_f64() - empty.as_secs_f64()) * 1e9 / f64::from(BATCH))
    }

    fn known(&mut self, weir: &ProgramFd, services: u32, bits: u32) -> Result<Duration> {
        self.enter(weir, services, bits)?;
        self.batch(weir, services, bits, Kind::Ack, BATCH)
    }

    /// Enters flows and proves them.
    pub(super) fn enter(&mut self, weir: &ProgramFd, services: u32, bits: u32) -> Result<()> {
        for kind in [Kind::Syn, Kind::Ack, Kind::Ack] {
            self.batch(weir, services, bits, kind, 1 << bits)?;
        }
        Ok(())
    }

    /// Packets of flows that are known, and nothing else; nanoseconds each, the runner's own included.
    pub(super) fn run_known(&mut self, weir: &ProgramFd, services: u32, bits: u32) -> Result<f64> {
        let spent = self.batch(weir, services, bits, Kind::Ack, BATCH)?;
        Ok(spent.as_secs_f64() * 1e9 / f64::from(BATCH))
    }

    fn batch(
        &mut self,
        under_test: &ProgramFd,
        services: u32,
        bits: u32,
        kind: Kind,
        packets: u32,
    ) -> Result<Duration> {
        let frame = frame::build(To::Ipip, kind);
        let half = u64::from(bits.div_ceil(2).max(1));
        // Not in the order in which they were entered, which is that of some tables' memory.
        let factor = FACTOR.wrapping_mul(2 * self.batches + 1);
        self.run.set(0, [self.next, (1 << bits) - 1, half, frame.len() as u64, factor], 0)?;
        self.services.set(0, (1 << services.ilog2()) - 1, 0)?;
        self.next += u64::from(packets);
        self.batches += 1;
        self.under_test.set(0, under_test, 0)?;
        let options = TestRunOptions { data_in: Some(&frame), repeat: packets, ..TestRunOptions::new() };
        let before = cpu_time();
        let result = program(&mut self.ebpf, "run_services")?.test_run(options)?;
        let spent = cpu_time() - before;
        ensure!(
            result.return_value == TX,
            "the program returned {} where {TX} is expected",
            result.return_value
        );
        Ok(spent)
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    Ok(ebpf.program_mut(name).with_context(|| format!("find program {name}"))?.try_into()?)
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
