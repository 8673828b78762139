//! Limits of new flows at work: a source that hammers is limited, others are served; sources that nobody can have and
//! packets without a hop left start nothing.

use std::{
    net::{Ipv4Addr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::{
    Get, Host, Lab, Limits, WeirProc, config, eventually,
    frame::{self, FrameSocket},
    plan,
};

/// An address that nobody has.
const HAMMER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 66);

fn vip(lab: &Lab) -> SocketAddr {
    SocketAddr::new(lab.vip().v4.into(), 80)
}

/// One request with a short limit.
fn answers(lab: &Lab, client: &Host) -> bool {
    client.get(&Get::new(vip(lab)).timeout(Duration::from_millis(700))).is_ok()
}

fn counter(weir: &WeirProc, reason: &str) -> Result<u64> {
    weir.json(&["status"])?["counters"][reason].as_u64().with_context(|| format!("counter {reason}"))
}

/// A frame from beyond the router to weir's host.
fn to_weir(packet: &[u8]) -> Vec<u8> {
    frame::ethernet(plan::FRONT.mac(plan::BEHIND_GATEWAY), plan::FRONT.mac(plan::GATEWAY), packet)
}

/// SYNs from one address, as fast as they go, for a while; gives how many.
fn hammer(lab: &Lab, time: Duration) -> Result<u64> {
    let target = vip(lab);
    lab.edge().run(|| {
        let socket = FrameSocket::open("to-weir")?;
        let begin = Instant::now();
        let mut sent = 0_u32;
        while begin.elapsed() < time {
            let source = SocketAddr::new(HAMMER.into(), 1024 + (sent % 60_000) as u16);
            if socket.send(&to_weir(&frame::tcp(source, target, sent, frame::SYN))).is_err() {
                thread::sleep(Duration::from_millis(1));
            }
            sent += 1;
        }
        Ok(u64::from(sent))
    })
}

/// What a limit's row says.
fn number(view: &Value, key: &str) -> u64 {
    view["limits"][0][key].as_u64().unwrap_or_default()
}

#[test]
fn a_client_that_hammers_is_limited_and_others_are_served() -> Result<()> {
    let lab = Lab::builder().direct(2).clients(2).start()?;
    let text = config(2, Limits::default());
    let limit = "[defaults]\nnew_flow_limit = { per_source = \"50/s\", total = \"2000/s\" }\n[[service]]";
    let weir = lab.weir(&text.replacen("[[service]]", limit, 1))?;
    ensure!(lab.clients().iter().all(|client| answers(&lab, client)), "served before");
    let began = Instant::now();
    let (sent, served) = thread::scope(|scope| -> Result<(u64, Vec<bool>)> {
        let flood = scope.spawn(|| hammer(&lab, Duration::from_secs(4)));
        thread::sleep(Duration::from_millis(300));
        let served = (0..40)
            .map(|number| {
                thread::sleep(Duration::from_millis(60));
                answers(&lab, &lab.clients()[number % 2])
            })
            .collect();
        Ok((flood.join().expect("the flood does not panic")?, served))
    })?;
    let took = began.elapsed();
    let view = weir.json(&["limits"])?;
    println!("{sent} SYNs of one source in {took:?}: {view}");
    assert!(served.iter().all(|served| *served), "other clients are served: {served:?}");
    // A second's flows at once, and as many in each second; some of each client's.
    let most = 50 * (took.as_secs() + 2) + 42;
    assert!(number(&view, "allowed") <= most, "at most {most}: {view}");
    assert!(number(&view, "allowed") >= 50 + 42, "{view}");
    assert!(number(&view, "source_limited") > sent / 2, "{view}");
    assert_eq!(number(&view, "total_limited"), 0, "{view}");
    let source = &view["sources"][0];
    assert_eq!((&source["source"], &source["service"]), (&"192.0.2.66/32".into(), &"web".into()));
    assert_eq!(view["sources"].as_array().map(Vec::len), Some(1), "nobody else was limited: {view}");
    assert_eq!(counter(&weir, "source_limited")?, number(&view, "source_limited"));
    Ok(())
}

#[test]
fn limits_of_run_time_come_and_go_and_outlive_the_daemon() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let mut weir = lab.weir(&config(1, Limits::default()))?;
    let client = lab.client();
    let refused = |weir: &WeirProc| counter(weir, "source_limited");
    let shown = |weir: &WeirProc| -> Result<Value> { Ok(weir.json(&["limits", "list"])?["limits"].clone()) };
    ensure!(answers(&lab, client), "served before");
    assert_eq!(shown(&weir)?, Value::Array(Vec::new()));

    let add = ["limits", "add", "web", "--per-source", "2/h", "--reason", "flood", "--for", "1h"];
    let told = weir.succeed(&add)?;
    ensure!(told.contains("service web: new flows are limited"), "{told}");
    let two = [answers(&lab, client), answers(&lab, client)];
    assert_eq!(two, [true, true], "two may start");
    let before = refused(&weir)?;
    assert!(!answers(&lab, client), "a third may not");
    assert!(refused(&weir)? > before);
    let row = &shown(&weir)?[0];
    assert_eq!(
        (&row["per_source"], &row["from"], &row["reason"]),
        (&"2/h".into(), &"runtime".into(), &"flood".into())
    );

    weir.kill();
    assert!(!answers(&lab, client), "without a daemon");
    weir.launch()?;
    assert!(!answers(&lab, client), "with the next daemon");
    assert_eq!(shown(&weir)?[0]["from"], "runtime");
    let from = SocketAddr::new(client.addresses()[0].v4.into(), 51_000);
    let explained = weir.explain(from, vip(&lab))?;
    ensure!(explained.contains("its source has no allowance left"), "{explained}");

    weir.succeed(&["limits", "remove", "web"])?;
    assert!(answers(&lab, client), "as configured again");
    assert_eq!(shown(&weir)?, Value::Array(Vec::new()));
    let again = weir.command(&["limits", "remove", "web"]).output()?;
    assert_eq!(again.status.code(), Some(4), "{again:?}");
    let events = weir.succeed(&["events", "--kind", "limit"])?;
    ensure!(events.contains("limited") && events.contains("configured"), "{events}");
    Ok(())
}

#[test]
fn sources_that_nobody_can_have_and_packets_without_a_hop_left_start_nothing() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    let weir = lab.weir(&config(1, Limits::default()))?;
    let target = vip(&lab);
    let send = |frames: Vec<Vec<u8>>| -> Result<()> {
        lab.edge().run(|| {
            let socket = FrameSocket::open("to-weir")?;
            frames.iter().try_for_each(|frame| socket.send(frame).context("send a frame"))
        })
    };
    let syn = |source: SocketAddr| to_weir(&frame::tcp(source, target, 7, frame::SYN));
    let sources = [[127, 0, 0, 1], [0, 0, 0, 0], [224, 0, 0, 5], [255, 255, 255, 255]];
    let mut martians: Vec<Vec<u8>> = sources.map(|source| syn((source, 4000).into())).to_vec();
    martians.push(syn(target));
    let mut last_hop = syn((HAMMER, 4000).into());
    // The TTL. Its checksum is not looked at on the way to a backend.
    last_hop[22] = 0;
    let count = martians.len() as u64;
    martians.push(last_hop);
    let flows = || -> Result<u64> { weir.json(&["flows", "--count"])?["total"].as_u64().context("total") };
    let before = flows()?;
    send(martians)?;
    eventually("all are counted", || {
        counter(&weir, "martian").is_ok_and(|martian| martian == count)
            && counter(&weir, "ttl_expired").is_ok_and(|expired| expired == 1)
    });
    assert_eq!(flows()?, before);
    ensure!(answers(&lab, lab.client()), "others are served");
    Ok(())
}
