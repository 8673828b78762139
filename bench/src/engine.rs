//! Running batches of packets: the runner and its maps, and weir over filled tables.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use aya::maps::{Array, HashMap, Map, MapData, ProgramArray};
use aya::programs::{ProgramFd, TestRun as _, TestRunOptions, Xdp};
use aya::{Ebpf, EbpfLoader};
use lb_common::layout::Counter;
use lb_common::reason::Reason;
use lb_common::time::Tick;
use lb_userspace::config::model::Limits;
use lb_userspace::flows::{PARTS, Settling};
use lb_userspace::maps::counters::{CounterKind, CounterMaps};
use lb_userspace::maps::load::{self, Loaded};
use lb_userspace::maps::mapping::Access;
use lb_userspace::maps::pins::Pins;
use lb_userspace::maps::set::MapSet;
use lb_userspace::maps::sizes::Sizes;
use lb_userspace::objects;
use rustix::time::{ClockId, clock_gettime};

use crate::cases::{Case, Flows};
use crate::frame::{self, Kind, To, VIP_V4};
use crate::world;

/// IP protocol numbers.
const TCP: u64 = 6;
const UDP: u64 = 17;

/// Any odd number with mixed bits.
pub(crate) const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;

/// Key of the bucket hash: any number, the same in every process.
const SECRET: u64 = 0x5eed_5eed_5eed_5eed;

/// The bench's object, loaded: the runner, the floors and the references, with flow tables of their own.
pub(crate) struct Engine {
    ebpf: Ebpf,
    under_test: ProgramArray<MapData>,
    run: Array<MapData, [u64; 5]>,
    next: u64,
    batches: u64,
}

impl Engine {
    /// Loads the object and fills the references' tables.
    pub(crate) fn load() -> Result<Self> {
        let mut ebpf = EbpfLoader::new().load(objects::BENCH).context("load the bench's programs")?;
        for (name, program) in ebpf.programs_mut() {
            let program: &mut Xdp = program.try_into()?;
            program.load().with_context(|| format!("load program {name}"))?;
        }
        let mut take = |name: &str| ebpf.take_map(name).with_context(|| format!("find map {name}"));
        let under_test = ProgramArray::try_from(take("UNDER_TEST")?)?;
        let run = Array::try_from(take("RUN")?)?;
        fill_bare(take("BARE_SERVICES")?, take("BARE_SLOTS")?, take("BARE_BACKENDS")?)?;
        fill_lru(take("LRU_VIPS")?, take("LRU_SLOTS")?, take("LRU_BACKENDS")?)?;
        Ok(Self { ebpf, under_test, run, next: 0, batches: 0 })
    }

    /// The file descriptor of one of the bench's own programs.
    pub(crate) fn own(&self, name: &str) -> Result<ProgramFd> {
        let program = self.ebpf.program(name).with_context(|| format!("find program {name}"))?;
        Ok(program.fd()?.try_clone()?)
    }

    /// Sends `packets` packets of a case through `program`; gives the CPU time of this thread meanwhile.
    ///
    /// # Errors
    /// Where the last verdict is not the expected one.
    pub(crate) fn batch(
        &mut self,
        program: &ProgramFd,
        to: To,
        kind: Kind,
        flows: Flows,
        packets: u32,
        verdict: u32,
    ) -> Result<Duration> {
        let frame = frame::build(to, kind);
        let bits = flows.bits();
        // Every batch goes on where the one before ended: fresh flows stay fresh. Known flows come in another order each
        // time, or they would come in that in which they were entered, which is that of some tables' memory.
        let factor = match flows {
            Flows::Fresh => FACTOR,
            Flows::Same(_) => FACTOR.wrapping_mul(2 * self.batches + 1),
        };
        let half = u64::from(bits.div_ceil(2).max(1));
        self.run.set(0, [self.next, (1 << bits) - 1, half, frame.len() as u64, factor], 0)?;
        self.next += u64::from(packets);
        self.batches += 1;
        self.under_test.set(0, program, 0)?;
        let name = if to == To::IpipV6 { "run_v6" } else { "run_v4" };
        let runner: &Xdp = self.ebpf.program(name).context("find the runner")?.try_into()?;
        let options = TestRunOptions { data_in: Some(&frame), repeat: packets, ..TestRunOptions::new() };
        let before = cpu_time();
        let result = runner.test_run(options)?;
        let spent = cpu_time() - before;
        if result.return_value != verdict {
            bail!(
                "{to:?} {kind:?}: the program returned {} where {verdict} is expected",
                result.return_value
            );
        }
        Ok(spent)
    }
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn fill_bare(services: Map, slots: Map, backends: Map) -> Result<()> {
    let mut services: HashMap<_, u64, u64> = services.try_into()?;
    let address = u64::from(u32::from_ne_bytes(VIP_V4.octets()));
    let port = u64::from(frame::IPIP_PORT.to_be());
    services.insert(address | port << 32 | TCP << 48, 1, 0)?;
    let mut slots: Array<_, u32> = slots.try_into()?;
    let mut backends: Array<_, u64> = backends.try_into()?;
    for slot in 0..world::SLOTS {
        slots.set(slot, u32::from(world::backend_of(slot)) + 1, 0)?;
    }
    for n in 1..=world::BACKENDS {
        let address = u32::from_ne_bytes(world::address_v4(n).octets());
        backends.set(u32::from(n), u64::from(address), 0)?;
    }
    Ok(())
}

fn fill_lru(vips: Map, slots: Map, backends: Map) -> Result<()> {
    let mut vips: HashMap<_, [u64; 3], u64> = vips.try_into()?;
    let mut slots: Array<_, u32> = slots.try_into()?;
    let mut backends: Array<_, [u32; 5]> = backends.try_into()?;
    let address = u64::from(u32::from_ne_bytes(VIP_V4.octets()));
    let port = u64::from(frame::IPIP_PORT.to_be());
    for protocol in [TCP, UDP] {
        vips.insert([address, 0, port | protocol << 16], 0, 0)?;
    }
    for slot in 0..world::SLOTS {
        slots.set(slot, u32::from(world::backend_of(slot)) + 1, 0)?;
    }
    for n in 1..=world::BACKENDS {
        let address = u32::from_ne_bytes(world::address_v4(n).octets());
        backends.set(u32::from(n), [address, 0, 0, 0, 0], 0)?;
    }
    Ok(())
}

/// Weir with filled tables; its pins are removed when it goes.
pub(crate) struct Weir {
    loaded: Loaded,
    other: Option<Loaded>,
    counters: CounterMaps,
    pins: Pins,
    set: MapSet,
}

impl Weir {
    /// Loads weir with the default limits, and another build of it over the same maps.
    pub(crate) fn load(name: &str, other: Option<&Path>) -> Result<Self> {
        let root = format!("/sys/fs/bpf/weir-bench-{}-{name}", std::process::id());
        let pins = Pins::new(Path::new(&root));
        pins.create().with_context(|| format!("create {root}; is bpffs mounted on /sys/fs/bpf?"))?;
        let loaded = Self::load_over(&pins, other);
        if loaded.is_err() {
            // The error says more than a failure to clean up after it.
            let _ = pins.remove_all();
        }
        loaded
    }

    fn load_over(pins: &Pins, other: Option<&Path>) -> Result<Self> {
        let limits = Limits::default();
        let sizes = Sizes::of(&limits);
        let geometry = sizes.geometry(SECRET);
        let loaded = load::load(pins, &sizes, &geometry)?;
        let set = pins.open_set(&sizes, Access::ReadWrite)?;
        world::fill(&set, &geometry)?;
        let other = match other {
            Some(path) => {
                let object = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
                Some(load::load_object(&object, pins, &sizes, &geometry)?)
            }
            None => None,
        };
        let counters = CounterMaps::open(pins)?;
        Ok(Self { loaded, other, counters, pins: pins.clone(), set })
    }

    /// Name, verified instructions and bytes of machine code of each of weir's programs.
    pub(crate) fn sizes(&mut self) -> Result<Vec<(&'static str, u32, u32)>> {
        Ok(self.loaded.sizes()?)
    }

    /// The file descriptor of the program.
    pub(crate) fn fd(&mut self) -> Result<ProgramFd> {
        Ok(self.loaded.program()?.fd()?.try_clone()?)
    }

    /// The file descriptor of the other build.
    pub(crate) fn other_fd(&mut self) -> Result<ProgramFd> {
        let other = self.other.as_mut().context("no other build is loaded")?;
        Ok(other.program()?.fd()?.try_clone()?)
    }

    /// Takes back the marks of second buckets that no flow needs, as the daemon does every minute.
    pub(crate) fn settle(&self) {
        let now = || {
            let time = clock_gettime(ClockId::Monotonic);
            Tick::from_ns(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
        };
        if let Some(mut settling) = Settling::begin(&self.set, now()) {
            (0..PARTS).for_each(|part| settling.part(&self.set, part, now()));
            settling.finish(&self.set, now());
        }
    }

    /// Packets that left for `reason` so far.
    pub(crate) fn count(&self, reason: Reason) -> u64 {
        let Counter { packets, .. } = self.counters.sum(CounterKind::Reasons, reason as u32);
        packets
    }

    /// Checks that the packets of a batch left for the case's reason. One in 200 may not: a few of a million
    /// flows find both their buckets full of others'.
    ///
    /// # Errors
    /// When more did not.
    pub(crate) fn check(&self, case: &Case, before: u64, packets: u32) -> Result<()> {
        let Some(reason) = case.reason else { return Ok(()) };
        let counted = self.count(reason) - before;
        if counted * 200 < u64::from(packets) * 199 {
            let others: Vec<String> = Reason::ALL
                .iter()
                .filter(|other| self.count(**other) > 0)
                .map(|other| format!("{} {}", other.name(), self.count(*other)))
                .collect();
            bail!(
                "{}: {counted} of {packets} packets left as {}; since the start: {}",
                case.id,
                reason.name(),
                others.join(", ")
            );
        }
        Ok(())
    }
}

impl Drop for Weir {
    fn drop(&mut self) {
        // A pin that stays is memory that stays; the next boot frees it.
        let _ = self.pins.remove_all();
    }
}
