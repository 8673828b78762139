//! The lab keeps its own promises, without weir.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    panic::{self, AssertUnwindSafe},
    path::Path,
    sync::mpsc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use weir_tests::{
    Attachment, Backend, Downloads, Family, Get, Host, Lab, Load, Rate, Web, any_port, eventually,
    frame::{self, FrameSocket, PacketSocket},
    monotonic, plan, url,
};

const WITHIN: Duration = Duration::from_secs(2);
const BRIEFLY: Duration = Duration::from_millis(150);

#[test]
fn every_host_reaches_every_other_in_both_families() -> Result<()> {
    let lab = Lab::builder().direct(2).routed(2).clients(2).client_addresses(3).start()?;
    let mut targets: Vec<&Host> = lab.backends().iter().map(|backend| &**backend).collect();
    targets.extend(lab.clients());
    targets.extend([lab.edge(), lab.router(), lab.weir_host()]);
    for from in lab.clients().iter().chain([lab.weir_host()]) {
        for to in &targets {
            for address in to.addresses() {
                for family in Family::BOTH {
                    from.ping(address.of(family), WITHIN).with_context(|| format!("to {}", to.name()))?;
                }
            }
        }
    }
    Ok(())
}

#[test]
fn backends_answer_http_on_their_own_address_to_clients_and_to_weirs_host() -> Result<()> {
    let lab = Lab::builder().direct(2).routed(1).client_addresses(2).start()?;
    for backend in lab.backends() {
        for family in Family::BOTH {
            let target = backend.socket(family, 80);
            for from in [lab.client(), lab.weir_host()] {
                let response = from.get(&Get::new(target))?;
                assert_eq!((response.status, response.backend.as_str()), (200, backend.name()));
                assert_eq!(response.body, format!("{}\n", backend.name()).as_bytes());
                assert_eq!(from.get(&Get::new(target).path("/healthz"))?.status, 200);
            }
            let second = lab.client().addresses()[1];
            let response = lab.client().get(&Get::new(target).from(any_port(second, target)))?;
            assert_eq!(response.local.ip(), second.of(family));
            let log = backend.access_log()?;
            let logged = log.iter().find(|access| access.client == response.local);
            assert_eq!(logged.map(|access| (access.status, access.server)), Some((200, target)));
        }
    }
    Ok(())
}

#[test]
fn curl_runs_on_a_client() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let output = lab.client().curl(&[&url(lab.backend("direct-1").socket(Family::V6, 80), "/")])?;
    assert_eq!(String::from_utf8_lossy(&output.stdout), "direct-1\n");
    Ok(())
}

#[test]
fn decap_opens_all_four_pairs_of_tunnels_and_replies_bypass_weirs_host() -> Result<()> {
    let lab = Lab::builder().direct(1).routed(1).start()?;
    let client = lab.client();
    for backend in lab.backends() {
        for outer in Family::BOTH {
            for inner in Family::BOTH {
                let before = backend.decapsulated()?;
                echo_through_tunnel(&lab, client, backend, outer, inner)
                    .with_context(|| format!("{inner:?} in {outer:?} to {}", backend.name()))?;
                assert_eq!(backend.decapsulated()? - before, 1);
            }
        }
    }
    Ok(())
}

/// Sends a tunnelled UDP packet for the VIP from weir's host; the backend's echo must come back to the
/// client from the VIP, and not by way of weir's host.
fn echo_through_tunnel(
    lab: &Lab,
    client: &Host,
    backend: &Backend,
    outer: Family,
    inner: Family,
) -> Result<()> {
    let vip = SocketAddr::new(lab.vip().of(inner), 7);
    let server = backend.run(|| UdpSocket::bind(vip))?;
    let receiver = client.run(|| UdpSocket::bind((client.address(inner), 0)))?;
    for socket in [&server, &receiver] {
        socket.set_read_timeout(Some(WITHIN))?;
    }
    let source = receiver.local_addr()?;
    let packet = frame::udp(source, vip, b"through the tunnel");
    let target = backend.address(outer);
    let sender = lab.weir_host();
    let forwarded = packets_sent_to_clients(sender)?;
    let tunnel = frame::tunnel(sender.address(outer), target, &packet);
    sender.run(|| PacketSocket::open(outer)?.send(target, &tunnel).context("send tunnel packet"))?;

    let mut buffer = [0; 64];
    let (len, from) = server.recv_from(&mut buffer).context("receive on the backend")?;
    assert_eq!(from, source);
    server.send_to(&buffer[..len], from)?;
    let (len, from) = receiver.recv_from(&mut buffer).context("receive on the client")?;
    assert_eq!((&buffer[..len], from), (&b"through the tunnel"[..], vip));
    assert_eq!(packets_sent_to_clients(sender)?, forwarded, "the reply passed weir's host");
    Ok(())
}

/// IP packets that a host's stack has forwarded.
fn packets_sent_to_clients(host: &Host) -> Result<u64> {
    let text = host.run(|| std::fs::read_to_string("/proc/thread-self/net/snmp"))?;
    let line = text.lines().filter(|line| line.starts_with("Ip: ")).nth(1).context("find Ip counters")?;
    Ok(line.split(' ').nth(6).context("find ForwDatagrams")?.parse()?)
}

#[test]
fn decap_leaves_tunnels_for_other_addresses_alone() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let backend = lab.backend("direct-1");
    let sender = lab.weir_host();
    let (source, target) = (sender.address(Family::V4), backend.address(Family::V4));
    let stranger: IpAddr = plan::vip(5).v4.into();
    let packet = frame::udp((source, 1000).into(), (stranger, 7).into(), b"not ours");
    let fragment = {
        let vip = SocketAddr::new(lab.vip().v4.into(), 7);
        let mut tunnel = frame::tunnel(source, target, &frame::udp((source, 1000).into(), vip, b"a part"));
        tunnel[6] = 0x20; // more fragments follow
        tunnel
    };
    for tunnel in [frame::tunnel(source, target, &packet), fragment] {
        sender.run(|| PacketSocket::open(Family::V4)?.send(target, &tunnel).context("send tunnel packet"))?;
    }
    // The ping is answered after the tunnels have been seen.
    sender.ping(target, WITHIN)?;
    assert_eq!(backend.decapsulated()?, 0);
    Ok(())
}

#[test]
fn a_frozen_host_answers_nothing_until_thawed() -> Result<()> {
    let lab = Lab::builder().direct(2).routed(2).start()?;
    for name in ["direct-1", "routed-1"] {
        let backend = lab.backend(name);
        let neighbour = match backend.attachment() {
            Attachment::Direct => lab.weir_host(),
            Attachment::Routed => lab.router(),
        };
        backend.freeze()?;
        for family in Family::BOTH {
            let address = backend.address(family);
            assert!(neighbour.ping(address, BRIEFLY).is_err(), "{name} answers a ping");
            let get = Get::new(backend.socket(family, 80)).timeout(BRIEFLY);
            assert!(lab.client().get(&get).is_err(), "{name} answers http");
        }
        neighbour.ip("neigh flush all")?;
        assert!(neighbour.ping(backend.address(Family::V4), BRIEFLY).is_err());
        let neighbours = neighbour.ip("neigh show")?;
        let resolved = |address: &str| {
            neighbours.lines().any(|line| line.starts_with(&format!("{address} ")) && line.contains("lladdr"))
        };
        assert!(!resolved(&backend.address(Family::V4).to_string()), "{name} answers ARP:\n{neighbours}");
        {
            assert!(backend.ip("link show dev eth0")?.contains("LOWER_UP"), "link went down");
        }
        backend.thaw()?;
        for family in Family::BOTH {
            // The kernel holds on to a failed resolution for a moment.
            eventually("a thawed host answers", || neighbour.ping(backend.address(family), BRIEFLY).is_ok());
            lab.client().get(&Get::new(backend.socket(family, 80)))?;
        }
    }
    lab.client().ping(lab.backend("direct-2").address(Family::V4), WITHIN)?;
    Ok(())
}

#[test]
fn a_killed_server_refuses_connections_until_started_while_its_host_lives() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let backend = lab.backend("direct-1");
    let get = Get::new(backend.socket(Family::V4, 80));
    backend.kill();
    eventually("connections are refused", || {
        let refused = lab.client().run(|| get.send());
        refused.is_err_and(|error| error.kind == std::io::ErrorKind::ConnectionRefused)
    });
    lab.client().ping(backend.address(Family::V4), WITHIN)?;
    backend.start()?;
    assert_eq!(lab.client().get(&get)?.backend, "direct-1");
    for _ in 0..10 {
        backend.kill();
        let begin = Instant::now();
        backend.start()?;
        // nginx waits this long when its predecessor still holds the port.
        ensure!(begin.elapsed() < Duration::from_millis(500), "start took {:?}", begin.elapsed());
    }
    Ok(())
}

#[test]
fn a_port_witnesses_what_was_sent_for_a_vip_and_nothing_else() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let (backend, sender) = (lab.backend("direct-1"), lab.weir_host());
    sender.get(&Get::new(backend.socket(Family::V4, 80)))?;
    assert_eq!(backend.witness()?.packets, 0, "the backend's own address does not count");
    for (count, inner) in (1..).zip(Family::BOTH) {
        let client = SocketAddr::new(lab.client().address(inner), 40000);
        let vip = SocketAddr::new(lab.vip().of(inner), 80);
        let target = backend.address(Family::V4);
        let before = monotonic();
        for flags in [frame::SYN, frame::ACK] {
            let packet =
                frame::tunnel(sender.address(Family::V4), target, &frame::tcp(client, vip, 1, flags));
            sender.run(|| PacketSocket::open(Family::V4)?.send(target, &packet).context("send"))?;
        }
        let witness = backend.witness()?;
        assert_eq!((witness.packets, witness.syns), (2 * count, count));
        ensure!(before < witness.last_syn && witness.last_syn < witness.last_packet, "times: {witness:?}");
        ensure!(witness.last_packet < monotonic(), "times: {witness:?}");
    }
    Ok(())
}

#[test]
fn frames_sent_by_hand_arrive_untouched() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let (backend, sender) = (lab.backend("direct-1"), lab.weir_host());
    let vip = SocketAddr::new(lab.vip().v4.into(), 7);
    let server = backend.run(|| UdpSocket::bind(vip))?;
    server.set_read_timeout(Some(WITHIN))?;
    let from = SocketAddr::new(lab.client().address(Family::V4), 1234);
    let packet = frame::udp(from, vip, b"by layer 2");
    let frame = frame::ethernet(
        plan::DIRECT.mac(plan::FIRST_BACKEND),
        plan::DIRECT.mac(plan::BEHIND_GATEWAY),
        &packet,
    );
    sender.run(|| FrameSocket::open("eth1")?.send(&frame).context("send frame"))?;
    let mut buffer = [0; 64];
    let (len, source) = server.recv_from(&mut buffer)?;
    assert_eq!((&buffer[..len], source), (&b"by layer 2"[..], from));
    Ok(())
}

#[test]
fn packets_reach_weirs_host_with_complete_checksums() -> Result<()> {
    let lab = Lab::builder().direct(0).start()?;
    let (client, weir) = (lab.client(), lab.weir_host());
    let protocol = Some(socket2::Protocol::UDP);
    let open = || socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, protocol);
    let mut seen = weir.run(open)?;
    seen.set_read_timeout(Some(WITHIN))?;
    let socket = client.run(|| UdpSocket::bind((client.address(Family::V4), 0)))?;
    let target = weir.socket(Family::V4, 9);
    socket.send_to(b"a datagram from a real stack", target)?;
    let mut buffer = [0; 256];
    let len = std::io::Read::read(&mut seen, &mut buffer)?;
    let expected = frame::udp(socket.local_addr()?, target, b"a datagram from a real stack");
    assert_eq!(buffer[20..len], expected[20..]);
    Ok(())
}

#[test]
fn far_ends_of_weirs_veths_run_xdp_natively_so_that_they_take_redirected_frames() -> Result<()> {
    let lab = Lab::builder().direct(0).start()?;
    for peer in ["to-weir", "weir-direct"] {
        let link = lab.edge().ip(&format!("link show dev {peer}"))?;
        assert!(link.contains(" xdp "), "{link}");
    }
    Ok(())
}

#[test]
fn a_daemon_that_ends_before_it_is_ready_is_reported() -> Result<()> {
    let lab = Lab::builder().direct(0).start()?;
    let error = lab.weir("no such key").err().context("weir must not be ready")?;
    assert!(error.to_string().contains("weir ended"), "{error:#}");
    Ok(())
}

/// Makes the test below act as the process that dies.
const DIE: &str = "WEIR_LAB_DIE";

#[test]
fn a_killed_process_leaves_no_server_and_a_sweep_removes_the_rest() -> Result<()> {
    if std::env::var_os(DIE).is_some() {
        let lab = Lab::builder().direct(1).start()?;
        println!("lab={}", lab.name());
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)?;
    }
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args([
        "--exact",
        "--nocapture",
        "a_killed_process_leaves_no_server_and_a_sweep_removes_the_rest",
    ]);
    let output = command.env(DIE, "1").output()?;
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stdout);
    let name =
        text.split("lab=").nth(1).and_then(|rest| rest.lines().next()).context("find the lab's name")?;
    eventually("nginx ends with the process", || {
        let found = std::process::Command::new("pgrep").args(["-f", name]).output();
        found.is_ok_and(|found| found.stdout.is_empty())
    });
    // Another test's start may have swept before.
    Lab::sweep_stale()?;
    assert_eq!(namespaces_of(name)?, [""; 0]);
    assert!(!Path::new("/run/weir-lab").join(name).exists());
    Ok(())
}

/// Names of the namespaces of a lab.
fn namespaces_of(lab: &str) -> Result<Vec<String>> {
    let entries = std::fs::read_dir("/run/netns")?.map(|entry| entry.map(|entry| entry.file_name()));
    let names = entries.map(|entry| entry.map(|name| name.to_string_lossy().into_owned()));
    let names = names.collect::<Result<Vec<String>, _>>()?;
    Ok(names.into_iter().filter(|entry| entry.starts_with(&format!("{lab}-"))).collect())
}

#[test]
fn a_load_records_each_request_and_its_backend() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let backend = lab.backend("direct-1");
    let target = backend.socket(Family::V4, 80);
    let load = Load::start(lab.client(), Get::new(target), Rate::per_second(200));
    eventually("50 requests end", || load.count() >= 50);
    let killed = backend.kill();
    let so_far = load.count();
    eventually("requests fail", || load.shots().iter().skip(so_far).any(|shot| shot.failed()));
    let shots = load.stop();
    let before = shots.iter().filter(|shot| shot.sent + shot.took < killed);
    assert!(before.clone().count() >= 50);
    assert!(before.clone().all(|shot| shot.backend() == Some("direct-1")), "a request failed early");
    let failed = shots.iter().find(|shot| shot.failed()).context("find a failed request")?;
    assert!(failed.sent + failed.took > killed);
    Ok(())
}

#[test]
fn two_hundred_downloads_run_at_once_and_break_only_with_their_server() -> Result<()> {
    let lab = Lab::builder()
        .direct(2)
        .web(Web { big_bytes: 96 << 10, big_rate: 32 << 10, ..Web::default() })
        .start()?;
    let requests = |name: &str| {
        let target = lab.backend(name).socket(Family::V4, 80);
        vec![Get::new(target).path("/big").timeout(WITHIN); 100]
    };
    let kept = Downloads::start(lab.client(), requests("direct-1"));
    let cut = Downloads::start(lab.client(), requests("direct-2"));
    kept.wait_started(WITHIN)?;
    cut.wait_started(WITHIN)?;
    lab.backend("direct-2").kill();
    assert!(cut.finish(WITHIN)?.iter().all(|download| download.broken()));
    let kept = kept.finish(Duration::from_secs(15))?;
    for download in &kept {
        assert!(matches!(download.end, Some(Ok(()))), "{download:?}");
        assert_eq!((download.received, download.backend.as_deref()), (96 << 10, Some("direct-1")));
    }
    Ok(())
}

#[test]
fn labs_coexist_and_a_panic_leaves_nothing_behind() -> Result<()> {
    let (names, name_of_the_other) = mpsc::channel();
    let other = Lab::builder().direct(1).start()?;
    let panicked = panic::catch_unwind(AssertUnwindSafe(|| {
        let lab = Lab::builder().direct(1).routed(1).start().expect("root and the tools are there");
        names.send(lab.name().to_owned()).expect("the receiver is alive");
        panic!("as a failing test does");
    }));
    assert!(panicked.is_err());
    let name = name_of_the_other.recv()?;
    assert_eq!(namespaces_of(&name)?, [""; 0]);
    assert!(!Path::new("/run/weir-lab").join(&name).exists());
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    assert!(!mounts.contains(&name), "a mount is left:\n{mounts}");
    let commands = std::process::Command::new("pgrep").args(["-f", &name]).output()?;
    assert!(commands.stdout.is_empty(), "processes are left: {}", String::from_utf8_lossy(&commands.stdout));

    assert_eq!(
        namespaces_of(other.name())?.len(),
        5,
        "client, edge, weir, router and backend of the other lab"
    );
    assert!(Lab::sweep_stale()?.is_empty(), "a sweep leaves living labs alone");
    lab_answers(&other)
}

fn lab_answers(lab: &Lab) -> Result<()> {
    lab.client().get(&Get::new(lab.backend("direct-1").socket(Family::V4, 80))).map(drop)
}
