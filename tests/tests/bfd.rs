//! BFD sessions with BIRD on the backends.

use std::{
    fs,
    net::UdpSocket,
    num::{NonZeroU8, NonZeroU32},
    path::PathBuf,
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use lb_userspace::health::bfd::packet::{Demand, Diagnostic, Exchange, Packet, State};
use rustix::process::Signal;
use weir_tests::{Family, Host, Lab, Process, WeirProc, eventually};

/// BIRD as one backend's BFD daemon.
struct Bird {
    host: Host,
    control: PathBuf,
    process: Process,
}

impl Bird {
    fn start(lab: &Lab, backend: &str) -> Result<Self> {
        let host = (*lab.backend(backend)).clone();
        let directory = lab.directory().join(format!("bird-{backend}"));
        fs::create_dir_all(&directory)?;
        let weir = &lab.weir_host().addresses()[1];
        let configuration = format!(
            "router id {};\nprotocol device {{ }}\nprotocol bfd {{\n interface \"*\" {{ min rx interval 50 ms; \
             min tx interval 50 ms; multiplier 5; }};\n neighbor {} dev \"eth0\";\n neighbor {} dev \"eth0\";\n}}\n",
            host.address(Family::V4),
            weir.v4,
            weir.v6
        );
        fs::write(directory.join("bird.conf"), configuration)?;
        let control = directory.join("bird.ctl");
        let mut command = Command::new("bird");
        command.arg("-f").arg("-c").arg(directory.join("bird.conf")).arg("-s").arg(&control);
        command.arg("-P").arg(directory.join("bird.pid")).stderr(fs::File::create(directory.join("log"))?);
        let process = host.spawn(command).context("is bird2 installed? `cargo xtask setup` does it")?;
        eventually("bird answers", || control.exists());
        Ok(Self { host, control, process })
    }

    fn ask(&self, words: &str) -> Result<String> {
        let control = self.control.to_string_lossy();
        let words: Vec<&str> = ["-s", &control].into_iter().chain(words.split(' ')).collect();
        self.host.exec("birdc", &words)
    }

    /// The line of its session with weir in a family.
    fn session(&self, lab: &Lab, family: Family) -> String {
        let weir = lab.weir_host().addresses()[1].of(family).to_string();
        let list = self.ask("show bfd sessions").unwrap_or_default();
        let line = list.lines().find(|line| line.starts_with(&format!("{weir} ")));
        line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

/// A service of each family; the first backend is spoken to over IPv4, the second over IPv6.
const CONFIG: &str = r#"
interfaces = ["eth0", "eth1"]

[limits]
flows_v4 = 4096
flows_v6 = 1024
maglev_slots = 65_536

[defaults]
hold_down = "0s"
port = 80
protocol = "tcp"
mode = "dsr-l2"
[defaults.health]
type = "bfd"
interval = "50ms"
fall = 5

[[service]]
name = "v4"
vip = "198.51.100.10"
[[service.backend]]
name = "direct-1"
address = "10.0.1.11"

[[service]]
name = "v6"
vip = "2001:db8::10"
[[service.backend]]
name = "direct-2"
address = "ADDRESS"
"#;

fn config(lab: &Lab) -> String {
    CONFIG.replace("ADDRESS", &lab.backend("direct-2").address(Family::V6).to_string())
}

fn backend(weir: &WeirProc, name: &str) -> serde_json::Value {
    let list = weir.json(&["backends"]).unwrap_or_default();
    let mut all = list["backends"].as_array().cloned().unwrap_or_default();
    all.retain(|one| one["name"] == name);
    all.pop().unwrap_or_default()
}

fn wait_for(weir: &WeirProc, name: &str, health: &str) {
    eventually(&format!("{name} is {health}"), || backend(weir, name)["health"] == health);
}

/// The hops that a packet may take.
#[derive(Clone, Copy)]
struct Hops(u8);

/// Sends what a neighbour says that does not know the session.
fn say(lab: &Lab, name: &str, family: Family, sent_with: Hops, state: State) -> Result<()> {
    let packet = Packet {
        diagnostic: Diagnostic(5),
        state,
        exchange: Exchange::None,
        demand: Demand::Off,
        multiplier: NonZeroU8::MIN,
        mine: NonZeroU32::MIN,
        yours: None,
        desired_min_tx: Duration::from_secs(1),
        required_min_rx: Duration::from_secs(1),
    };
    let host = lab.backend(name);
    let weir = lab.weir_host().addresses()[1].of(family);
    let hops = match family {
        Family::V4 => "ipv4/ip_default_ttl",
        Family::V6 => "ipv6/conf/eth0/hop_limit",
    };
    host.sysctl(hops, &sent_with.0.to_string())?;
    host.run(|| -> Result<()> {
        let socket = UdpSocket::bind((host.address(family), 0))?;
        socket.send_to(&packet.encode(), (weir, 3784))?;
        Ok(())
    })
}

#[test]
fn session_with_bird_comes_up_and_its_silence_and_its_operator_take_the_backend_down() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let (one, other) = (Bird::start(&lab, "direct-1")?, Bird::start(&lab, "direct-2")?);
    let mut weir = lab.weir(&config(&lab))?;
    wait_for(&weir, "direct-1", "up");
    wait_for(&weir, "direct-2", "up");
    for (bird, family) in [(&one, Family::V4), (&other, Family::V6)] {
        // Interval and timeout as both ends agreed on by their Poll sequences.
        eventually("bird has agreed to 50 ms", || {
            let line = bird.session(&lab, family);
            line.contains(" Up ") && line.ends_with("0.050 0.250")
        });
        println!("bird: {}", bird.session(&lab, family));
    }

    let mut doubted = 0;
    for trial in 0..5 {
        let before = weir.log().len();
        one.process.signal(Signal::STOP)?;
        wait_for(&weir, "direct-1", "down");
        let log = weir.log().split_off(before);
        let down = log.lines().find(|line| line.contains("to=\"down\"")).unwrap_or_default();
        assert!(down.contains("bfd 10.0.1.11: no packet for "), "{log}");
        // Not where the machine stood still just then.
        doubted += u32::from(log.contains("to=\"suspect\""));
        assert_eq!(backend(&weir, "direct-1")["failure_kind"], "hard");
        if trial == 0 {
            log.lines().filter(|line| line.contains("to=\"")).for_each(|line| println!("  {line}"));
        }
        let field = |name: &str| down.split_once(name).and_then(|(_, rest)| rest.split(' ').next());
        println!(
            "bird stopped: down {} µs after its last packet",
            field("detected_after_us=").unwrap_or("?")
        );
        one.process.signal(Signal::CONT)?;
        wait_for(&weir, "direct-1", "up");
    }
    assert!(doubted > 0, "never suspect before it was down");

    // This version of BIRD never says so itself.
    other.process.signal(Signal::STOP)?;
    say(&lab, "direct-2", Family::V6, Hops(255), State::AdminDown)?;
    wait_for(&weir, "direct-2", "down");
    let disabled = backend(&weir, "direct-2");
    assert_eq!(disabled["failure_kind"], "soft", "{disabled}");
    assert!(disabled["why"].as_str().is_some_and(|why| why.contains("administratively down")), "{disabled}");
    other.process.signal(Signal::CONT)?;
    wait_for(&weir, "direct-2", "up");

    weir.terminate()?;
    eventually("bird notices at once that weir has ended", || {
        !one.session(&lab, Family::V4).contains(" Up ") && !other.session(&lab, Family::V6).contains(" Up ")
    });
    Ok(())
}

#[test]
fn stopped_daemon_calls_nobody_down_when_it_goes_on() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let _birds = [Bird::start(&lab, "direct-1")?, Bird::start(&lab, "direct-2")?];
    let weir = lab.weir(&config(&lab))?;
    wait_for(&weir, "direct-1", "up");
    wait_for(&weir, "direct-2", "up");
    thread::sleep(Duration::from_secs(1));
    let before = weir.log().len();
    weir.signal(Signal::STOP)?;
    thread::sleep(Duration::from_secs(2));
    weir.signal(Signal::CONT)?;
    thread::sleep(Duration::from_secs(4));
    wait_for(&weir, "direct-1", "up");
    wait_for(&weir, "direct-2", "up");
    let log = weir.log().split_off(before);
    log.lines().filter(|line| line.contains("to=\"")).for_each(|line| println!("  {line}"));
    assert!(!log.contains("to=\"down\""), "{log}");
    Ok(())
}

#[test]
fn packets_from_beyond_the_link_are_not_heard() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let _birds = [Bird::start(&lab, "direct-1")?, Bird::start(&lab, "direct-2")?];
    let weir = lab.weir(&config(&lab))?;
    wait_for(&weir, "direct-1", "up");
    wait_for(&weir, "direct-2", "up");
    for (name, family) in [("direct-1", Family::V4), ("direct-2", Family::V6)] {
        let before = weir.log().len();
        say(&lab, name, family, Hops(64), State::Down)?;
        thread::sleep(Duration::from_millis(500));
        assert!(!weir.log()[before..].contains("neighbour is down"), "{}", weir.log());
        say(&lab, name, family, Hops(255), State::Down)?;
        eventually("the same packet from a neighbour is heard", || {
            weir.log()[before..].contains("neighbour is down: path down")
        });
        wait_for(&weir, name, "up");
    }
    Ok(())
}

#[test]
fn a_drill_reaches_sessions_by_the_packets_that_they_miss() -> Result<()> {
    let lab = Lab::builder().start()?;
    let _birds = [Bird::start(&lab, "direct-1")?, Bird::start(&lab, "direct-2")?];
    let weir = lab.weir(&config(&lab))?;
    wait_for(&weir, "direct-1", "up");
    let drill = |fail: &str| weir.json(&["drill", "v4/direct-1", "--fail", fail, "--for", "2s", "--force"]);
    let report = drill("silence")?;
    println!("{report:#}");
    // Five packets of 50 ms each may be missed.
    let down = report["down_after_us"].as_u64().context("it went down")?;
    assert!((150_000..1_500_000).contains(&down), "{report:#}");
    wait_for(&weir, "direct-1", "up");
    // The server's end is not the host's.
    let report = drill("crash")?;
    assert_eq!(report["new_flows_stopped_after_us"], serde_json::Value::Null, "{report:#}");
    Ok(())
}
