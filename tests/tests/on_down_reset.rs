//! A host dies without a word in the middle of curl's uploads: with `on_down = "reset"`, or nobody left and
//! `last_resort = "reset"`, curl is told at once; else it would hang until its own timers end it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use weir_tests::{Distribution, Family, Lab, WeirProc, eventually, url};

const PORT: u16 = 9000;
/// Uploads of each family.
const UPLOADS: usize = 8;
/// Time between two writes of a few bytes: few enough to be sent before anything is acknowledged.
const PAUSE: Duration = Duration::from_millis(5);
/// Until the last curl has ended. Measured is far less (the distribution is printed); a machine may be busy.
const LIMIT: Duration = Duration::from_secs(2);
/// Longer than that; by itself, curl would go on.
const HANGS: Duration = Duration::from_secs(4);

fn config(lab: &Lab, pool: &str, service: &str) -> String {
    let mut text = String::from(
        "interfaces = [\"eth0\", \"eth1\"]\n[limits]\nflows_v4 = 4096\nflows_v6 = 4096\nmaglev_slots = 65_536\n",
    );
    // Writing to a string does not fail.
    let _ = write!(
        text,
        "[[vip]]\nname = \"edge\"\naddress = [\"{}\", \"{}\"]\n[[pool]]\nname = \"sink\"\n{pool}\n[[pool.health]]\n\
         type = \"ping\"\ninterval = \"5ms\"\ntimeout = \"20ms\"\n",
        lab.vip().of(Family::V4),
        lab.vip().of(Family::V6),
    );
    for backend in lab.backends() {
        let (name, address) = (backend.name(), backend.address(Family::V4));
        let _ = write!(text, "[[pool.backend]]\nname = \"{name}\"\naddress = \"{address}\"\n");
    }
    let _ = write!(
        text,
        "[[service]]\nname = \"sink\"\nvip = \"edge\"\nport = {PORT}\nprotocol = \"tcp\"\nmode = \"ipip\"\npool = \"sink\"\n\
         {service}\n"
    );
    text
}

/// A server on every backend that reads for ever and says nothing.
fn sinks(lab: &Lab) -> Result<()> {
    for backend in lab.backends() {
        let listener =
            backend.run(|| TcpListener::bind(SocketAddr::from(([0_u16; 8], PORT)))).context("bind")?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || {
                    let (mut stream, mut buffer) = (stream, [0; 4096]);
                    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {}
                });
            }
        });
    }
    Ok(())
}

/// Starts uploads that never end.
fn uploads(lab: &Lab) -> Result<Vec<Child>> {
    let mut children = Vec::new();
    for family in Family::BOTH {
        let target = url(SocketAddr::new(lab.vip().of(family), PORT), "/");
        for _ in 0..UPLOADS {
            let mut command = Command::new("curl");
            command.args(["-sS", "--noproxy", "*", "--max-time", "20", "-H", "Expect:", "-T", "-", &target]);
            command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
            let mut child = lab.client().run(|| command.spawn()).context("start curl")?;
            let mut input = child.stdin.take().context("curl has an input")?;
            thread::spawn(move || {
                while input.write_all(b"0123456789").is_ok() {
                    thread::sleep(PAUSE)
                }
            });
            children.push(child);
        }
    }
    Ok(children)
}

/// A curl that ended: after what time, its exit code, and what it said.
struct Ended {
    after: Duration,
    code: Option<i32>,
    said: String,
}

/// Waits for those that end within a time; kills the others.
fn ended(children: Vec<Child>, since: Instant, limit: Duration) -> Result<Vec<Ended>> {
    let mut running = children;
    let mut ended = Vec::new();
    while !running.is_empty() && since.elapsed() < limit {
        let mut left = Vec::new();
        for mut child in running {
            match child.try_wait()? {
                None => left.push(child),
                Some(status) => {
                    let (after, mut said) = (since.elapsed(), String::new());
                    child.stderr.take().context("curl has messages")?.read_to_string(&mut said)?;
                    ended.push(Ended { after, code: status.code(), said });
                }
            }
        }
        running = left;
        thread::sleep(Duration::from_millis(1));
    }
    for mut child in running {
        child.kill()?;
        child.wait()?;
    }
    Ok(ended)
}

/// Starts uploads, freezes the backend that has most of them, and gives how many it had and which uploads ended.
fn freeze_one(lab: &Lab, weir: &WeirProc, limit: Duration) -> Result<(usize, Vec<Ended>)> {
    let children = uploads(lab)?;
    eventually("all flows are known", || {
        weir.flow_backends(&[]).is_ok_and(|flows| flows.len() == 2 * UPLOADS)
    });
    thread::sleep(Duration::from_millis(300));
    let mut shares: BTreeMap<String, usize> = BTreeMap::new();
    weir.flow_backends(&[])?.into_values().for_each(|backend| *shares.entry(backend).or_default() += 1);
    let (victim, had) = shares.into_iter().max_by_key(|(_, flows)| *flows).context("there are flows")?;
    let name = victim.rsplit('/').next().context("a backend has a name")?;
    let since = Instant::now();
    lab.backend(name).freeze()?;
    let ended = ended(children, since, limit)?;
    let times: Distribution = ended.iter().map(|ended| ended.after).collect();
    println!("{had} of {} uploads were of {victim}; {} ended: {times}", 2 * UPLOADS, ended.len());
    Ok((had, ended))
}

fn assert_reset(had: usize, ended: &[Ended]) {
    assert_eq!(ended.len(), had, "the frozen backend's uploads ended, and no other");
    for Ended { after, code, said } in ended {
        // Send error, receive error: by the kernel's ECONNRESET.
        assert!(matches!(code, Some(55 | 56)) && said.contains("eset"), "curl ended with {code:?}: {said}");
        assert!(*after < LIMIT, "{after:?}");
    }
}

fn counted(weir: &WeirProc, reason: &str) -> Result<u64> {
    weir.json(&["status"])?["counters"][reason].as_u64().context("status counts reasons")
}

#[test]
fn curl_fails_at_once_when_its_backend_dies_and_the_service_resets() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    sinks(&lab)?;
    let weir = lab.weir(&config(&lab, "", "on_down = \"reset\""))?;
    let (had, ended) = freeze_one(&lab, &weir, LIMIT)?;
    assert_reset(had, &ended);
    assert!(counted(&weir, "flow_reset")? >= had as u64);
    assert_eq!(counted(&weir, "flow_rehomed")?, 0, "none went to another backend first");
    Ok(())
}

#[test]
fn curl_fails_at_once_when_the_last_backend_dies_and_the_last_resort_is_to_reset() -> Result<()> {
    let lab = Lab::builder().direct(1).start()?;
    sinks(&lab)?;
    let weir = lab.weir(&config(&lab, "last_resort = \"reset\"", ""))?;
    let (had, ended) = freeze_one(&lab, &weir, LIMIT)?;
    assert_eq!(had, 2 * UPLOADS);
    assert_reset(had, &ended);
    assert!(counted(&weir, "no_backend_reset")? >= had as u64);
    Ok(())
}

#[test]
fn curl_hangs_where_flows_are_kept_on_a_dead_backend() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    sinks(&lab)?;
    let weir = lab.weir(&config(&lab, "", "on_down = \"keep\""))?;
    let (had, ended) = freeze_one(&lab, &weir, HANGS)?;
    assert!(had > 0 && ended.is_empty(), "{} ended", ended.len());
    Ok(())
}
