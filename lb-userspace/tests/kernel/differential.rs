//! The same frames through the packet logic on the host and through the program in the kernel.
//!
//! Both sides start with equal tables and insert flows as they go. Verdict and bytes are compared frame by frame; the
//! flow tables byte by byte, and the counters, after each batch. Then time moves on and backends change.

use aya::TestRun as _;
use aya::programs::TestRunOptions;
use lb_common::cell::{SharedU8, SharedU64};
use lb_common::forward::Egress;
use lb_common::layout::{
    Bucket, Charges, Counter, FragmentLine, FragmentWay, HandshakeStep, Handshakes, Load, NatPort,
    OverflowLine, Refusals, SourceLine, Way,
};
use lb_common::pipeline::Outcome;
use lb_common::reason::{Reason, Verdict};
use lb_userspace::maps::counters;
use lb_userspace::maps::set::MapSet;
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};
use weir_model::{
    Choice as _, Host, INGRESS, OTHER_PORT, Scene, SceneSizes, Splitmix, Totals, answer, check, frame,
};

use crate::instance::{Instance, Tables, sizes};

/// What a driver has before a frame, and the kernel's test run gives.
const HEADROOM: usize = 256;
const FRAMES_PER_BATCH: u32 = 15_000;
/// Ticks that pass before each batch: none, a few, more than every timeout but the longest, more than all.
const BATCHES: [u32; 8] = [0, 1, 0, 2, 1, 9, 1, 200];

/// `XDP_DROP`, `XDP_PASS`, `XDP_TX`, `XDP_REDIRECT` (linux/bpf.h).
fn action(outcome: &Outcome) -> u32 {
    match (outcome.reason.verdict(), outcome.egress) {
        (Verdict::Pass, Egress::NONE) => 2,
        (Verdict::Drop | Verdict::Forward | Verdict::Answer, Egress::NONE) => 1,
        (_, Egress::BACK) => 3,
        _ => 4,
    }
}

/// A bucket's words.
fn words<const W: usize>(bucket: &Bucket<W>) -> Vec<u64> {
    let way = |way: &Way<W>| {
        let last = u64::from(way.meta.get()) << 32 | u64::from(way.binding.get());
        way.key.iter().map(SharedU64::get).chain([last]).collect::<Vec<_>>()
    };
    bucket.ways.iter().flat_map(way).collect()
}

fn compare_flows<const W: usize>(kernel: &[Bucket<W>], host: &[Bucket<W>], batch: usize) -> usize {
    let mut used = 0;
    for (number, (kernel, host)) in kernel.iter().zip(host).enumerate() {
        assert_eq!(words(kernel), words(host), "batch {batch}, bucket {number} of {W} key words");
        used += host.ways.iter().filter(|way| way.binding.get() != 0).count();
    }
    used
}

/// Compares the marks of second buckets; gives how many are set.
fn compare_marks(kernel: &[OverflowLine], host: &[OverflowLine], batch: usize) -> usize {
    let bytes = |lines: &[OverflowLine]| {
        lines.iter().flat_map(|line| line.marks.each_ref().map(SharedU8::get)).collect::<Vec<_>>()
    };
    assert_eq!(bytes(kernel), bytes(host), "batch {batch}: marks differ");
    bytes(host).iter().filter(|mark| **mark != 0).count()
}

fn compare_fragments(kernel: &[FragmentLine], host: &[FragmentLine], batch: usize) {
    let words = |line: &FragmentLine| {
        let way =
            |way: &FragmentWay| way.key.each_ref().map(SharedU64::get).into_iter().chain([way.value.get()]);
        line.ways.iter().flat_map(way).collect::<Vec<_>>()
    };
    for (number, (kernel, host)) in kernel.iter().zip(host).enumerate() {
        assert_eq!(words(kernel), words(host), "batch {batch}, line {number} of fragments");
    }
}

fn compare_loads(kernel: &[Load], host: &[Load], batch: usize) -> usize {
    let words = |load: &Load| (load.seen.get(), load.unseen.get(), load.cost.get());
    assert!(kernel.iter().map(words).eq(host.iter().map(words)), "batch {batch}: loads differ");
    host.iter().filter(|load| load.seen.get() != 0).count()
}

fn compare_sources(kernel: &[SourceLine], host: &[SourceLine], batch: usize) {
    for (number, (kernel, host)) in kernel.iter().zip(host).enumerate() {
        let words = |line: &SourceLine| line.ways.each_ref().map(SharedU64::get);
        assert_eq!(words(kernel), words(host), "batch {batch}, line {number} of sources");
    }
}

/// The ports of both sides: same flows, same queues.
fn compare_ports(kernel: &[NatPort], host: &[NatPort], batch: usize) {
    for (number, (kernel, host)) in kernel.iter().zip(host).enumerate() {
        let words = |port: &NatPort| {
            let words = [&port.state, &port.check, &port.ends, &port.owner, &port.indexed, &port.place];
            words
                .into_iter()
                .chain(&port.client)
                .chain(&port.vip)
                .chain(&port.back)
                .map(SharedU64::get)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(kernel), words(host), "batch {batch}, port {number}");
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The host side has one CPU, with one allowance of answers.
pub(crate) fn stay_on_one_cpu() {
    let mut one = CpuSet::new();
    one.set(sched_getcpu());
    sched_setaffinity(None, &one).expect("a thread may stay where it is");
}

#[test]
fn the_kernel_and_the_host_treat_every_frame_alike() {
    let Some(instance) = Instance::new() else { return };
    stay_on_one_cpu();
    let mut host_tables = Tables(MapSet::anonymous(&sizes()).expect("there is memory"));
    Scene::fill(&mut host_tables, &SceneSizes::SMALL.geometry(Scene::START));

    let mut now = Scene::START;
    let mut expected = None;
    let mut seen = [0_u64; Reason::COUNT];
    let mut actions = [0_u64; 5];
    let mut choice = Splitmix(0x7765_6972);
    let mut output = vec![0; 8192];
    let (mut used, mut counted, mut marked) = ((0, 0), 0, 0);
    // What backends in mode `nat` send back.
    let mut answers = Vec::new();
    for (batch, pause) in BATCHES.into_iter().enumerate() {
        now = now.plus(pause);
        let geometry = SceneSizes::SMALL.geometry(now);
        let mut loaded = instance.load(&geometry);
        // As the host's is, which each batch makes anew.
        instance.empty_scratch();
        let mut kernel_tables = instance.tables();
        if batch == 0 {
            Scene::fill(&mut kernel_tables, &geometry);
            let mut ports = counters::tx_ports(&instance.pins).expect("tx_ports opens");
            ports.insert(OTHER_PORT, INGRESS, None, 0).expect("tx_ports takes the loopback interface");
        } else {
            Scene::disturb(&mut kernel_tables, batch as u64, now);
            Scene::disturb(&mut host_tables, batch as u64, now);
        }
        let host = Host::new(host_tables.0.slices(), geometry);
        if batch == 0 {
            println!("verified instructions, bytes of code: {:?}", loaded.sizes().expect("the kernel tells"));
        }
        let program = loaded.program().expect("the object has the program");
        for number in 0..FRAMES_PER_BATCH {
            let frame = match answers.pop() {
                Some(answer) if choice.chance(60) => answer,
                _ => frame(&mut choice, number),
            };
            let ran = host.run(&frame, HEADROOM);
            let options =
                TestRunOptions { data_in: Some(&frame), data_out: Some(&mut output), ..Default::default() };
            let result = program.test_run(options).expect("the kernel runs the frame");
            let length = result.data_size_out as usize;
            let told = || {
                let outcome = &ran.outcome;
                format!("batch {batch}, frame {number}: {outcome:?}\nframe {}", hex(&frame))
            };
            assert_eq!(result.return_value, action(&ran.outcome), "{}", told());
            assert_eq!(hex(&output[..length]), hex(&ran.output), "{}", told());
            if let Err(broken) = check(&frame, &ran.outcome, &ran.output) {
                panic!("{broken}: {}", told());
            }
            answers.extend(answer(&mut choice, &ran.output));
            seen[ran.outcome.reason as usize] += 1;
            actions[result.return_value as usize] += 1;
        }
        let slices = host_tables.0.slices();
        used = (
            compare_flows(&kernel_tables.0.flows_v4, slices.flows_v4, batch),
            compare_flows(&kernel_tables.0.flows_v6, slices.flows_v6, batch),
        );
        marked = compare_marks(&kernel_tables.0.overflow_v4, slices.overflow_v4, batch)
            + compare_marks(&kernel_tables.0.overflow_v6, slices.overflow_v6, batch);
        compare_sources(&kernel_tables.0.sources, slices.sources, batch);
        compare_fragments(&kernel_tables.0.fragments, slices.fragments, batch);
        counted = compare_loads(&kernel_tables.0.loads, slices.loads, batch);
        compare_ports(&kernel_tables.0.nat_ports, slices.nat_ports, batch);
        expected = Some(sum(expected, host.totals()));
        let totals = instance.totals();
        assert_eq!(Some(&totals), expected.as_ref(), "batch {batch}");
        let packets: u64 = totals.reasons.iter().map(|counter| counter.packets).sum();
        assert_eq!(
            packets,
            u64::from(FRAMES_PER_BATCH) * (batch as u64 + 1),
            "reasons add up to the packets"
        );
    }
    assert!(marked > 8, "{marked} buckets have flows in second ones");
    assert!(counted > 8, "flows of {counted} backends were counted");
    let steps = handshakes(&expected.expect("batches ran").handshakes);
    println!("steps of handshakes: {steps:?}");
    assert!(steps.iter().all(|(_, count)| *count > 10), "{steps:?}");
    report(&seen, &actions, used);
}

/// Every step of handshakes, and how often it came.
fn handshakes(of_backends: &[Handshakes]) -> [(HandshakeStep, u64); 6] {
    use HandshakeStep::{Answered, Completed, Opened, Refused, Repeated, Reset};
    [Opened, Repeated, Completed, Answered, Refused, Reset]
        .map(|step| (step, of_backends.iter().map(|backend| backend.of(step)).sum()))
}

/// Prints what the frames met, and fails where a reason or verdict was never reached.
fn report(seen: &[u64; Reason::COUNT], actions: &[u64; 5], used: (usize, usize)) {
    println!("{} frames; flow entries used: {} IPv4, {} IPv6", seen.iter().sum::<u64>(), used.0, used.1);
    println!("drop {}, pass {}, tx {}, redirect {}", actions[1], actions[2], actions[3], actions[4]);
    for reason in Reason::ALL {
        let frames = seen[*reason as usize];
        println!("{:>18} {frames}", reason.name());
        // 256 bytes of headroom are enough, and every stage is loaded.
        let never =
            [Reason::NoHeadroom, Reason::IpOptions, Reason::Unchosen, Reason::QuicUnread, Reason::Translate];
        assert_eq!(frames == 0, never.contains(reason), "{frames} frames were {}", reason.name());
    }
    assert!(actions[1..].iter().all(|frames| *frames > 100));
}

fn sum(before: Option<Totals>, batch: Totals) -> Totals {
    let Some(before) = before else { return batch };
    let add = |one: Vec<Counter>, two: Vec<Counter>| {
        let pair = |(one, two): (Counter, Counter)| Counter {
            packets: one.packets + two.packets,
            bytes: one.bytes + two.bytes,
        };
        one.into_iter().zip(two).map(pair).collect()
    };
    let steps = |(one, two): (Handshakes, Handshakes)| Handshakes {
        steps: std::array::from_fn(|step| one.steps[step] + two.steps[step]),
    };
    let refusals = |(one, two): (Refusals, Refusals)| Refusals {
        packets: std::array::from_fn(|list| one.packets[list] + two.packets[list]),
    };
    let charges = |(one, two): (Charges, Charges)| Charges {
        packets: std::array::from_fn(|what| one.packets[what] + two.packets[what]),
    };
    Totals {
        charges: before.charges.into_iter().zip(batch.charges).map(charges).collect(),
        refusals: before.refusals.into_iter().zip(batch.refusals).map(refusals).collect(),
        handshakes: before.handshakes.into_iter().zip(batch.handshakes).map(steps).collect(),
        reasons: add(before.reasons, batch.reasons),
        services: add(before.services, batch.services),
        backends: add(before.backends, batch.backends),
    }
}
