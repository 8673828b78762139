//! Traffic that is not for a VIP passes weir's host as if weir were not there.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use weir_tests::{
    Family, Get, Lab, eventually,
    frame::{self, FrameSocket},
    plan,
};

const CONFIG: &str = r#"
interfaces = ["eth0", "eth1"]
[limits]
flows_v4 = 16_384
flows_v6 = 16_384
maglev_slots = 65_536
[[service]]
name = "web"
vip = "198.51.100.10"
port = "any"
protocol = ["tcp", "udp"]
mode = "dsr-l2"
[[service.health]]
type = "none"
[[service.backend]]
name = "direct-1"
address = "10.0.1.11"
"#;

const WITHIN: Duration = Duration::from_secs(2);

#[test]
fn clients_talk_with_weirs_host_itself_over_tcp_udp_and_ping() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let weir = lab.weir(CONFIG)?;
    for family in Family::BOTH {
        let address = lab.weir_host().socket(family, 7000);
        let listener = lab.weir_host().run(|| TcpListener::bind(address))?;
        let datagrams = lab.weir_host().run(|| UdpSocket::bind(address))?;
        let tcp = thread::spawn(move || -> std::io::Result<u64> {
            let (mut stream, _) = listener.accept()?;
            let mut copy = stream.try_clone()?;
            std::io::copy(&mut stream, &mut copy)
        });
        let udp = thread::spawn(move || -> std::io::Result<usize> {
            let mut buffer = [0; 2000];
            let (len, from) = datagrams.recv_from(&mut buffer)?;
            datagrams.send_to(&buffer[..len], from)
        });
        let sent: Vec<u8> = (0..200_000u32).map(|index| (index % 251) as u8).collect();
        let back = lab.client().run(|| -> Result<Vec<u8>> {
            let stream = std::net::TcpStream::connect(address)?;
            stream.set_read_timeout(Some(WITHIN))?;
            let (mut reader, mut writer) = (stream.try_clone()?, stream);
            let copy = sent.clone();
            let writing = thread::spawn(move || {
                writer.write_all(&copy).and_then(|()| writer.shutdown(std::net::Shutdown::Write))
            });
            let mut back = Vec::new();
            reader.read_to_end(&mut back)?;
            writing.join().expect("the writer does not panic")?;
            Ok(back)
        })?;
        assert_eq!(back, sent);
        tcp.join().expect("the server does not panic")?;
        let any = SocketAddr::new(lab.client().address(family), 0);
        let socket = lab.client().run(|| UdpSocket::bind(any))?;
        socket.set_read_timeout(Some(WITHIN))?;
        socket.send_to(b"to the host itself", address)?;
        let mut buffer = [0; 100];
        let (len, from) = socket.recv_from(&mut buffer)?;
        assert_eq!((&buffer[..len], from), (&b"to the host itself"[..], address));
        udp.join().expect("the server does not panic")?;
        lab.client().ping(address.ip(), WITHIN)?;
    }
    let counters = &weir.json(&["status"])?["counters"];
    assert!(counters["not_vip"].as_u64() > Some(50), "{counters}");
    assert_eq!((&counters["flow_new"], &counters["flow_known"]), (&0.into(), &0.into()), "{counters}");
    Ok(())
}

#[test]
fn packets_that_weirs_host_forwards_by_its_own_routes_still_pass() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let host = lab.weir_host();
    host.sysctl("ipv4/ip_forward", "1")?;
    let backend = lab.backend("direct-1").address(Family::V4);
    lab.edge().ip(&format!("route add {backend}/32 via {}", host.address(Family::V4)))?;
    let weir = lab.weir(CONFIG)?;
    let forwarded = || -> Result<u64> {
        let text = host.exec("cat", &["/proc/net/snmp"])?;
        let line = text.lines().filter(|line| line.starts_with("Ip:")).nth(1).context("a line of numbers")?;
        Ok(line.split(' ').nth(6).context("ForwDatagrams")?.parse()?)
    };
    let (before, requests) = (forwarded()?, 20);
    for _ in 0..requests {
        let response = lab.client().get(&Get::new((backend, 80).into()))?;
        assert_eq!(response.backend, "direct-1");
    }
    let packets = forwarded()? - before;
    assert!(packets >= 4 * requests, "{packets} packets were forwarded by the host");
    let counters = &weir.json(&["status"])?["counters"];
    assert!(counters["not_vip"].as_u64() >= Some(packets), "{counters}");
    assert_eq!(counters["flow_new"], 0, "{counters}");
    Ok(())
}

/// Sees every frame that reaches the stack of the calling thread's namespace.
fn tap() -> Result<Socket> {
    let all = Protocol::from(i32::from(0x0003_u16.to_be()));
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(all)).context("open packet socket")?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    socket.set_recv_buffer_size(4 << 20)?;
    Ok(socket)
}

/// Frames that weir must not touch: for other hosts, of other protocols, odd, short.
fn frames_for_others() -> Vec<Vec<u8>> {
    let client: IpAddr = plan::CLIENTS.host(77).v4.into();
    let client_v6: IpAddr = plan::CLIENTS.host(77).v6.into();
    let (to, from) = (plan::FRONT.mac(plan::BEHIND_GATEWAY), plan::FRONT.mac(plan::GATEWAY));
    let wrap = |packet: &[u8]| frame::ethernet(to, from, packet);
    // A neighbour of the VIP, and the VIP as source.
    let neighbours: [IpAddr; 2] =
        [[198, 51, 100, 9], [198, 51, 100, 11]].map(|octets| Ipv4Addr::from(octets).into());
    let mut frames: Vec<Vec<u8>> = neighbours
        .iter()
        .map(|other| wrap(&frame::tcp((client, 4000).into(), (*other, 80).into(), 1, frame::SYN)))
        .collect();
    let vip: IpAddr = plan::vip(0).v4.into();
    frames.push(wrap(&frame::udp((vip, 80).into(), (neighbours[0], 4000).into(), b"from a VIP")));
    // The same VIP in the other family is no VIP.
    let vip_v6: IpAddr = plan::vip(0).v6.into();
    frames.push(wrap(&frame::udp((client_v6, 4000).into(), (vip_v6, 80).into(), b"another family")));
    // No VLAN tags: the host takes them off before a packet socket sees the frame.
    for ethertype in [0x0806_u16, 0x88cc, 0x1234, 0x0800, 0x86dd] {
        for len in [0, 1, 5, 19, 33, 46] {
            let payload: Vec<u8> = (0..len).map(|byte| byte as u8 ^ 0xa5).collect();
            frames.push([&to[..], &from[..], &ethertype.to_be_bytes(), &payload].concat());
        }
    }
    let mut fragment = frame::udp((client, 1).into(), (neighbours[0], 2).into(), &[7; 64]);
    fragment[6] = 0x20;
    let mut options = frame::udp((client, 1).into(), (neighbours[0], 2).into(), &[7; 64]);
    options[0] = 0x4f;
    let mut long = frame::udp((client, 1).into(), (neighbours[0], 2).into(), &[7; 64]);
    long[2..4].copy_from_slice(&9000_u16.to_be_bytes());
    frames.extend([fragment, options, long].iter().map(|packet| wrap(packet)));
    frames.push(wrap(&frame::udp((client, 1).into(), (neighbours[0], 2).into(), &[0x5a; 1400])));
    frames
}

#[test]
fn frames_that_are_not_for_a_vip_reach_the_host_byte_for_byte() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let weir = lab.weir(CONFIG)?;
    let mut tap = lab.weir_host().run(tap)?;
    let mut missing = frames_for_others();
    let count = missing.len();
    lab.edge().run(|| -> Result<()> {
        let socket = FrameSocket::open("to-weir")?;
        missing.iter().try_for_each(|frame| socket.send(frame).context("send frame"))
    })?;
    let deadline = Instant::now() + WITHIN;
    let mut buffer = [0; 4096];
    while !missing.is_empty() && Instant::now() < deadline {
        if let Ok(len) = tap.read(&mut buffer)
            && let Some(at) = missing.iter().position(|frame| frame[..] == buffer[..len])
        {
            missing.swap_remove(at);
        }
    }
    ensure!(missing.is_empty(), "{} of {count} frames did not arrive: {missing:02x?}", missing.len());

    // One for the VIP does not reach the host: the tap would have seen it.
    let to_vip = frame::udp(
        (IpAddr::from(plan::CLIENTS.host(77).v4), 9).into(),
        (IpAddr::from(plan::vip(0).v4), 9).into(),
        b"for the VIP",
    );
    let to_vip =
        frame::ethernet(plan::FRONT.mac(plan::BEHIND_GATEWAY), plan::FRONT.mac(plan::GATEWAY), &to_vip);
    lab.edge().run(|| FrameSocket::open("to-weir")?.send(&to_vip).context("send frame"))?;
    eventually("the frame for the VIP was forwarded", || {
        weir.json(&["status"]).is_ok_and(|status| status["counters"]["flow_new"] == 1)
    });
    while let Ok(len) = tap.read(&mut buffer) {
        assert!(!buffer[..len].ends_with(b"for the VIP") || buffer[..6] != to_vip[..6], "the host saw it");
    }
    Ok(())
}
