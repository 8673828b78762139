//! ICMP through weir and from it: ping, traceroute, path MTU discovery, refusals that clients hear of at once.

use std::{
    fmt::Write as _,
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use lb_userspace::decap::{Mss, Settings};
use weir_tests::{Family, Lab, Limits, Web, WeirProc, config, eventually, plan, url};

/// How long a step may take on a busy machine.
const WITHIN: Duration = Duration::from_secs(5);

/// Services on port 80 of both addresses of the first VIP, by `ipip` to the direct backends.
fn both_families(lab: &Lab, keys: &str) -> String {
    let mut text = String::from(
        "interfaces = [\"eth0\", \"eth1\"]\n[limits]\nflows_v4 = 4096\nflows_v6 = 4096\nmaglev_slots = 65_536\n",
    );
    // Writing to a string does not fail.
    let _ = write!(text, "[[pool]]\nname = \"web\"\n[[pool.health]]\ntype = \"none\"\n");
    for backend in lab.backends() {
        let (name, address) = (backend.name(), backend.address(Family::V4));
        let _ = write!(text, "[[pool.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    }
    for family in Family::BOTH {
        let vip = lab.vip().of(family);
        let _ = write!(
            text,
            "[[service]]\nname = \"{}\"\nvip = \"{vip}\"\nport = 80\nprotocol = \"tcp\"\nmode = \"ipip\"\npool = \"web\"\n{keys}\n",
            format!("{family:?}").to_lowercase(),
        );
    }
    text
}

/// Packets that left for a reason.
fn counted(weir: &WeirProc, reason: &str) -> Result<u64> {
    let status = weir.json(&["status"])?;
    status["counters"][reason].as_u64().with_context(|| format!("status counts {reason}: {status}"))
}

#[test]
fn vips_answer_pings_of_any_size_and_other_addresses_answer_for_themselves() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let weir = lab.weir(&both_families(&lab, ""))?;
    let mut times = Vec::new();
    for family in Family::BOTH {
        for _ in 0..20 {
            times.push(lab.client().ping(lab.vip().of(family), WITHIN)?);
        }
        lab.client().ping(lab.weir_host().address(family), WITHIN)?;
    }
    assert_eq!(counted(&weir, "echo_answered")?, 40);
    times.sort();
    println!("40 replies, median {:?}, longest {:?}", times[20], times[39]);

    let off = both_families(&lab, "") + "[defaults]\nicmp_echo = false\n";
    ensure!(weir.reload(&off)?.status.success(), "a reload turns replies off");
    assert!(lab.client().ping(lab.vip().of(Family::V4), Duration::from_millis(300)).is_err());
    assert!(counted(&weir, "echo_off")? > 0);
    Ok(())
}

#[test]
fn traceroute_ends_at_the_vip_by_udp_icmp_and_tcp() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let _weir = lab.weir(&both_families(&lab, ""))?;
    for family in Family::BOTH {
        let vip = lab.vip().of(family).to_string();
        let version = if family == Family::V4 { "-4" } else { "-6" };
        for method in [&["-U"][..], &["-I"], &["-T", "-p", "80"]] {
            let words = [&[version, "-n", "-q", "1", "-w", "2", "-m", "8"], method, &[vip.as_str()]].concat();
            let hops = lab.client().exec("traceroute", &words)?;
            let last = hops.lines().last().unwrap_or_default();
            assert!(last.split_whitespace().any(|word| word == vip), "{method:?}: {hops}");
            println!("{method:?} {last}");
        }
    }
    Ok(())
}

/// IP packets that a host had to put together from fragments, of both families.
fn reassembled(lab: &Lab) -> Result<u64> {
    let read = || -> std::io::Result<(String, String)> {
        Ok((
            std::fs::read_to_string("/proc/thread-self/net/snmp")?,
            std::fs::read_to_string("/proc/thread-self/net/snmp6")?,
        ))
    };
    let (v4, v6) = lab.client().run(read)?;
    let mut lines = v4.lines().filter(|line| line.starts_with("Ip:"));
    let names = lines.next().context("snmp has names")?.split_whitespace();
    let values = lines.next().context("snmp has values")?.split_whitespace();
    let four = names.zip(values).find(|(name, _)| *name == "ReasmReqds").context("ReasmReqds")?.1;
    let six = v6.lines().find_map(|line| line.strip_prefix("Ip6ReasmReqds")).context("Ip6ReasmReqds")?;
    Ok(four.parse::<u64>()? + six.trim().parse::<u64>()?)
}

#[test]
fn downloads_over_a_narrow_link_to_the_client_discover_its_mtu() -> Result<()> {
    let web = Web { big_bytes: 10 << 20, big_rate: 1 << 30, ..Web::default() };
    for mtu in [1400, 1280] {
        // Several backends: an error that went to the wrong one would leave its flow hanging.
        let lab = Lab::builder().direct(3).client_mtu(mtu).web(web.clone()).start()?;
        let weir = lab.weir(&both_families(&lab, ""))?;
        for family in Family::BOTH {
            let (vip, gateway) = (lab.vip().of(family), plan::CLIENTS.host(plan::GATEWAY).of(family));
            // The client asks for segments that only the narrow link does not take.
            let (version, length, mss) =
                if family == Family::V4 { ("-4", 32, 1460) } else { ("-6", 128, 1440) };
            lab.client().ip(&format!("{version} route add {vip}/{length} via {gateway} advmss {mss}"))?;
            let before = counted(&weir, "icmp_error")?;
            for _ in 0..4 {
                let output = lab.client().curl(&[
                    "--max-time",
                    "30",
                    "--output",
                    "/dev/null",
                    "--write-out",
                    "%{http_code} %{size_download}",
                    &url(SocketAddr::new(vip, 80), "/big"),
                ])?;
                let told = String::from_utf8_lossy(&output.stdout).into_owned();
                assert_eq!(told, "200 10485760", "MTU {mtu}, {family:?}: {output:?}");
            }
            let errors = counted(&weir, "icmp_error")? - before;
            assert!(errors > 0, "MTU {mtu}, {family:?}: no backend was told");
            println!("MTU {mtu}, {family:?}: {errors} errors for 4 downloads of 10 MiB");
        }
        assert_eq!(reassembled(&lab)?, 0, "nothing was fragmented");
    }
    Ok(())
}

#[test]
fn uploads_that_do_not_fit_the_tunnel_learn_what_does() -> Result<()> {
    let lab = Lab::builder().direct(2).inside_mtu(1500).start()?;
    let weir = lab.weir(&both_families(&lab, ""))?;
    for backend in lab.backends() {
        // Else no client sends what does not fit.
        let decap = backend.decap();
        decap.apply(&Settings { mss: Mss::Off, ..decap.settings() })?;
    }
    let body = "x".repeat(120_000);
    for family in Family::BOTH {
        let before = counted(&weir, "too_big")?;
        for _ in 0..4 {
            let target = url(SocketAddr::new(lab.vip().of(family), 80), "/");
            let output = lab.client().curl(&["--max-time", "30", "--data-binary", &body, &target])?;
            assert!(output.status.success(), "{family:?}: {output:?}");
        }
        let told = counted(&weir, "too_big")? - before;
        assert!(told > 0, "{family:?}: every packet fitted");
        println!("{family:?}: {told} packets were too big, 4 uploads of 120 kB arrived");
    }
    Ok(())
}

#[test]
fn a_narrow_path_inside_the_tunnel_is_learned_from_its_router() -> Result<()> {
    let lab = Lab::builder().direct(0).routed(1).inside_mtu(1500).start()?;
    let backend = lab.backend("routed-1");
    backend.decap().apply(&Settings { mss: Mss::Off, ..backend.decap().settings() })?;
    lab.router().ip("link set routed mtu 1400")?;
    let by_v4 = both_families(&lab, "");
    let [v4, v6] = Family::BOTH.map(|family| backend.address(family).to_string());
    let weir = lab.weir(&by_v4)?;
    let body = "x".repeat(120_000);
    for (outer, text) in [(&v4, by_v4.clone()), (&v6, by_v4.replace(&v4, &v6))] {
        ensure!(weir.reload(&text)?.status.success(), "a reload changes the backend's address");
        for family in Family::BOTH {
            let target = url(SocketAddr::new(lab.vip().of(family), 80), "/");
            let output = lab.client().curl(&["--max-time", "30", "--data-binary", &body, &target])?;
            assert!(output.status.success(), "{family:?} by {outer}: {output:?}");
        }
        let notes = weir.json(&["status"])?["notes"].to_string();
        let told = format!("path to backend {outer}: takes packets of 1400 bytes");
        assert!(notes.contains(&told), "{notes}");
    }
    Ok(())
}

#[test]
fn what_no_service_claims_is_refused_at_once() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let weir = lab.weir(&both_families(&lab, ""))?;
    for family in Family::BOTH {
        let (start, vip) = (Instant::now(), lab.vip().of(family));
        let output = lab.client().curl(&[&url(SocketAddr::new(vip, 81), "/")])?;
        // Exit code 7: curl could not connect.
        assert_eq!(output.status.code(), Some(7), "{output:?}");
        println!("{family:?}: curl was refused after {:?}", start.elapsed());
        assert!(start.elapsed() < WITHIN);

        let socket = lab.client().run(|| UdpSocket::bind((lab.client().address(family), 0)))?;
        socket.set_read_timeout(Some(WITHIN))?;
        socket.connect((vip, 81))?;
        socket.send(b"anybody?")?;
        let answer = socket.recv(&mut [0; 16]).expect_err("nobody answers");
        assert_eq!(answer.kind(), ErrorKind::ConnectionRefused, "{family:?}");
    }
    assert_eq!(counted(&weir, "unmatched_reject")?, 4);
    Ok(())
}

#[test]
fn a_pool_without_a_usable_backend_refuses_where_its_last_resort_is_to_reset() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let weir = lab.weir(&(config(1, Limits::default()) + "[defaults]\nlast_resort = \"reset\"\n"))?;
    let target = url(SocketAddr::new(lab.vip().of(Family::V4), 80), "/");
    assert!(lab.client().curl(&[&target])?.status.success());
    lab.backend("direct-1").freeze()?;
    eventually("the frozen backend is down", || {
        weir.backend("direct-1").is_ok_and(|backend| backend["health"] == "down")
    });
    let start = Instant::now();
    let output = lab.client().curl(&[&target])?;
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    println!("refused after {:?}", start.elapsed());
    assert!(counted(&weir, "no_backend_reset")? > 0);
    Ok(())
}

/// A request whose body never ends: the client keeps writing, and hears of a reset as soon as it comes.
fn endless_upload(target: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&target, WITHIN)?;
    stream.set_nodelay(true)?;
    stream.write_all(b"POST / HTTP/1.1\r\nHost: weir\r\nContent-Length: 900000\r\n\r\n")?;
    Ok(stream)
}

#[test]
fn on_down_reset_ends_connections_of_a_silent_backend_as_soon_as_it_is_down() -> Result<()> {
    const CLIENTS: usize = 10;
    let lab = Lab::builder().direct(2).start()?;
    let checks = "[[pool.health]]\ntype = \"ping\"\ninterval = \"5ms\"\ntimeout = \"20ms\"\n";
    let text =
        both_families(&lab, "on_down = \"reset\"").replace("[[pool.health]]\ntype = \"none\"\n", checks);
    let weir = lab.weir(&text)?;
    let target = SocketAddr::new(lab.vip().of(Family::V4), 80);
    let mut streams =
        lab.client().run(|| (0..CLIENTS).map(|_| endless_upload(target)).collect::<Result<Vec<_>, _>>())?;
    eventually("all flows are known", || weir.flow_backends(&[]).is_ok_and(|flows| flows.len() == CLIENTS));
    let flows = weir.flow_backends(&[])?;
    let victim = flows.values().next().context("there are flows")?.clone();
    let name = victim.rsplit('/').next().context("a backend has a name")?;

    let frozen = Instant::now();
    lab.backend(name).freeze()?;
    let mut ended = Vec::new();
    while frozen.elapsed() < WITHIN {
        let mut open = Vec::new();
        for mut stream in streams {
            stream.set_nonblocking(true)?;
            let mut buffer = [0; 64];
            let write = stream.write(b"0123456789").err();
            match write.or_else(|| stream.read(&mut buffer).err()).map(|error| error.kind()) {
                None | Some(ErrorKind::WouldBlock) => open.push(stream),
                Some(_) => ended.push(frozen.elapsed()),
            }
        }
        streams = open;
        let expected = flows.values().filter(|backend| **backend == victim).count();
        if ended.len() == expected {
            break;
        }
        thread::sleep(Duration::from_millis(2));
    }
    let times = ended;
    println!("{} of {CLIENTS} connections were of {victim}; reset after {times:?}", times.len());
    assert_eq!(
        times.len(),
        flows.values().filter(|backend| **backend == victim).count(),
        "all of them ended"
    );
    assert!(counted(&weir, "flow_reset")? >= times.len() as u64);
    assert_eq!(counted(&weir, "flow_rehomed")?, 0, "none went to another backend first");
    assert_eq!(streams.len(), CLIENTS - times.len(), "the other backend's go on");
    let again = lab.client().curl(&[&url(target, "/")])?;
    assert!(again.status.success(), "a new connection goes to a live backend: {again:?}");
    Ok(())
}
