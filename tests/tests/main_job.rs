//! The main job: TCP and UDP through weir to real servers, in every mode, family pair and kind of port.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::{Family, Get, Host, Lab, Web, WeirProc, any_port, eventually, plan, url};

const HEAD: &str = r#"
interfaces = ["eth0", "eth1"]
[limits]
flows_v4 = 16_384
flows_v6 = 16_384
maglev_slots = 65_536
"#;

const CHECK: &str = "[[pool.health]]\ntype = \"tcp\"\nport = 80\ninterval = \"100ms\"\ntimeout = \"1s\"\n";

const UNCHECKED: &str = "[[pool.health]]\ntype = \"none\"\n";

/// A pool of the lab's backends with weights. A name is one address in all pools: the IPv6 ones end in `-v6`.
fn pool(lab: &Lab, name: &str, check: &str, family: Family, backends: &[(&str, u16)]) -> String {
    let mut text = format!("[[pool]]\nname = \"{name}\"\n{check}");
    for (backend, weight) in backends {
        let address = lab.backend(backend).address(family);
        let suffix = if family == Family::V4 { "" } else { "-v6" };
        let _ = write!(
            text,
            "[[pool.backend]]\nname = \"{backend}{suffix}\"\naddress = \"{address}\"\nweight = {weight}\n"
        );
    }
    text
}

fn service(name: &str, vip: impl ToString, rest: &str) -> String {
    format!("[[service]]\nname = \"{name}\"\nvip = \"{}\"\n{rest}\n", vip.to_string())
}

/// A field of the object with a name in a list: `number(&services, "services", "web", "packets")`.
fn number(document: &Value, list: &str, name: &str, field: &str) -> u64 {
    let found = document[list].as_array().and_then(|all| all.iter().find(|one| one["name"] == name));
    found.and_then(|one| one[field].as_u64()).unwrap_or_else(|| panic!("{name}.{field}: {document}"))
}

#[test]
fn http_works_in_every_mode_family_pair_and_kind_of_port() -> Result<()> {
    let lab = Lab::builder()
        .direct(2)
        .routed(1)
        .vips(5)
        .web(Web { ports: vec![80, 8005, 9443], ..Web::default() })
        .start()?;
    let mut config = HEAD.to_owned();
    let name = |family| if family == Family::V4 { "v4" } else { "v6" };
    // dsr-l2 reaches the direct segment, tunnels reach both; the pool's family is the outer header's.
    for outer in Family::BOTH {
        let (direct, all) = ([("direct-1", 100), ("direct-2", 100)], [("direct-1", 100), ("routed-1", 100)]);
        config += &pool(&lab, &format!("l2-{}", name(outer)), CHECK, outer, &direct);
        config += &pool(&lab, &format!("tunnel-{}", name(outer)), CHECK, outer, &all);
    }
    let mut cases = Vec::new();
    for inner in Family::BOTH {
        let pairs = [
            (0, "dsr-l2", format!("l2-{}", name(inner))),
            (1, "ipip", "tunnel-v4".to_owned()),
            (2, "ipip", "tunnel-v6".to_owned()),
            (3, "gue", "tunnel-v4".to_owned()),
            (4, "gue", "tunnel-v6".to_owned()),
        ];
        for (index, mode, pool) in pairs {
            let vip = plan::vip(index).of(inner);
            let ports = [
                ("exact", "port = 80", 80),
                ("range", "ports = [\"8000-8010\"]", 8005),
                ("any", "port = \"any\"", 9443),
            ];
            for (kind, key, port) in ports {
                let service_name = format!("{kind}-{}-{pool}-{mode}", name(inner));
                let rest = format!("{key}\nprotocol = \"tcp\"\nmode = \"{mode}\"\npool = \"{pool}\"");
                config += &service(&service_name, vip, &rest);
                cases.push((service_name, SocketAddr::new(vip, port), mode));
            }
        }
    }
    let weir = lab.weir(&config)?;

    let upload = "x".repeat(40_000);
    for (name, target, mode) in &cases {
        let before = weir.json(&["services"])?;
        let decapsulated =
            || lab.backends().iter().map(|backend| backend.decapsulated()).sum::<Result<u64>>();
        let tunnelled = decapsulated()?;
        let mut seen: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..24 {
            let response = lab.client().get(&Get::new(*target))?;
            ensure!(response.status == 200, "{name}: status {}", response.status);
            *seen.entry(response.backend).or_default() += 1;
        }
        assert_eq!(seen.len(), 2, "{name} uses both backends of its pool: {seen:?}");
        // Full packets on the way to the backend must fit into the tunnel.
        let output = lab.client().curl(&["--data-binary", &upload, &url(*target, "/")])?;
        assert!(seen.contains_key(String::from_utf8_lossy(&output.stdout).trim()), "{name}: {output:?}");

        let after = weir.json(&["services"])?;
        for (other, ..) in &cases {
            let packets = |document| number(document, "services", other, "packets");
            let moved = packets(&after) - packets(&before);
            assert_eq!(moved > 0, other == name, "{other} counted {moved} packets of {name}");
        }
        assert_eq!(decapsulated()? > tunnelled, *mode != "dsr-l2", "{name}");
        println!("{name}: {seen:?}");
    }
    Ok(())
}

/// Answers each datagram to a port of every VIP with the backend's name, until the lab goes.
fn echo(lab: &Lab, port: u16) -> Result<()> {
    for backend in lab.backends() {
        for vip in lab.vips() {
            for family in Family::BOTH {
                let socket = backend.run(|| UdpSocket::bind((vip.of(family), port)))?;
                let name = backend.name().to_owned();
                std::thread::spawn(move || {
                    let mut buffer = [0; 1500];
                    while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                        let answer = [name.as_bytes(), b" ", &buffer[..len]].concat();
                        // A client that has gone is no concern of the server's.
                        let _ = socket.send_to(&answer, from);
                    }
                });
            }
        }
    }
    Ok(())
}

/// Sends a datagram and gives the name of the backend that answered it.
fn ask(socket: &UdpSocket, text: &str) -> Result<String> {
    let mut buffer = [0; 1500];
    socket.send(text.as_bytes())?;
    let len = socket.recv(&mut buffer).with_context(|| format!("no answer to {text:?}"))?;
    let answer = String::from_utf8_lossy(&buffer[..len]).into_owned();
    let (name, echoed) = answer.split_once(' ').context("an answer names its backend")?;
    ensure!(echoed == text, "asked {text:?}, was answered {echoed:?}");
    Ok(name.to_owned())
}

#[test]
fn udp_flows_stay_on_their_backends_and_spread_over_all() -> Result<()> {
    let lab = Lab::builder().direct(2).routed(1).vips(2).start()?;
    echo(&lab, 5300)?;
    let mut config = HEAD.to_owned();
    for (family, name) in [(Family::V4, "v4"), (Family::V6, "v6")] {
        let all = [("direct-1", 100), ("direct-2", 100), ("routed-1", 100)];
        config += &pool(&lab, &format!("l2-{name}"), CHECK, family, &all[..2]);
        config += &pool(&lab, &format!("ipip-{name}"), CHECK, family, &all);
        for (index, mode) in [(0, "dsr-l2"), (1, "ipip")] {
            let pool = format!("{}-{name}", mode.trim_start_matches("dsr-"));
            let rest = format!("port = 5300\nprotocol = \"udp\"\nmode = \"{mode}\"\npool = \"{pool}\"");
            config += &service(&format!("echo-{pool}"), plan::vip(index).of(family), &rest);
        }
    }
    let weir = lab.weir(&config)?;
    for family in Family::BOTH {
        for (index, backends) in [(0, 2), (1, 3)] {
            let vip = SocketAddr::new(plan::vip(index).of(family), 5300);
            let source = any_port(lab.client().addresses()[0], vip);
            let mut seen = BTreeMap::new();
            // All stay open: a port given back may be the next socket's, and its flow is known.
            let mut sockets = Vec::new();
            for flow in 0..40 {
                let socket = lab.client().run(|| UdpSocket::bind(source))?;
                socket.connect(vip)?;
                socket.set_read_timeout(Some(Duration::from_secs(2)))?;
                let first = ask(&socket, &format!("flow {flow}"))?;
                for datagram in 0..5 {
                    assert_eq!(ask(&socket, &format!("datagram {datagram}"))?, first);
                }
                *seen.entry(first).or_insert(0) += 1;
                sockets.push(socket);
            }
            println!("{vip}: {seen:?}");
            assert_eq!(seen.len(), backends, "{vip}: {seen:?}");
        }
    }
    let counters = &weir.json(&["status"])?["counters"];
    assert_eq!(counters["flow_new"], 160, "one new flow a socket: {counters}");
    assert_eq!(counters["flow_known"], 800, "{counters}");
    Ok(())
}

#[test]
fn new_connections_follow_the_weights() -> Result<()> {
    let lab = Lab::builder().direct(4).start()?;
    let weights = [("direct-1", 100), ("direct-2", 200), ("direct-3", 500), ("direct-4", 0)];
    let rest = "port = 80\nprotocol = \"tcp\"\nmode = \"dsr-l2\"\npool = \"web\"";
    let config = HEAD.to_owned()
        + &pool(&lab, "web", CHECK, Family::V4, &weights)
        + &service("web", lab.vip().v4, rest);
    let _weir = lab.weir(&config)?;
    let requests = 1200;
    let target = SocketAddr::new(lab.vip().v4.into(), 80);
    for _ in 0..requests {
        lab.client().get(&Get::new(target))?;
    }
    for (backend, weight) in weights {
        let share = f64::from(weight) / 800.0;
        let expected = f64::from(requests) * share;
        // Five standard deviations of a fair draw.
        let slack = 5.0 * (expected * (1.0 - share)).sqrt();
        let got = lab.backend(backend).witness()?.syns;
        println!("{backend}: weight {weight}, {got} connections, {expected:.0} ± {slack:.0} expected");
        assert!((got as f64 - expected).abs() <= slack, "{backend} got {got}, expected {expected}");
    }
    Ok(())
}

/// Frames that an interface of a host has received.
fn received(host: &Host, device: &str) -> Result<u64> {
    let text = host.exec("ip", &["-s", "-json", "link", "show", "dev", device])?;
    let document: Value = serde_json::from_str(&text)?;
    document[0]["stats64"]["rx"]["packets"].as_u64().context("ip prints counters")
}

/// The counters of `weir status`, by reason.
fn reasons(weir: &WeirProc) -> Result<BTreeMap<String, u64>> {
    let status = weir.json(&["status"])?;
    let counters = status["counters"].as_object().context("status has counters")?;
    Ok(counters.iter().map(|(name, count)| (name.clone(), count.as_u64().unwrap_or(0))).collect())
}

#[test]
fn counters_by_reason_service_and_backend_add_up_to_the_packets() -> Result<()> {
    let lab = Lab::builder().direct(2).routed(1).vips(2).start()?;
    let rest = |mode, pool| format!("port = 80\nprotocol = \"tcp\"\nmode = \"{mode}\"\npool = \"{pool}\"");
    let config = HEAD.to_owned()
        + &pool(&lab, "near", UNCHECKED, Family::V4, &[("direct-1", 100), ("direct-2", 100)])
        + &pool(&lab, "far", UNCHECKED, Family::V4, &[("routed-1", 100)])
        + &service("l2", plan::vip(0).v4, &rest("dsr-l2", "near"))
        + &service("tunnel", plan::vip(1).v4, &rest("ipip", "far"));
    let rx = |lab: &Lab| -> Result<u64> {
        Ok(received(lab.weir_host(), "eth0")? + received(lab.weir_host(), "eth1")?)
    };
    let weir = lab.weir(&config)?;
    // Frames of other purposes (neighbour discovery) come at any time, also between two readings.
    let uncounted = || -> Result<Option<u64>> {
        let before = rx(&lab)?;
        let counted: u64 = reasons(&weir)?.values().sum();
        Ok((rx(&lab)? == before).then(|| before - counted))
    };
    let mut start = None;
    eventually("nothing comes while the counters are read", || {
        start = uncounted().ok().flatten();
        start.is_some()
    });
    let requests = 30;
    for index in [0, 1] {
        for _ in 0..requests {
            lab.client().get(&Get::new((plan::vip(index).v4, 80).into()))?;
        }
    }
    // A port of the VIP without a service.
    assert!(
        lab.client()
            .get(&Get::new((plan::vip(0).v4, 81).into()).timeout(Duration::from_millis(300)))
            .is_err()
    );
    let sent = || -> Result<BTreeMap<String, u64>> {
        lab.backends().iter().map(|b| Ok((b.name().to_owned(), b.witness()?.packets))).collect()
    };
    // The last packets of a connection follow its answer.
    let mut before = sent()?;
    eventually("the connections have ended", || {
        std::thread::sleep(Duration::from_millis(300));
        let now = sent().unwrap_or_default();
        std::mem::replace(&mut before, now.clone()) == now
    });

    let (services, backends) = (weir.json(&["services"])?, weir.json(&["backends"])?);
    let counters = reasons(&weir)?;
    println!("{counters:?}\nsent to backends: {before:?}");
    for (backend, packets) in &before {
        assert_eq!(number(&backends, "backends", backend, "packets"), *packets, "{backend}");
        assert!(*packets > 0, "{backend} got packets");
    }
    let service = |name| number(&services, "services", name, "packets");
    assert_eq!(service("l2"), before["direct-1"] + before["direct-2"]);
    assert_eq!(service("tunnel"), before["routed-1"]);
    assert_eq!(counters["flow_new"], 2 * requests, "one new flow a request");
    assert_eq!(counters["flow_new"] + counters["flow_known"], service("l2") + service("tunnel"));
    let unmatched = counters["unmatched_drop"] + counters["unmatched_reject"] + counters["unmatched_pass"];
    assert!(unmatched > 0, "{counters:?}");
    let flows = weir.json(&["flows", "--count"])?["total"].as_u64();
    assert_eq!(flows, Some(2 * requests), "each flow is still in the table");
    eventually("every frame has one reason", || uncounted().is_ok_and(|now| now.is_some() && now == start));
    Ok(())
}
