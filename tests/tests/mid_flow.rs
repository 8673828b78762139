//! Connections whose flow entries are gone, or that another instance opened, go on with their backends.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::{Download, Downloads, Family, Get, Lab, Web, WeirOptions, WeirProc, any_port};

/// More than the slow client reads in 45 s.
const BYTES: u64 = 768 << 10;
const DOWNLOADS: usize = 100;

const HEAD: &str = r#"
interfaces = ["eth0", "eth1"]
hash_seed = 4711
[limits]
flows_v4 = 16_384
flows_v6 = 16_384
maglev_slots = 65_536
"#;

/// A service for each family, with the same five backends in each.
fn config() -> String {
    let mut text = HEAD.to_owned();
    for (name, vip, prefix) in [("v4", "198.51.100.10", "10.0.1."), ("v6", "2001:db8::10", "fd00:1::")] {
        text += &format!(
            "[[service]]\nname = \"{name}\"\nvip = \"{vip}\"\nport = 80\nprotocol = \"tcp\"\nmode = \"dsr-l2\"\n\
             [[service.health]]\ntype = \"tcp\"\ninterval = \"100ms\"\ntimeout = \"2s\"\n"
        );
        for number in 1..=5 {
            text += &format!(
                "[[service.backend]]\nname = \"{name}-{number}\"\naddress = \"{prefix}{}\"\n",
                10 + number
            );
        }
    }
    text
}

fn lab() -> Result<Lab> {
    let web = Web { big_bytes: BYTES, big_rate: 0, ..Web::default() };
    Lab::builder().direct(5).web(web).start()
}

/// Downloads of both families in progress on all backends.
fn downloads(lab: &Lab) -> Result<Downloads> {
    let get = |index: usize| {
        let vip = SocketAddr::new(lab.vip().of(Family::BOTH[index % 2]), 80);
        let source = any_port(lab.client().addresses()[0], vip);
        // Servers wait twice as long for each further packet that is lost while there is no weir.
        Get::new(vip).path("/big").from(source).timeout(Duration::from_secs(60))
    };
    let downloads = Downloads::start_slow(lab.client(), (0..DOWNLOADS).map(get).collect());
    downloads.wait_started(Duration::from_secs(30))?;
    Ok(downloads)
}

/// How many downloads each backend serves.
fn spread(downloads: &[Download]) -> BTreeMap<String, usize> {
    downloads.iter().fold(BTreeMap::new(), |mut spread, download| {
        *spread.entry(download.backend.clone().unwrap_or_default()).or_insert(0) += 1;
        spread
    })
}

/// Ends an instance and takes it off the host, with its maps and all flow entries.
fn remove(weir: &mut WeirProc) -> Result<()> {
    weir.kill();
    weir.succeed(&["detach"])?;
    let left: Vec<_> = std::fs::read_dir(weir.bpffs()).map(|dir| dir.flatten().collect()).unwrap_or_default();
    ensure!(left.is_empty(), "detach leaves {left:?}");
    Ok(())
}

fn counters(weir: &WeirProc) -> Result<Value> {
    Ok(weir.json(&["status"])?["counters"].clone())
}

fn all_whole(downloads: Downloads) -> Result<()> {
    downloads.hurry();
    let ended = downloads.finish(Duration::from_secs(90))?;
    let broken: Vec<_> = ended.iter().filter(|download| download.broken()).collect();
    let whole = ended.iter().filter(|d| matches!(d.end, Some(Ok(()))) && d.received == BYTES).count();
    assert_eq!(whole, DOWNLOADS, "{broken:?}");
    Ok(())
}

#[test]
fn connections_go_on_with_their_backends_when_all_flow_entries_are_lost() -> Result<()> {
    let lab = lab()?;
    let mut weir = lab.weir(&config())?;
    let downloads = downloads(&lab)?;
    println!("{:?}", spread(&downloads.states()));
    let begin = Instant::now();
    remove(&mut weir)?;
    weir.launch()?;
    println!("without weir for {:?}", begin.elapsed());
    let started = downloads.states().iter().filter(|download| download.in_progress()).count();
    assert_eq!(started, DOWNLOADS, "the downloads span the gap");
    all_whole(downloads)?;
    let counters = counters(&weir)?;
    println!("{counters}");
    assert!(counters["flow_resumed"].as_u64() >= Some(DOWNLOADS as u64), "{counters}");
    assert_eq!((&counters["flow_new"], &counters["flow_rehomed"]), (&0.into(), &0.into()), "{counters}");
    Ok(())
}

#[test]
fn another_instance_goes_on_with_connections_also_of_a_backend_that_it_drains() -> Result<()> {
    let lab = lab()?;
    let named = |name: &str| WeirOptions { name: name.into(), ..WeirOptions::default() };
    let mut second = lab.weir_with(&config(), named("second"))?;
    for name in ["v4-1", "v6-1"] {
        second.succeed(&["backend", "drain", name])?;
    }
    remove(&mut second)?;

    let mut first = lab.weir_with(&config(), named("first"))?;
    let downloads = downloads(&lab)?;
    let on_drained = *spread(&downloads.states()).get("direct-1").context("direct-1 serves some")?;
    remove(&mut first)?;
    second.launch()?;
    let states = downloads.states();
    assert!(states.iter().all(|download| download.in_progress()), "the downloads span the change");
    let syns = lab.backend("direct-1").witness()?.syns;
    for family in Family::BOTH {
        for _ in 0..20 {
            let response = lab.client().get(&Get::new(SocketAddr::new(lab.vip().of(family), 80)))?;
            assert_ne!(response.backend, "direct-1", "new connections avoid it");
        }
    }
    all_whole(downloads)?;
    println!("{on_drained} downloads of the backend that the second instance drains arrived");
    assert_eq!(lab.backend("direct-1").witness()?.syns, syns);
    let flows = |backend: &str| -> Result<u64> {
        second.json(&["flows", "--backend", backend, "--count"])?["total"].as_u64().context("a total")
    };
    assert_eq!(flows("v4/v4-1")? + flows("v6/v6-1")?, on_drained as u64, "all of them were resumed there");
    Ok(())
}
