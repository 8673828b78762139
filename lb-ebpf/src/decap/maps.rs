//! The maps, and the packet logic's access to them. Sizes here are placeholders: the loader sets them.
//!
//! Only the counters change once the programs are attached: other VIPs, sources or settings come with other maps.

use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::btf_maps::{Array, HashMap, LpmTrie, PerCpuArray};
use aya_ebpf::macros::btf_map;
use lb_common::decap::mss::{self, Finding};
use lb_common::decap::{Prefix, Reason, Settings, Tables};
use lb_common::layout::{Counter, Family};

/// Addresses that this host serves; the value is unused.
#[btf_map]
static DECAP_VIPS: HashMap<Prefix, u32, 1> = HashMap::new();
/// Outer sources whose packets are opened; the value is unused.
#[btf_map]
static DECAP_SOURCES: LpmTrie<[u32; 5], u32, 1> = LpmTrie::new();
/// Numbers.
#[btf_map]
static DECAP_SETTINGS: Array<Settings, 1> = Array::new();
/// Frames that came in, by reason.
#[btf_map]
static DECAP_COUNTERS: PerCpuArray<Counter, { Reason::COUNT }> = PerCpuArray::new();
/// SYN-ACKs of VIPs, by finding.
#[btf_map]
static MSS_COUNTERS: PerCpuArray<Counter, { Finding::COUNT }> = PerCpuArray::new();

const _: () = assert!(size_of::<Prefix>() == size_of::<Key<[u32; 5]>>());

/// The loaded programs' maps.
pub(crate) struct Maps;

#[inline(always)]
fn is_vip(address: &Prefix) -> bool {
    DECAP_VIPS.get_ptr(address).is_some()
}

impl Tables for Maps {
    #[inline(always)]
    fn is_vip(&self, address: &Prefix) -> bool {
        is_vip(address)
    }

    #[inline(always)]
    fn is_source(&self, address: &Prefix) -> bool {
        let key: *const Key<[u32; 5]> = core::ptr::from_ref(address).cast();
        // SAFETY: a prefix is a key of the trie: of its size, with the number of bits first, and without padding; a
        // packed struct has no alignment.
        DECAP_SOURCES.get(unsafe { &*key }).is_some()
    }

    #[inline(always)]
    fn gue_port(&self) -> u16 {
        DECAP_SETTINGS.get(0).map_or(0, |settings| settings.gue_port)
    }

    #[inline(always)]
    fn count(&self, reason: Reason, bytes: u64) {
        add(DECAP_COUNTERS.get_ptr_mut(reason as u32), bytes);
    }
}

impl mss::Tables for Maps {
    #[inline(always)]
    fn is_vip(&self, address: &Prefix) -> bool {
        is_vip(address)
    }

    #[inline(always)]
    fn limit(&self, family: Family) -> u16 {
        let Some(settings) = DECAP_SETTINGS.get(0) else { return 0 };
        match family {
            Family::V4 => settings.mss_v4,
            Family::V6 => settings.mss_v6,
        }
    }

    #[inline(always)]
    fn count(&self, finding: Finding, bytes: u64) {
        add(MSS_COUNTERS.get_ptr_mut(finding as u32), bytes);
    }
}

#[inline(always)]
fn add(counter: Option<*mut Counter>, bytes: u64) {
    if let Some(counter) = counter {
        // SAFETY: this CPU's own value, alive as long as the program; neither XDP nor tc egress is preempted by itself
        // on one CPU, and they have maps of their own.
        let counter = unsafe { &mut *counter };
        counter.packets += 1;
        counter.bytes += bytes;
    }
}
