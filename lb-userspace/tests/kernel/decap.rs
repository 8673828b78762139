//! The same frames through a backend's packet logic on the host and through its programs in the kernel.

use std::process::Command;

use aya::TestRun as _;
use aya::maps::{Map, MapData, PerCpuArray};
use aya::programs::TestRunOptions;
use lb_common::decap::mss::Finding;
use lb_common::decap::{Reason, Verdict};
use lb_common::layout::Counter;
use lb_userspace::config::model::XdpMode;
use lb_userspace::decap::{DecapPins, Mss, Programs, Settings};
use serde::Deserialize;
use weir_model::Splitmix;
use weir_model::decap::{Backend, SETTINGS, SOURCES, VIPS, answer, check_answer, check_incoming, incoming};

use crate::instance::Instance;

/// scapy is a Debian package of the system's Python.
const PYTHON: &str = "/usr/bin/python3";
const ORACLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/oracle/decap.py");

const FRAMES: u32 = 60_000;
/// `XDP_DROP`, `XDP_PASS` (linux/bpf.h).
const DROP: u32 = 1;
const PASS: u32 = 2;
/// `TC_ACT_UNSPEC` (linux/pkt_cls.h).
const UNSPEC: u32 = u32::MAX;
/// The MTU that leaves [`SETTINGS`] as its automatic MSS.
const MTU: u32 = 1500;

fn settings() -> Settings {
    Settings {
        interfaces: Vec::new(),
        vips: VIPS.map(|vip| vip.parse().expect("address")).into(),
        sources: SOURCES.map(|source| source.parse().expect("prefix")).into(),
        gue_port: SETTINGS.gue_port,
        mss: Mss::Auto,
        mode: XdpMode::Native,
    }
}

fn counters(instance: &Instance, name: &str) -> Vec<Counter> {
    let path = root(instance).join("maps").join(name);
    let map = Map::PerCpuArray(MapData::from_pin(path).expect("the counters are pinned"));
    let map: PerCpuArray<_, [u64; 2]> = PerCpuArray::try_from(map).expect("of this type");
    let sum = |index| {
        let values = map.get(&index, 0).expect("the counter is there");
        values.iter().fold(Counter::default(), |sum, [packets, bytes]| Counter {
            packets: sum.packets + packets,
            bytes: sum.bytes + bytes,
        })
    };
    (0..map.len()).map(sum).collect()
}

fn root(instance: &Instance) -> std::path::PathBuf {
    instance.pins.root().with_file_name("decap")
}

fn load(instance: &Instance) -> Programs {
    let pins = DecapPins::new(&root(instance));
    pins.create().expect("the bpffs takes directories");
    Programs::load(&pins, &settings(), MTU).expect("the programs load")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn the_kernel_and_the_host_open_every_tunnel_alike() {
    let Some(instance) = Instance::new() else { return };
    let mut programs = load(&instance);
    let program = programs.decapsulator().expect("the object has the program");
    let verified = program.info().expect("the kernel tells of it").verified_instruction_count();
    println!("verified instructions: {verified:?}");
    let backend = Backend::default();
    let mut choice = Splitmix(0x6465_6361);
    let mut output = vec![0; 8192];
    for number in 0..FRAMES {
        let frame = incoming(&mut choice);
        let (reason, expected) = backend.incoming(&frame);
        let options =
            TestRunOptions { data_in: Some(&frame), data_out: Some(&mut output), ..Default::default() };
        let result = program.test_run(options).expect("the kernel runs the frame");
        let told = || format!("frame {number}: {reason:?} of {}", hex(&frame));
        let action = if reason.verdict() == Verdict::Drop { DROP } else { PASS };
        assert_eq!(result.return_value, action, "{}", told());
        assert_eq!(hex(&output[..result.data_size_out as usize]), hex(&expected), "{}", told());
        check_incoming(&frame, reason, &expected).unwrap_or_else(|broken| panic!("{broken}: {}", told()));
    }
    assert_eq!(counters(&instance, "counters"), backend.reasons());
    for (reason, counter) in Reason::ALL.iter().zip(backend.reasons()) {
        println!("{:>18} {}", reason.name(), counter.packets);
        assert!(counter.packets > 0 || *reason == Reason::Inconsistent, "no frame was {}", reason.name());
    }
}

#[test]
fn the_kernel_and_the_host_treat_every_answer_alike() {
    let Some(instance) = Instance::new() else { return };
    let mut programs = load(&instance);
    let program = programs.classifier().expect("the object has the program");
    let verified = program.info().expect("the kernel tells of it").verified_instruction_count();
    println!("verified instructions: {verified:?}");
    let backend = Backend::default();
    let mut choice = Splitmix(0x6d73_7321);
    let mut output = vec![0; 8192];
    for number in 0..FRAMES {
        let frame = answer(&mut choice);
        let (finding, expected) = backend.outgoing(&frame);
        let options =
            TestRunOptions { data_in: Some(&frame), data_out: Some(&mut output), ..Default::default() };
        let result = program.test_run(options).expect("the kernel runs the frame");
        let told = || format!("frame {number}: {finding:?} of {}", hex(&frame));
        assert_eq!(result.return_value, UNSPEC, "{}", told());
        assert_eq!(hex(&output[..result.data_size_out as usize]), hex(&expected), "{}", told());
        check_answer(&frame, finding, &expected).unwrap_or_else(|broken| panic!("{broken}: {}", told()));
    }
    assert_eq!(counters(&instance, "mss_counters"), backend.findings());
    for (finding, counter) in Finding::ALL.iter().zip(backend.findings()) {
        println!("{:>18} {}", finding.name(), counter.packets);
        assert!(counter.packets > 0, "no frame was {}", finding.name());
    }
}

/// A case as scapy builds it.
#[derive(Deserialize)]
struct Case {
    name: String,
    way: String,
    frame: String,
    /// Or what is found of the MSS; empty for nothing.
    reason: String,
    output: String,
}

/// `None`, said so, where there is no scapy.
fn oracle() -> Option<Vec<Case>> {
    if !Command::new(PYTHON).args(["-c", "import scapy"]).status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: scapy (Debian: python3-scapy)");
        return None;
    }
    let output = Command::new(PYTHON).args(["-B", ORACLE]).output().expect("python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = String::from_utf8(output.stdout).expect("the oracle writes text");
    Some(lines.lines().map(|line| serde_json::from_str(line).expect("the oracle writes JSON")).collect())
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("the oracle writes hex");
    (0..hex.len()).step_by(2).map(digits).collect()
}

/// The oracle knows VIPs, sources and MSS of the scene.
#[test]
fn what_scapy_builds_leaves_a_backend_as_scapy_expects() {
    let Some(instance) = Instance::new() else { return };
    let Some(cases) = oracle() else { return };
    let mut programs = load(&instance);
    let mut buffer = vec![0; 8192];
    for Case { name, way, frame, reason, output } in &cases {
        let backend = Backend::default();
        let frame = bytes(frame);
        let (found, left) = if way == "in" {
            let (reason, left) = backend.incoming(&frame);
            (reason.name(), left)
        } else {
            let (finding, left) = backend.outgoing(&frame);
            (finding.map_or("", Finding::name), left)
        };
        assert_eq!((found, hex(&left)), (reason.as_str(), output.clone()), "{name}");
        let options =
            TestRunOptions { data_in: Some(&frame), data_out: Some(&mut buffer), ..Default::default() };
        let ran = match way.as_str() {
            "in" => programs.decapsulator().expect("the object has the program").test_run(options),
            _ => programs.classifier().expect("the object has the program").test_run(options),
        };
        let length = ran.expect("the kernel runs the frame").data_size_out as usize;
        assert_eq!(hex(&buffer[..length]), *output, "{name}");
    }
    println!("{} cases", cases.len());
    assert!(cases.len() > 200);
}
