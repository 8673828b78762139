//! Detection over real sockets, in network namespaces (needs root, iproute2 and nginx).

#[expect(dead_code, reason = "each test program uses a part of the lab")]
mod health_lab;

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use health_lab::{Lab, SERVER_V4, SERVER_V6, address, check, pool, print_distribution};
use lb_userspace::config::model::{Check, CheckKind, HttpCheck, PhaseLimits};
use lb_userspace::health::machine::{FailureKind, Health};
use lb_userspace::health::pool_view::SlotState;

const PORT: u16 = 8080;

fn http(path: &str, expect_body: Option<&str>) -> CheckKind {
    CheckKind::Http(HttpCheck {
        path: path.to_owned(),
        host: Some("health.example".to_owned()),
        expect_status: vec![(200, 299)],
        expect_body: expect_body.map(ToOwned::to_owned),
        phases: PhaseLimits::default(),
    })
}

/// Serves HTTP on the backends' side; answers with 200 on `/ok`, else 503; counts connections.
fn serve(lab: &Lab, port: u16) -> Arc<AtomicU64> {
    let accepted = Arc::new(AtomicU64::new(0));
    let counter = accepted.clone();
    let listen = move || TcpListener::bind(("::", port)).expect("listen");
    let listener = lab.on_server(listen).join().expect("listen");
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            counter.fetch_add(1, Ordering::Relaxed);
            let Ok(mut connection) = connection else { continue };
            let mut request = [0; 1024];
            let length = connection.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).to_lowercase();
            if length == 0 {
                continue;
            }
            let good = request.starts_with("get /ok ") && request.contains("host: health.example\r\n");
            let status = if good { "200 OK" } else { "503 Service Unavailable" };
            let answer =
                format!("HTTP/1.1 {status}\r\ncontent-length: 9\r\nconnection: close\r\n\r\nall good\n");
            let _ = connection.write_all(answer.as_bytes());
        }
    });
    accepted
}

/// A server that dies by one signal.
fn nginx(lab: &Lab, port: u16) -> (Child, tempfile::TempDir) {
    let home = tempfile::tempdir().expect("a directory");
    let configuration = format!(
        "daemon off; master_process off; pid {0}/pid; error_log {0}/error.log; events {{}} \
         http {{ access_log off; client_body_temp_path {0}; proxy_temp_path {0}; fastcgi_temp_path {0}; \
         uwsgi_temp_path {0}; scgi_temp_path {0}; server {{ listen {port}; return 200 ok; }} }}",
        home.path().display()
    );
    let path = home.path().join("nginx.conf");
    fs::write(&path, configuration).expect("write the configuration");
    let child = lab.spawn_on_server("nginx", &["-c".to_owned(), path.display().to_string()]);
    (child, home)
}

#[test]
fn every_kind_of_check_finds_a_live_server_up_over_both_families() {
    let lab = Lab::new();
    serve(&lab, PORT);
    let both = || [address(SERVER_V4), address(SERVER_V6)];
    let pools = vec![
        pool("ping", vec![check(CheckKind::Ping, None, 10, 100, 3)], both()),
        pool("syn", vec![check(CheckKind::Syn, Some(PORT), 10, 100, 2)], both()),
        pool("tcp", vec![check(CheckKind::Tcp, Some(PORT), 10, 100, 2)], both()),
        pool("http", vec![check(http("/ok", Some("all good")), Some(PORT), 20, 500, 2)], both()),
    ];
    let detection = lab.detect(pools);
    detection.wait_for_health(Health::Up);
    for one in detection.snapshot() {
        let last = one.last_probe().expect("a result");
        assert_eq!(last.error, None);
        println!("{} {}: {:?}, {}", one.key, last.kind, last.round_trip, one.why);
    }
}

#[test]
fn half_open_check_never_reaches_accept() {
    let lab = Lab::new();
    let accepted = serve(&lab, PORT);
    let both = [address(SERVER_V4), address(SERVER_V6)];
    let detection = lab.detect(vec![pool("syn", vec![check(CheckKind::Syn, Some(PORT), 5, 50, 2)], both)]);
    std::thread::sleep(Duration::from_millis(500));
    for one in detection.snapshot() {
        assert_eq!(one.health, Health::Up, "{one:#?}");
        assert!(one.checks[0].successes > 50, "{one:#?}");
    }
    assert_eq!(accepted.load(Ordering::Relaxed), 0);
}

#[test]
fn closed_port_is_refused_and_a_wrong_status_or_body_is_soft() {
    let lab = Lab::new();
    serve(&lab, PORT);
    let one = || [address(SERVER_V4)];
    let pools = vec![
        pool("closed-http", vec![check(http("/ok", None), Some(81), 20, 500, 2)], one()),
        pool("closed-syn", vec![check(CheckKind::Syn, Some(81), 10, 500, 2)], one()),
        pool("closed-syn6", vec![check(CheckKind::Syn, Some(81), 10, 500, 2)], [address(SERVER_V6)]),
        pool("closed-tcp", vec![check(CheckKind::Tcp, Some(81), 10, 500, 2)], one()),
        pool("no-route", vec![check(CheckKind::Tcp, Some(81), 10, 500, 2)], [address("192.0.2.1")]),
        pool("wrong-body", vec![check(http("/ok", Some("absent")), Some(PORT), 20, 500, 2)], one()),
        pool("wrong-status", vec![check(http("/bad", None), Some(PORT), 20, 500, 2)], one()),
    ];
    let mut detection = lab.detect(pools);
    std::thread::sleep(Duration::from_millis(600));
    let mut events = detection.take_events();
    events.sort_by(|a, b| a.backend.cmp(&b.backend));
    let seen: Vec<_> = events
        .iter()
        .map(|event| {
            let reason = event.reason.split_once(": ").map_or("", |(_, reason)| reason);
            (&*event.backend.pool, event.to, event.kind, reason)
        })
        .collect();
    let (hard, soft) = (Some(FailureKind::Hard), Some(FailureKind::Soft));
    let wanted = [
        ("closed-http", Health::Down, hard, "connection refused (2 in a row)"),
        ("closed-syn", Health::Down, hard, "connection refused (2 in a row)"),
        ("closed-syn6", Health::Down, hard, "connection refused (2 in a row)"),
        ("closed-tcp", Health::Down, hard, "connection refused (2 in a row)"),
        ("no-route", Health::Down, hard, "unreachable: network is unreachable (2 in a row)"),
        ("wrong-body", Health::Down, soft, "expected text not in body (2 in a row)"),
        ("wrong-status", Health::Down, soft, "status 503 (2 in a row)"),
    ];
    assert_eq!(seen, wanted);
    let soft = detection.snapshot().into_iter().filter(|one| one.failure_kind == soft);
    assert!(
        soft.clone().count() == 2
            && soft.into_iter().all(|one| one.slot.is_some_and(|slot| slot.state == SlotState::DownSoft))
    );
}

/// Kills a server again and again; returns the times to the store from the kill, and from the last probe that the
/// kernel still answered with an open port: a killed process closes it only when it gets to run.
fn kills(kind: CheckKind, trials: usize) -> (Vec<Duration>, Vec<Duration>) {
    let lab = Lab::new();
    let checks: Vec<Check> = vec![check(kind, Some(PORT), 5, 5, 1)];
    let mut detection = lab.detect(vec![pool("web", checks, [address(SERVER_V4)])]);
    let mut trial = |index: usize| {
        let (mut server, _home) = nginx(&lab, PORT);
        detection.wait_for_health(Health::Up);
        // Another phase of the interval each time.
        std::thread::sleep(Duration::from_micros(20_000 + 370 * u64::try_from(index).unwrap_or(0)));
        detection.slots.forget();
        detection.take_events();
        let killed_at = Instant::now();
        server.kill().expect("kill");
        let lost_at = detection.wait_for_loss();
        server.wait().expect("wait");
        detection.wait_for_health(Health::Down);
        let events = detection.take_events();
        let loss = events.first().expect("an event");
        let open =
            loss.evidence.probes.iter().rev().find(|probe| probe.failure.is_none()).expect("an answer");
        let since_open = loss.evidence.decided_at.since(open.sent_at) + loss.applied_after;
        (lost_at.saturating_duration_since(killed_at), since_open)
    };
    (0..trials).map(&mut trial).unzip()
}

#[test]
fn killed_server_is_taken_out_by_half_open_and_full_connects() {
    for kind in [CheckKind::Syn, CheckKind::Tcp] {
        let name = format!("{kind:?} every 5 ms, fall 1");
        let (since_kill, since_open) = kills(kind, 20);
        print_distribution(&format!("SIGKILL to store, {name}"), since_kill);
        print_distribution(&format!("last answer of an open port to store, {name}"), since_open);
    }
}

#[test]
fn host_that_stops_answering_pings_is_suspect_then_down_and_comes_back() {
    let lab = Lab::new();
    let checks = vec![check(CheckKind::Ping, None, 1, 3, 3)];
    let mut detection = lab.detect(vec![pool("web", checks, [address(SERVER_V4), address(SERVER_V6)])]);
    let (mut lost, mut down) = (Vec::new(), Vec::new());
    for trial in 0..30u32 {
        detection.wait_for_health(Health::Up);
        std::thread::sleep(Duration::from_micros(20_000) + Duration::from_micros(130) * trial);
        detection.slots.forget();
        detection.take_events();
        let silence = |value: &'static str| {
            move || {
                let at = Instant::now();
                fs::write("/proc/sys/net/ipv4/icmp_echo_ignore_all", value).expect("write");
                at
            }
        };
        let silent_at = lab.on_server(silence("1")).join().expect("silence");
        lost.push(detection.wait_for_loss().saturating_duration_since(silent_at));
        let (mut events, since) = (detection.take_events(), Instant::now());
        while !events.iter().any(|event| event.to == Health::Down) {
            assert!(since.elapsed() < Duration::from_secs(5), "no down: {events:#?}");
            std::thread::sleep(Duration::from_millis(5));
            events.extend(detection.take_events());
        }
        let event = events.iter().find(|event| event.to == Health::Down).expect("a down");
        down.push(event.detected_after);
        if trial == 0 {
            println!("{event:#?}");
        }
        assert!(events.iter().all(|event| &*event.backend.backend == "b0000"), "{events:#?}");
        lab.on_server(silence("0")).join().expect("answer again");
    }
    print_distribution("silence to first store, ping 1 ms timeout 3 ms fall 3", lost);
    print_distribution("first unanswered probe to down", down);
}

#[test]
fn host_that_drops_everything_is_taken_out_by_each_kind_of_check() {
    let lab = Lab::new();
    serve(&lab, PORT);
    let one = || [address(SERVER_V4)];
    let detection = lab.detect(vec![
        pool("http", vec![check(http("/ok", None), Some(PORT), 20, 50, 1)], one()),
        pool("syn", vec![check(CheckKind::Syn, Some(PORT), 5, 5, 2)], one()),
        pool("tcp", vec![check(CheckKind::Tcp, Some(PORT), 5, 5, 1)], one()),
    ]);
    detection.wait_for_health(Health::Up);
    // Answers have no way back.
    lab.ip_server("route add blackhole 10.9.0.1/32");
    detection.wait_for_health(Health::Down);
    for one in detection.snapshot() {
        println!("{} {}", one.key, one.why);
        assert!(one.why.contains("no answer"), "{one:#?}");
    }
    lab.ip_server("route del blackhole 10.9.0.1/32");
    detection.wait_for_health(Health::Up);
}

#[test]
fn busy_cores_cause_no_false_down() {
    let lab = Lab::new();
    serve(&lab, PORT);
    let one = || [address(SERVER_V4)];
    let mut detection = lab.detect(vec![
        pool("ping", vec![check(CheckKind::Ping, None, 1, 3, 3)], one()),
        pool("syn", vec![check(CheckKind::Syn, Some(PORT), 5, 5, 1)], one()),
        pool("tcp", vec![check(CheckKind::Tcp, Some(PORT), 5, 5, 1)], one()),
    ]);
    detection.wait_for_health(Health::Up);
    detection.take_events();
    let until = Instant::now() + Duration::from_secs(5);
    let burn = move || {
        while Instant::now() < until {
            std::hint::spin_loop()
        }
    };
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    let burners: Vec<_> = (0..cores * 2).map(|_| std::thread::spawn(burn)).collect();
    for burner in burners {
        burner.join().expect("burn");
    }
    let events = detection.take_events();
    let suspects = events.iter().filter(|event| event.to == Health::Suspect).count();
    let downs: Vec<_> = events.iter().filter(|event| event.to == Health::Down).collect();
    println!("5 s with {} busy threads: {suspects} suspicions, {} downs", cores * 2, downs.len());
    assert!(downs.is_empty(), "{downs:#?}");
}

#[test]
fn thousand_backends_every_100_ms_are_checked_by_one_thread() {
    let lab = Lab::new();
    lab.ip_server("route add local 10.8.0.0/16 dev lo");
    lab.ip_weir("route add 10.8.0.0/16 via 10.9.0.2");
    serve(&lab, PORT);
    let addresses = (0..1000u16).map(|index| {
        let [high, low] = (index + 1).to_be_bytes();
        IpAddr::from(Ipv4Addr::new(10, 8, high, low))
    });
    let detection =
        lab.detect(vec![pool("web", vec![check(CheckKind::Syn, Some(PORT), 100, 100, 2)], addresses)]);
    detection.wait_for_health(Health::Up);
    let (before, at) = (probe_thread_time(), Instant::now());
    std::thread::sleep(Duration::from_secs(3));
    let busy = probe_thread_time().saturating_sub(before).as_secs_f64() / at.elapsed().as_secs_f64();
    println!("1000 syn checks every 100 ms: {:.1} % of a core, both hosts' stacks included", busy * 100.0);
    assert!(detection.snapshot().iter().all(|one| one.health == Health::Up));
    assert!(busy < 0.6, "{busy}");
}

/// Time that this process's probe thread has run.
fn probe_thread_time() -> Duration {
    let tasks = fs::read_dir("/proc/self/task").expect("threads").flatten();
    let of_probe = tasks.filter(|task| {
        fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.trim() == "weir-probe")
    });
    let runtime = |task: fs::DirEntry| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    };
    of_probe.filter_map(runtime).sum()
}
