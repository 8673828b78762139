//! Every path of the network, with real sockets and with frames by hand.

use std::{
    net::{SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result};
use weir_tests::{
    Family, Get, Host, Lab, Web, any_port, eventually,
    frame::{self, FrameSocket},
    plan, url,
};

use crate::WITHIN;

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
fn a_vip_is_served_over_a_redirect_on_weirs_host_and_a_direct_return() -> Result<()> {
    let web = Web { big_bytes: 512 << 10, big_rate: 512 << 10, ..Web::default() };
    let lab = Lab::builder().direct(1).web(web).start()?;
    let mac = plan::DIRECT.mac(plan::FIRST_BACKEND);
    let _steering = Steering::attach(&lab, mac, Some("eth1"))?;
    for family in Family::BOTH {
        let vip = SocketAddr::new(lab.vip().of(family), 80);
        let response = lab.client().get(&Get::new(vip).path("/big").timeout(Duration::from_secs(5)))?;
        assert_eq!((response.backend.as_str(), response.body.len()), ("direct-1", 512 << 10));
        let output = lab.client().curl(&["--data-binary", &"x".repeat(60_000), &url(vip, "/")])?;
        assert_eq!(String::from_utf8_lossy(&output.stdout), "direct-1\n", "full packets fit upstream");
    }
    let witness = lab.backend("direct-1").witness()?;
    assert_eq!(witness.syns, 4);
    Ok(())
}

#[test]
fn a_frame_that_weirs_host_sends_back_reaches_the_edge() -> Result<()> {
    let lab = Lab::builder().direct(0).start()?;
    let _steering = Steering::attach(&lab, plan::FRONT.mac(plan::GATEWAY), None)?;
    let socket = lab.client().run(|| UdpSocket::bind((lab.client().address(Family::V4), 0)))?;
    socket.send_to(b"round and round", (lab.vip().v4, 9))?;
    // The edge routes it to weir's host again, until its TTL of 64 is used up.
    eventually("the frame came back", || {
        let counters =
            lab.edge().exec("ip", &["-s", "-json", "link", "show", "dev", "to-weir"]).unwrap_or_default();
        let counters: serde_json::Value = serde_json::from_str(&counters).unwrap_or_default();
        counters[0]["stats64"]["rx"]["packets"].as_u64().is_some_and(|packets| packets >= 60)
    });
    Ok(())
}

/// The lab's stand-in for weir, on `eth0` of its host.
struct Steering {
    _object: aya::Ebpf,
}

impl Steering {
    /// Sends all packets for VIPs to a MAC address, out of an interface or back where they came from.
    fn attach(lab: &Lab, mac: [u8; 6], egress: Option<&str>) -> Result<Self> {
        let [a, b, c, d, e, f] = mac;
        lab.weir_host().run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            let index = |name| rustix::net::netdevice::name_to_index(&socket, name);
            let ifindex = egress.map(index).transpose()?.unwrap_or(0);
            let mut object = aya::Ebpf::load(lb_userspace::objects::LAB)?;
            let map = object.map_mut("STEER").context("find map STEER")?;
            let mut map: aya::maps::Array<_, [u64; 2]> = map.try_into()?;
            map.set(0, [u64::from_be_bytes([a, b, c, d, e, f, 0, 0]), ifindex.into()], 0)?;
            let program: &mut aya::programs::Xdp =
                object.program_mut("steer").context("find program steer")?.try_into()?;
            program.load()?;
            program.attach("eth0", aya::programs::XdpMode::Driver)?;
            Ok(Self { _object: object })
        })
    }
}
