//! Weir's maps and program with any limits, loaded in this process.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use aya::programs::{ProgramFd, Xdp};
use lb_common::layout::{Counter, Geometry};
use lb_common::reason::Reason;
use lb_userspace::config::model::Limits;
use lb_userspace::maps::counters::{CounterKind, CounterMaps};
use lb_userspace::maps::load::{self, Loaded};
use lb_userspace::maps::mapping::Access;
use lb_userspace::maps::pins::Pins;
use lb_userspace::maps::set::MapSet;
use lb_userspace::maps::sizes::Sizes;

/// Key of the bucket hash: any number, the same in every process.
const SECRET: u64 = 0x5eed_5eed_5eed_5eed;

/// Empty maps and the program over them; its pins are removed when it goes.
pub(crate) struct Instance {
    loaded: Loaded,
    counters: CounterMaps,
    pins: Pins,
    /// The maps.
    pub(crate) set: Arc<MapSet>,
    /// Their sizes.
    pub(crate) geometry: Geometry,
}

impl Instance {
    /// Loads weir with `limits`.
    ///
    /// # Errors
    /// Those of the kernel; without a bpffs.
    pub(crate) fn load(name: &str, limits: &Limits) -> Result<Self> {
        let root = format!("/sys/fs/bpf/weir-bench-{}-{name}", std::process::id());
        let pins = Pins::new(Path::new(&root));
        pins.create().with_context(|| format!("create {root}; is bpffs mounted on /sys/fs/bpf?"))?;
        let loaded = Self::load_into(&pins, limits);
        if loaded.is_err() {
            // The error says more than a failure to clean up after it.
            let _ = pins.remove_all();
        }
        loaded
    }

    fn load_into(pins: &Pins, limits: &Limits) -> Result<Self> {
        let sizes = Sizes::of(limits);
        let geometry = sizes.geometry(SECRET);
        let loaded = load::load(pins, &sizes, &geometry)?;
        let set = pins.open_set(&sizes, Access::ReadWrite)?;
        load::describe(&set, limits, geometry);
        let counters = CounterMaps::open(pins)?;
        Ok(Self { loaded, counters, pins: pins.clone(), set: Arc::new(set), geometry })
    }

    /// The program.
    pub(crate) fn program(&mut self) -> Result<&mut Xdp> {
        Ok(self.loaded.program()?)
    }

    /// The program's file descriptor.
    pub(crate) fn fd(&mut self) -> Result<ProgramFd> {
        Ok(self.loaded.program()?.fd()?.try_clone()?)
    }

    /// Packets that left for `reason` so far.
    pub(crate) fn count(&self, reason: Reason) -> u64 {
        let Counter { packets, .. } = self.counters.sum(CounterKind::Reasons, reason as u32);
        packets
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // A pin that stays is memory that stays; the next boot frees it.
        let _ = self.pins.remove_all();
    }
}
