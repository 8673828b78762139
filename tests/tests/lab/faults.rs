//! Hosts freeze, servers die, and clients and switch ports record it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use weir_tests::{
    Attachment, Downloads, Family, Get, Lab, Load, Rate, Web, eventually,
    frame::{self, PacketSocket},
    monotonic,
};

use crate::{BRIEFLY, WITHIN};

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
