//! `weir decap` on a backend: what it opens, what it leaves alone, and how it comes and goes.

use std::{
    fs,
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_userspace::decap::{Mss, Settings};
use serde_json::{Value, json};
use weir_tests::{
    Backend, Family, Get, Lab, Load, Rate, WeirProc,
    frame::{self, PacketSocket},
};

/// Long enough for everything that works.
const WITHIN: Duration = Duration::from_secs(2);
/// How long a test waits for what must not come.
const BRIEFLY: Duration = Duration::from_millis(200);

/// A service of the first VIP's IPv4 and of its IPv6 address, each by `ipip` of its family to the first direct backend.
fn config(port: u16) -> String {
    let service = |name: &str, vip: &str, backend: &str| {
        format!(
            r#"[[service]]
name = "{name}"
vip = "{vip}"
port = {port}
protocol = "tcp"
mode = "ipip"
[[service.health]]
type = "none"
[[service.backend]]
name = "{name}-1"
address = "{backend}"
"#
        )
    };
    let head = "interfaces = [\"eth0\", \"eth1\"]\n[limits]\nflows_v4 = 4096\nflows_v6 = 4096\nmaglev_slots = 65_536\n";
    let v4 = service("v4", "198.51.100.10", "10.0.1.11");
    head.to_owned() + &v4 + &service("v6", "2001:db8::10", "fd00:1::11")
}

/// Sends a tunnelled UDP packet for a VIP with this outer source; whether the backend's socket got it in time.
fn arrives(lab: &Lab, backend: &Backend, outer_source: IpAddr, limit: Duration) -> Result<bool> {
    let vip = SocketAddr::new(lab.vip().v4.into(), 7);
    let server = backend.run(|| UdpSocket::bind(vip))?;
    server.set_read_timeout(Some(limit))?;
    let packet = frame::udp((lab.client().address(Family::V4), 1000).into(), vip, b"tunnelled");
    let target = backend.address(Family::V4);
    let tunnel = frame::tunnel(outer_source, target, &packet);
    lab.weir_host().run(|| PacketSocket::open(Family::V4)?.send(target, &tunnel).context("send"))?;
    match server.recv(&mut [0; 64]) {
        Ok(_) => Ok(true),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn document(output: &Output) -> Result<Value> {
    ensure!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).context("read json")
}

#[test]
fn the_verb_attaches_reports_and_detaches() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let (backend, weir) = (lab.backend("direct-1"), lab.weir_host().address(Family::V4));
    let decap = backend.decap();
    ensure!(arrives(&lab, backend, weir, WITHIN)?);

    let detached = document(&decap.cli(&["detach", "-o", "json"])?)?;
    ensure!(detached["interfaces"] == json!(["eth0"]), "{detached}");
    ensure!(backend.xdp_program("eth0")?.is_none() && !decap.bpffs().exists(), "everything is gone");
    ensure!(!arrives(&lab, backend, weir, BRIEFLY)?, "nobody opens tunnels");
    ensure!(unopened(backend)? == 1, "the host gets the tunnel as it came");
    let status = decap.cli(&["status"])?;
    ensure!(status.status.code() == Some(4), "{status:?}");
    let again = decap.cli(&["detach"])?;
    ensure!(String::from_utf8_lossy(&again.stdout).contains("nothing was attached"), "{again:?}");

    let vips = ["--vip", "198.51.100.10", "--vip", "2001:db8::10"];
    let attach = [&["--interface", "eth0", "--source", "10.0.0.0/16"][..], &vips].concat();
    let attached = decap.cli(&attach)?;
    let page = String::from_utf8_lossy(&attached.stdout).into_owned();
    ensure!(attached.status.success() && page.contains("native") && page.contains("tcx"), "{attached:?}");
    ensure!(arrives(&lab, backend, weir, WITHIN)?);
    let status = document(&decap.cli(&["status", "-o", "json"])?)?;
    ensure!(status["api"] == "weir/v1" && status["problems"] == json!([]), "{status}");
    let interface = json!({"name": "eth0", "attached": true, "mode": "native", "egress": "tcx"});
    ensure!(status["interfaces"][0] == interface, "{status}");
    ensure!(status["vips"] == json!(["198.51.100.10", "2001:db8::10"]), "{status}");
    ensure!(status["sources"] == json!(["10.0.0.0/16"]) && status["gue_port"] == 6080, "{status}");
    // 1600 - (20 + 8 + 4) - 40, - 60.
    ensure!(status["mss"] == json!({"v4": 1528, "v6": 1508}), "{status}");
    ensure!(status["counters"]["opened_ipip"] == 1, "{status}");

    // The same from a file; counters stay, the clamp goes, a stranger's VIP is remarked on.
    let file = lab.directory().join("decap.toml");
    let text = "interface = \"eth0\"\nvip = [\"198.51.100.10\", \"198.51.100.99\"]\nmss = \"off\"\n";
    fs::write(&file, text)?;
    let path = file.display().to_string();
    let status = document(&decap.cli(&["--config", &path, "-o", "json"])?)?;
    ensure!(status["interfaces"][0]["egress"].is_null() && status["mss"].is_null(), "{status}");
    ensure!(status["counters"]["opened_ipip"] == 1, "{status}");
    let problem = status["problems"][0].as_str().unwrap_or_default();
    ensure!(problem.starts_with("vip 198.51.100.99: not an address of this host"), "{status}");
    fs::write(&file, text.replace("mss", "msss"))?;
    let refused = decap.cli(&["--config", &path])?;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(2) && told.contains("did you mean `mss`?"), "{told}");
    Ok(())
}

#[test]
fn the_capabilities_that_the_unit_leaves_are_enough() -> Result<()> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../packaging/weir-decap.service");
    let unit = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    ensure!(!unit.contains("ExecStop"), "stopping must not detach");
    let capabilities = unit.lines().find_map(|line| line.strip_prefix("CapabilityBoundingSet="));
    let capabilities = capabilities.context("the unit bounds capabilities")?.split_whitespace();
    let kept: String = capabilities
        .filter_map(|name| name.strip_prefix("CAP_"))
        .map(|name| format!(",+{}", name.to_lowercase()))
        .collect();
    let lab = Lab::builder().direct(1).start()?;
    let backend = lab.backend("direct-1");
    let bpffs = backend.decap().bpffs();
    let confined = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.arg("--no-new-privs").arg(format!("--bounding-set=-all{kept}"));
        command.arg(WeirProc::binary()?).arg("decap").args(arguments).arg("--bpffs").arg(bpffs);
        let output = backend.output(&mut command)?;
        ensure!(output.status.success(), "{arguments:?}: {output:?}");
        Ok(())
    };
    confined(&["detach"])?;
    // Anew, then over what is pinned.
    confined(&["--interface", "eth0", "--vip", "198.51.100.10"])?;
    confined(&["--interface", "eth0", "--vip", "198.51.100.10"])?;
    confined(&["status"])?;
    ensure!(arrives(&lab, backend, lab.weir_host().address(Family::V4), WITHIN)?);
    confined(&["detach"])
}

#[test]
fn only_tunnels_of_configured_sources_are_opened() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let backend = lab.backend("direct-1");
    let weir: IpAddr = lab.weir_host().address(Family::V4);
    let decap = backend.decap();
    let settings = Settings { sources: vec![weir.into()], ..decap.settings() };
    decap.apply(&settings)?;
    ensure!(arrives(&lab, backend, weir, WITHIN)?);
    let stranger: IpAddr = "10.0.0.77".parse()?;
    ensure!(!arrives(&lab, backend, stranger, BRIEFLY)?);
    ensure!(decap.counted("not_source")? == 1 && decap.counted("opened_ipip")? == 1);
    Ok(())
}

#[test]
fn an_interface_that_refuses_changes_nothing() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let backend = lab.backend("direct-1");
    let weir = lab.weir_host().address(Family::V4);
    let decap = backend.decap();
    let before = backend.xdp_program("eth0")?;
    let wrong = ["--interface", "eth0", "--interface", "eth7", "--vip", "198.51.100.99"];
    let refused = decap.cli(&wrong)?;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1) && told.contains("interface eth7: no such interface"), "{told}");
    ensure!(backend.xdp_program("eth0")? == before && arrives(&lab, backend, weir, WITHIN)?);

    document(&decap.cli(&["detach", "-o", "json"])?)?;
    let _other = backend.attach_passing_program("eth0")?;
    let refused = decap.cli(&["--interface", "eth0", "--vip", "198.51.100.10"])?;
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(1), "{refused:?}");
    ensure!(told.contains("eth0: xdp program") && told.contains("is attached"), "{told}");
    ensure!(!decap.bpffs().exists(), "a refused start leaves nothing");
    Ok(())
}

#[test]
fn generic_mode_is_taken_where_native_fails_and_packets_are_not_merged() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let backend = lab.backend("direct-1");
    let decap = backend.decap();
    document(&decap.cli(&["detach", "-o", "json"])?)?;
    // The loopback driver has no native XDP.
    let on_lo =
        |mode| decap.cli(&["--interface", "lo", "--vip", "198.51.100.10", "--mode", mode, "-o", "json"]);
    let native = on_lo("native")?;
    let told = String::from_utf8_lossy(&native.stderr).into_owned();
    ensure!(native.status.code() == Some(1) && told.contains("use mode auto or generic"), "{told}");
    backend.exec("ethtool", &["-K", "lo", "gro", "on"])?;
    for mode in ["auto", "generic"] {
        let merged = on_lo(mode)?;
        let told = String::from_utf8_lossy(&merged.stderr).into_owned();
        ensure!(merged.status.code() == Some(1) && told.contains("ethtool -K lo gro off"), "{mode}: {told}");
        ensure!(
            backend.xdp_program("lo")?.is_none() && !decap.bpffs().exists(),
            "{mode}: nothing was changed"
        );
    }
    backend.exec("ethtool", &["-K", "lo", "gro", "off"])?;
    let status = document(&on_lo("auto")?)?;
    ensure!(status["interfaces"][0]["mode"] == "generic", "{status}");
    // A link keeps the mode that it was made in: what was asked for and is not had is told.
    let kept = document(&on_lo("native")?)?;
    let told = kept["problems"].to_string();
    ensure!(
        kept["interfaces"][0]["mode"] == "generic" && told.contains("generic mode, not in native"),
        "{kept}"
    );
    ensure!(status["problems"] == json!([]), "{status}");
    Ok(())
}

/// Packets of a protocol that nobody on the host takes: those still in their tunnel, where the kernel has no device for it.
fn unopened(backend: &Backend) -> Result<u64> {
    let text = backend.exec("cat", &["/proc/net/snmp"])?;
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Ip: "));
    let (names, values) = (lines.next().context("find names")?, lines.next().context("find values")?);
    let mut pairs = names.split_whitespace().zip(values.split_whitespace());
    let value = pairs.find_map(|(name, value)| (name == "InUnknownProtos").then_some(value));
    Ok(value.context("find InUnknownProtos")?.parse()?)
}

#[test]
fn new_settings_are_taken_over_without_losing_a_packet() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let _weir = lab.weir(&config(80))?;
    let backend = lab.backend("direct-1");
    let decap = backend.decap();
    let request = Get::new((lab.vip().v4, 80).into()).timeout(Duration::from_secs(20));
    let load = Load::start(lab.client(), request, Rate::per_second(200));
    let first = backend.xdp_program("eth0")?;
    let opened = backend.decapsulated()?;
    for round in 0..8 {
        thread::sleep(Duration::from_millis(150));
        let mss = if round % 2 == 0 { Mss::Limit(1200) } else { Mss::Off };
        decap.apply(&Settings { gue_port: 7000 + round, mss, ..decap.settings() })?;
    }
    thread::sleep(Duration::from_millis(300));
    let shots = load.stop();
    let failed: Vec<_> = shots.iter().filter(|shot| shot.failed()).collect();
    let slowest = shots.iter().map(|shot| shot.took).max().unwrap_or_default();
    println!("{} requests, the slowest took {slowest:?}", shots.len());
    ensure!(failed.is_empty() && shots.len() > 100, "{failed:?}");
    // A packet that met neither the old nor the new program reaches the host in its tunnel.
    ensure!(unopened(backend)? == 0, "{} packets were not opened", unopened(backend)?);
    for reason in ["not_vip", "not_source", "ecn_conflict", "inconsistent"] {
        ensure!(decap.counted(reason)? == 0, "{reason}");
    }
    ensure!(backend.xdp_program("eth0")? != first && backend.decapsulated()? > opened);
    ensure!(decap.status()?.gue_port == 7007);
    Ok(())
}

/// Uploads to a VIP's port until `bytes` have arrived or time is up; what arrived, and how long it took.
fn upload(lab: &Lab, target: SocketAddr, bytes: usize, limit: Duration) -> Result<(usize, Duration)> {
    let listener = lab.backend("direct-1").run(|| TcpListener::bind(target))?;
    let sink = thread::spawn(move || -> std::io::Result<usize> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(limit))?;
        let (mut buffer, mut arrived) = (vec![0; 1 << 16], 0);
        loop {
            match stream.read(&mut buffer) {
                Ok(0) => return Ok(arrived),
                Ok(read) => arrived += read,
                // A client that gives up resets.
                Err(_) => return Ok(arrived),
            }
        }
    });
    let begin = Instant::now();
    let mut stream = lab.client().run(|| TcpStream::connect_timeout(&target, WITHIN))?;
    stream.set_write_timeout(Some(limit))?;
    let mut left = bytes;
    while left > 0 && begin.elapsed() < limit {
        match stream.write(&vec![7; left.min(1 << 16)]) {
            Ok(written) => left -= written,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => break,
            Err(error) => return Err(error.into()),
        }
    }
    drop(stream);
    let arrived = sink.join().expect("the sink does not panic")?;
    Ok((arrived, begin.elapsed()))
}

/// Every link has an MTU of 1500, as clients have: what they send full does not fit into a tunnel.
#[test]
fn with_the_mss_clamp_a_large_upload_fits_through_a_path_of_1500_bytes() -> Result<()> {
    const BYTES: usize = 4 << 20;
    let lab = Lab::builder().direct(1).inside_mtu(1500).start()?;
    let weir = lab.weir(&config(5001))?;
    let decap = lab.backend("direct-1").decap();
    let too_big = || -> Result<u64> {
        weir.json(&["status"])?["counters"]["too_big"].as_u64().context("status counts too_big")
    };
    ensure!(decap.status()?.mss.is_some_and(|mss| mss.v4 == 1408 && mss.v6 == 1388));
    let target = |family| SocketAddr::new(lab.vip().of(family), 5001);
    for family in Family::BOTH {
        let (arrived, took) = upload(&lab, target(family), BYTES, Duration::from_secs(20))?;
        let too_big = too_big()?;
        println!(
            "{family:?}, with the clamp: {arrived} bytes arrived in {took:?}, {too_big} packets were too big"
        );
        ensure!(arrived == BYTES && too_big == 0, "{family:?}: {arrived} of {BYTES}, {too_big} too big");
    }
    ensure!(decap.counted("mss_lowered")? >= 2 && decap.counted("mss_fits")? == 0);

    decap.apply(&Settings { mss: Mss::Off, ..decap.settings() })?;
    for family in Family::BOTH {
        let before = too_big()?;
        let (arrived, took) = upload(&lab, target(family), BYTES, Duration::from_secs(3))?;
        let too_big = too_big()? - before;
        println!(
            "{family:?}, without it: {arrived} bytes arrived in {took:?}, {too_big} packets were too big"
        );
        ensure!(too_big > 0, "without the clamp full packets do not fit");
    }
    Ok(())
}
