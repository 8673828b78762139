//! Frames that scapy builds and judges, through the packet logic on the host and through the program in the kernel.
//! tshark then dissects every frame that left changed.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use aya::TestRun as _;
use aya::programs::TestRunOptions;
use lb_common::layout::{Family, SourceLine};
use lb_userspace::maps::counters;
use lb_userspace::maps::mapping::Mapping;
use lb_userspace::maps::set::MapSet;
use serde::{Deserialize, Serialize};
use weir_model::{
    ALLOWED, DENIED, DENIED_THERE, Host, INGRESS, OTHER_PORT, PORTS_FIRST, PacketSpec, Plain, SNAT_FIRST,
    Scene, SceneSizes, Transport, client, not_vip, snat, vip,
};

use crate::instance::{Instance, Tables, sizes};

const HEADROOM: usize = 256;
/// scapy is a Debian package of the system's Python.
const PYTHON: &str = "/usr/bin/python3";
const ORACLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/oracle/oracle.py");

/// A case as the oracle builds it.
#[derive(Deserialize)]
struct Case {
    name: String,
    before: Vec<String>,
    frame: String,
    next_hop: u16,
    reason: String,
}

/// What became of its frame.
#[derive(Serialize)]
struct Judged<'a> {
    name: &'a str,
    verdict: &'a str,
    output: String,
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("the oracle writes hex");
    (0..hex.len()).step_by(2).map(digits).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Where the scene's services are: one of each mode and family of backends.
fn world() -> String {
    let port = |service: u16| PORTS_FIRST + service;
    let address = |of: &dyn Fn(Family) -> std::net::IpAddr| [of(Family::V4), of(Family::V6)];
    let [vip4, vip6] = address(&|family| vip(family, 0));
    let [client4, client6] = address(&|family| client(family, 1));
    let [other4, other6] = address(&not_vip);
    let [drop4, drop6] = address(&|family| vip(family, 1));
    let [reject4, reject6] = address(&|family| vip(family, 2));
    let [allow4, allow6] = address(&|family| vip(family, 3));
    let [denied4, denied6] = address(&|family| client(family, DENIED));
    let [there4, there6] = address(&|family| client(family, DENIED_THERE));
    let [stranger4, stranger6] = address(&|family| client(family, ALLOWED));
    serde_json::json!({
        "nat": translated(), "snat_own": snat(3),
        "vip4": vip4, "vip6": vip6, "client4": client4, "client6": client6, "other4": other4, "other6": other6,
        "allow4": allow4, "allow6": allow6, "denied4": denied4, "denied6": denied6, "there4": there4, "there6": there6,
        "stranger4": stranger4, "stranger6": stranger6, "drop4": drop4, "drop6": drop6, "reject4": reject4, "reject6": reject6,
        "ports": {
            "ipip4": port(2), "ipip6": port(3), "dsr4": port(12), "dsr6": port(13), "reset": port(6),
            "gue4": port(162), "gue6": port(163), "quic": port(Scene::quic(2) as u16), "limited4": port(42),
        },
    })
    .to_string()
}

/// Flows in mode `nat` of every pair of families, and which backend and port they get.
fn translated() -> Vec<serde_json::Value> {
    let geometry = SceneSizes::SMALL.geometry(Scene::START);
    let mut flows = Vec::new();
    let families = [Family::V4, Family::V6];
    for (family, service) in families.into_iter().flat_map(|family| [(family, 282), (family, 283)]) {
        for (protocol, transport) in
            [("tcp", Transport::Tcp { flags: 2, options: 0 }), ("udp", Transport::Udp)]
        {
            let mut tables = Plain::new(&SceneSizes::SMALL);
            Scene::fill(&mut tables, &geometry);
            (1..SceneSizes::SMALL.backends).for_each(|backend| Scene::next_hop_of(&mut tables, backend, 1));
            let (client_port, vip_port) = (50_000, PORTS_FIRST + service);
            let spec = PacketSpec::syn(client(family, 1), vip(family, 0), (client_port, vip_port));
            let sent =
                Host::new(tables.slices(), geometry).run(&spec.carrying(transport).frame(), HEADROOM).output;
            let backend: std::net::IpAddr = match service {
                282 => <[u8; 4]>::try_from(&sent[30..34]).expect("four bytes").into(),
                _ => <[u8; 16]>::try_from(&sent[38..54]).expect("sixteen bytes").into(),
            };
            flows.push(serde_json::json!({
                "family": if family == Family::V4 { 4 } else { 6 }, "protocol": protocol, "client_port": client_port,
                "vip_port": vip_port, "snat": snat(if service == 282 { 1 } else { 2 }), "port": SNAT_FIRST,
                "backend": backend, "backend_port": vip_port,
            }));
        }
    }
    flows
}

/// The output of the oracle; `None`, said so, where there is no scapy.
fn oracle(command: &str, input: &str) -> Option<(bool, String)> {
    if !Command::new(PYTHON).args(["-c", "import scapy"]).status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: scapy (Debian: python3-scapy)");
        return None;
    }
    let mut python = Command::new(PYTHON);
    python.args(["-B", ORACLE, command, &world()]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = python.spawn().expect("python starts");
    let mut stdin = child.stdin.take().expect("piped");
    let input = input.to_owned();
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output().expect("python ends");
    // An oracle that fails before it reads says so itself.
    let _ = writer.join();
    Some((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
}

/// Forgets what earlier frames left.
fn forget(maps: &MapSet) {
    fn clear<T>(map: &Mapping<T>, empty: impl Fn() -> T)
    where
        T: lb_userspace::maps::mapping::MapValue,
    {
        (0..map.len()).for_each(|index| map.update(index, |value| *value = empty()));
    }
    clear(&maps.flows_v4, lb_common::layout::Bucket::empty);
    clear(&maps.flows_v6, lb_common::layout::Bucket::empty);
    clear(&maps.overflow_v4, lb_common::layout::OverflowLine::empty);
    clear(&maps.overflow_v6, lb_common::layout::OverflowLine::empty);
    clear(&maps.fragments, lb_common::layout::FragmentLine::empty);
    clear(&maps.sources, || SourceLine { ways: Default::default() });
    maps.limits.iter().for_each(|limit| limit.total_whole.set(0));
    clear(&maps.nat_lines, lb_common::layout::NatLine::empty);
}

/// What tshark must not find: status 0 is a bad checksum. Of a packet that an error quotes in part it computes the
/// checksum over that part, and finds it wrong: errors are looked through without the transport's.
const FOUND: &str = "_ws.malformed || ip.checksum.status == 0 || icmp.checksum.status == 0 \
     || icmpv6.checksum.status == 0 || (_ws.expert.severity >= 0x00800000 && !(icmp.type in {3, 11, 12}) \
     && !(icmpv6.type in {1, 2, 3, 4}))";

/// Fails where tshark finds anything wrong with the frames.
fn dissect(frames: &[Vec<u8>]) {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("oracle.pcap");
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
        file.extend(word.to_ne_bytes());
    }
    for frame in frames {
        for word in [0, 0, frame.len() as u32, frame.len() as u32] {
            file.extend(word.to_ne_bytes());
        }
        file.extend(frame);
    }
    fs::write(&path, file).expect("the capture can be written");
    let mut tshark = Command::new("tshark");
    tshark.arg("-r").arg(&path).args(["-n", "-Y", FOUND]);
    // This tshark knows no GUE of its own; a tunnel may have no UDP checksum over IPv6 (RFC 6935).
    tshark.args(["-X", concat!("lua_script:", env!("CARGO_MANIFEST_DIR"), "/../tests/oracle/gue.lua")]);
    let checks = ["ip.check_checksum", "tcp.check_checksum", "udp.check_checksum"];
    for check in checks.into_iter().chain(["udp.ignore_ipv6_zero_checksum"]) {
        tshark.args(["-o", &format!("{check}:TRUE")]);
    }
    match tshark.output() {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
            assert!(text.trim().is_empty(), "tshark finds malformed frames or bad checksums:\n{text}");
        }
        Err(error) => println!("SKIPPED: tshark ({error})"),
    }
    fs::remove_file(&path).expect("the capture can be removed");
}

#[test]
fn what_scapy_builds_is_treated_as_scapy_expects() {
    let Some(instance) = Instance::new() else { return };
    let Some((built, cases)) = oracle("build", "") else { return };
    assert!(built, "{cases}");
    let geometry = SceneSizes::SMALL.geometry(Scene::START);
    let mut host_tables = Tables(MapSet::anonymous(&sizes()).expect("there is memory"));
    let mut loaded = instance.load(&geometry);
    let mut kernel_tables = instance.tables();
    Scene::fill(&mut host_tables, &geometry);
    Scene::fill(&mut kernel_tables, &geometry);
    let mut ports = counters::tx_ports(&instance.pins).expect("tx_ports opens");
    ports.insert(OTHER_PORT, INGRESS, None, 0).expect("tx_ports takes the loopback interface");
    let program = loaded.program().expect("the object has the program");

    let mut buffer = vec![0; 8192];
    let (mut judged, mut changed) = (String::new(), Vec::new());
    let cases: Vec<Case> =
        cases.lines().map(|line| serde_json::from_str(line).expect("the oracle writes JSON")).collect();
    for case in &cases {
        for backend in 1..SceneSizes::SMALL.backends {
            Scene::next_hop_of(&mut host_tables, backend, case.next_hop);
            Scene::next_hop_of(&mut kernel_tables, backend, case.next_hop);
        }
        forget(&host_tables.0);
        forget(&kernel_tables.0);
        Scene::free_ports(&mut host_tables);
        Scene::free_ports(&mut kernel_tables);
        let host = Host::new(host_tables.0.slices(), geometry);
        let mut run = |frame: &[u8]| {
            let ran = host.run(frame, HEADROOM);
            let options =
                TestRunOptions { data_in: Some(frame), data_out: Some(&mut buffer), ..Default::default() };
            let result = program.test_run(options).expect("the kernel runs the frame");
            let output = buffer[..result.data_size_out as usize].to_vec();
            assert_eq!(hex(&output), hex(&ran.output), "{}: {:?}", case.name, ran.outcome);
            (ran.outcome.reason, result.return_value, output)
        };
        case.before.iter().for_each(|frame| drop(run(&bytes(frame))));
        let input = bytes(&case.frame);
        let (reason, action, output) = run(&input);
        assert_eq!(reason.name(), case.reason, "{}", case.name);
        let verdict = ["aborted", "drop", "pass", "tx", "redirect"][action as usize];
        let line = Judged { name: &case.name, verdict, output: hex(&output) };
        judged += &serde_json::to_string(&line).expect("it is plain text");
        judged += "\n";
        if output != input {
            changed.push(output);
        }
    }
    let (right, problems) = oracle("check", &judged).expect("there was scapy a moment ago");
    assert!(right, "{problems}");
    dissect(&changed);
    println!("{} cases, {} frames left changed", cases.len(), changed.len());
}
