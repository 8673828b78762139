//! One pass over all entries: counts by backend and VIP, and forgetting what is over.

use std::collections::HashSet;

use lb_common::flow::{Binding, Class, Meta, decode, forget};
use lb_common::layout::Bucket;
use lb_common::nat::refresh;
use lb_common::time::{TICK_NS, Tick};

use super::loads::slice;
use super::nat;
use crate::maps::set::MapSet;

/// Age at which an expired entry is forgotten, in ticks: 7 days. Ticks wrap after 52 days, and a deadline passed for
/// more than 26 days would look like one to come; whoever runs [`forget_old`] every day keeps far away from that.
const FORGOTTEN_TICKS: u32 = (7 * 86_400 * 1_000_000_000 / TICK_NS) as u32;

/// Ids whose entries are forgotten.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purge {
    /// Backend ids.
    pub backends: HashSet<u16>,
    /// VIP ids.
    pub vips: HashSet<u16>,
}

/// Entries that name an id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowCount {
    /// Of live flows.
    pub live: u32,
    /// All, expired ones included, less those that the sweep has forgotten.
    pub named: u32,
}

/// What a sweep found.
#[derive(Clone, Debug, Default)]
pub struct Sweep {
    /// When it began, in nanoseconds of the monotonic clock.
    pub started_ns: u64,
    /// By backend id.
    pub backends: Vec<FlowCount>,
    /// By VIP id.
    pub vips: Vec<FlowCount>,
    /// Live IPv4 flows.
    pub live_v4: u64,
    /// Live IPv6 flows.
    pub live_v6: u64,
    /// Entries that were forgotten.
    pub forgotten: u64,
}

impl Sweep {
    /// Entries that name a backend.
    #[must_use]
    pub fn backend(&self, id: u16) -> FlowCount {
        self.backends.get(usize::from(id)).copied().unwrap_or_default()
    }

    /// Entries that name a VIP.
    #[must_use]
    pub fn vip(&self, id: u16) -> FlowCount {
        self.vips.get(usize::from(id)).copied().unwrap_or_default()
    }
}

/// Forgets the entries of one of [`PARTS`](super::PARTS) parts that expired 7 days ago; gives their number.
pub fn forget_old(maps: &MapSet, part: usize, now: Tick) -> usize {
    fn table<const W: usize>(buckets: &[Bucket<W>], now: Tick) -> usize {
        let ways = buckets.iter().flat_map(|bucket| &bucket.ways).filter(|way| way.binding.get() != 0);
        let old = ways.filter(|way| {
            let deadline = Meta(way.meta.get()).deadline();
            deadline.remaining(now).is_none() && now.since(deadline) > FORGOTTEN_TICKS
        });
        old.map(forget).count()
    }
    table(slice(&maps.flows_v4, part), now) + table(slice(&maps.flows_v6, part), now)
}

/// Counts all entries; forgets those that name an id of `purge`.
#[must_use]
pub fn sweep(maps: &MapSet, now_ns: u64, purge: &Purge) -> Sweep {
    let marked = |ids: &HashSet<u16>, len: usize| {
        let mut marked = vec![false; len];
        for id in ids {
            if let Some(mark) = marked.get_mut(usize::from(*id)) {
                *mark = true;
            }
        }
        marked
    };
    let mut pass = Pass {
        now: Tick::from_ns(now_ns),
        backends: vec![FlowCount::default(); maps.backends.len()],
        vips: vec![FlowCount::default(); maps.vips.len()],
        dead_backends: marked(&purge.backends, maps.backends.len()),
        dead_vips: marked(&purge.vips, maps.vips.len()),
        forgotten: 0,
    };
    let live_v4 = pass.table(&maps.flows_v4);
    let live_v6 = pass.table(&maps.flows_v6);
    let (translated_v4, translated_v6) = pass.translated(maps);
    let (live_v4, live_v6) = (live_v4 + translated_v4, live_v6 + translated_v6);
    let Pass { backends, vips, forgotten, .. } = pass;
    Sweep { started_ns: now_ns, backends, vips, live_v4, live_v6, forgotten }
}

struct Pass {
    now: Tick,
    backends: Vec<FlowCount>,
    vips: Vec<FlowCount>,
    dead_backends: Vec<bool>,
    dead_vips: Vec<bool>,
    forgotten: u64,
}

impl Pass {
    /// Counts the flows of mode `nat`; gives the live ones of IPv4 and IPv6 clients. Those whose backend or VIP is no more
    /// end; their ports are given back like any other's.
    fn translated(&mut self, maps: &MapSet) -> (u64, u64) {
        let mut live = (0, 0);
        for (record, held) in nat::held(maps) {
            let expired = held.meta().deadline().remaining(self.now).is_none();
            let (backend, vip) = (held.backend() as usize, held.flow.vip as usize);
            let dead = |marks: &[bool], id: usize| marks.get(id).copied().unwrap_or(true);
            if dead(&self.dead_backends, backend) || dead(&self.dead_vips, vip) {
                let over = Tick::from_bits(self.now.bits().wrapping_sub(1));
                refresh(record, &held, Meta::new(over, Class::Ended, held.meta().generation()));
                self.forgotten += 1;
                continue;
            }
            let counts = [self.backends.get_mut(backend), self.vips.get_mut(vip)];
            for count in counts.into_iter().flatten() {
                count.named += 1;
                count.live += u32::from(!expired);
            }
            let of_family = if held.owner.v6 { &mut live.1 } else { &mut live.0 };
            *of_family += u64::from(!expired);
        }
        live
    }

    /// Counts a table; gives its live flows.
    fn table<const W: usize>(&mut self, buckets: &[Bucket<W>]) -> u64 {
        let mut live = 0;
        for way in buckets.iter().flat_map(|bucket| &bucket.ways) {
            let binding = Binding(way.binding.get());
            if binding.0 == 0 {
                continue;
            }
            let deadline = Meta(way.meta.get()).deadline();
            let expired = deadline.remaining(self.now).is_none();
            let words: [u64; W] = std::array::from_fn(|word| way.key[word].get() ^ binding.mask());
            // A torn entry is some flow's next moment; the next sweep counts it.
            let Some((_, _, vip, _)) = decode(&words) else { continue };
            let (backend, vip) = (binding.backend() as usize, vip as usize);
            let dead = |marks: &[bool], id: usize| marks.get(id).copied().unwrap_or(true);
            if dead(&self.dead_backends, backend) || dead(&self.dead_vips, vip) {
                forget(way);
                self.forgotten += 1;
                continue;
            }
            for count in [self.backends.get_mut(backend), self.vips.get_mut(vip)].into_iter().flatten() {
                count.named += 1;
                count.live += u32::from(!expired);
            }
            live += u64::from(!expired);
        }
        live
    }
}
