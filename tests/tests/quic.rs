//! A QUIC client that changes its port in the middle of a transfer: the transfer goes on where weir goes by connection IDs,
//! and breaks where it goes by ports. Both ends are quinn; servers issue connection IDs with their server id.

use std::{
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, ServerConfig, TokioRuntime,
    TransportConfig, rustls::RootCertStore, rustls::pki_types::PrivatePkcs8KeyDer,
};
use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use weir_tests::{Family, Host, Lab, WeirProc};

const PORT: u16 = 443;
const NAME: &str = "weir";
/// What a server sends, one after the other.
const CHUNK: usize = 4096;
const CHUNKS: usize = 120;
const PAUSE: Duration = Duration::from_millis(10);
/// After so many the client moves to another port.
const MOVES_EVERY: usize = 20;
const CLIENTS: usize = 6;
/// A client that hears nothing for so long gives up.
const IDLE: Duration = Duration::from_secs(4);

/// Connection IDs as draft-ietf-quic-load-balancers-21 wants them: configuration 1, server id, nonce.
struct ServerIds {
    server: u16,
    next: u64,
}

impl ConnectionIdGenerator for ServerIds {
    fn generate_cid(&mut self) -> ConnectionId {
        // Spread over all bits; a server's nonces are to look random to others, which no one here minds.
        self.next = self.next.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let [server_high, server_low] = self.server.to_be_bytes();
        let nonce = self.next.to_be_bytes();
        ConnectionId::new(&[&[1 << 5 | nonce[0] & 0x1f, server_high, server_low][..], &nonce[1..]].concat())
    }

    fn cid_len(&self) -> usize {
        10
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

fn config(lab: &Lab, quic: &str) -> String {
    let mut text = format!(
        "interfaces = [\"eth0\", \"eth1\"]\n[limits]\nflows_v4 = 4096\nflows_v6 = 4096\nmaglev_slots = 65_536\n\
         [[vip]]\nname = \"edge\"\naddress = [\"{}\", \"{}\"]\n\
         [[service]]\nname = \"h3\"\nvip = \"edge\"\nport = {PORT}\nprotocol = \"udp\"\nmode = \"ipip\"\n{quic}\n\
         [service.health]\ntype = \"none\"\n",
        lab.vip().of(Family::V4),
        lab.vip().of(Family::V6),
    );
    for (backend, server) in lab.backends().iter().zip(1..) {
        let (name, address) = (backend.name(), backend.address(Family::V4));
        text += &format!(
            "[[service.backend]]\nname = \"{name}\"\naddress = \"{address}\"\nserver_id = \"{server:04x}\"\n"
        );
    }
    text
}

/// Runs a future on a thread and a runtime on a host.
fn on<T: Send + 'static>(
    host: &Host,
    work: impl AsyncFnOnce() -> T + Send + 'static,
) -> thread::JoinHandle<T> {
    let host = host.clone();
    thread::spawn(move || {
        host.netns().enter().expect("the lab runs as root");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime needs only file descriptors").block_on(work())
    })
}

/// Starts a server that sends chunks to whoever opens a stream.
fn serve(host: &Host, server: u16, identity: &CertifiedKey<KeyPair>) -> Result<()> {
    let key = PrivatePkcs8KeyDer::from(identity.signing_key.serialize_der());
    let config = ServerConfig::with_single_cert(vec![identity.cert.der().clone()], key.into())?;
    let socket = host.run(|| UdpSocket::bind(SocketAddr::from(([0_u16; 8], PORT)))).context("bind")?;
    on(host, async move || {
        let mut endpoint = EndpointConfig::default();
        endpoint.cid_generator(move || Box::new(ServerIds { server, next: u64::from(server) }));
        let endpoint = Endpoint::new(endpoint, Some(config), socket, Arc::new(TokioRuntime))
            .expect("the socket is one that quinn takes");
        while let Some(incoming) = endpoint.accept().await {
            tokio::spawn(async move {
                let connection = incoming.await.ok()?;
                let (mut send, _) = connection.accept_bi().await.ok()?;
                for _ in 0..CHUNKS {
                    send.write_all(&[7; CHUNK]).await.ok()?;
                    tokio::time::sleep(PAUSE).await;
                }
                send.finish().ok()?;
                connection.closed().await;
                Some(())
            });
        }
    });
    Ok(())
}

/// What became of a client: bytes received, moves to other ports, and what broke it.
struct Transfer {
    received: usize,
    moves: usize,
    broken: Option<String>,
}

/// Starts a transfer during which the client moves on and on.
fn transfer(
    host: &Host,
    target: SocketAddr,
    roots: Arc<RootCertStore>,
) -> Result<thread::JoinHandle<Result<Transfer>>> {
    let mut config = ClientConfig::with_root_certificates(roots)?;
    let mut transport = TransportConfig::default();
    transport.max_idle_timeout(Some(IDLE.try_into()?));
    config.transport_config(Arc::new(transport));
    let any = SocketAddr::new(if target.is_ipv4() { [0, 0, 0, 0].into() } else { [0_u16; 8].into() }, 0);
    Ok(on(host, async move || {
        let endpoint = Endpoint::client(any).context("open a socket")?;
        let connection = endpoint.connect_with(config, target, NAME)?.await.context("connect")?;
        let (mut send, mut receive) = connection.open_bi().await?;
        send.write_all(b"go").await?;
        let mut transfer = Transfer { received: 0, moves: 0, broken: None };
        let mut buffer = vec![0; CHUNK];
        loop {
            match receive.read(&mut buffer).await {
                Ok(Some(bytes)) => transfer.received += bytes,
                Ok(None) => break,
                Err(error) => {
                    transfer.broken = Some(error.to_string());
                    break;
                }
            }
            if transfer.received / (CHUNK * MOVES_EVERY) > transfer.moves {
                transfer.moves += 1;
                endpoint.rebind(UdpSocket::bind(any)?)?;
            }
        }
        connection.close(0_u32.into(), b"done");
        Ok(transfer)
    }))
}

/// What becomes of clients of both families that move.
fn transfers(quic: &str) -> Result<(Lab, WeirProc, Vec<Transfer>)> {
    let lab = Lab::builder().direct(3).start()?;
    let identity = generate_simple_self_signed(vec![NAME.to_owned()])?;
    let mut roots = RootCertStore::empty();
    roots.add(identity.cert.der().clone())?;
    let roots = Arc::new(roots);
    for (backend, server) in lab.backends().iter().zip(1..) {
        serve(backend, server, &identity)?;
    }
    let weir = lab.weir(&config(&lab, quic))?;
    let began = Instant::now();
    let running = (0..CLIENTS).map(|number| {
        let family = Family::BOTH[number % 2];
        transfer(lab.client(), SocketAddr::new(lab.vip().of(family), PORT), roots.clone())
    });
    let running: Vec<_> = running.collect::<Result<_>>()?;
    let mut transfers = Vec::new();
    for transfer in running {
        transfers.push(transfer.join().map_err(|_| anyhow::anyhow!("a client panicked"))??);
    }
    for Transfer { received, moves, broken } in &transfers {
        println!("{received} of {} bytes, {moves} moves, broken: {broken:?}", CHUNKS * CHUNK);
    }
    println!("after {:?}: {}", began.elapsed(), weir.json(&["status"])?["counters"]);
    Ok((lab, weir, transfers))
}

#[test]
fn a_transfer_goes_on_while_its_client_changes_ports_where_connection_ids_are_followed() -> Result<()> {
    let (lab, weir, transfers) = transfers("quic_cid = { config_id = 1, server_id_length = 2 }")?;
    for Transfer { received, moves, broken } in &transfers {
        assert_eq!((*received, broken), (CHUNKS * CHUNK, &None));
        assert!(*moves >= 5, "{moves}");
    }
    let counters = weir.json(&["status"])?["counters"].clone();
    ensure!(counters["quic_routed"].as_u64() > Some(100), "{counters}");
    // What the program would do with a packet of a connection that has come to another port.
    let frame = short_header(&lab);
    let explained = weir.json(&["explain", "--packet", &frame])?;
    ensure!(explained["reason"] == "quic_routed" && explained["backend"] == "direct-2", "{explained}");
    Ok(())
}

#[test]
fn a_transfer_breaks_when_its_client_changes_ports_where_they_are_not() -> Result<()> {
    let (_lab, weir, transfers) = transfers("quic_cid = false")?;
    // Each of five moves leads to the same server with one chance in three.
    assert!(transfers.iter().any(|transfer| transfer.broken.is_some()));
    ensure!(weir.json(&["status"])?["counters"]["quic_routed"].as_u64() == Some(0));
    Ok(())
}

/// A frame from the client with a short header to server 2, in hexadecimal.
fn short_header(lab: &Lab) -> String {
    let (SocketAddr::V4(client), SocketAddr::V4(vip)) =
        (lab.client().socket(Family::V4, 50_007), SocketAddr::new(lab.vip().of(Family::V4), PORT))
    else {
        unreachable!("addresses of IPv4")
    };
    let cid = [0x45, 1 << 5, 0, 2, 1, 2, 3, 4, 5, 6, 7];
    let length = 8 + cid.len() as u16 + 40;
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x08, 0x00, 0x45, 0];
    frame.extend((20 + length).to_be_bytes());
    frame.extend([0, 1, 0x40, 0, 64, 17, 0, 0]);
    frame.extend(client.ip().octets());
    frame.extend(vip.ip().octets());
    frame.extend(client.port().to_be_bytes());
    frame.extend(vip.port().to_be_bytes());
    frame.extend(length.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(cid);
    frame.extend([0; 40]);
    frame.iter().map(|byte| format!("{byte:02x}")).collect()
}
