//! What weir refuses: one message with the place and the remedy, and nothing is changed.

use std::{
    collections::BTreeMap,
    fs,
    net::{SocketAddr, UdpSocket},
    path::Path,
    process::{Command, Output},
};

use anyhow::{Context, Result, ensure};
use weir_tests::{
    Family, Foreign, Get, Lab, Limits, Load, PinnedLink, Rate, WeirProc, config, eventually, pin_program,
};

/// A mistake in a configuration: what it is, the line to replace, by what, and what the message must contain.
const MISTAKES: [(&str, &str, &str, &[&str]); 9] = [
    (
        "unknown key",
        "mode = \"dsr-l2\"",
        "mode = \"dsr-l2\"\nprotocoll = \"udp\"",
        &["unknown key `protocoll`", "`protocol`"],
    ),
    ("syntax", "port = 80\nprotocol", "port = = 80\nprotocol", &["weir.toml:"]),
    ("duplicate name", "name = \"direct-2\"", "name = \"direct-1\"", &["direct-1"]),
    (
        "overlapping services",
        "[[pool]]\nname = \"web\"\n",
        "[[service]]\nname = \"twin\"\nvip = \"198.51.100.10\"\nport = 80\nprotocol = \"tcp\"\nmode = \"dsr-l2\"\npool = \
         \"web\"\n[[pool]]\nname = \"web\"\n",
        &["twin", "web"],
    ),
    ("family mismatch", "address = \"10.0.1.12\"", "address = \"fd00:1::12\"", &["direct-2", "dsr-l2"]),
    ("no backends", "pool = \"web\"\n", "pool = \"empty\"\n[[pool]]\nname = \"empty\"\n", &["empty"]),
    ("weight out of range", "host = \"host-2\"", "host = \"host-2\"\nweight = 1001", &["weight", "1000"]),
    ("more than [limits]", "backends = 64", "backends = 1", &["limits", "backends"]),
    ("missing interface", "\"eth1\"]", "\"eth9\"]", &["interface eth9: no such interface", "ip link"]),
];

fn mistaken(replace: &str, by: &str) -> Result<String> {
    let text = config(2, Limits::default());
    ensure!(text.contains(replace), "the configuration has no {replace:?}");
    Ok(text.replacen(replace, by, 1))
}

#[test]
fn a_start_with_a_mistake_is_refused_and_pins_nothing() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let at = Attempt::new(&lab)?;
    for (mistake, replace, by, told) in MISTAKES {
        let code = if mistake == "missing interface" { 1 } else { 2 };
        at.refused(mistake, &mistaken(replace, by)?, &["run"], code, told)?;
        ensure!(!at.bpffs.exists(), "{mistake}: something was made in the bpffs");
        ensure!(lab.weir_host().xdp_program("eth0")?.is_none(), "{mistake}: something was attached");
        if mistake != "missing interface" {
            at.refused(mistake, &mistaken(replace, by)?, &["check"], 2, &[])?;
        }
    }
    Ok(())
}

#[test]
fn a_reload_with_a_mistake_is_refused_and_writes_nothing() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let weir = lab.weir(&config(2, Limits::default()))?;
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    eventually("both backends are up", || {
        weir.json(&["status"]).is_ok_and(|status| status["backends_up"] == 2)
    });
    let load = Load::start(lab.client(), Get::new(vip), Rate::per_second(100));
    let before = (weir.pins()?, weir.tables()?, weir.attachment("eth0")?, weir.attachment("eth1")?);
    for (mistake, replace, by, told) in MISTAKES {
        let output = weir.reload(&mistaken(replace, by)?)?;
        let code = match mistake {
            "missing interface" => 1,
            _ => 2,
        };
        tells(mistake, &output, code, told)?;
        let after = (weir.pins()?, weir.tables()?, weir.attachment("eth0")?, weir.attachment("eth1")?);
        ensure!(after == before, "{mistake}: something was changed");
    }
    let sent = load.count();
    eventually("the load goes on", || load.count() > sent + 20);
    ensure!(load.stop().iter().all(|shot| !shot.failed()));
    Ok(())
}

#[test]
fn auto_falls_back_to_generic_mode_only_where_packets_are_not_merged() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let host = lab.weir_host();
    // The loopback driver has no native XDP.
    let with_lo = mistaken(
        "interfaces = [\"eth0\", \"eth1\"]",
        "interfaces = [\"eth0\", \"eth1\", \"lo\"]\nxdp_mode = \"auto\"",
    )?;
    host.exec("ethtool", &["-K", "lo", "gro", "on"])?;
    let at = Attempt::new(&lab)?;
    at.refused("merged packets", &with_lo, &["run"], 1, &["lo", "ethtool -K lo gro off"])?;
    ensure!(!at.bpffs.exists(), "something was made in the bpffs");
    for interface in ["eth0", "eth1", "lo"] {
        ensure!(host.xdp_program(interface)?.is_none(), "something was attached to {interface}");
    }
    host.exec("ethtool", &["-K", "lo", "gro", "off"])?;
    let weir = lab.weir(&with_lo)?;
    ensure!(weir.log().contains("lo: no native XDP in the driver: generic mode"), "{}", weir.log());
    // A link keeps the mode that it was made in: another one is not had by a reload, and that is told.
    ensure!(weir.reload(&with_lo.replace("\"auto\"", "\"native\""))?.status.success());
    let problems = weir.json(&["status"])?["problems"].to_string();
    ensure!(problems.contains("lo: the program runs in generic mode, not in native mode"), "{problems}");
    Ok(())
}

#[test]
fn without_privileges_the_missing_ones_are_named() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let at = Attempt::new(&lab)?;
    fs::write(&at.config, config(2, Limits::default()))?;
    let mut nobody = Command::new("setpriv");
    nobody.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    nobody.arg(at.command(&["run"]).get_program()).args(at.command(&["run"]).get_args());
    let output = lab.weir_host().output(&mut nobody)?;
    tells("nobody", &output, 1, &["CAP_BPF", "CAP_NET_ADMIN", "run it as root"])?;
    ensure!(!at.bpffs.exists());
    // The verbs that need none work.
    at.refused("check as root", "interfaces = []", &["check"], 2, &[])?;
    Ok(())
}

#[test]
fn a_busy_interface_is_named_with_the_program_that_is_there() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let at = Attempt::new(&lab)?;
    let theirs = lab.weir_host().attach_passing_program("eth1")?;
    let id = lab.weir_host().xdp_program("eth1")?.context("a program is attached")?;
    let text = config(2, Limits::default());
    at.refused(
        "busy",
        &text,
        &["run"],
        1,
        &[&format!("eth1: xdp program {id}"), "ip link set dev eth1 xdp off"],
    )?;
    ensure!(lab.weir_host().xdp_program("eth1")? == Some(id), "their program is left alone");
    ensure!(lab.weir_host().xdp_program("eth0")?.is_none() && !at.bpffs.exists());

    // A reload that adds a busy interface changes nothing either.
    let weir = lab.weir(&text.replace("[\"eth0\", \"eth1\"]", "[\"eth0\"]"))?;
    let before = (weir.pins()?, weir.tables()?);
    let output = weir.reload(&config(1, Limits::default()))?;
    tells("busy at a reload", &output, 1, &["eth1", "another XDP program", "nothing was changed"])?;
    ensure!((weir.pins()?, weir.tables()?) == before);
    drop(theirs);
    eventually("the interface is free", || lab.weir_host().xdp_program("eth1").is_ok_and(|id| id.is_none()));
    weir.succeed(&["reload"])?;
    ensure!(weir.attachment("eth1")?.program == weir.attachment("eth0")?.program);
    Ok(())
}

#[test]
fn a_check_that_cannot_be_run_here_is_refused_and_changes_nothing() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let host = lab.weir_host();
    let checked_by_bfd = |backends| {
        let by_tcp = "type = \"tcp\"\nport = 80\ninterval = \"50ms\"\ntimeout = \"1s\"\n";
        let by_bfd = "type = \"bfd\"\ninterval = \"50ms\"\nfall = 5\n";
        config(backends, Limits::default()).replace(by_tcp, by_bfd)
    };
    // As BIRD or FRR would on the same host.
    let theirs = host.run(|| UdpSocket::bind("0.0.0.0:3784"))?;
    let told = ["open UDP port 3784 for bfd checks", "stop the other"];
    let filter = lab.bpffs().join("filter");
    pin_program(Foreign::EchoFilter, &filter)?;
    let with_filter = |text: String| format!("next_program = {filter:?}\n{text}");
    let at = Attempt::new(&lab)?;
    at.refused("at a start", &checked_by_bfd(2), &["run"], 1, &told)?;
    ensure!(!at.bpffs.exists(), "something was made in the bpffs");
    ensure!(host.xdp_program("eth0")?.is_none(), "something was attached");

    let mut weir = lab.weir(&config(2, Limits::default()))?;
    eventually("both backends are up", || {
        weir.json(&["status"]).is_ok_and(|status| status["backends_up"] == 2)
    });
    let before = in_force(&weir)?;
    let output = weir.reload(&with_filter(checked_by_bfd(1)))?;
    tells("at a reload", &output, 1, &[&told[..], &["nothing was changed"]].concat())?;
    ensure!(in_force(&weir)? == before, "a refused reload changed something");
    eventually("both backends are up still", || {
        weir.json(&["status"]).is_ok_and(|status| status["backends_up"] == 2)
    });

    // What a daemon left in force stays so when the next one cannot start.
    weir.terminate()?;
    let before = in_force(&weir)?;
    let next = Attempt { bpffs: weir.bpffs().to_owned(), ..at };
    next.refused("at the next start", &with_filter(checked_by_bfd(1)), &["run"], 1, &told)?;
    ensure!(in_force(&weir)? == before, "a refused start changed something");
    // New maps would take over.
    let larger = checked_by_bfd(1).replace("flows_v4 = 4096", "flows_v4 = 8192");
    next.refused("with other limits", &with_filter(larger), &["run"], 1, &told)?;
    ensure!(in_force(&weir)? == before, "a refused start with other limits changed something");

    drop(theirs);
    weir.write_config(&checked_by_bfd(1))?;
    weir.launch()?;
    ensure!(in_force(&weir)?.1 != before.1, "what was refused before is not in force now");
    Ok(())
}

/// Pins, tables and attachments.
type InForce = (Vec<String>, BTreeMap<String, Vec<u8>>, [PinnedLink; 2]);

fn in_force(weir: &WeirProc) -> Result<InForce> {
    Ok((weir.pins()?, weir.tables()?, [weir.attachment("eth0")?, weir.attachment("eth1")?]))
}

#[test]
fn a_second_daemon_is_refused_and_the_first_is_not_disturbed() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let weir = lab.weir(&config(2, Limits::default()))?;
    eventually("both backends are up", || {
        weir.json(&["status"]).is_ok_and(|status| status["backends_up"] == 2)
    });
    let before = (weir.pins()?, weir.tables()?, weir.attachment("eth0")?);
    let pid = weir.pid().context("it runs")?.as_raw_nonzero().get();

    let output = weir.cli(&["run"])?;
    tells("the same socket", &output, 1, &["another weir answers on this socket", "--socket"])?;
    let at = Attempt { bpffs: weir.bpffs().to_owned(), ..Attempt::new(&lab)? };
    let told = format!("another weir (pid {pid}) runs on this directory");
    at.refused("the same bpffs", &config(1, Limits::default()), &["run"], 1, &[&told, "--bpffs"])?;
    // Its own pins, but the interfaces are taken.
    let other = Attempt::new(&lab)?;
    other.refused("other pins", &config(1, Limits::default()), &["run"], 1, &["eth0", "is attached"])?;
    ensure!(!other.bpffs.exists());

    ensure!((weir.pins()?, weir.tables()?, weir.attachment("eth0")?) == before);
    ensure!(weir.cli(&["ready"])?.status.success());
    Ok(())
}

#[test]
fn places_that_do_not_serve_are_named() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let text = config(2, Limits::default());
    let at = Attempt::new(&lab)?;

    let elsewhere = Attempt { bpffs: lab.directory().join("no-bpffs"), ..at.clone() };
    elsewhere.refused("no bpffs", &text, &["run"], 1, &["no-bpffs: not in a bpffs", "mount -t bpf"])?;
    ensure!(!elsewhere.bpffs.exists());

    let missing = Attempt { config: lab.directory().join("missing.toml"), ..at.clone() };
    tells("missing config", &missing.output(&["run"])?, 2, &["missing.toml", "no such file"])?;
    let directory = Attempt { config: lab.directory().to_owned(), ..at.clone() };
    tells("config is a directory", &directory.output(&["run"])?, 2, &["not a regular file"])?;

    fs::write(lab.directory().join("a-file"), "")?;
    let state = Attempt { state: lab.directory().join("a-file"), ..at.clone() };
    state.refused("state is a file", &text, &["run"], 1, &["a-file"])?;
    let socket = Attempt { socket: lab.directory().join("a-file"), ..at.clone() };
    socket.refused("socket is a file", &text, &["run"], 1, &["a-file", "not a socket", "--socket"])?;

    fs::create_dir_all(&at.state)?;
    fs::write(at.state.join("runtime.json"), r#"{"version": 99, "backends": []}"#)?;
    at.refused(
        "newer runtime changes",
        &text,
        &["run"],
        1,
        &["runtime.json", "version 99", "move the file away"],
    )?;
    ensure!(!at.bpffs.exists() && lab.weir_host().xdp_program("eth0")?.is_none());
    Ok(())
}

#[test]
fn broken_runtime_changes_are_set_aside_and_told_until_they_are_removed() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let mut weir = lab.weir(&config(2, Limits::default()))?;
    weir.succeed(&["backend", "drain", "direct-1"])?;
    weir.terminate()?;
    fs::write(weir.state_dir().join("runtime.json"), "{ not json")?;
    weir.launch()?;
    let told = weir.json(&["status"])?["problems"].to_string();
    ensure!(
        told.contains("runtime changes could not be read") && told.contains("runtime.json.unreadable-"),
        "{told}"
    );
    ensure!(weir.backend("direct-1")?["admin"] == "active");
    weir.succeed(&["backend", "drain", "direct-1"])?;
    let aside = fs::read_dir(weir.state_dir())?.flatten().map(|entry| entry.path());
    let aside = aside.filter(|path| path.to_string_lossy().contains("unreadable")).collect::<Vec<_>>();
    ensure!(aside.len() == 1 && fs::read_to_string(&aside[0])? == "{ not json", "{aside:?}");
    fs::remove_file(&aside[0])?;
    ensure!(!weir.json(&["status"])?["problems"].to_string().contains("runtime changes"));
    Ok(())
}

/// A daemon that is expected not to start, with paths of its own.
#[derive(Clone)]
struct Attempt<'a> {
    lab: &'a Lab,
    binary: std::ffi::OsString,
    config: std::path::PathBuf,
    socket: std::path::PathBuf,
    state: std::path::PathBuf,
    bpffs: std::path::PathBuf,
}

impl<'a> Attempt<'a> {
    fn new(lab: &'a Lab) -> Result<Self> {
        let directory = lab.directory().join("attempt");
        fs::create_dir_all(&directory)?;
        Ok(Self {
            lab,
            binary: WeirProc::binary()?.into(),
            config: directory.join("weir.toml"),
            socket: directory.join("weir.sock"),
            state: directory.join("state"),
            bpffs: lab.bpffs().join("attempt"),
        })
    }

    fn command(&self, verb: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.arg("--config").arg(&self.config).arg("--socket").arg(&self.socket);
        command.arg("--state-dir").arg(&self.state).arg("--bpffs").arg(&self.bpffs).args(verb);
        command
    }

    fn output(&self, verb: &[&str]) -> Result<Output> {
        let mut limited = Command::new("timeout");
        limited.arg("40").arg(self.command(verb).get_program()).args(self.command(verb).get_args());
        self.lab.weir_host().output(&mut limited)
    }

    fn refused(&self, case: &str, config: &str, verb: &[&str], code: i32, told: &[&str]) -> Result<()> {
        fs::write(&self.config, config)?;
        tells(case, &self.output(verb)?, code, told)?;
        ensure!(!Path::new(&self.socket).is_dir() && self.socket_is_gone(), "{case}: the socket stays");
        Ok(())
    }

    fn socket_is_gone(&self) -> bool {
        !self.socket.exists() || self.socket.is_file()
    }
}

/// One message with every part, and the exit code.
fn tells(case: &str, output: &Output, code: i32, parts: &[&str]) -> Result<()> {
    let stderr = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(code), "{case}: {:?}: {stderr}", output.status);
    for part in parts {
        ensure!(stderr.contains(part), "{case}: no {part:?} in: {stderr}");
    }
    let messages = stderr.lines().filter(|line| line.starts_with("weir: ")).count();
    ensure!(parts.is_empty() || messages == 1, "{case}: {messages} messages: {stderr}");
    Ok(())
}
