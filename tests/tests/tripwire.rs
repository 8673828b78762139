//! The tripwire against real servers: a dead one is out at once, and what servers do every day takes nobody out.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use rustix::process::Signal;
use weir_tests::{Backend, Distribution, Lab, SynLoad, Web, WeirProc, answer_without_memory, eventually};

const BACKENDS: [&str; 2] = ["direct-1", "direct-2"];

fn config(check: &str) -> String {
    let backends = BACKENDS.iter().zip(11..).map(|(name, number)| {
        format!("[[service.backend]]\nname = \"{name}\"\naddress = \"10.0.1.{number}\"\n")
    });
    format!(
        r#"
interfaces = ["eth0", "eth1"]

[limits]
flows_v4 = 65_536
flows_v6 = 1024
maglev_slots = 65_536

[defaults]
hold_down = "0s"

[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
mode = "dsr-l2"
[service.health]
type = "tripwire"
{check}
{}"#,
        backends.collect::<String>()
    )
}

fn lab(web: Web) -> Result<Lab> {
    let lab = Lab::builder().direct(BACKENDS.len() as u8).web(web).start()?;
    lab.backends().iter().try_for_each(|backend| answer_without_memory(backend))?;
    Ok(lab)
}

/// weir's lines about transitions to a state, from a place of its log on.
fn transitions(weir: &WeirProc, from: usize, to: &str) -> Vec<String> {
    let wanted = format!("to=\"{to}\"");
    weir.log()[from..].lines().filter(|line| line.contains(&wanted)).map(ToOwned::to_owned).collect()
}

fn all_up(weir: &WeirProc) {
    eventually("every backend is up", || {
        let list = weir.json(&["backends"]).ok();
        let list = list.and_then(|list| list["backends"].as_array().cloned()).unwrap_or_default();
        list.len() == BACKENDS.len() && list.iter().all(|one| one["health"] == "up")
    });
}

/// Asserts that something caused no down since a place of the log, and that all are up afterwards; returns how many
/// suspicions it caused.
fn harmless(weir: &WeirProc, from: usize) -> usize {
    all_up(weir);
    assert_eq!(transitions(weir, from, "down"), Vec::<String>::new());
    let suspicions = transitions(weir, from, "suspect");
    suspicions.iter().take(2).for_each(|line| println!("  {line}"));
    suspicions.len()
}

#[test]
fn killed_server_is_suspect_at_once_and_down_when_it_refuses() -> Result<()> {
    let lab = lab(Web { workers: 3, ..Web::default() })?;
    let weir = lab.weir(&config("interval = \"100ms\""))?;
    let load = SynLoad::start(lab.client(), &["198.51.100.10:80".parse()?], 4000)?;
    let (mut last, mut gaps) = (Vec::new(), Vec::new());
    for trial in 0..20 {
        all_up(&weir);
        let backend = lab.backend(BACKENDS[trial % BACKENDS.len()]);
        let before = backend.witness()?.syns;
        eventually("it takes new connections", || {
            backend.witness().is_ok_and(|witness| witness.syns > before + 20)
        });
        let from = weir.log().len();
        let killed_at = backend.kill();
        eventually("it is down", || transitions(&weir, from, "down").len() == 1);
        last.push(backend.witness()?.last_syn.saturating_sub(killed_at));
        gaps.push(load.worst_gap(killed_at, killed_at + Duration::from_millis(20)));
        let suspect = transitions(&weir, from, "suspect");
        assert!(suspect.iter().any(|line| line.contains("idle connection ended")), "{suspect:?}");
        let down = transitions(&weir, from, "down").remove(0);
        assert!(down.contains("connection refused") || down.contains("connection reset"), "{down}");
        if trial == 0 {
            suspect.iter().chain([&down]).for_each(|line| println!("  {line}"));
        }
        backend.start()?;
    }
    let (last, gaps): (Distribution, Distribution) = (last.into_iter().collect(), gaps.into_iter().collect());
    println!("SIGKILL of nginx to its last new connection: {last}\nlongest gap of the sender: {gaps}");
    assert!(last.percentile(50) <= Duration::from_millis(20), "{last}");
    Ok(())
}

/// A server that dies upon SIGUSR1 as one does whose socket is closed in the middle of a handshake: its host lets the
/// client believe in one more connection, and forgets it.
const DIES_BADLY: &str = r#"
import os, signal, socket, time
listener = socket.create_server(("0.0.0.0", 80))
held = []
def die(*_):
    # The packet that ends a handshake is thrown away: the connection waits for data on this side.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 10)
    for connection in held:
        connection.close()
    time.sleep(0.01)
    os._exit(0)
signal.signal(signal.SIGUSR1, die)
while True:
    held.append(listener.accept()[0])
"#;

#[test]
fn a_connection_that_died_in_its_handshake_does_not_bring_a_dead_server_back() -> Result<()> {
    let lab = Lab::builder().direct(BACKENDS.len() as u8).start()?;
    let backend = lab.backend("direct-1");
    backend.kill();
    let mut command = Command::new("python3");
    command.args(["-c", DIES_BADLY]);
    let server = backend.spawn(command)?;
    let weir = lab.weir(&config("interval = \"100ms\""))?;
    all_up(&weir);
    let from = weir.log().len();
    server.signal(Signal::USR1)?;
    eventually("it is down", || transitions(&weir, from, "down").len() == 1);
    weir.log()[from..].lines().for_each(|line| println!("  {line}"));
    assert_eq!(transitions(&weir, from, "up"), Vec::<String>::new());
    let suspect = transitions(&weir, from, "suspect");
    assert!(suspect.iter().any(|line| line.contains("idle connection ended: closed")), "{suspect:?}");
    let down = transitions(&weir, from, "down").remove(0);
    assert!(down.contains("connection refused"), "{down}");
    Ok(())
}

#[test]
fn worker_deaths_reloads_and_idle_timeouts_take_nobody_down() -> Result<()> {
    let lab = lab(Web { workers: 4, patience: Duration::from_secs(1), ..Web::default() })?;
    let weir = lab.weir(&config(""))?;
    all_up(&weir);

    let from = weir.log().len();
    let begin = Instant::now();
    thread::sleep(Duration::from_secs(4));
    let suspicions = harmless(&weir, from);
    println!(
        "servers that close idle connections after 1 s: {suspicions} suspicions in {:?}",
        begin.elapsed()
    );
    assert!(suspicions >= 2 * BACKENDS.len(), "each connection ends every second: {suspicions}");

    let from = weir.log().len();
    for backend in lab.backends() {
        // A new worker is the last of the list: four deaths of the first meet each of them.
        for _ in 0..8 {
            eventually("there are four workers", || backend.workers().is_ok_and(|all| all.len() == 4));
            backend.kill_oldest_worker()?;
            thread::sleep(Duration::from_millis(50));
        }
    }
    let suspicions = harmless(&weir, from);
    println!("16 workers killed one by one: {suspicions} suspicions");
    assert!(suspicions >= BACKENDS.len(), "each server's connection was with a worker that died");

    let from = weir.log().len();
    for _ in 0..10 {
        lab.backends().iter().try_for_each(Backend::reload)?;
        thread::sleep(Duration::from_millis(300));
    }
    println!("10 reloads of each server: {} suspicions", harmless(&weir, from));
    Ok(())
}

#[test]
fn stopped_daemon_takes_nobody_down_and_still_notices_a_dead_server() -> Result<()> {
    let lab = lab(Web { workers: 2, ..Web::default() })?;
    let weir = lab.weir(&config(""))?;
    all_up(&weir);
    let from = weir.log().len();
    weir.signal(Signal::STOP)?;
    thread::sleep(Duration::from_secs(2));
    weir.signal(Signal::CONT)?;
    thread::sleep(Duration::from_secs(1));
    assert_eq!(harmless(&weir, from), 0, "nothing has happened to the connections");

    weir.signal(Signal::STOP)?;
    lab.backend("direct-1").kill();
    weir.signal(Signal::CONT)?;
    eventually("the dead server is down", || transitions(&weir, from, "down").len() == 1);
    Ok(())
}

#[test]
fn host_that_falls_silent_is_noticed_by_the_keepalive() -> Result<()> {
    let lab = lab(Web::default())?;
    let weir = lab.weir(&config("timeout = \"200ms\"\nfall = 2"))?;
    all_up(&weir);
    let backend = lab.backend("direct-1");
    let from = weir.log().len();
    backend.freeze()?;
    eventually("the frozen host is down", || transitions(&weir, from, "down").len() == 1);
    let suspect = transitions(&weir, from, "suspect");
    assert!(suspect.iter().any(|line| line.contains("no answer to the keepalive")), "{suspect:?}");
    backend.thaw()?;
    all_up(&weir);
    Ok(())
}
