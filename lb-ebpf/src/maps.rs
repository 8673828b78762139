//! The maps, and the packet logic's access to them. Sizes here are placeholders: the loader sets them.

use core::marker::PhantomData;

use aya_ebpf::bindings::BPF_F_MMAPABLE;
use aya_ebpf::btf_maps::{Array, DevMapHash, PerCpuArray, PerfEventByteArray, ProgramArray};
use aya_ebpf::helpers::generated::{bpf_jiffies64, bpf_ktime_get_coarse_ns};
use aya_ebpf::macros::btf_map;
use lb_common::capture::{CaptureRules, CaptureState};
use lb_common::cell::SharedU64;
use lb_common::layout::{
    Backend, BackendInfo, Bucket, Charged, Charges, Counter, FilterLine, FragmentLine, Geometry,
    HandshakeStep, Handshakes, IndexLine, LIMITED_SLOTS, Limit, Limited, Listed, Load, MaglevLine, Meta,
    NatAddress, NatLine, NatPort, NextHop, OverflowLine, Pool, PoolInfo, RangeLine, Refusals, Scratch,
    ServerIds, Service, ServiceInfo, SourceLine, Vip, VipInfo, VipLineV6,
};
use lb_common::pipeline::{STAGE_PLACES, Variant};
use lb_common::reason::Reason;
use lb_common::tables::Tables;
use lb_common::time::Tick;
use lb_common::trace::{Mark, Trace};

/// An array that userspace maps.
type Shared<T> = Array<T, 1, { BPF_F_MMAPABLE as usize }>;

macro_rules! shared_maps {
    ($($name:ident: $value:ty;)*) => {
        $(#[btf_map]
        pub(crate) static $name: Shared<$value> = Shared::new();)*
    };
}

shared_maps! {
    META: Meta;
    VIPS_V4: IndexLine;
    VIPS_V6: VipLineV6;
    PORTS: IndexLine;
    RANGES: RangeLine;
    VIPS: Vip;
    SERVICES: Service;
    POOLS: Pool;
    MAGLEV: MaglevLine;
    BACKENDS: Backend;
    LOADS: Load;
    SERVERS: IndexLine;
    SERVER_IDS: ServerIds;
    NEXT_HOPS: NextHop;
    FLOWS_V4: Bucket<1>;
    FLOWS_V6: Bucket<3>;
    OVERFLOW_V4: OverflowLine;
    OVERFLOW_V6: OverflowLine;
    FRAGMENTS: FragmentLine;
    FILTERS: FilterLine;
    LIMITS: Limit;
    SOURCES: SourceLine;
    NAT_ADDRESSES: NatAddress;
    NAT_PORTS: NatPort;
    NAT_LINES: NatLine;
    BACKEND_INFO: BackendInfo;
    SERVICE_INFO: ServiceInfo;
    POOL_INFO: PoolInfo;
    VIP_INFO: VipInfo;
    TRACE: Trace;
    CAPTURE: CaptureRules;
}

/// Packets by reason.
#[btf_map]
static REASON_COUNTERS: PerCpuArray<Counter, 1> = PerCpuArray::new();
/// Forwarded packets by service id.
#[btf_map]
static SERVICE_COUNTERS: PerCpuArray<Counter, 1> = PerCpuArray::new();
/// Forwarded packets by backend id.
#[btf_map]
static BACKEND_COUNTERS: PerCpuArray<Counter, 1> = PerCpuArray::new();

/// This CPU's own words.
#[btf_map]
static SCRATCH: PerCpuArray<Scratch, 1> = PerCpuArray::new();

/// Steps of the openings of flows by backend id.
#[btf_map]
static BACKEND_HANDSHAKES: PerCpuArray<Handshakes, 1> = PerCpuArray::new();

/// Packets that lists refused by VIP id.
#[btf_map]
static REFUSALS: PerCpuArray<Refusals, 1> = PerCpuArray::new();

/// Packets that would start flows of limited services by service id.
#[btf_map]
static CHARGES: PerCpuArray<Charges, 1> = PerCpuArray::new();
/// Sources that this CPU limited.
#[btf_map]
static LIMITED: PerCpuArray<Limited, { LIMITED_SLOTS as usize }> = PerCpuArray::new();
/// The program that gets what weir passes.
#[btf_map]
pub(crate) static NEXT_PROGRAM: ProgramArray<1> = ProgramArray::new();

/// Interfaces that frames may leave by, keyed by interface index.
#[btf_map]
pub(crate) static TX_PORTS: DevMapHash<256> = DevMapHash::new();

/// The programs of the stages, by their numbers. Each load of the object has its own.
#[btf_map]
pub(crate) static STAGES: ProgramArray<STAGE_PLACES> = ProgramArray::new();

/// What each CPU samples.
#[btf_map]
pub(crate) static CAPTURE_STATE: PerCpuArray<CaptureState, 1> = PerCpuArray::new();
/// Sampled frames on their way to `weir capture`.
#[btf_map]
pub(crate) static SAMPLES: PerfEventByteArray = PerfEventByteArray::new();

/// Set by the loader; a constant to the verifier.
#[unsafe(no_mangle)]
static GEOMETRY: Geometry = Geometry {
    secret: 0,
    fixed_now_ns: 0,
    vip_v4_mask: 0,
    vip_v6_mask: 0,
    port_mask: 0,
    flows_v4_mask: 0,
    flows_v6_mask: 0,
    fragments_mask: 0,
    servers_mask: 0,
    nat_mask: 0,
};

/// What a program is built for.
pub(crate) trait Build {
    /// The variant.
    const VARIANT: Variant;
}

/// The loaded program's maps.
pub(crate) struct Maps<B>(PhantomData<B>);

impl<B> Maps<B> {
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self(PhantomData)
    }
}

macro_rules! geometry {
    ($($field:ident: $number:ty;)*) => {
        $(#[inline(always)]
        fn $field(&self) -> $number {
            // SAFETY: a field of a live static; volatile, since the loader rewrites the section's bytes.
            unsafe { core::ptr::read_volatile(&raw const GEOMETRY.$field) }
        })*
    };
}

macro_rules! look_up {
    ($($name:ident: $value:ty = $map:ident;)*) => {
        $(#[inline(always)]
        fn $name(&self, index: u32) -> Option<&$value> {
            $map.get(index)
        })*
    };
}

impl<B: Build> Maps<B> {
    #[inline(always)]
    fn fixed_now_ns() -> u64 {
        // SAFETY: as for the other fields of `GEOMETRY`.
        unsafe { core::ptr::read_volatile(&raw const GEOMETRY.fixed_now_ns) }
    }
}

/// The last tick that was read and the jiffy it was read in: bits 0–19 and 20–63.
static CLOCK: SharedU64 = SharedU64::new(0);

#[inline(always)]
fn coarse_ns() -> u64 {
    // SAFETY: the helper has no preconditions.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The current tick, read once a jiffy: asking the clock for every packet costs 19 ns, while the kernel puts the read of
/// its jiffies into the program as one load. Any CPU's reading of this jiffy serves all.
#[inline(always)]
fn clock() -> Tick {
    // SAFETY: the helper has no preconditions.
    let jiffy = unsafe { bpf_jiffies64() } << 20;
    let last = CLOCK.get();
    if last ^ jiffy < 1 << 20 {
        return Tick::from_bits(last as u32);
    }
    let now = Tick::from_ns(coarse_ns());
    CLOCK.set(jiffy | u64::from(now.bits()));
    now
}

impl<B: Build> Tables for Maps<B> {
    const WRITES: bool = !matches!(B::VARIANT, Variant::Explain);

    #[inline(always)]
    fn trace(&self, mark: Mark, a: u32, b: u64) {
        if matches!(B::VARIANT, Variant::Explain | Variant::Offline)
            && let Some(trace) = TRACE.get_ptr_mut(0)
        {
            // SAFETY: the value lives as long as the program; userspace reads it after the run, one at a time.
            unsafe { (*trace).push(mark, a, b) };
        }
    }

    geometry! {
        secret: u64;
        vip_v4_mask: u32;
        vip_v6_mask: u32;
        port_mask: u32;
        flows_v4_mask: u32;
        flows_v6_mask: u32;
        fragments_mask: u32;
        servers_mask: u32;
        nat_mask: u32;
    }

    #[inline(always)]
    fn now(&self) -> Tick {
        match Self::fixed_now_ns() {
            // Explaining leaves the last reading of the clock as it is too.
            0 if !Self::WRITES => Tick::from_ns(coarse_ns()),
            0 => clock(),
            fixed => Tick::from_ns(fixed),
        }
    }

    #[inline(always)]
    fn now_ns(&self) -> u64 {
        match Self::fixed_now_ns() {
            // SAFETY: the helper has no preconditions.
            0 => unsafe { bpf_ktime_get_coarse_ns() },
            fixed => fixed,
        }
    }

    #[inline(always)]
    fn scratch(&self) -> Option<&Scratch> {
        SCRATCH.get(0)
    }

    look_up! {
        vip_line_v4: IndexLine = VIPS_V4;
        vip_line_v6: VipLineV6 = VIPS_V6;
        port_line: IndexLine = PORTS;
        range_line: RangeLine = RANGES;
        vip: Vip = VIPS;
        service: Service = SERVICES;
        pool: Pool = POOLS;
        maglev_line: MaglevLine = MAGLEV;
        backend: Backend = BACKENDS;
        load: Load = LOADS;
        server_line: IndexLine = SERVERS;
        server_ids: ServerIds = SERVER_IDS;
        next_hop: NextHop = NEXT_HOPS;
        flows_v4: Bucket<1> = FLOWS_V4;
        flows_v6: Bucket<3> = FLOWS_V6;
        overflow_v4: OverflowLine = OVERFLOW_V4;
        overflow_v6: OverflowLine = OVERFLOW_V6;
        fragments: FragmentLine = FRAGMENTS;
        filter_line: FilterLine = FILTERS;
        limit: Limit = LIMITS;
        source_line: SourceLine = SOURCES;
        limited: Limited = LIMITED;
        nat_address: NatAddress = NAT_ADDRESSES;
        nat_port: NatPort = NAT_PORTS;
        nat_line: NatLine = NAT_LINES;
    }

    #[inline(always)]
    fn count(&self, reason: Reason, bytes: u64) {
        add(&REASON_COUNTERS, reason as u32, bytes);
    }

    #[inline(always)]
    fn count_forwarded(&self, service: u32, backend: u32, bytes: u64) {
        add(&SERVICE_COUNTERS, service, bytes);
        add(&BACKEND_COUNTERS, backend, bytes);
    }

    #[inline(always)]
    fn count_charged(&self, service: u32, what: Charged) {
        if let Some(charges) = CHARGES.get_ptr_mut(service) {
            // SAFETY: this CPU's own value, alive as long as the program; XDP is not preempted by XDP on one CPU.
            let charges = unsafe { &mut *charges };
            charges.packets[what as usize & 3] += 1;
        }
    }

    #[inline(always)]
    fn count_refused(&self, vip: u32, list: Listed) {
        if let Some(refusals) = REFUSALS.get_ptr_mut(vip) {
            // SAFETY: this CPU's own value, alive as long as the program; XDP is not preempted by XDP on one CPU.
            let refusals = unsafe { &mut *refusals };
            refusals.packets[list as usize & 3] += 1;
        }
    }

    #[inline(always)]
    fn count_handshake(&self, backend: u32, step: HandshakeStep) {
        if let Some(handshakes) = BACKEND_HANDSHAKES.get_ptr_mut(backend) {
            // SAFETY: this CPU's own value, alive as long as the program; XDP is not preempted by XDP on one CPU.
            let handshakes = unsafe { &mut *handshakes };
            handshakes.steps[step as usize] += 1;
        }
    }
}

#[inline(always)]
fn add(counters: &PerCpuArray<Counter, 1>, index: u32, bytes: u64) {
    if let Some(counter) = counters.get_ptr_mut(index) {
        // SAFETY: this CPU's own value, alive as long as the program; XDP is not preempted by XDP on one CPU.
        let counter = unsafe { &mut *counter };
        counter.packets += 1;
        counter.bytes += bytes;
    }
}
