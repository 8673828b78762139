//! Backends open tunnels for their VIPs.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use anyhow::{Context, Result};
use weir_tests::{
    Backend, Family, Host, Lab,
    frame::{self, PacketSocket},
    plan,
};

use crate::WITHIN;

#[test]
fn decap_opens_all_four_pairs_of_both_tunnels_and_replies_bypass_weirs_host() -> Result<()> {
    let lab = Lab::builder().direct(1).routed(1).start()?;
    let client = lab.client();
    for backend in lab.backends() {
        for outer in Family::BOTH {
            for inner in Family::BOTH {
                for (tunnel, counter) in
                    [(frame::tunnel as Wrap, "opened_ipip"), (frame::gue as Wrap, "opened_gue")]
                {
                    let before = backend.decap().counted(counter)?;
                    echo_through_tunnel(&lab, client, backend, (outer, inner), tunnel).with_context(
                        || format!("{inner:?} in {outer:?} to {}: {counter}", backend.name()),
                    )?;
                    assert_eq!(backend.decap().counted(counter)? - before, 1);
                }
            }
        }
    }
    Ok(())
}

/// Wraps a packet into a tunnel from an address to another one.
type Wrap = fn(IpAddr, IpAddr, &[u8]) -> Vec<u8>;

/// Sends a tunnelled UDP packet for the VIP from weir's host; the backend's echo must come back to the
/// client from the VIP. Weir's host forwards nothing, so what comes back has bypassed it.
fn echo_through_tunnel(
    lab: &Lab,
    client: &Host,
    backend: &Backend,
    (outer, inner): (Family, Family),
    wrap: Wrap,
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
    let tunnel = wrap(sender.address(outer), target, &packet);
    sender.run(|| PacketSocket::open(outer)?.send(target, &tunnel).context("send tunnel packet"))?;

    let mut buffer = [0; 64];
    let (len, from) = server.recv_from(&mut buffer).context("receive on the backend")?;
    assert_eq!(from, source);
    server.send_to(&buffer[..len], from)?;
    let (len, from) = receiver.recv_from(&mut buffer).context("receive on the client")?;
    assert_eq!((&buffer[..len], from), (&b"through the tunnel"[..], vip));
    Ok(())
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
