//! What several CPUs do to one way of the flow table at once, in every order that relaxed accesses allow.
//!
//! Two writers, a refresher and a reader. Whatever the reader finds under its key is a backend that somebody bound that
//! key to. Two naive ways to store an entry are checked too: the model finds how each sends a packet astray.
#![cfg(loom)]

use lb_common::cell::{SharedU32, SharedU64};
use lb_common::flow::{Class, FlowKey, Meta, find, write};
use lb_common::fragment::{self, Key, Value};
use lb_common::layout::{Bucket, FragmentLine, Geometry, NatAddress, NatLine, NatPort, NatQueue, NatRange};
use lb_common::memory::{Memory, Slices};
use lb_common::nat::{self, Flow, Owner};
use lb_common::time::Tick;
use lb_common::wire::Protocol;
use loom::sync::Arc;
use loom::thread;

/// Explores a run in all orders with at most this many switches between threads at a point where none is forced;
/// `LOOM_MAX_PREEMPTIONS` overrides it.
fn explore(preemptions: usize, run: impl Fn() + Send + Sync + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = model.preemption_bound.or(Some(preemptions));
    model.check(run);
}

fn meta(generation: u8) -> Meta {
    Meta::new(Tick::from_bits(1000), Class::Young, generation)
}

/// A flow and the backend that a CPU binds it to.
#[derive(Clone, Copy)]
struct Bound<const W: usize> {
    key: FlowKey<W>,
    backend: u32,
}

/// Which entries meet in a way.
#[derive(Clone, Copy)]
struct Scene<const W: usize> {
    /// There before; `None` is an empty way.
    old: Option<Bound<W>>,
    /// Written at once by two CPUs.
    writers: [Bound<W>; 2],
    /// Looked for meanwhile.
    reader: FlowKey<W>,
}

impl<const W: usize> Scene<W> {
    /// Whether anybody binds the reader's flow to `backend`.
    fn binds(&self, backend: u32) -> bool {
        let mut bound = self.old.iter().chain(&self.writers);
        bound.any(|bound| bound.key == self.reader && bound.backend == backend)
    }

    fn explore(self) {
        // A wide entry's 16 loads have too many orders for more.
        let preemptions = if W == 1 { 3 } else { 2 };
        explore(preemptions, move || {
            let bucket = Arc::new(Bucket::<W>::empty());
            if let Some(old) = self.old {
                write(&bucket.ways[0], &old.key, old.backend, meta(0));
            }
            let mut threads = Vec::new();
            for writer in self.writers {
                let bucket = bucket.clone();
                threads.push(thread::spawn(move || {
                    write(&bucket.ways[0], &writer.key, writer.backend, meta(1));
                }));
            }
            let refreshed = bucket.clone();
            threads.push(thread::spawn(move || refreshed.ways[0].meta.set(meta(2).0)));
            if let Some(found) = find(&bucket, &self.reader) {
                let backend = found.binding.backend();
                assert!(self.binds(backend), "another flow's backend: {backend}");
            }
            for thread in threads {
                thread.join().expect("a thread of the model ends");
            }
        });
    }
}

fn v4(source: u32, source_port: u16) -> FlowKey<1> {
    FlowKey::v4(7, source, (source_port, 80), 1, Protocol::Tcp)
}

fn v6(high: u64, low: u64) -> FlowKey<3> {
    FlowKey::v6(7, (high, low), (50_000, 443), 1, Protocol::Tcp)
}

/// Two flows that are bound at once, looked for in turn.
fn two_writers<const W: usize>(old: Option<Bound<W>>, one: FlowKey<W>, two: FlowKey<W>) {
    let writers = [Bound { key: one, backend: 1 }, Bound { key: two, backend: 2 }];
    for reader in [one, two] {
        Scene { old, writers, reader }.explore();
    }
}

/// Two flows to one backend, so that both are stored under the same mask, and a reader of a flow that nobody wrote: it
/// has the source's upper half of one, the lower half of the other.
fn mixed_source(key: impl Fn(u64, u64) -> FlowKey<3>) {
    let writers = [Bound { key: key(1 << 61, 1), backend: 1 }, Bound { key: key(2 << 61, 2), backend: 1 }];
    Scene { old: None, writers, reader: key(1 << 61, 2) }.explore();
}

#[test]
fn two_v4_writers_never_make_an_entry_with_anothers_backend() {
    two_writers(None, v4(0x0a00_0001, 1000), v4(0x0a00_0002, 1000));
}

#[test]
fn a_v4_flow_that_lost_its_way_and_takes_it_back_gets_only_its_own_backends() {
    let (one, two) = (v4(0x0a00_0001, 1000), v4(0x0a00_0001, 1001));
    two_writers(Some(Bound { key: one, backend: 3 }), one, two);
}

#[test]
fn two_v6_writers_never_make_an_entry_with_anothers_backend() {
    two_writers(None, v6(1 << 61, 1), v6(2 << 61, 2));
}

#[test]
fn v6_sources_of_one_network_never_make_an_entry_with_anothers_backend() {
    two_writers(None, v6(1 << 61, 1), v6(1 << 61, 2));
}

#[test]
fn a_v6_flow_is_not_found_in_the_words_of_two_others() {
    mixed_source(v6);
}

#[test]
#[should_panic(expected = "another flow's backend")]
fn without_the_tag_a_v6_flow_is_found_in_the_words_of_two_others() {
    mixed_source(|high, low| {
        let mut key = v6(high, low);
        key.words[2] &= 0xffff_ffff;
        key
    });
}

/// A naive entry: a reader compares the key, reads the value, then compares the key once more.
#[derive(Default)]
struct Plain {
    key: SharedU64,
    value: SharedU32,
}

impl Plain {
    fn write(&self, key: u64, value: u32) {
        self.key.set(key);
        self.value.set(value);
    }

    fn find(&self, key: u64) -> Option<u32> {
        let (before, value, after) = (self.key.get(), self.value.get(), self.key.get());
        (before == key && after == key && value != 0).then_some(value)
    }
}

#[test]
#[should_panic(expected = "another flow's backend")]
fn without_the_mask_reading_the_key_again_does_not_help() {
    explore(3, || {
        let entry = Arc::new(Plain::default());
        let writers = [(10, 1), (20, 2)].map(|(key, value)| {
            let entry = entry.clone();
            thread::spawn(move || entry.write(key, value))
        });
        assert!(matches!(entry.find(10), None | Some(1)), "another flow's backend");
        for writer in writers {
            writer.join().expect("a thread of the model ends");
        }
    });
}

#[test]
fn a_fragment_follows_only_its_own_packets_first_one() {
    let now = Tick::from_bits(1000);
    let key = move |id| Key::new(7, (0, 0x0a00_0001), 1, id, 17);
    let value = move |backend| Value::new(backend, 1, 5, now);
    // Both entries of the line are taken; two CPUs put other packets in the place of the older one, or of their own.
    for writers in [[(3, 30), (4, 40)], [(1, 31), (1, 32)], [(3, 30), (1, 31)]] {
        explore(3, move || {
            let line = Arc::new(FragmentLine::empty());
            fragment::remember(&line, &key(1), value(10), now);
            fragment::remember(&line, &key(2), value(20), now);
            let threads: Vec<_> = writers
                .into_iter()
                .map(|(id, backend)| {
                    let line = line.clone();
                    thread::spawn(move || fragment::remember(&line, &key(id), value(backend), now))
                })
                .collect();
            if let Some(found) = fragment::find(&line, &key(1), now) {
                let own = writers.iter().any(|(id, backend)| *id == 1 && *backend == found.backend());
                assert!(own || found.backend() == 10, "another packet's backend: {}", found.backend());
            }
            for thread in threads {
                thread.join().expect("a thread of the model ends");
            }
        });
    }
}

/// An address with two ports, whose flows are over.
struct Ports {
    address: NatAddress,
    records: Vec<NatPort>,
    lines: Vec<NatLine>,
}

const NOW: Tick = Tick::from_bits(5000);

impl Ports {
    fn new() -> Self {
        let queue = || NatQueue { head: SharedU64::new(0), tail: SharedU64::new(0), hand: SharedU64::new(0) };
        let address = NatAddress {
            address: [0; 16],
            range: SharedU64::new(NatRange::new(0, 40_000, 40_001).0),
            facts: SharedU64::new(0),
            queues: [queue(), queue()],
            reserved: [0; 6],
        };
        let ports = Self {
            address,
            records: (0..4).map(|_| NatPort::empty()).collect(),
            lines: vec![NatLine::empty(), NatLine::empty()],
        };
        nat::prepare(&ports.address, &ports.records);
        for port in 0..2 {
            let taken =
                nat::take(&ports.memory(), &ports.address, Protocol::Tcp, 14, NOW).map(|taken| taken.number);
            assert_eq!(taken, Some(port), "a queue that nobody else uses gives its ports in order");
            let over = Meta::new(Tick::from_bits(4000), Class::Closing, 1);
            nat::bind(&ports.records[port as usize], &flow(port as u16), &OWNER, 1, over);
        }
        ports
    }

    fn memory(&self) -> Memory<'_> {
        Memory {
            slices: Slices { nat_ports: &self.records, nat_lines: &self.lines, ..Slices::EMPTY },
            geometry: Geometry { nat_mask: 1, ..Geometry::default() },
            now: NOW,
            ..Memory::EMPTY
        }
    }

    /// Takes a port and gives it to a flow of this number.
    fn begin(&self, number: u16) -> Option<u32> {
        let port = nat::take(&self.memory(), &self.address, Protocol::Tcp, 14, NOW)?.number;
        let meta = Meta::new(NOW.plus(14), Class::Embryonic, 1);
        nat::bind(&self.records[port as usize], &flow(number), &OWNER, 1, meta);
        Some(port)
    }
}

const OWNER: Owner = Owner { vip: (0, 1), service: 1, snat: 1, backend_port: 80, v6: false };

fn flow(number: u16) -> Flow {
    Flow { client: (0, 7), ports: (number, 80), vip: 1, protocol: Protocol::Tcp }
}

#[test]
fn two_cpus_never_give_one_port_to_two_flows() {
    explore(2, || {
        let ports = Arc::new(Ports::new());
        let other = ports.clone();
        let thread = thread::spawn(move || other.begin(100));
        let (mine, theirs) = (ports.begin(101), thread.join().expect("a thread of the model ends"));
        assert!(mine.is_none() || mine != theirs, "both have port {mine:?}");
        // Nothing is lost either: what is left can be taken.
        let left = 2 - [mine, theirs].iter().flatten().count();
        let later: Vec<u32> = (0..left as u16).filter_map(|number| ports.begin(200 + number)).collect();
        assert_eq!(later.len(), left, "{mine:?} {theirs:?}");
        assert_eq!(ports.begin(300), None, "there are two");
    });
}

#[test]
fn a_port_is_never_taken_from_a_flow_that_a_packet_has_just_refreshed() {
    explore(2, || {
        let ports = Arc::new(Ports::new());
        let other = ports.clone();
        let thread = thread::spawn(move || {
            let held = nat::read(&other.records[0]).filter(|held| held.flow == flow(0));
            if let Some(held) = held {
                nat::refresh(&other.records[0], &held, Meta::new(NOW.plus(10), Class::Proven, 1));
            }
        });
        let taken = ports.begin(100);
        thread.join().expect("a thread of the model ends");
        let state = nat::read(&ports.records[0]).map(|held| (held.flow, held.meta().class()));
        match state {
            Some((found, Class::Proven)) => {
                assert!(found == flow(0) && taken != Some(0), "{found:?} has the old flow's class");
            }
            Some((found, _)) => assert!(found == flow(100) || found == flow(0), "{found:?}"),
            None => {}
        }
    });
}

#[test]
fn a_reader_sees_the_old_flow_or_the_new_one_or_none() {
    explore(3, || {
        let ports = Arc::new(Ports::new());
        let other = ports.clone();
        let thread = thread::spawn(move || other.begin(100));
        for record in &ports.records[..2] {
            if let Some(held) = nat::read(record) {
                assert!([0, 1, 100].map(flow).contains(&held.flow), "{held:?}");
            }
        }
        thread.join().expect("a thread of the model ends");
    });
}
