//! Deny and allow lists at work: running clients cut off and let back in, others unharmed, long lists loaded quickly.

use std::{
    fmt::Write as _,
    fs,
    net::{IpAddr, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use weir_tests::{Downloads, Get, Host, Lab, Limits, Web, WeirProc, any_port, config, eventually};

/// More than the slow client reads in a minute.
const BYTES: u64 = 1 << 20;

fn lab() -> Result<Lab> {
    let web = Web { big_bytes: BYTES, big_rate: 0, ..Web::default() };
    Lab::builder().direct(2).clients(2).web(web).start()
}

fn vip(lab: &Lab) -> SocketAddr {
    SocketAddr::new(lab.vip().v4.into(), 80)
}

fn address(client: &Host) -> IpAddr {
    client.addresses()[0].v4.into()
}

/// One request with a short limit.
fn answers(lab: &Lab, client: &Host) -> bool {
    client.get(&Get::new(vip(lab)).timeout(Duration::from_millis(700))).is_ok()
}

/// Slow downloads of a client, under way.
fn downloads(lab: &Lab, client: &Host) -> Result<Downloads> {
    let get = |_| {
        let source = any_port(client.addresses()[0], vip(lab));
        Get::new(vip(lab)).path("/big").from(source).timeout(Duration::from_secs(20))
    };
    let downloads = Downloads::start_slow(client, (0..4).map(get).collect());
    downloads.wait_started(Duration::from_secs(10))?;
    Ok(downloads)
}

fn counter(weir: &WeirProc, reason: &str) -> Result<u64> {
    weir.json(&["status"])?["counters"][reason].as_u64().with_context(|| format!("counter {reason}"))
}

fn entries(document: &Value) -> Vec<(String, String)> {
    let text = |entry: &Value, key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let entries = document["entries"].as_array().map(Vec::as_slice).unwrap_or_default();
    entries.iter().map(|entry| (text(entry, "prefix"), text(entry, "from"))).collect()
}

#[test]
fn a_denied_client_is_cut_off_at_once_and_goes_on_when_it_is_let_in_again() -> Result<()> {
    let lab = lab()?;
    let mut weir = lab.weir(&config(2, Limits::default()))?;
    let [bad, good] = lab.clients() else { anyhow::bail!("two clients") };
    let (running, others) = (downloads(&lab, bad)?, downloads(&lab, good)?);
    ensure!(answers(&lab, bad) && answers(&lab, good), "both are served");

    let prefix = format!("{}/32", address(bad));
    let told = weir.succeed(&["deny", "add", &prefix, "--reason", "scans"])?;
    ensure!(told.contains(&format!("denies {prefix} at every vip")), "{told}");
    let denied = counter(&weir, "denied")?;
    assert!(!answers(&lab, bad), "a denied client gets no new connection");
    assert!(answers(&lab, good), "another is served");
    eventually("packets of the running downloads are refused", || {
        counter(&weir, "denied").is_ok_and(|now| now > denied)
    });
    let list = weir.json(&["deny", "list"])?;
    assert_eq!(entries(&list), [(prefix.clone(), "runtime".to_owned())]);
    assert_eq!(
        (&list["entries"][0]["reason"], &list["lists"][0]["at_run_time"]),
        (&"scans".into(), &1.into())
    );
    ensure!(list["lists"][0]["packets"].as_u64() > Some(0), "{list}");

    // Neither a reload nor another daemon lets it in.
    weir.succeed(&["reload"])?;
    assert!(!answers(&lab, bad), "denied after a reload");
    weir.kill();
    assert!(!answers(&lab, bad), "denied without a daemon");
    weir.launch()?;
    assert!(!answers(&lab, bad), "denied by the next daemon");

    weir.succeed(&["deny", "remove", &prefix])?;
    assert!(answers(&lab, bad), "let in again");
    for downloads in [&running, &others] {
        downloads.hurry();
    }
    for ended in [running, others] {
        let ended = ended.finish(Duration::from_secs(30))?;
        let whole =
            ended.iter().filter(|one| matches!(one.end, Some(Ok(()))) && one.received == BYTES).count();
        assert_eq!(whole, 4, "connections outlive the denial: {ended:?}");
    }
    Ok(())
}

#[test]
fn a_denial_ends_by_itself_and_an_allow_list_lets_only_its_own_in() -> Result<()> {
    let lab = Lab::builder().direct(1).clients(2).start()?;
    let text = config(1, Limits::default());
    let weir = lab.weir(&text)?;
    let [one, other] = lab.clients() else { anyhow::bail!("two clients") };
    weir.succeed(&["deny", "add", &address(one).to_string(), "--for", "2s"])?;
    assert!(!answers(&lab, one));
    eventually("the denial's time is over", || answers(&lab, one));

    let with = |list: &str| text.replacen("[[service]]", &format!("[defaults]\n{list}\n[[service]]"), 1);
    weir.reload(&with(&format!("allow = [\"{}\"]", address(one))))?;
    assert!(answers(&lab, one) && !answers(&lab, other), "only the first is allowed");
    ensure!(counter(&weir, "not_allowed")? > 0);
    weir.reload(&with(&format!("deny = [\"{}\"]", address(one))))?;
    assert!(!answers(&lab, one) && answers(&lab, other), "the lists changed their meaning in one reload");
    let vip = lab.vip().v4.to_string();
    let refused = weir.cli(&["deny", "remove", &address(one).to_string(), "--vip", &vip])?;
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(refused.status.code() == Some(5) && message.contains("denied by the config"), "{message}");
    weir.reload(&text)?;
    assert!(answers(&lab, one) && answers(&lab, other), "without lists everybody is let in");
    Ok(())
}

#[test]
fn a_hundred_thousand_prefixes_are_in_force_in_two_seconds() -> Result<()> {
    let lab = Lab::builder().direct(1).clients(2).start()?;
    let text = config(1, Limits::default());
    let weir = lab.weir(&text)?;
    let [bad, good] = lab.clients() else { anyhow::bail!("two clients") };
    let mut list = String::from("# a blocklist\n");
    for number in 0..100_000_u32 {
        // Apart from each other and from the lab's addresses.
        let [_, a, b, c] = (number * 64).to_be_bytes();
        let _ = writeln!(list, "{}.{a}.{b}.{c}/{}", 20 + number % 100, 26 + number % 7);
    }
    let _ = writeln!(list, "{} # the one that matters", address(bad));
    fs::write(weir.config_path().with_file_name("deny.txt"), list)?;
    let begin = Instant::now();
    let output = weir.reload(&format!("deny = [{{ file = \"deny.txt\" }}]\n{text}"))?;
    let taken = begin.elapsed();
    println!("100,000 prefixes in force after {taken:?}");
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(!answers(&lab, bad) && answers(&lab, good));
    assert!(taken < Duration::from_secs(2), "{taken:?}");
    // A change at run time builds and publishes the whole list again.
    let begin = Instant::now();
    weir.succeed(&["deny", "add", "203.0.113.0/24"])?;
    println!("one more after {:?}", begin.elapsed());
    thread::sleep(Duration::from_millis(1200));
    weir.succeed(&["deny", "remove", "203.0.113.0/24"])?;
    let listed = weir.json(&["deny", "list"])?;
    assert_eq!(listed["lists"][0]["from_config"], 100_001);
    Ok(())
}
