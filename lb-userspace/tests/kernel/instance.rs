//! The program and its maps, loaded for a test.

use aya::maps::{Map, MapData, PerCpuArray, PerCpuValues};
use aya::util::nr_cpus;
use lb_common::layout::{
    Backend, FilterLine, Geometry, IndexLine, Limit, Load, MaglevLine, NatAddress, NatLine, NatPort, NextHop,
    Pool, RangeLine, Scratch, ServerIds, Service, Vip, VipLineV6,
};
use lb_userspace::maps::counters::{CounterKind, CounterMaps};
use lb_userspace::maps::load;
use lb_userspace::maps::mapping::Access;
use lb_userspace::maps::pins::Pins;
use lb_userspace::maps::set::MapSet;
use lb_userspace::maps::sizes::Sizes;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use tempfile::TempDir;
use weir_model::{SceneSizes, Store, Totals};

/// Maps that a scene can be written to.
pub(crate) struct Tables(pub(crate) MapSet);

macro_rules! store {
    ($($name:ident: $value:ty = $field:ident;)*) => {
        impl Store for Tables {
            $(fn $name(&mut self, index: u32, change: impl FnOnce(&mut $value)) {
                self.0.$field.update(index as usize, change);
            })*
        }
    };
}

store! {
    vip_line_v4: IndexLine = vips_v4;
    vip_line_v6: VipLineV6 = vips_v6;
    port_line: IndexLine = ports;
    range_line: RangeLine = ranges;
    vip: Vip = vips;
    service: Service = services;
    pool: Pool = pools;
    maglev_line: MaglevLine = maglev;
    backend: Backend = backends;
    load: Load = loads;
    server_line: IndexLine = servers;
    server_ids: ServerIds = server_ids;
    next_hop: NextHop = next_hops;
    filter_line: FilterLine = filters;
    limit: Limit = limits;
    nat_address: NatAddress = nat_addresses;
    nat_port: NatPort = nat_ports;
    nat_line: NatLine = nat_lines;
}

/// The scene's sizes.
pub(crate) fn sizes() -> Sizes {
    let SceneSizes { vips_v4, vips_v6, ports, ranges, vips, services, pools, .. } = SceneSizes::SMALL;
    let SceneSizes { maglev, backends, next_hops, flows_v4, flows_v6, fragments, servers, .. } =
        SceneSizes::SMALL;
    let SceneSizes { filters, sources, .. } = SceneSizes::SMALL;
    let SceneSizes { nat_addresses, nat_ports, nat_lines, .. } = SceneSizes::SMALL;
    Sizes {
        vips_v4,
        vips_v6,
        ports,
        ranges,
        vips,
        services,
        pools,
        maglev,
        backends,
        next_hops,
        flows_v4,
        flows_v6,
        fragments,
        filters,
        servers,
        sources,
        nat_addresses,
        nat_ports,
        nat_lines,
    }
}

/// Pins in a bpffs of their own, which ends with it.
pub(crate) struct Instance {
    pub(crate) pins: Pins,
    root: TempDir,
}

impl Instance {
    /// `None`, said so, where the kernel cannot be used.
    pub(crate) fn new() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: root (loading BPF programs)");
            return None;
        }
        let root = TempDir::new().expect("there is a place for temporary files");
        if let Err(error) = mount("bpf", root.path(), "bpf", MountFlags::empty(), None) {
            println!("SKIPPED: mounting a bpffs ({error})");
            return None;
        }
        let pins = Pins::new(&root.path().join("weir"));
        pins.create().expect("the bpffs takes directories");
        Some(Self { pins, root })
    }

    pub(crate) fn load(&self, geometry: &Geometry) -> load::Loaded {
        load::load(&self.pins, &sizes(), geometry).expect("the program loads")
    }

    pub(crate) fn tables(&self) -> Tables {
        let set = self.pins.open_set(&sizes(), Access::ReadWrite);
        Tables(set.expect("the pinned maps open"))
    }

    /// Empties what each CPU keeps for itself: its allowances of answers are whole again.
    pub(crate) fn empty_scratch(&self) {
        const EMPTY: [u64; size_of::<Scratch>() / 8] = [0; size_of::<Scratch>() / 8];
        let data = MapData::from_pin(self.pins.map("scratch")).expect("the scratch is pinned");
        let mut scratch = PerCpuArray::try_from(Map::PerCpuArray(data)).expect("it has a value for each CPU");
        let cpus = nr_cpus().expect("the kernel tells how many CPUs there are");
        let empty = PerCpuValues::try_from(vec![EMPTY; cpus]).expect("as many as CPUs");
        scratch.set(0, empty, 0).expect("the kernel takes them");
    }

    pub(crate) fn totals(&self) -> Totals {
        let counters = CounterMaps::open(&self.pins).expect("the counters open");
        Totals {
            reasons: counters.sums(CounterKind::Reasons),
            services: counters.sums(CounterKind::Services),
            backends: counters.sums(CounterKind::Backends),
            handshakes: (0..sizes().backends).map(|id| counters.handshakes(id)).collect(),
            charges: (0..sizes().services).map(|id| counters.charges(id)).collect(),
            refusals: (0..sizes().vips).map(|id| counters.refusals(id)).collect(),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = unmount(self.root.path(), UnmountFlags::DETACH) {
            eprintln!("unmount {}: {error}", self.root.path().display());
        }
    }
}
