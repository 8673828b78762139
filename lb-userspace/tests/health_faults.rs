//! What links do to detection, in network namespaces (needs root and iproute2).

#[expect(dead_code, reason = "each test program uses a part of the lab")]
mod health_lab;

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use aya::Ebpf;
use aya::programs::{Xdp, XdpMode};
use health_lab::{Lab, SERVER_V4, address, check, pool, print_distribution};
use lb_userspace::config::model::CheckKind;
use lb_userspace::health::Tunnelled;
use lb_userspace::health::machine::Health;
use lb_userspace::net::carrier::{Carrier, CarrierWatch};

const PORT: u16 = 8080;

#[test]
fn a_lost_syn_is_no_failed_probe_of_full_or_half_open_connects() {
    let lab = Lab::new();
    let _listener =
        lab.on_server(|| TcpListener::bind(("0.0.0.0", PORT)).expect("listen")).join().expect("listen");
    // Every other SYN is lost before it reaches the server.
    let attach = || {
        let mut object = Ebpf::load(lb_userspace::objects::LAB).expect("load the lab's programs");
        let program: &mut Xdp =
            object.program_mut("lose_syns").expect("the program").try_into().expect("an xdp program");
        program.load().expect("load it");
        program.attach("up0", XdpMode::Skb).expect("attach it");
        object
    };
    let _losing = lab.on_server(attach).join().expect("attach");
    for kind in [CheckKind::Tcp, CheckKind::Syn] {
        // One failure would be a down; the kernel itself would send the SYN again after a second only.
        let checks = vec![check(kind.clone(), Some(PORT), 150, 100, 1)];
        let mut detection = lab.detect(vec![pool("web", checks, [address(SERVER_V4)])]);
        detection.wait_for_health(Health::Up);
        std::thread::sleep(Duration::from_secs(3));
        let downs: Vec<_> =
            detection.take_events().into_iter().filter(|event| event.to == Health::Down).collect();
        let [one] = &detection.snapshot()[..] else { panic!("one backend") };
        println!("{kind:?}: {} probes passed in a row, {:?}", one.checks[0].successes, one.last_probe());
        assert!(downs.is_empty(), "{downs:#?}");
        // Most probes needed their second SYN, so few would have passed without.
        assert!(one.checks[0].successes >= 15, "{one:#?}");
    }
}

#[test]
fn carrier_loss_takes_all_backends_behind_the_link_out_at_once() {
    let lab = Lab::new();
    lab.ip_server("route add local 10.8.0.0/16 dev lo");
    lab.ip_weir("route add 10.8.0.0/16 via 10.9.0.2");
    let backends: Vec<IpAddr> =
        (1..=100).map(|number| Ipv4Addr::new(10, 8, 0, number)).map(IpAddr::from).collect();
    let link = lab.link();
    let ways: HashMap<IpAddr, u32> = backends.iter().map(|address| (*address, link)).collect();
    // Checks that would find out only after half a minute, and are back within two seconds.
    let slow = check(CheckKind::Ping, None, 1000, 30_000, 30);
    let detection =
        lab.detect_knowing(vec![pool("web", vec![slow], backends)], |targets| targets.ways = ways);
    // Another listener on the same news: when the kernel told.
    let watch = lab.on_weir(|| CarrierWatch::open().expect("a socket")).join().expect("a socket");
    let (told, news) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut watch = watch;
        let mut last = Carrier::Present;
        loop {
            let mut poll = [rustix::event::PollFd::new(&watch, rustix::event::PollFlags::IN)];
            let _ = rustix::event::poll(&mut poll, None);
            let at = Instant::now();
            while let Some(link) = watch.take() {
                if link.name == "up0" && link.carrier != last {
                    last = link.carrier;
                    if last == Carrier::Lost && told.send(at).is_err() {
                        return;
                    }
                }
            }
        }
    });
    let (mut after_news, mut all_out) = (Vec::new(), Vec::new());
    for _ in 0..20 {
        detection.wait_for_health(Health::Up);
        detection.slots.forget();
        let asked = Instant::now();
        lab.ip_server("link set up0 down");
        let lost = detection.wait_for_loss();
        let told = news.recv_timeout(Duration::from_secs(5)).expect("the kernel tells");
        assert!(lost > asked);
        after_news.push(lost.saturating_duration_since(told));
        let states = detection.snapshot();
        assert!(states.iter().all(|one| one.health == Health::Down), "{states:#?}");
        assert!(states.iter().all(|one| one.why == "no carrier on up0"), "{states:#?}");
        all_out.push(detection.slots.last_loss().expect("a loss").saturating_duration_since(told));
        lab.ip_server("link set up0 up");
        detection.wait_for_health(Health::Up);
    }
    print_distribution("carrier loss told by netlink to first store", after_news);
    all_out.sort_unstable();
    let median = all_out[all_out.len() / 2];
    print_distribution("carrier loss told by netlink to the last of 100 stores", all_out);
    assert!(median < Duration::from_millis(20), "{median:?}");
}

/// Sends an IPv4 header for `vip` inside IP to the server, whose host takes no such protocol.
fn send_tunnelled(lab: &Lab, vip: [u8; 4]) {
    let send = move || {
        let any = socket2::Protocol::from(4);
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::RAW, Some(any)).expect("a socket");
        let mut inner = vec![0x45, 0, 0, 20, 0, 0, 0, 0, 64, 6, 0, 0, 203, 0, 113, 9];
        inner.extend(vip);
        let to = std::net::SocketAddr::new(address(SERVER_V4), 0);
        socket.send_to(&inner, &to.into()).expect("send");
    };
    lab.on_weir(send).join().expect("send");
}

#[test]
fn backend_without_a_tunnel_device_is_suspect_by_icmp_errors_while_its_checks_pass() {
    let lab = Lab::new();
    let backend = address(SERVER_V4);
    let tunnelled = Tunnelled {
        source: "10.9.0.1/32".parse().expect("a prefix"),
        gue_port: 6080,
        vips: [address("198.51.100.10")].into(),
    };
    let ping = check(CheckKind::Ping, None, 50, 500, 3);
    let mut detection = lab.detect_knowing(vec![pool("web", vec![ping], [backend])], move |targets| {
        targets.tunnels.insert(backend, tunnelled);
    });
    detection.wait_for_health(Health::Up);
    detection.take_events();
    // Quotes of what weir does not send there say nothing.
    for _ in 0..3 {
        send_tunnelled(&lab, [198, 51, 100, 99]);
        std::thread::sleep(Duration::from_millis(400));
    }
    assert_eq!(detection.take_events(), vec![]);
    // Hosts send one error a second.
    for _ in 0..4 {
        send_tunnelled(&lab, [198, 51, 100, 10]);
        std::thread::sleep(Duration::from_millis(500));
    }
    let seen: Vec<_> = detection.take_events().into_iter().map(|event| (event.to, event.reason)).collect();
    println!("{seen:#?}");
    let reason = "icmp: tunnelled packets: protocol unreachable, says the backend itself";
    assert_eq!(seen, [(Health::Suspect, reason.to_owned())]);
    // Nothing is sent to it any more, so nobody objects any more.
    std::thread::sleep(Duration::from_secs(6));
    detection.wait_for_health(Health::Up);
}

#[test]
fn probes_that_a_router_rejects_fail_with_its_words() {
    let lab = Lab::new();
    let backend = address("10.8.0.1");
    lab.ip_server("route add local 10.8.0.0/16 dev lo");
    lab.ip_weir("route add 10.8.0.0/16 via 10.9.0.2");
    // Only routers reject.
    let route = || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("route packets");
    lab.on_server(route).join().expect("route packets");
    let _listener =
        lab.on_server(|| TcpListener::bind(("0.0.0.0", PORT)).expect("listen")).join().expect("listen");
    for kind in [CheckKind::Ping, CheckKind::Syn] {
        // Silence would take a minute. A kernel soon stops rejecting: the first error has to do.
        let port = kind.has_port().then_some(PORT);
        let checks = vec![check(kind.clone(), port, 200, 60_000, 1)];
        let detection = lab.detect(vec![pool("web", checks, [backend])]);
        detection.wait_for_health(Health::Up);
        lab.ip_server("route replace prohibit 10.8.0.0/16 table local");
        lab.ip_server("route flush cache");
        detection.wait_for_health(Health::Down);
        let [one] = &detection.snapshot()[..] else { panic!("one backend") };
        println!("{}", one.why);
        assert!(one.why.contains("unreachable: prohibited, says 10.9.0.2"), "{}", one.why);
        lab.ip_server("route replace local 10.8.0.0/16 dev lo table local");
        detection.wait_for_health(Health::Up);
    }
}
