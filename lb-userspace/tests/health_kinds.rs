//! `https`, `udp`, `dns` and `exec` checks against real servers, in network namespaces (needs root, iproute2, nginx,
//! openssl and dnsmasq).

#[expect(dead_code, reason = "each test program uses a part of the lab")]
mod health_lab;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use health_lab::{Detection, Lab, SERVER_V4, SERVER_V6, address, check, pool};
use lb_userspace::config::model::{
    CheckKind, DnsCheck, DnsRcode, DnsType, ExecCheck, HttpCheck, PhaseLimits, TlsCheck, Trust, UdpCheck,
};
use lb_userspace::health::machine::{FailureKind, Health};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

const PORT: u16 = 8443;
const HARD: Option<FailureKind> = Some(FailureKind::Hard);
const SOFT: Option<FailureKind> = Some(FailureKind::Soft);

/// A server that ends with the test.
struct Server(Child, #[expect(dead_code, reason = "kept for its drop")] Option<tempfile::TempDir>);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(body: Option<&str>) -> HttpCheck {
    HttpCheck {
        path: "/".to_owned(),
        host: Some("www.example".to_owned()),
        expect_status: vec![(200, 200)],
        expect_body: body.map(ToOwned::to_owned),
        phases: PhaseLimits::default(),
    }
}

fn openssl(directory: &Path, arguments: &str) {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(directory).output();
    let output = output.expect("run openssl");
    assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, and a certificate of its for `www.example`.
fn certificates(directory: &Path) -> Trust {
    openssl(
        directory,
        "req -x509 -newkey rsa:2048 -nodes -keyout ca.key -out ca.pem -days 2 -subj /CN=authority",
    );
    openssl(
        directory,
        "req -newkey rsa:2048 -nodes -keyout server.key -out server.csr -subj /CN=www.example",
    );
    fs::write(directory.join("names"), "subjectAltName=DNS:www.example\n").expect("write");
    openssl(
        directory,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem -days 2 -extfile names",
    );
    let path = directory.join("ca.pem");
    let certificate = CertificateDer::from_pem_file(&path).expect("a certificate");
    Trust::File { path, certificates: vec![certificate.to_vec()] }
}

/// nginx with TLS on [`PORT`]; answers `/` with 200 to requests for `www.example`.
fn nginx(lab: &Lab, home: tempfile::TempDir) -> Server {
    let directory = home.path().display();
    let configuration = format!(
        "daemon off; master_process off; pid {directory}/pid; error_log {directory}/error.log; events {{}} \
         http {{ access_log off; client_body_temp_path {directory}; proxy_temp_path {directory}; \
         fastcgi_temp_path {directory}; uwsgi_temp_path {directory}; scgi_temp_path {directory}; \
         ssl_certificate {directory}/server.pem; ssl_certificate_key {directory}/server.key; \
         server {{ listen {PORT} ssl default_server; return 421 wrong; }} \
         server {{ listen {PORT} ssl; server_name www.example; return 200 'all good'; }} }}"
    );
    let path = home.path().join("nginx.conf");
    fs::write(&path, configuration).expect("write the configuration");
    let child = lab.spawn_on_server("nginx", &["-c".to_owned(), path.display().to_string()]);
    Server(child, Some(home))
}

/// Waits until every pool's backend is where it is wanted: up, or down of a kind for a reason.
fn wait_for(detection: &Detection, wanted: &[(&str, Health, Option<FailureKind>, &str)]) {
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let seen = detection.snapshot();
        let fits = |(name, health, kind, reason): &(&str, Health, Option<FailureKind>, &str)| {
            seen.iter()
                .filter(|one| &*one.key.pool == *name)
                .all(|one| one.health == *health && one.failure_kind == *kind && one.why.contains(reason))
        };
        if wanted.iter().all(fits) {
            seen.iter().for_each(|one| println!("{}: {:?}, {}", one.key, one.health, one.why));
            return;
        }
        assert!(Instant::now() < until, "wanted {wanted:#?}, saw {seen:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn https_checks_judge_certificate_name_status_and_body() {
    let lab = Lab::new();
    let home = tempfile::tempdir().expect("a directory");
    let trust = certificates(home.path());
    let _server = nginx(&lab, home);
    let kind = |http: HttpCheck, name: Option<&str>, trust: &Trust| {
        CheckKind::Https(http, TlsCheck { name: name.map(ToOwned::to_owned), trust: trust.clone() })
    };
    let named = Some("www.example");
    let one = |name: &str, kind: CheckKind, port: u16| {
        pool(name, vec![check(kind, Some(port), 50, 2000, 2)], [address(SERVER_V4)])
    };
    let other_host = HttpCheck { host: Some("other.example".to_owned()), ..get(None) };
    let detection = lab.detect(vec![
        one("believed", kind(get(Some("all good")), named, &trust), PORT),
        one("insecure", kind(get(None), None, &Trust::Anyone), PORT),
        one("unknown-authority", kind(get(None), named, &Trust::System), PORT),
        one("wrong-name", kind(get(None), Some("other.example"), &trust), PORT),
        one("no-name", kind(get(None), None, &trust), PORT),
        one("wrong-status", kind(other_host, named, &trust), PORT),
        one("wrong-body", kind(get(Some("absent")), named, &trust), PORT),
        one("closed", kind(get(None), named, &trust), 1),
        one("plain", CheckKind::Http(get(None)), PORT),
    ]);
    wait_for(
        &detection,
        &[
            ("believed", Health::Up, None, ""),
            ("insecure", Health::Up, None, ""),
            ("unknown-authority", Health::Down, SOFT, "tls: invalid peer certificate: UnknownIssuer"),
            (
                "wrong-name",
                Health::Down,
                SOFT,
                "tls: invalid peer certificate: certificate not valid for name",
            ),
            ("no-name", Health::Down, SOFT, "tls: invalid peer certificate: certificate not valid for name"),
            ("wrong-status", Health::Down, SOFT, "status 421"),
            ("wrong-body", Health::Down, SOFT, "expected text not in body"),
            ("closed", Health::Down, HARD, "connection refused"),
            ("plain", Health::Down, SOFT, "status 400"),
        ],
    );
}

/// Accepts, says `begin` to whoever speaks first, and then nothing.
fn hang(lab: &Lab, port: u16, begin: &'static str) {
    let listen = move || TcpListener::bind(("::", port)).expect("listen");
    let listener = lab.on_server(listen).join().expect("listen");
    std::thread::spawn(move || {
        let mut held = Vec::new();
        for mut connection in listener.incoming().flatten() {
            if !begin.is_empty() {
                let _ = connection.read(&mut [0; 512]);
                let _ = connection.write_all(begin.as_bytes());
            }
            held.push(connection);
        }
    });
}

#[test]
fn a_server_that_hangs_is_down_for_the_phase_it_hangs_in_and_a_slow_one_keeps_its_flows() {
    let lab = Lab::new();
    hang(&lab, 81, "");
    hang(&lab, 82, "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\nall go");
    let limited = |phases| CheckKind::Http(HttpCheck { phases, ..get(None) });
    let first_byte = Some(Duration::from_millis(100));
    let tls = TlsCheck { name: None, trust: Trust::Anyone };
    let one = |name: &str, kind: CheckKind, port: u16| {
        pool(name, vec![check(kind, Some(port), 100, 1000, 1)], [address(SERVER_V4)])
    };
    let mut detection = lab.detect(vec![
        one("first-byte", limited(PhaseLimits { first_byte, ..PhaseLimits::default() }), 81),
        one("tls", CheckKind::Https(get(None), tls), 81),
        one("slow", CheckKind::Http(get(Some("good"))), 82),
    ]);
    wait_for(
        &detection,
        &[
            ("first-byte", Health::Down, HARD, "no answer in time: no first byte"),
            ("tls", Health::Down, HARD, "no answer in time: no TLS handshake"),
            ("slow", Health::Down, SOFT, "no answer in time: no rest of the answer"),
        ],
    );
    let events = detection.take_events();
    let took = |pool: &str| {
        let event = events.iter().find(|event| &*event.backend.pool == pool && event.to == Health::Down);
        event.expect("a down").detected_after
    };
    println!("first byte {:?}, whole {:?}", took("first-byte"), took("tls"));
    assert!(took("first-byte") < took("tls"));
}

#[test]
fn udp_checks_judge_the_reply_and_take_an_unreachable_port_for_hard() {
    let lab = Lab::new();
    let bind = |port: u16| move || UdpSocket::bind(("::", port)).expect("bind");
    let echo = lab.on_server(bind(7)).join().expect("bind");
    let _mute = lab.on_server(bind(9)).join().expect("bind");
    std::thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = echo.recv_from(&mut buffer) {
            let _ = echo.send_to(&buffer[..length], from);
        }
    });
    let kind = |send: &[u8], expect: Option<&[u8]>| {
        CheckKind::Udp(UdpCheck { send: send.to_vec(), expect: expect.map(<[u8]>::to_vec) })
    };
    let both = || [address(SERVER_V4), address(SERVER_V6)];
    let one = |name: &str, kind: CheckKind, port: u16| {
        pool(name, vec![check(kind, Some(port), 10, 100, 3)], both())
    };
    let detection = lab.detect(vec![
        one("echoed", kind(b"are you there?\0", Some(b"there?\0")), 7),
        one("anything", kind(&[0, 0xff], None), 7),
        one("other", kind(b"ping", Some(b"pong")), 7),
        one("mute", kind(b"ping", None), 9),
    ]);
    wait_for(
        &detection,
        &[
            ("echoed", Health::Up, None, ""),
            ("anything", Health::Up, None, ""),
            ("other", Health::Down, SOFT, "unexpected reply: \"ping\""),
            ("mute", Health::Down, HARD, "no answer for"),
        ],
    );
    drop(detection);
    // Alone and at a pace at which the server's kernel still reports each.
    let closed = pool("closed", vec![check(kind(b"ping", None), Some(1), 1500, 1000, 1)], both());
    wait_for(&lab.detect(vec![closed]), &[("closed", Health::Down, HARD, "port unreachable")]);
}

#[test]
fn udp_checks_hold_few_sockets_while_nobody_answers() {
    let lab = Lab::new();
    let _mute = lab.on_server(|| UdpSocket::bind(("::", 9)).expect("bind")).join().expect("bind");
    let kind = CheckKind::Udp(UdpCheck { send: b"ping".to_vec(), expect: None });
    let sockets = || fs::read_dir("/proc/self/fd").expect("files").count();
    let detection =
        lab.detect(vec![pool("mute", vec![check(kind, Some(9), 1, 20, 3)], [address(SERVER_V4)])]);
    detection.wait_for_health(Health::Down);
    let before = sockets();
    std::thread::sleep(Duration::from_secs(1));
    let after = sockets();
    println!("{before} open files, {after} after 1000 more probes");
    assert!(after <= before + 60, "{before} {after}");
}

#[test]
fn dns_checks_judge_code_and_answer() {
    let lab = Lab::new();
    let arguments = "--keep-in-foreground --no-resolv --no-hosts --no-daemon --port=5353 --local=/example/ \
                     --address=/health.example/192.0.2.7 --address=/health.example/2001:db8::7 \
                     --txt-record=text.example,serving --user=root --group=root --conf-file=/dev/null";
    let arguments: Vec<String> = arguments.split_whitespace().map(ToOwned::to_owned).collect();
    let _server = Server(lab.spawn_on_server("dnsmasq", &arguments), None);
    let ask = |query: &str, query_type, expect_rcode, answer: Option<&str>| {
        CheckKind::Dns(DnsCheck {
            query: query.to_owned(),
            query_type,
            expect_rcode,
            expect_answer: answer.map(ToOwned::to_owned),
        })
    };
    let (ok, no_name) = (DnsRcode::NoError, DnsRcode::NxDomain);
    let one = |name: &str, kind: CheckKind| {
        pool(name, vec![check(kind, Some(5353), 20, 500, 3)], [address(SERVER_V4), address(SERVER_V6)])
    };
    let detection = lab.detect(vec![
        one("a", ask("health.example", DnsType::A, ok, Some("192.0.2.7"))),
        one("aaaa", ask("health.example", DnsType::Aaaa, ok, Some("2001:db8::7"))),
        one("txt", ask("text.example", DnsType::Txt, ok, Some("serving"))),
        one("no-such-name", ask("absent.example", DnsType::A, no_name, None)),
        one("wrong-code", ask("absent.example", DnsType::A, ok, None)),
        one("wrong-answer", ask("health.example", DnsType::A, ok, Some("192.0.2.8"))),
    ]);
    wait_for(
        &detection,
        &[
            ("a", Health::Up, None, ""),
            ("aaaa", Health::Up, None, ""),
            ("txt", Health::Up, None, ""),
            ("no-such-name", Health::Up, None, ""),
            ("wrong-code", Health::Down, SOFT, "unexpected reply: NXDOMAIN"),
            ("wrong-answer", Health::Down, SOFT, "unexpected reply: 192.0.2.7"),
        ],
    );
}

/// A script, and a check that runs it.
fn script(directory: &Path, name: &str, text: &str) -> (PathBuf, CheckKind) {
    let program = directory.join(name);
    fs::write(&program, format!("#!/bin/sh\n{text}\n")).expect("write");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("make it a program");
    (program.clone(), CheckKind::Exec(ExecCheck { program, arguments: vec!["argument".to_owned()] }))
}

#[test]
fn exec_checks_tell_the_program_whom_it_is_about_and_keep_its_last_words() {
    let lab = Lab::new();
    let home = tempfile::tempdir().expect("a directory");
    let told = home.path().join("told");
    let (_, good) = script(
        home.path(),
        "good",
        &format!("echo \"$1 $WEIR_BACKEND $WEIR_ADDRESS $WEIR_PORT $(pwd)\" > {}", told.display()),
    );
    let (_, bad) = script(home.path(), "bad", "echo asking; echo 'replica lags 40 s' >&2; exit 1");
    let (_, killed) = script(home.path(), "killed", "kill -9 $$");
    let missing = CheckKind::Exec(ExecCheck { program: home.path().join("missing"), arguments: vec![] });
    let one = |name: &str, kind: CheckKind| {
        pool(name, vec![check(kind, Some(80), 1000, 900, 1)], [address(SERVER_V4)])
    };
    let detection =
        lab.detect(vec![one("good", good), one("bad", bad), one("killed", killed), one("missing", missing)]);
    wait_for(
        &detection,
        &[
            ("good", Health::Up, None, ""),
            ("bad", Health::Down, SOFT, "exit status: 1: replica lags 40 s"),
            ("killed", Health::Down, SOFT, "signal: 9 (SIGKILL)"),
            // What cannot be tried says nothing about the backend.
            ("missing", Health::Unknown, None, ""),
        ],
    );
    assert_eq!(fs::read_to_string(&told).expect("what it was told"), "argument b0000 10.9.0.2 80 /\n");
}

#[test]
fn a_program_that_hangs_is_killed_with_all_that_it_started() {
    let lab = Lab::new();
    let home = tempfile::tempdir().expect("a directory");
    let started = home.path().join("started");
    let (_, hung) =
        script(home.path(), "hung", &format!("sleep 600 & echo $$ $! >> {}; wait", started.display()));
    let checks = vec![check(hung, None, 300, 200, 2)];
    let detection = lab.detect(vec![pool("hung", checks, [address(SERVER_V4)])]);
    wait_for(&detection, &[("hung", Health::Down, SOFT, "no answer in time: no end of the program")]);
    drop(detection);
    std::thread::sleep(Duration::from_millis(300));
    let text = fs::read_to_string(&started).expect("process ids");
    let alive = |pid: &&str| {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        !state.is_empty() && !state.contains(") Z ")
    };
    let left: Vec<&str> = text.split_whitespace().filter(alive).collect();
    assert!(text.split_whitespace().count() >= 4, "{text}");
    assert_eq!(left, Vec::<&str>::new(), "of {text}");
}

#[test]
fn programs_run_at_most_sixty_four_at_a_time() {
    let lab = Lab::new();
    let home = tempfile::tempdir().expect("a directory");
    let (program, slow) = script(home.path(), "slow", "exec sleep 2.064");
    let backends = (0..100u8).map(|number| SocketAddr::from(([10, 9, 0, number.saturating_add(2)], 0)).ip());
    let detection = lab.detect(vec![pool("slow", vec![check(slow, None, 3000, 3000, 2)], backends)]);
    let running = || {
        let processes = fs::read_dir("/proc").expect("processes").flatten();
        let is_ours = |entry: &fs::DirEntry| {
            let line = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            line.contains("sleep\x002.064") || line.contains(&program.display().to_string())
        };
        processes.filter(is_ours).count()
    };
    let mut most = 0;
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        most = most.max(running());
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("at most {most} programs at a time for 100 backends");
    assert!((32..=64).contains(&most), "{most}");
    assert!(detection.snapshot().iter().all(|one| one.health != Health::Down));
}
