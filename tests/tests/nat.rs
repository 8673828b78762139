//! Mode `nat` with real programs: nothing is set up on the backends, and answers come back through weir.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Socket, Type};
use weir_tests::{Downloads, Family, Get, Host, Lab, Web, WeirProc, any_port, eventually, plan};

const HEAD: &str =
    "interfaces = [\"eth0\", \"eth1\"]\n[limits]\nflows_v4 = 4096\nflows_v6 = 4096\nmaglev_slots = 65_536\n";

/// Below the ports that hosts connect from.
const PORTS: (u16, u16) = (10_000, 32_767);

/// Families of a client and of its backends.
const PAIRS: [(Family, Family); 4] =
    [(Family::V4, Family::V4), (Family::V6, Family::V6), (Family::V4, Family::V6), (Family::V6, Family::V4)];

/// A service in mode `nat` on backends of a lab, which reach weir's host by a segment: 0 is `FRONT`, 1 `DIRECT`.
struct Translated {
    vip: SocketAddr,
    protocol: &'static str,
    backends: Family,
    segment: usize,
    /// Port of the backends, where it is not the service's.
    port: Option<u16>,
    ports: (u16, u16),
    /// Further lines of the service.
    more: &'static str,
}

impl Translated {
    fn web(client: Family, backends: Family) -> Self {
        let vip = SocketAddr::new(plan::vip(0).of(client), 80);
        Self { vip, protocol: "tcp", backends, segment: 1, port: None, ports: PORTS, more: "" }
    }

    fn config(&self, lab: &Lab) -> String {
        let snat = lab.weir_host().addresses()[self.segment].of(self.backends);
        let (first, last) = self.ports;
        let mut text = format!(
            "{HEAD}[[service]]\nname = \"web\"\nvip = \"{}\"\nport = {}\nprotocol = \"{}\"\nmode = \"nat\"\n\
             snat = [{{ address = \"{snat}\", ports = \"{first}-{last}\" }}]\n{}",
            self.vip.ip(),
            self.vip.port(),
            self.protocol,
            self.more
        );
        for backend in lab.backends() {
            let (name, address) = (backend.name(), backend.address(self.backends));
            // Writing to a string does not fail.
            let _ = write!(text, "[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
            if let Some(port) = self.port {
                let _ = writeln!(text, "port = {port}");
            }
        }
        text
    }

    /// Starts weir with the service; every backend is up.
    fn start(&self, lab: &Lab) -> Result<WeirProc> {
        let weir = lab.weir(&self.config(lab))?;
        eventually("all backends are up", || {
            weir.json(&["status"]).is_ok_and(|status| status["backends_up"] == status["backends_total"])
        });
        Ok(weir)
    }
}

fn counter(weir: &WeirProc, reason: &str) -> Result<u64> {
    weir.json(&["status"])?["counters"][reason].as_u64().with_context(|| format!("no counter {reason}"))
}

/// Takes the VIPs off the backends: translation needs nothing there.
fn strip_vips(lab: &Lab) -> Result<()> {
    for backend in lab.backends() {
        for vip in lab.vips() {
            backend.ip(&format!("address del {}/32 dev lo", vip.v4))?;
            backend.ip(&format!("address del {}/128 dev lo", vip.v6))?;
        }
    }
    Ok(())
}

/// Bytes that no other place of a stream has.
fn pattern(length: usize) -> Vec<u8> {
    (0..length as u64 / 8).flat_map(|word| word.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()).collect()
}

/// Answers each connection with the bytes that it sends, after they have all come.
fn mirror(host: &Host, at: SocketAddr) -> Result<()> {
    let listener = host.run(|| TcpListener::bind(at))?;
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut bytes = Vec::new();
                // A client that has gone is no concern of the server's.
                let _ = stream.read_to_end(&mut bytes).and_then(|_| stream.write_all(&bytes));
            });
        }
    });
    Ok(())
}

/// Sends bytes to a mirror and reads them back.
fn reflect(client: &Host, vip: SocketAddr, sent: &[u8]) -> Result<()> {
    let mut stream = client.run(|| TcpStream::connect_timeout(&vip, Duration::from_secs(10)))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.set_write_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(sent)?;
    stream.shutdown(Shutdown::Write)?;
    let mut received = Vec::with_capacity(sent.len());
    stream.read_to_end(&mut received)?;
    ensure!(received == sent, "{} bytes came back, others than the {} sent", received.len(), sent.len());
    Ok(())
}

#[test]
fn downloads_and_uploads_are_byte_exact_in_every_pair_of_families() -> Result<()> {
    let lab = Lab::builder().direct(2).inside_mtu(1500).start()?;
    strip_vips(&lab)?;
    let sent = pattern(20 << 20);
    for (number, (client, backends)) in PAIRS.into_iter().enumerate() {
        let pair = format!("{client:?} to {backends:?}");
        let port = 9000 + number as u16;
        for backend in lab.backends() {
            mirror(backend, backend.socket(backends, port))?;
        }
        let service = Translated { port: Some(port), ..Translated::web(client, backends) };
        let weir = service.start(&lab)?;
        let begin = Instant::now();
        for _ in 0..3 {
            reflect(lab.client(), service.vip, &sent).with_context(|| pair.clone())?;
        }
        println!("{pair}: 3 times 20 MiB there and back in {:?}", begin.elapsed());
        ensure!(counter(&weir, "nat_reply")? > 1000, "{pair}: answers come through weir");
        for reason in ["too_big", "nat_exhausted", "inconsistent", "nat_no_flow"] {
            ensure!(counter(&weir, reason)? == 0, "{pair}: {reason}");
        }
        weir.succeed(&["detach", "--force"])?;
    }
    Ok(())
}

#[test]
fn ten_thousand_connections_in_a_row_and_five_thousand_at_once_have_ports_of_their_own() -> Result<()> {
    let lab = Lab::builder().direct(2).client_addresses(4).start()?;
    strip_vips(&lab)?;
    let service = Translated::web(Family::V4, Family::V4);
    let weir = service.start(&lab)?;
    let sources: Vec<_> = lab.client().addresses().to_vec();
    let begin = Instant::now();
    for number in 0..10_000_usize {
        let from = any_port(sources[number % sources.len()], service.vip);
        let get = Get::new(service.vip).from(from).timeout(Duration::from_secs(10));
        let response = lab.client().get(&get).with_context(|| format!("connection {number}"))?;
        ensure!(response.status == 200, "connection {number}: status {}", response.status);
    }
    println!("10,000 in a row: {:?}", begin.elapsed());
    // A server that sees one port for two clients would not have 5,000 connections.
    let port = 9100;
    let servers: Vec<_> = lab
        .backends()
        .iter()
        .map(|backend| hold(backend, backend.socket(Family::V4, port)))
        .collect::<Result<_>>()?;
    let service = Translated { port: Some(port), ..service };
    ensure!(weir.reload(&service.config(&lab))?.status.success(), "the backends' port changes");
    let begin = Instant::now();
    let mut streams = Vec::new();
    for number in 0..5000_usize {
        let from = any_port(sources[number % sources.len()], service.vip);
        streams
            .push(connect(lab.client(), from, service.vip).with_context(|| format!("connection {number}"))?);
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&(number as u64).to_be_bytes())?;
    }
    for (number, stream) in streams.iter_mut().enumerate() {
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).with_context(|| format!("connection {number}"))?;
        ensure!(u64::from_be_bytes(answer) == number as u64, "connection {number} got another's answer");
    }
    println!("5,000 at once: {:?}", begin.elapsed());
    let peers: Vec<SocketAddr> =
        servers.iter().flat_map(|server| server.lock().expect("no thread panics").clone()).collect();
    let different: BTreeSet<_> = peers.iter().collect();
    ensure!(peers.len() == 5000 && different.len() == 5000, "{} of {}", different.len(), peers.len());
    let used = weir.json(&["status"])?["snat"][0].clone();
    println!("{used}");
    ensure!(used["used"].as_u64() >= Some(15_000), "ports are kept for a minute after their flow: {used}");
    ensure!(counter(&weir, "nat_exhausted")? == 0 && counter(&weir, "nat_no_flow")? == 0);
    Ok(())
}

fn connect(client: &Host, from: SocketAddr, to: SocketAddr) -> Result<TcpStream> {
    client.run(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&from.into())?;
        socket.connect_timeout(&to.into(), Duration::from_secs(10))?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        Ok(socket.into())
    })
}

/// Answers eight bytes of each connection with themselves and keeps it; gives the clients' ends.
fn hold(host: &Host, at: SocketAddr) -> Result<Arc<Mutex<Vec<SocketAddr>>>> {
    let listener = host.run(|| -> Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
        socket.bind(&at.into())?;
        socket.listen(1024)?;
        Ok(socket.into())
    })?;
    let peers = Arc::new(Mutex::new(Vec::new()));
    let seen = peers.clone();
    thread::spawn(move || {
        let mut streams = Vec::new();
        while let Ok((mut stream, peer)) = listener.accept() {
            seen.lock().expect("no thread panics").push(peer);
            let kept = stream.try_clone();
            thread::Builder::new()
                .stack_size(64 << 10)
                .spawn(move || {
                    let mut bytes = [0; 8];
                    // A client that has gone is no concern of the server's.
                    let _ = stream.read_exact(&mut bytes).and_then(|()| stream.write_all(&bytes));
                })
                .expect("a thread starts");
            streams.extend(kept);
        }
    });
    Ok(peers)
}

#[test]
fn routers_that_take_less_tell_both_ends() -> Result<()> {
    let lab = Lab::builder().direct(0).routed(1).inside_mtu(1500).start()?;
    strip_vips(&lab)?;
    let sent = pattern(2 << 20);
    for (number, (client, backends)) in PAIRS.into_iter().enumerate() {
        let pair = format!("{client:?} to {backends:?}");
        let port = 9000 + number as u16;
        mirror(&lab.backends()[0], lab.backends()[0].socket(backends, port))?;
        let service = Translated { port: Some(port), segment: 0, ..Translated::web(client, backends) };
        for (device, mtu) in [("clients", 1320), ("to-router", 1320)] {
            // Both hosts keep announcing what their own links take.
            let set = |mtu: u32| -> Result<()> {
                lab.edge().ip(&format!("link set {device} mtu {mtu}"))?;
                // A veth drops what its own end does not take, and tells nobody.
                if device == "to-router" {
                    lab.router().ip(&format!("link set uplink mtu {mtu}"))?;
                }
                Ok(())
            };
            set(mtu)?;
            let weir = service.start(&lab)?;
            reflect(lab.client(), service.vip, &sent).with_context(|| format!("{pair}, {device}"))?;
            let errors = counter(&weir, "icmp_error")?;
            println!("{pair}: {errors} errors about {device}");
            ensure!(errors > 0, "{pair}: a router of {device} said that packets are too big");
            ensure!(counter(&weir, "untranslatable")? == 0 && counter(&weir, "malformed")? == 0, "{pair}");
            weir.succeed(&["detach", "--force"])?;
            set(1500)?;
            for host in [lab.client(), &lab.backends()[0]] {
                host.ip("route flush cache")?;
                host.ip("-6 route flush cache")?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_datagram_that_nobody_takes_is_refused_in_every_pair_of_families() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    strip_vips(&lab)?;
    for (client, backends) in PAIRS {
        let pair = format!("{client:?} to {backends:?}");
        let vip = SocketAddr::new(plan::vip(0).of(client), 5300);
        let service = Translated {
            vip,
            protocol: "udp",
            port: Some(53),
            more: "[[service.health]]\ntype = \"ping\"\n",
            ..Translated::web(client, backends)
        };
        let weir = service.start(&lab)?;
        let socket = lab.client().run(|| UdpSocket::bind(any_port(lab.client().addresses()[0], vip)))?;
        socket.connect(vip)?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.send(b"anybody")?;
        let refused = socket.recv(&mut [0; 64]).expect_err("nobody answers");
        ensure!(refused.kind() == ErrorKind::ConnectionRefused, "{pair}: {refused}");
        let server = lab.backends()[0].run(|| UdpSocket::bind(lab.backends()[0].socket(backends, 53)))?;
        socket.send(b"now somebody")?;
        let mut buffer = [0; 2048];
        let (length, from) = server.recv_from(&mut buffer)?;
        ensure!(&buffer[..length] == b"now somebody", "{pair}");
        ensure!(from.ip() == lab.weir_host().addresses()[1].of(backends), "{pair}: from {from}");
        ensure!((PORTS.0..=PORTS.1).contains(&from.port()), "{pair}: from {from}");
        server.send_to(&buffer[..length], from)?;
        let length = socket.recv(&mut buffer)?;
        ensure!(&buffer[..length] == b"now somebody", "{pair}: the answer");
        weir.succeed(&["detach", "--force"])?;
    }
    Ok(())
}

#[test]
fn without_a_free_port_a_connection_is_reset_and_status_says_so() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    strip_vips(&lab)?;
    let port = 9000;
    let held = hold(&lab.backends()[0], lab.backends()[0].socket(Family::V4, port))?;
    let service = Translated {
        port: Some(port),
        ports: (20_000, 20_004),
        more: "timeouts = { tcp_closing = \"1s\" }\n",
        ..Translated::web(Family::V4, Family::V4)
    };
    let weir = service.start(&lab)?;
    let connect = || lab.client().run(|| TcpStream::connect_timeout(&service.vip, Duration::from_secs(10)));
    let problems = || -> Result<String> { Ok(weir.json(&["status"])?["problems"].to_string()) };
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(connect()?);
    }
    ensure!(!problems()?.contains("snat"), "three of five ports: {}", problems()?);
    streams.push(connect()?);
    let told = problems()?;
    ensure!(told.contains("snat 10.0.1.2: 4 of 5 tcp ports are in use"), "four of five ports: {told}");
    streams.push(connect()?);
    let begin = Instant::now();
    let refused = connect().expect_err("no port is left");
    println!("refused after {:?}: {refused}", begin.elapsed());
    ensure!(refused.kind() == ErrorKind::ConnectionRefused, "{refused}");
    ensure!(counter(&weir, "nat_exhausted")? > 0);
    for (number, stream) in streams.iter_mut().enumerate() {
        stream.write_all(&[number as u8; 8])?;
        let mut answer = [0; 8];
        stream.read_exact(&mut answer)?;
        ensure!(answer == [number as u8; 8], "connection {number} goes on");
    }
    let first = held.lock().expect("no thread panics").clone();
    // The connection whose port has been free for longest gives it to the next one.
    drop(streams.remove(2));
    thread::sleep(Duration::from_secs(1));
    drop(streams.remove(0));
    let begin = Instant::now();
    let again = loop {
        match connect() {
            Ok(stream) => break stream,
            Err(error) => ensure!(begin.elapsed() < Duration::from_secs(60), "still {error}"),
        }
        thread::sleep(Duration::from_millis(200));
    };
    println!("a port is free again after {:?}", begin.elapsed());
    let peers = held.lock().expect("no thread panics").clone();
    ensure!(peers[5] == first[2] || peers[5] == first[0], "one of the two: {peers:?}");
    drop(again);
    Ok(())
}

#[test]
fn a_download_outlives_the_daemon_a_reload_and_the_loss_of_its_address() -> Result<()> {
    let web = Web { big_bytes: 4 << 20, big_rate: 1 << 30, ..Web::default() };
    let lab = Lab::builder().direct(2).web(web).start()?;
    strip_vips(&lab)?;
    let service = Translated::web(Family::V4, Family::V4);
    let mut weir = service.start(&lab)?;
    let requests = |count| vec![Get::new(service.vip).path("/big").timeout(Duration::from_secs(60)); count];
    let downloads = Downloads::start_slow(lab.client(), requests(8));
    downloads.wait_started(Duration::from_secs(20))?;
    weir.kill();
    // The programs go on alone, for old connections and new ones.
    for _ in 0..50 {
        ensure!(lab.client().get(&Get::new(service.vip))?.status == 200, "without a daemon");
    }
    weir.launch()?;
    ensure!(lab.client().get(&Get::new(service.vip))?.status == 200, "with another daemon");
    let flows = weir.json(&["flows", "--count"])?;
    println!("{flows}");
    // Other ports are another address: those of before stay for the flows that have them.
    let other = lab.weir_host().addresses()[0].v4;
    let config =
        service.config(&lab).replace(&lab.weir_host().addresses()[1].v4.to_string(), &other.to_string());
    let reloaded = weir.reload(&config)?;
    ensure!(reloaded.status.success(), "{}", String::from_utf8_lossy(&reloaded.stderr));
    ensure!(lab.client().get(&Get::new(service.vip))?.status == 200, "from another address");
    // The next daemon's config does not know of the address either.
    weir.kill();
    weir.launch()?;
    ensure!(
        lab.client().get(&Get::new(service.vip))?.status == 200,
        "from another address, by another daemon"
    );
    downloads.hurry();
    let ended = downloads.finish(Duration::from_secs(60))?;
    ensure!(ended.iter().all(|download| matches!(download.end, Some(Ok(())))), "{ended:?}");
    ensure!(ended.iter().all(|download| download.received == 4 << 20), "every byte");
    Ok(())
}

#[test]
fn ports_that_the_host_itself_connects_from_are_refused() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let service = Translated { ports: (30_000, 40_000), ..Translated::web(Family::V4, Family::V4) };
    let failure = match lab.weir(&service.config(&lab)) {
        Ok(_) => anyhow::bail!("weir runs with ports that its host uses"),
        Err(error) => format!("{error:?}"),
    };
    ensure!(failure.contains("snat 10.0.1.2: an address of this host"), "{failure}");
    ensure!(failure.contains("ports = \\\"1024-32767\\\"") || failure.contains("1024-32767"), "{failure}");
    let apart = Translated { ports: (1024, 32_767), ..service };
    let weir = apart.start(&lab)?;
    let refused = weir.reload(&Translated { ports: (60_000, 61_000), ..apart }.config(&lab))?;
    ensure!(!refused.status.success(), "a reload is refused too");
    Ok(())
}

#[test]
fn what_the_host_itself_says_from_such_an_address_stays_its_own() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    strip_vips(&lab)?;
    let backend = &lab.backends()[0];
    let service = Translated::web(Family::V4, Family::V4);
    let weir = service.start(&lab)?;
    let host = lab.weir_host();
    // Both ways: the host asks a backend, a backend asks the host, with and without a port of flows.
    ensure!(host.get(&Get::new(backend.socket(Family::V4, 80)))?.status == 200);
    host.ping(backend.address(Family::V4), Duration::from_secs(2))?;
    backend.ping(host.addresses()[1].v4.into(), Duration::from_secs(2))?;
    for port in [700, 20_000] {
        mirror(host, (host.addresses()[1].v4, port).into())?;
        reflect(backend, (host.addresses()[1].v4, port).into(), &pattern(100_000))?;
    }
    // 8 KB in fragments.
    let server = host.run(|| UdpSocket::bind((host.addresses()[1].v4, 700)))?;
    let asks = backend.run(|| UdpSocket::bind((plan::DIRECT.host(plan::FIRST_BACKEND).v4, 0)))?;
    let sent = pattern(8192);
    asks.send_to(&sent, (host.addresses()[1].v4, 700))?;
    server.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut buffer = vec![0; 16_384];
    let length = server.recv(&mut buffer)?;
    ensure!(buffer[..length] == sent, "{length} bytes");
    drop(weir);
    Ok(())
}
