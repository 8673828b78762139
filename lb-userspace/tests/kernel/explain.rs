//! What `explain` says is what the live program then does, and asking changes nothing.

use std::fmt::Write as _;

use aya::TestRun as _;
use aya::programs::TestRunOptions;
use lb_common::cell::SharedU64;
use lb_common::layout::{Bucket, Way};
use lb_common::reason::Reason;
use lb_userspace::explain::{Explainer, to_hex};
use lb_userspace::maps::counters;
use lb_userspace::maps::set::MapSet;
use weir_model::{INGRESS, OTHER_PORT, Scene, SceneSizes, Splitmix, Totals, frame};

use crate::differential::stay_on_one_cpu;
use crate::instance::{Instance, sizes};

const FRAMES: u32 = 10_000;
/// Reading the counters takes a system call each: they are compared once in so many frames.
const COUNTERS_EVERY: u32 = 250;

/// Every word that the data plane writes or that tells its time, as one string of numbers.
fn everything(maps: &MapSet) -> String {
    let mut text = String::new();
    let mut flows =
        |words: Vec<u64>| words.iter().for_each(|word| write!(text, "{word:x} ").expect("memory"));
    fn words<const W: usize>(buckets: &[Bucket<W>]) -> Vec<u64> {
        let way = |way: &Way<W>| {
            let last = u64::from(way.meta.get()) << 32 | u64::from(way.binding.get());
            way.key.iter().map(SharedU64::get).chain([last]).collect::<Vec<_>>()
        };
        buckets.iter().flat_map(|bucket| &bucket.ways).flat_map(way).collect()
    }
    flows(words(&maps.flows_v4));
    flows(words(&maps.flows_v6));
    let marks = maps.overflow_v4.iter().chain(maps.overflow_v6.iter()).flat_map(|line| &line.marks);
    flows(marks.map(|mark| u64::from(mark.get())).collect());
    flows(maps.backends.iter().flat_map(|backend| [backend.hot.get(), backend.egress.get()]).collect());
    flows(maps.pools.iter().flat_map(|pool| [pool.current.get(), pool.previous.get()]).collect());
    flows(maps.limits.iter().map(|limit| limit.total_whole.get()).collect());
    flows(maps.trace.iter().flat_map(|trace| trace.marks).flatten().collect());
    flows(maps.trace.iter().map(|trace| trace.count).collect());
    text
}

/// The allowances of sources.
fn allowances(maps: &MapSet) -> Vec<u64> {
    maps.sources.iter().flat_map(|line| line.ways.each_ref().map(SharedU64::get)).collect()
}

/// The reason that was counted between two looks.
fn counted(before: &Totals, after: &Totals) -> Option<Reason> {
    let changed = |reason: &&Reason| {
        before.reasons[**reason as usize].packets != after.reasons[**reason as usize].packets
    };
    Reason::ALL.iter().find(changed).copied()
}

#[test]
fn explain_says_what_the_live_program_then_does_and_changes_no_byte() {
    let Some(instance) = Instance::new() else { return };
    // Each CPU has its own allowance of answers.
    stay_on_one_cpu();
    let geometry = SceneSizes::SMALL.geometry(Scene::START);
    let mut loaded = instance.load(&geometry);
    let mut tables = instance.tables();
    Scene::fill(&mut tables, &geometry);
    let mut ports = counters::tx_ports(&instance.pins).expect("tx_ports opens");
    ports.insert(OTHER_PORT, INGRESS, None, 0).expect("tx_ports takes the loopback interface");
    let mut explainer =
        Explainer::pinned_of(&instance.pins, &sizes(), &geometry).expect("what is pinned explains");
    let program = loaded.program().expect("the object has the program");

    let mut choice = Splitmix(0x6578_706c);
    let mut output = vec![0; 8192];
    let mut seen = [0_u32; Reason::COUNT];
    // Frames that read the bucket, the second one too, and that one for a place.
    let mut buckets = [0_u32; 3];
    for number in 0..FRAMES {
        let frame = frame(&mut choice, number);
        let compared = number % COUNTERS_EVERY == 0;
        let before = (everything(&tables.0), compared.then(|| (instance.totals(), allowances(&tables.0))));
        let explained = explainer.explain(&frame, None).expect("the frame is explained");
        let told = || format!("frame {number}: {explained:?}\nframe {}", to_hex(&frame));
        assert_eq!(everything(&tables.0), before.0, "explaining wrote: {}", told());
        assert_eq!(
            compared.then(|| (instance.totals(), allowances(&tables.0))),
            before.1,
            "explaining counted: {}",
            told()
        );

        let options =
            TestRunOptions { data_in: Some(&frame), data_out: Some(&mut output), ..Default::default() };
        let result = program.test_run(options).expect("the kernel runs the frame");
        let verdict = ["aborted", "drop", "pass", "tx", "redirect"][result.return_value as usize];
        assert_eq!(explained.verdict, verdict, "{}", told());
        assert_eq!(explained.output, to_hex(&output[..result.data_size_out as usize]), "{}", told());
        if let Some((before, _)) = before.1 {
            let reason = counted(&before, &instance.totals());
            assert_eq!(Some(explained.reason.as_str()), reason.map(Reason::name), "{}", told());
        }
        // What is answered has neither; what is forwarded has both.
        assert!(verdict != "redirect" || explained.backend.is_some(), "{}", told());
        assert!(explained.backend.is_none() || explained.service.is_some(), "{}", told());
        assert!(explained.steps.last().is_some_and(|step| step.step == "left"), "{}", told());
        for (frames, said) in buckets.iter_mut().zip(["looked up in bucket", "in its second", "for a place"])
        {
            *frames += u32::from(explained.steps.iter().any(|step| step.detail.contains(said)));
        }
        let reason = Reason::ALL.iter().find(|reason| reason.name() == explained.reason);
        seen[*reason.expect("a reason of the table") as usize] += 1;
    }
    for reason in Reason::ALL {
        println!("{:>18} {}", reason.name(), seen[*reason as usize]);
    }
    println!("buckets: {buckets:?}");
    assert!(buckets[0] > buckets[1] && buckets[1] > 0 && buckets[2] > 0, "{buckets:?}");
    assert!(seen.iter().filter(|frames| **frames > 0).count() > 15, "{seen:?}");
}
