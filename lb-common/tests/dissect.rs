//! An independent reader of forwarded frames: tshark dissects them, checks their checksums, and marks what is wrong.
#![cfg(not(loom))]

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use lb_common::forward::Egress;
use lb_common::layout::{Family, Mode};
use weir_model::{Host, PORTS_FIRST, PacketSpec, Plain, Scene, SceneSizes, Transport, client, vip};

/// RFC 6935: a tunnel may have none over IPv6.
const IGNORE_ZERO: &str = "udp.ignore_ipv6_zero_checksum";

/// Frames of each mode and family pair.
const EACH: u32 = 100;

/// A capture file that is removed when dropped.
struct Capture(PathBuf);

impl Capture {
    /// Writes frames as a pcap file of Ethernet frames.
    fn new(name: &str, frames: &[Vec<u8>]) -> Self {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
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
        Self(path)
    }

    /// The given fields of each frame, as tshark reads them; values of one field are joined by commas.
    ///
    /// `None`, said so, where there is no tshark.
    fn fields(&self, fields: &[&str]) -> Option<Vec<Vec<String>>> {
        let mut tshark = Command::new("tshark");
        // This tshark knows no GUE of its own.
        let gue = concat!("lua_script:", env!("CARGO_MANIFEST_DIR"), "/../tests/oracle/gue.lua");
        tshark.arg("-r").arg(&self.0).args(["-n", "-X", gue, "-T", "fields"]);
        for check in ["ip.check_checksum", "tcp.check_checksum", "udp.check_checksum", IGNORE_ZERO] {
            tshark.args(["-o", &format!("{check}:TRUE")]);
        }
        for field in fields {
            tshark.args(["-e", field]);
        }
        let output = match tshark.output() {
            Ok(output) => output,
            Err(error) => {
                println!("SKIPPED: tshark ({error})");
                return None;
            }
        };
        assert!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).expect("tshark writes UTF-8");
        Some(text.lines().map(|line| line.split('\t').map(str::to_owned).collect()).collect())
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.0) {
            eprintln!("remove {}: {error}", self.0.display());
        }
    }
}

/// A frame that was forwarded: its mode, families of inner and outer packet, the packet, and the bytes.
struct Sent {
    mode: Mode,
    families: (Family, Family),
    spec: PacketSpec,
    output: Vec<u8>,
}

fn send(host: &Host<'_>, service: u32, family: Family, number: u32) -> Sent {
    let (pool, mode, ..) = Scene::rules(service);
    let outer = if pool == 2 { Family::V4 } else { Family::V6 };
    let transports = [
        Transport::Tcp { flags: 2, options: 5 },
        Transport::Tcp { flags: 0x18, options: 0 },
        Transport::Udp,
        Transport::Sctp { chunk: 11 },
    ];
    let ports = (20_000 + number as u16, PORTS_FIRST + service as u16);
    let mut spec = PacketSpec::syn(client(family, number % 40), vip(family, 0), ports)
        .carrying(transports[number as usize % transports.len()]);
    // A chunk of SCTP says how long it is; nothing may follow it.
    spec.payload = if matches!(spec.transport, Transport::Sctp { .. }) { 0 } else { number as usize };
    spec.traffic_class = (number * 5) as u8;
    let ran = host.run(&spec.frame(), 256);
    assert_ne!(ran.outcome.egress, Egress::NONE, "{spec:?}: {:?}", ran.outcome);
    Sent { mode, families: (family, outer), spec, output: ran.output }
}

fn all() -> Vec<Sent> {
    let mut tables = Plain::new(&SceneSizes::SMALL);
    let geometry = SceneSizes::SMALL.geometry(Scene::START);
    Scene::fill(&mut tables, &geometry);
    // Every backend by a next hop of which the frames are not too long.
    for backend in 1..SceneSizes::SMALL.backends {
        Scene::next_hop_of(&mut tables, backend, 1);
    }
    let host = Host::new(tables.slices(), geometry);
    let mut sent = Vec::new();
    // Pools 2 and 3 by `ipip`, by `dsr-l2`, by `gue`.
    for service in [2, 3, 12, 13, 162, 163] {
        for family in [Family::V4, Family::V6] {
            sent.extend((0..EACH).map(|number| send(&host, service, family, number)));
        }
    }
    sent
}

/// Source and destination of an IP header at the start of `packet`.
fn addresses(packet: &[u8]) -> (IpAddr, IpAddr) {
    if packet[0] >> 4 == 4 {
        let at =
            |start: usize| IpAddr::from(<[u8; 4]>::try_from(&packet[start..start + 4]).expect("4 bytes"));
        (at(12), at(16))
    } else {
        let at =
            |start: usize| IpAddr::from(<[u8; 16]>::try_from(&packet[start..start + 16]).expect("16 bytes"));
        (at(8), at(24))
    }
}

#[test]
fn tshark_finds_nothing_wrong_with_forwarded_frames() {
    let sent = all();
    let frames: Vec<_> = sent.iter().map(|sent| sent.output.clone()).collect();
    let capture = Capture::new("forwarded.pcap", &frames);
    let fields = [
        "_ws.malformed",
        "_ws.short",
        "ip.checksum.status",
        "tcp.checksum.status",
        "udp.checksum.status",
        "ip.src",
        "ip.dst",
        "ipv6.src",
        "ipv6.dst",
        "tcp.dstport",
        "udp.dstport",
        "sctp.dstport",
        "udp.srcport",
        "gue.start",
        "gue.flags",
        "ip.dsfield",
        "ipv6.tclass",
        "ip.ttl",
        "ipv6.hlim",
        "_ws.expert.message",
    ];
    let Some(lines) = capture.fields(&fields) else { return };
    assert_eq!(lines.len(), sent.len());
    for (line, sent) in lines.iter().zip(&sent) {
        let column = |name: &str| {
            let index = fields.iter().position(|field| *field == name).expect("a field that was asked for");
            line.get(index).map_or("", String::as_str)
        };
        let told = format!("{:?} {:?} {:?}: {line:?}", sent.mode, sent.families, sent.spec);
        assert_eq!((column("_ws.malformed"), column("_ws.short")), ("", ""), "{told}");
        for status in ["ip.checksum.status", "tcp.checksum.status", "udp.checksum.status"] {
            // A UDP checksum of 0 is none: not checked ("3").
            let (none, checked) = match column(status).split_once(',') {
                Some((outer, rest)) if sent.mode == Mode::Gue && status.starts_with("udp") => (outer, rest),
                None if sent.mode == Mode::Gue && status.starts_with("udp") => (column(status), ""),
                _ => ("3", column(status)),
            };
            assert_eq!(none, "3", "{told}");
            assert!(checked.split(',').all(|status| status.is_empty() || status == "1"), "{told}");
        }
        let udp = match (sent.mode, sent.spec.transport) {
            (Mode::Gue, _) => {
                let outer: Vec<_> = column("udp.srcport").split(',').collect();
                assert!(outer[0].parse::<u16>().is_ok_and(|port| port >= 0xc000), "{told}");
                assert_eq!((column("gue.start"), column("gue.flags")), ("0x00", "0x0000"), "{told}");
                let ports = column("udp.dstport").strip_prefix("6080").expect("the tunnel's port is first");
                ports.trim_start_matches(',')
            }
            _ => column("udp.dstport"),
        };
        let ports = [column("tcp.dstport"), udp, column("sctp.dstport")].concat();
        assert_eq!(ports, sent.spec.ports.1.to_string(), "{told}");
        expect_addresses(
            sent,
            [column("ip.src"), column("ip.dst"), column("ipv6.src"), column("ipv6.dst")],
            &told,
        );
        // The outer header's, then the inner's, as far as the families differ each in its own column.
        let class = u32::from(sent.spec.traffic_class);
        let classes = [column("ip.dsfield"), column("ipv6.tclass")].join(",");
        let classes: Vec<_> = classes.split(',').filter(|class| !class.is_empty()).collect();
        let number =
            |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).expect("a hex number");
        assert_eq!(classes.len(), if sent.mode == Mode::DsrL2 { 1 } else { 2 }, "{told}");
        assert!(classes.iter().all(|text| number(text) == class), "{told}");
    }
}

fn expect_addresses(sent: &Sent, [v4_from, v4_to, v6_from, v6_to]: [&str; 4], told: &str) {
    let mut headers = vec![(sent.spec.source, sent.spec.destination)];
    if sent.mode != Mode::DsrL2 {
        let outer = addresses(&sent.output[14..]);
        assert_eq!(outer.0.is_ipv4(), sent.families.1 == Family::V4, "{told}");
        headers.insert(0, outer);
    }
    let join =
        |addresses: Vec<IpAddr>| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let of = |v4: bool| headers.iter().filter(move |header| header.0.is_ipv4() == v4);
    assert_eq!(v4_from, join(of(true).map(|header| header.0).collect()), "{told}");
    assert_eq!(v4_to, join(of(true).map(|header| header.1).collect()), "{told}");
    assert_eq!(v6_from, join(of(false).map(|header| header.0).collect()), "{told}");
    assert_eq!(v6_to, join(of(false).map(|header| header.1).collect()), "{told}");
}

#[test]
fn tshark_would_find_a_wrong_checksum_and_a_cut_packet() {
    let sent = all();
    let outer =
        sent.iter().find(|sent| sent.families.1 == Family::V4).expect("a frame with an outer IPv4 header");
    let mut wrong = outer.output.clone();
    wrong[24] ^= 1;
    let mut cut = outer.output.clone();
    cut.truncate(14 + 20 + 20 + 10);
    let capture = Capture::new("broken.pcap", &[wrong, cut]);
    let Some(lines) = capture.fields(&["ip.checksum.status", "_ws.malformed", "_ws.expert.message"]) else {
        return;
    };
    assert!(lines[0][0].starts_with('0'), "{lines:?}");
    assert!(lines[1].iter().skip(1).any(|text| !text.is_empty()), "{lines:?}");
}
