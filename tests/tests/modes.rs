//! Every way to a backend, under traffic: fragmented datagrams, full streams, the host itself, and a backend that is
//! its own client.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{SocketAddr, TcpListener, UdpSocket},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use weir_tests::{Backend, Family, Get, Host, Lab, WeirProc, any_port, eventually, plan};

const HEAD: &str = "interfaces = [\"eth0\", \"eth1\"]\n[limits]\nflows_v4 = 16_384\nflows_v6 = 16_384\nmaglev_slots = 65_536\n";
const UNCHECKED: &str = "[[pool.health]]\ntype = \"none\"\n";
const PORT: u16 = 5201;

fn version(family: Family) -> &'static str {
    match family {
        Family::V4 => "v4",
        Family::V6 => "v6",
    }
}

/// A way to the backends: its mode, the family of the backends' addresses, the VIP's number.
const WAYS: [(&str, Family, u8); 6] = [
    ("dsr-l2", Family::V4, 0),
    ("dsr-l2", Family::V6, 0),
    ("ipip", Family::V4, 1),
    ("ipip", Family::V6, 2),
    ("gue", Family::V4, 3),
    ("gue", Family::V6, 4),
];

fn pool(name: &str, check: &str, backends: &[(String, std::net::IpAddr)]) -> String {
    let mut text = format!("[[pool]]\nname = \"{name}\"\n{check}");
    for (name, address) in backends {
        let _ = write!(text, "[[pool.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    }
    text
}

fn service(name: &str, vip: SocketAddr, protocol: &str, mode: &str, pool: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nvip = \"{}\"\nport = {}\nprotocol = {protocol}\nmode = \"{mode}\"\n\
         pool = \"{pool}\"\n",
        vip.ip(),
        vip.port()
    )
}

/// One service for each way and family of the VIP, all to `direct-1` and `direct-2`; the VIP's address by name.
fn every_way(lab: &Lab) -> (String, Vec<(String, SocketAddr)>) {
    let mut config = HEAD.to_owned();
    for family in Family::BOTH {
        let backends: Vec<_> = lab
            .backends()
            .iter()
            .map(|backend| (format!("{}-{}", backend.name(), version(family)), backend.address(family)))
            .collect();
        config += &pool(version(family), UNCHECKED, &backends);
    }
    let mut targets = Vec::new();
    for (mode, outer, number) in WAYS {
        for inner in Family::BOTH {
            if mode == "dsr-l2" && inner != outer {
                continue;
            }
            let service_name = format!("{mode}-{}-{}", version(inner), version(outer));
            let vip = SocketAddr::new(plan::vip(number).of(inner), PORT);
            config += &service(&service_name, vip, "[\"tcp\", \"udp\"]", mode, version(outer));
            targets.push((service_name, vip));
        }
    }
    (config, targets)
}

/// Answers each datagram to a VIP with its own bytes, until the lab goes.
fn echo(host: &Host, vip: SocketAddr) -> Result<()> {
    let socket = host.run(|| UdpSocket::bind(vip))?;
    thread::spawn(move || {
        let mut buffer = vec![0; 65_536];
        while let Ok((len, from)) = socket.recv_from(&mut buffer) {
            // A client that has gone is no concern of the server's.
            let _ = socket.send_to(&buffer[..len], from);
        }
    });
    Ok(())
}

/// Has a backend cut its own packets to the clients' MTU: "packet too big" of a router would go to the VIP.
fn fit_clients(backend: &Backend) -> Result<()> {
    for family in ["-4", "-6"] {
        let route = backend.exec("ip", &[family, "route", "show", "default"])?;
        let words: Vec<_> =
            route.split_whitespace().take_while(|word| *word != "metric" && *word != "proto").collect();
        backend.ip(&format!("{family} route replace {} mtu 1500", words.join(" ")))?;
    }
    Ok(())
}

fn counter(weir: &WeirProc, reason: &str) -> Result<u64> {
    weir.json(&["status"])?["counters"][reason].as_u64().with_context(|| format!("no counter {reason}"))
}

#[test]
fn datagrams_of_8_kb_go_both_ways_in_fragments_by_every_mode() -> Result<()> {
    let lab = Lab::builder().direct(2).vips(5).start()?;
    lab.backends().iter().try_for_each(fit_clients)?;
    let (config, targets) = every_way(&lab);
    for (_, vip) in &targets {
        lab.backends().iter().try_for_each(|backend| echo(backend, *vip))?;
    }
    let weir = lab.weir(&config)?;
    for (name, vip) in &targets {
        let before = counter(&weir, "fragment")?;
        for flow in 0..8_u8 {
            let socket = lab.client().run(|| UdpSocket::bind(any_port(lab.client().addresses()[0], *vip)))?;
            socket.connect(vip)?;
            socket.set_read_timeout(Some(Duration::from_secs(3)))?;
            let mut buffer = vec![0; 65_536];
            // Small ones between them: all belong to one flow.
            for size in [8192, 100, 8192, 20_000] {
                let sent: Vec<u8> = (0..size).map(|byte| (byte % 251) as u8 ^ flow).collect();
                socket.send(&sent)?;
                let len = socket.recv(&mut buffer).with_context(|| format!("{name}: {size} bytes"))?;
                ensure!(buffer[..len] == sent, "{name}: {size} bytes came back as {len} others");
            }
        }
        // 8192 and 20,000 bytes are 6 and 14 fragments; the first of each is counted for its flow.
        let later = counter(&weir, "fragment")? - before;
        println!("{name}: {later} later fragments");
        assert_eq!(later, 8 * (5 + 5 + 13), "{name}");
    }
    assert_eq!(counter(&weir, "fragment_unknown")?, 0);
    assert_eq!(counter(&weir, "too_big")?, 0);
    Ok(())
}

#[test]
fn iperf3_runs_over_every_mode() -> Result<()> {
    let lab = Lab::builder().direct(2).vips(5).start()?;
    let (config, targets) = every_way(&lab);
    let _servers = lab
        .backends()
        .iter()
        .map(|backend| {
            let mut command = Command::new("iperf3");
            command.args(["--server", "--port", &PORT.to_string()]).stdout(Stdio::null());
            backend.spawn(command)
        })
        .collect::<Result<Vec<_>>>()?;
    let weir = lab.weir(&config)?;
    for (name, vip) in &targets {
        // The control connection and the stream may go to two backends, each of which then waits for the other: one
        // backend at a time serves.
        let other = if vip.is_ipv4() { "direct-2" } else { "direct-1" };
        for family in Family::BOTH {
            weir.succeed(&["backend", "maintenance", &format!("{other}-{}", version(family))])?;
        }
        let text = lab.client().exec(
            "iperf3",
            &["--client", &vip.ip().to_string(), "--port", &PORT.to_string(), "--time", "1", "--json"],
        )?;
        let report: serde_json::Value = serde_json::from_str(&text)?;
        let bits =
            report["end"]["sum_received"]["bits_per_second"].as_f64().context("iperf3 reports a rate")?;
        println!("{name}: {:.0} Mbit/s", bits / 1e6);
        assert!(bits > 1e6, "{name}: {bits} bit/s");
        for family in Family::BOTH {
            weir.succeed(&["backend", "ready", &format!("{other}-{}", version(family))])?;
        }
    }
    assert_eq!(counter(&weir, "too_big")?, 0);
    Ok(())
}

/// Answers connections to a VIP with a line, until the lab goes.
fn greet(host: &Host, vip: SocketAddr, line: &'static str) -> Result<()> {
    let listener = host.run(|| TcpListener::bind(vip))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{line}", line.len());
            let _ = std::io::Write::write_all(&mut &stream, answer.as_bytes());
            let _ = std::io::Read::read(&mut &stream, &mut [0; 1024]);
        }
    });
    Ok(())
}

#[test]
fn the_host_itself_is_a_backend_beside_others() -> Result<()> {
    let lab = Lab::builder().direct(1).vips(2).start()?;
    let host = lab.weir_host();
    let mut config = HEAD.to_owned();
    let mut targets = Vec::new();
    for family in Family::BOTH {
        let pool_name = format!("web-{}", version(family));
        let backends = [
            (format!("near-{}", version(family)), lab.backend("direct-1").address(family)),
            (format!("self-{}", version(family)), host.address(family)),
        ];
        let check = "[[pool.health]]\ntype = \"tcp\"\nport = 80\ninterval = \"100ms\"\ntimeout = \"1s\"\n";
        config += &pool(&pool_name, check, &backends);
        for (number, mode) in [(0, "ipip"), (1, "dsr-l2")] {
            let vip = SocketAddr::new(plan::vip(number).of(family), 80);
            // Without `nodad` an IPv6 address is tentative for a moment, and cannot be bound.
            let length = if vip.is_ipv4() { "32" } else { "128 nodad" };
            host.ip(&format!("address add {}/{length} dev lo", vip.ip()))?;
            greet(host, vip, "self")?;
            config += &service(&format!("{mode}-{}", version(family)), vip, "\"tcp\"", mode, &pool_name);
            targets.push((mode, vip));
        }
        let own = host.socket(family, 80);
        greet(host, own, "self")?;
    }
    let weir = lab.weir(&config)?;
    eventually("all backends are up", || {
        weir.json(&["status"]).is_ok_and(|status| status["backends_up"] == status["backends_total"])
    });
    for (mode, vip) in targets {
        let before = counter(&weir, "local")?;
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..40 {
            let response = lab.client().curl(&["--max-time", "5", &format!("http://{vip}/")])?;
            let body = String::from_utf8_lossy(&response.stdout).trim().to_owned();
            *seen.entry(body).or_default() += 1;
        }
        println!("{mode} {vip}: {seen:?}");
        let own = seen.get("self").copied().unwrap_or(0);
        assert!(own > 0 && own < 40 && seen.values().sum::<u32>() == 40, "{mode} {vip}: {seen:?}");
        assert!(
            counter(&weir, "local")? - before >= u64::from(own) * 4,
            "each packet to the host is counted"
        );
    }
    let backends = weir.json(&["backends"])?;
    let own = backends["backends"]
        .as_array()
        .context("a list")?
        .iter()
        .find(|backend| backend["name"] == "self-v4");
    let own = own.context("the host is a backend")?;
    assert!(own["packets"].as_u64() > Some(0) && own["flows"].as_u64() > Some(0), "{own}");
    Ok(())
}

/// Sends what the backend itself says to the VIP out to its router, as a program without the VIP on its `lo` would.
fn be_a_client(backend: &Backend, vip: std::net::Ipv4Addr) -> Result<()> {
    backend.ip(&format!("route add {vip}/32 via {} table 77", plan::DIRECT.host(plan::GATEWAY).v4))?;
    backend.ip("rule add pref 100 lookup local")?;
    backend.ip(&format!("rule add pref 50 to {vip} iif lo lookup 77"))?;
    backend.ip("rule del pref 0")?;
    // Its own packets come back to it, from its own address.
    for device in ["all", "eth0"] {
        backend.sysctl(&format!("ipv4/conf/{device}/accept_local"), "1")?;
        backend.sysctl(&format!("ipv4/conf/{device}/rp_filter"), "0")?;
    }
    Ok(())
}

#[test]
fn a_backend_that_is_a_client_of_its_own_vip_reaches_itself_and_others() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let vip = lab.vip().v4;
    let client = lab.backend("direct-1");
    be_a_client(client, vip)?;
    let backends: Vec<_> = lab
        .backends()
        .iter()
        .map(|backend| (backend.name().to_owned(), backend.address(Family::V4)))
        .collect();
    let target = SocketAddr::new(vip.into(), 80);
    let config = HEAD.to_owned()
        + &pool("web", UNCHECKED, &backends)
        + &service("web", target, "\"tcp\"", "ipip", "web");
    let weir = lab.weir(&config)?;
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..30 {
        let response = client.get(&Get::new(target))?;
        ensure!(response.status == 200, "status {}", response.status);
        *seen.entry(response.backend).or_default() += 1;
    }
    println!("{seen:?}");
    assert_eq!(seen.len(), 2, "itself and the other: {seen:?}");
    // A SYN that waited for a neighbour is sent again and finds its entry.
    assert_eq!(weir.flow_backends(&[])?.len(), 30, "every connection went through weir");
    Ok(())
}
