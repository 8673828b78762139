//! Floods of spoofed flows end no connection, however small the flow table.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde_json::Value;
use weir_tests::{
    Downloads, Family, Get, Lab, Web, WeirProc,
    frame::{self, FrameSocket},
    plan, source_port,
};

const FLOWS: u32 = 500_000;
const FLOWS_V4: u64 = 65_536;
const DOWNLOADS: u16 = 200;
const FIRST_PORT: u16 = 30_000;
/// More than the slow client reads in a minute.
const BYTES: u64 = 1 << 20;

const CONFIG: &str = r#"
interfaces = ["eth0", "eth1"]
[limits]
flows_v4 = 65_536
flows_v6 = 1024
maglev_slots = 65_536
[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = ["tcp", "udp"]
mode = "dsr-l2"
[[service.health]]
type = "tcp"
interval = "500ms"
timeout = "5s"
[[service.backend]]
name = "direct-1"
address = "10.0.1.11"
[[service.backend]]
name = "direct-2"
address = "10.0.1.12"
"#;

/// What the spoofed packets are.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Syn,
    Ack,
    Udp,
}

impl Kind {
    /// A frame from the edge to weir, for the VIP, of the first flow.
    fn frame(self, vip: SocketAddr) -> Vec<u8> {
        let source = SocketAddr::new(Ipv4Addr::new(192, 0, 0, 0).into(), 1024);
        let packet = match self {
            Self::Syn => frame::tcp(source, vip, 1, frame::SYN),
            Self::Ack => frame::tcp(source, vip, 1, frame::ACK),
            Self::Udp => frame::udp(source, vip, b"spoofed"),
        };
        frame::ethernet(plan::FRONT.mac(plan::BEHIND_GATEWAY), plan::FRONT.mac(plan::GATEWAY), &packet)
    }
}

/// Makes a frame that of another flow: the source address moves in its third byte and down, and the checksums follow
/// (RFC 1624).
fn spoof(frame: &mut [u8], kind: Kind, flow: u32) {
    let address = u32::from(Ipv4Addr::new(192, 0, 0, 0)) + flow;
    let transport = if let Kind::Udp = kind { 40 } else { 50 };
    for (half, at) in [(address >> 16, 26), (address & 0xffff, 28)] {
        let old = u16::from_be_bytes([frame[at], frame[at + 1]]);
        let new = half as u16;
        frame[at..at + 2].copy_from_slice(&new.to_be_bytes());
        for sum in [24, transport] {
            let mut total = u32::from(!u16::from_be_bytes([frame[sum], frame[sum + 1]]));
            total += u32::from(!old) + u32::from(new);
            total = (total & 0xffff) + (total >> 16);
            total = (total & 0xffff) + (total >> 16);
            frame[sum..sum + 2].copy_from_slice(&(!(total as u16)).to_be_bytes());
        }
    }
}

/// Sends one packet of each flow of a flood, as fast as the interface takes them.
fn flood(lab: &Lab, kind: Kind, vip: SocketAddr) -> Result<Duration> {
    lab.edge().run(|| {
        let socket = FrameSocket::open("to-weir")?;
        let mut frame = kind.frame(vip);
        let begin = Instant::now();
        for flow in 0..FLOWS {
            spoof(&mut frame, kind, flow);
            while let Err(error) = socket.send(&frame) {
                ensure!(error.raw_os_error() == Some(libc::ENOBUFS), "send frame: {error}");
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(begin.elapsed())
    })
}

/// The source ports of the client's flows in a state.
fn ports(weir: &WeirProc, client: IpAddr, state: &str) -> Result<BTreeSet<u16>> {
    let client = client.to_string();
    let document = weir.json(&["flows", "--client", &client, "--state", state, "--limit", "0"])?;
    let flows = document["flows"].as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(flows.iter().filter_map(|flow| u16::try_from(flow["client_port"].as_u64()?).ok()).collect())
}

fn counter(status: &Value, reason: &str) -> u64 {
    status["counters"][reason].as_u64().unwrap_or_else(|| panic!("no counter {reason}: {status}"))
}

/// Runs one flood against 200 downloads.
fn survive(kind: Kind, service_port: u16) -> Result<()> {
    let lab = Lab::builder()
        .direct(2)
        .clients(2)
        .web(Web { big_bytes: BYTES, big_rate: 0, ..Web::default() })
        .start()?;
    // What the backends answer to the flood would only cost time.
    for backend in lab.backends() {
        backend.ip("route add blackhole 192.0.0.0/8")?;
    }
    let weir = lab.weir(CONFIG)?;
    let vip = SocketAddr::new(lab.vip().of(Family::V4), 80);
    let get = |index| Get::new(vip).path("/big").from(source_port(vip, FIRST_PORT + index));
    let gets = (0..DOWNLOADS).map(|index| get(index).timeout(Duration::from_secs(15)));
    let begin = Instant::now();
    let downloads = Downloads::start_slow(lab.client(), gets.collect());
    downloads.wait_started(Duration::from_secs(10))?;
    let client = lab.client().address(Family::V4);
    let expected: BTreeSet<u16> = (FIRST_PORT..FIRST_PORT + DOWNLOADS).collect();
    assert_eq!(ports(&weir, client, "proven")?, expected, "all downloads are proven");

    // Two tables later, neither the current nor the previous one leads to the first backend: its downloads live by
    // their entries alone.
    for weight in ["1", "2"] {
        weir.succeed(&["backend", "weight", "direct-1", "--to", weight])?;
    }
    let states = downloads.states();
    let by_entry = states.iter().filter(|download| download.backend.as_deref() == Some("direct-1")).count();
    assert!(by_entry > 50, "{by_entry} downloads on the first backend");

    // New connections arrive all through the flood.
    let before = weir.json(&["status"])?;
    let (took, during) = thread::scope(|scope| -> Result<_> {
        let flooding = scope.spawn(|| flood(&lab, kind, SocketAddr::new(vip.ip(), service_port)));
        let mut during = Vec::new();
        while !flooding.is_finished() {
            let start = Instant::now();
            let result = lab.clients()[1].get(&Get::new(vip).timeout(Duration::from_secs(8)));
            during.push((start.elapsed(), result.map(drop)));
            thread::sleep(Duration::from_millis(20));
        }
        Ok((flooding.join().expect("the flood does not panic")?, during))
    })?;
    let after = weir.json(&["status"])?;

    // It was a flood, and it filled the table.
    let moved = |reason| counter(&after, reason) - counter(&before, reason);
    let entered = moved("flow_new") + moved("flow_resumed");
    let (full, live) = (moved("flow_table_full"), after["flows"]["v4"].as_u64().unwrap_or_default());
    println!(
        "{kind:?}: {FLOWS} packets in {took:?}: {entered} flows entered, {full} found no place, {live} live; \
         {} downloads in progress for {:?}",
        downloads.states().iter().filter(|download| download.in_progress()).count(),
        begin.elapsed()
    );
    let seen = entered + full;
    assert!(seen >= u64::from(FLOWS) * 9 / 10, "only {seen} packets of the flood were forwarded");
    assert!(live >= 2 * FLOWS_V4 * 95 / 100, "{live} flows do not fill the table");
    assert!(entered > 3 * live, "entries were taken for later flows");

    let failures: Vec<_> = during.iter().filter_map(|(_, result)| result.as_ref().err()).collect();
    let slowest = during.iter().map(|(took, _)| *took).max();
    println!(
        "{kind:?}: {} new connections meanwhile, failed {failures:?}, slowest {slowest:?}",
        during.len()
    );
    // An entry may be given up before the handshake is over, and the rest of it be selected by the table before this one.
    assert!(failures.len() <= (during.len() / 100).max(1), "new connections during the flood: {failures:?}");
    for _ in 0..20 {
        lab.clients()[1].get(&Get::new(vip))?;
    }
    let states = downloads.states();
    assert!(states.iter().all(|download| download.in_progress()), "downloads span the flood: {states:?}");
    assert_eq!(ports(&weir, client, "proven")?, expected, "their entries are still there");

    downloads.hurry();
    let ended = downloads.finish(Duration::from_secs(40))?;
    let whole = ended.iter().filter(|d| matches!(d.end, Some(Ok(()))) && d.received == BYTES).count();
    println!(
        "{kind:?}: {whole} of {DOWNLOADS} downloads arrived whole, {by_entry} of them by their entries alone, {:?}",
        begin.elapsed()
    );
    assert_eq!(whole, usize::from(DOWNLOADS));
    let logged: usize = lab
        .backends()
        .iter()
        .map(|backend| Ok(backend.access_log()?.iter().filter(|access| access.path == "/big").count()))
        .sum::<Result<usize>>()?;
    assert_eq!(logged, usize::from(DOWNLOADS), "each was answered once");
    Ok(())
}

#[test]
fn a_flood_of_spoofed_syns_ends_no_proven_connection() -> Result<()> {
    survive(Kind::Syn, 80)
}

#[test]
fn a_flood_of_spoofed_acks_ends_no_proven_connection() -> Result<()> {
    survive(Kind::Ack, 80)
}

#[test]
fn a_flood_of_spoofed_datagrams_ends_no_proven_connection() -> Result<()> {
    survive(Kind::Udp, 80)
}
