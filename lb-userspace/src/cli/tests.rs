//! Whole commands: arguments in, streams and exit code out.

mod lab;

use std::ffi::OsString;
use std::io::{self, Write};
use std::time::Duration;

use super::args::Form;
use super::output::{Audience, Output, Streams};
use super::run::block_on;
use super::wait::{Waited, wait};
use crate::admin::client::Client;
use crate::events::ring::Ring;
use crate::events::{Event, Kind, state};
use crate::failure::Exit;
use crate::state::lock::Lock;
use crate::view::backends::Backends;
use crate::view::events::Events;
use lab::{Lab, Memory, Ran};

#[test]
fn lists_work_without_the_daemon() {
    let lab = Lab::new();
    let ran = lab.run("backends --state draining -o json");
    let backends: Backends = serde_json::from_str(&ran.out).expect("json");
    assert_eq!((ran.exit, backends.backends[0].name.as_str()), (Exit::Done, "web-2"));
    assert_eq!(
        ran.err,
        "weir: no daemon: DIR/weir.sock does not exist; start `weir run`, or name its --socket; this is read from the pinned maps\n"
    );
    assert!(lab.run("services").out.contains("edge  80,443  tcp,udp"));
    assert_eq!(lab.run("flows --count --backend web/web-1").out, "2\n");
    assert!(lab.run("flows --limit 1").out.ends_with("1 of 4 flows; --limit 0 shows all\n"));
}

#[test]
fn lists_of_the_daemon_and_of_the_maps_are_the_same() {
    let (alone, served) = (Lab::new(), Lab::new());
    served.daemon(0, 1);
    for list in ["services", "backends --pool web", "flows --client 203.0.113.0/24"] {
        let line = format!("{list} -o json");
        let (alone, served) = (alone.run(&line), served.run(&line));
        assert_eq!((served.exit, served.err.as_str()), (Exit::Done, ""));
        assert_eq!(alone.out, served.out, "{list}");
    }
}

#[test]
fn decap_takes_options_or_a_file_and_has_paths_of_its_own() {
    let lab = Lab::new();
    let refused = |line: &str| {
        let ran = lab.run(line);
        assert_ne!(ran.exit, Exit::Done, "{line}");
        (ran.exit, ran.err)
    };
    let (exit, told) = refused("decap --interface eth0 --vip 198.51.100.10 --vip 198.51.100.10 --mss 1400");
    let expected = "decap in DIR: Settings { interfaces: [\"eth0\"], vips: [198.51.100.10], sources: [], gue_port: 6080, mss: Limit(1400), mode: Native }";
    assert!(exit == Exit::Failed && told.contains(expected), "{told}");
    assert!(refused("decap --vip 198.51.100.10").1.contains("--interface NAME is missing"));
    assert!(refused("decap --interface eth0").1.contains("--vip ADDRESS is missing"));
    let (exit, told) = refused("decap");
    assert!(exit == Exit::Usage && told.contains("/etc/weir/decap.toml"), "{told}");
    for wrong in ["--vip 127.0.0.1", "--source 10.0.0.1/8", "--gue-port 0", "--mss 9", "--mode fast"] {
        assert_eq!(refused(&format!("decap {wrong}")).0, Exit::Usage, "{wrong}");
    }
    assert_eq!(lab.run("decap detach").out, "detached from DIR\nremoved 0 pinned objects\n");
    // Without --bpffs before the verb.
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut streams = Streams { out: &mut out, err: &mut err, audience: Audience::Log };
    let args = ["weir", "decap", "status"].map(OsString::from);
    assert_eq!(super::main(&lab.host, args, &mut streams), Exit::NotFound);
    let told = String::from_utf8(err).expect("text");
    assert!(told.contains("nothing is pinned in /sys/fs/bpf/weir-decap"), "{told}");
}

#[test]
fn status_without_the_daemon_says_so_first() {
    let ran = Lab::new().run("status");
    assert_eq!(ran.exit, Exit::Done);
    assert!(ran.out.starts_with("PROBLEMS\n  no daemon: DIR/weir.sock does not exist"), "{}", ran.out);
    assert_eq!(Lab::new().run("status --check").exit, Exit::Failed);
}

#[test]
fn without_daemon_and_maps_the_daemon_is_unreachable() {
    let lab = Lab { host: Memory { pinned: false }, ..Lab::new() };
    for line in ["status", "backends", "flows", "ready", "reload", "backend drain web-1"] {
        let ran = lab.run(line);
        assert_eq!((ran.exit, ran.out.as_str()), (Exit::Unreachable, ""), "{line}");
    }
    assert!(lab.run("services").err.ends_with("; nothing is pinned under DIR\n"));
}

/// Leaves a ring with a snapshot and these events.
fn record(lab: &Lab, events: &mut [Event]) {
    let start = "2026-11-18T12:00:00Z".parse().expect("a time");
    let mut ring = Ring::open(lab.directory.path(), 1 << 20).expect("opens");
    let backend = |health: &str| state::Backend {
        health: health.to_owned(),
        since: start,
        why: String::new(),
        admin: "active".to_owned(),
        weight: 100,
        note: None,
    };
    let backends =
        [("web-1", "up"), ("web-2", "down")].map(|(name, health)| (name.to_owned(), backend(health)));
    let pool = state::Pool { backends: backends.into(), ..state::Pool::default() };
    let pools = [("web".to_owned(), pool)].into();
    ring.begin(state::State { pools, ..state::State::default() }, start).expect("begins");
    ring.append(events, start).expect("appends");
}

fn health(name: &str, to: &str, time: &str) -> Event {
    Event::new(Kind::Health, time.parse().expect("a time")).of_backend("web", name).is(to).because("refused")
}

#[test]
fn events_are_the_same_from_the_daemon_and_from_its_files() {
    let lab = Lab::new();
    let (early, late) = ("2026-11-18T12:00:05Z", "2026-11-18T12:00:09Z");
    let mut events =
        [health("web-1", "down", early), health("web-1", "up", late), health("web-2", "up", late)];
    record(&lab, &mut events);
    let lines = [
        "events -o json --backend web-1",
        "events -o jsonl --since 2026-11-18T12:00:06Z",
        "events --kind health --limit 1",
        "events --at 2026-11-18T12:00:06Z -o json",
        "events --at 2026-11-18T12:00:06Z",
    ];
    let alone: Vec<Ran> = lines.iter().map(|line| lab.run(line)).collect();
    assert!(alone[0].err.ends_with("; this is read from DIR\n"), "{}", alone[0].err);
    lab.daemon(0, 1);
    for (line, alone) in lines.iter().zip(&alone) {
        let served = lab.run(line);
        assert_eq!((served.exit, served.err.as_str()), (Exit::Done, ""), "{line}");
        assert_eq!(alone.out, served.out, "{line}");
    }
    let listed: Events = serde_json::from_str(&alone[0].out).expect("json");
    assert_eq!(listed.events, events[..2]);
    assert_eq!(alone[1].out.lines().count(), 2);
    assert!(alone[2].out.contains("web/web-2  up"), "{}", alone[2].out);
    let state: serde_json::Value = serde_json::from_str(&alone[3].out).expect("json");
    assert_eq!((&state["at"], &state["api"]), (&"2026-11-18T12:00:06Z".into(), &"weir/v1".into()));
    assert_eq!(state["pools"]["web"]["backends"]["web-1"]["health"], "down");
    assert_eq!(state["pools"]["web"]["backends"]["web-2"]["health"], "down");
}

#[test]
fn events_without_daemon_and_files_and_times_that_are_not_kept_are_failures() {
    let lab = Lab::new();
    assert_eq!(lab.run("events").out, "no events\n");
    let ran = lab.run("events --state-dir /nonexistent");
    assert_eq!(ran.exit, Exit::Unreachable, "{}", ran.err);
    assert_eq!(lab.run("events --at 2026-11-18T12:00:00Z").exit, Exit::NotFound);
    record(&lab, &mut []);
    let ran = lab.run("events --at 2026-11-18T11:00:00Z");
    assert_eq!(ran.exit, Exit::NotFound);
    assert!(ran.err.contains("what is kept begins at 2026-11-18T12:00:00Z"), "{}", ran.err);
}

#[test]
fn rollouts_and_drills_are_asked_for_as_they_were_written() {
    let lab = Lab::new();
    lab.daemon(0, 1);
    for (line, wanted) in [
        (
            "rollout start web --canary web-1,web-2 --percent 5 --step 25 --every 90s --guard up_ratio>=1",
            r#"{"action":"start","pool":"web","canary":["web-1","web-2"],"percent":5,"step":25,"every_s":90,"guard":"up_ratio>=1","#,
        ),
        (
            "rollout promote web --to 50",
            r#"{"action":"promote","pool":"web","canary":[],"percent":50,"step":null,"#,
        ),
        ("rollout abort web --reason slow", r#""guard_exec":null,"reason":"slow","force":false,"#),
        (
            "drill web/web-1 --fail loss=30% --for 5s",
            r#"{"backend":"web/web-1","fail":"loss=30%","for_ms":5000,"#,
        ),
        (
            "drill web-1 --fail slow=200ms --for 500ms --force",
            r#""fail":"slow=200ms","for_ms":500,"force":true"#,
        ),
    ] {
        let ran = lab.run(line);
        assert_eq!((ran.exit, ran.out.as_str()), (Exit::Refused, ""), "{line}: {}", ran.err);
        assert!(ran.err.contains(wanted), "{line}: {}", ran.err);
    }
    assert_eq!(lab.run("rollout status").out, "no rollouts\n");
}

#[test]
fn wrong_usage_is_told_and_exits_2() {
    let lab = Lab::new();
    for line in [
        "",
        "unknown",
        "backends --colour",
        "backend drain",
        "backend drain web-1 --deadline 5m",
        "backend drain web-1 --for 5",
        "backend weight web-1 --to 1001",
        "flows --client nobody",
        "flows -o jsonl",
        "events -f -o json",
        "rollout start web",
        "rollout start web --canary web-1 --percent 101",
        "rollout start web --canary web-1 --step 5",
        "drill web-1 --fail fire --for 5s",
        "drill web-1 --fail crash",
        "events -f --at 2026-11-18T12:00:00Z",
        "events --at yesterday",
        "events --since 5",
        "events --kind helth",
        "events --at 2026-11-18T12:00:00Z -o jsonl",
        "backend drain web-1 --wait --then reset",
        "backend drain web-1 --then reset",
    ] {
        let ran = lab.run(line);
        assert_eq!((ran.exit, ran.out.as_str()), (Exit::Usage, ""), "{line}: {}", ran.err);
        assert!(!ran.err.is_empty(), "{line}");
    }
}

#[test]
fn errors_are_json_under_json_also_those_of_the_command_line() {
    let lab = Lab::new();
    let ran = lab.run("backends --state asleep -o json");
    assert_eq!((ran.exit, ran.out.as_str()), (Exit::Usage, ""));
    let document: serde_json::Value = serde_json::from_str(&ran.err).expect("json");
    assert_eq!((&document["api"], &document["error"]["code"]), (&"weir/v1".into(), &"usage".into()));
    assert!(document["error"]["message"].as_str().is_some_and(|message| message.contains("asleep")));

    let ran = lab.run("-o json reload");
    assert_eq!(ran.exit, Exit::Unreachable);
    let document: serde_json::Value = serde_json::from_str(&ran.err).expect("json");
    assert_eq!(document["error"]["code"], "unreachable");
}

#[test]
fn help_is_data() {
    let ran = Lab::new().run("--help");
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Done, ""));
    assert!(ran.out.contains("6  deadline passed"), "{}", ran.out);
    assert!(Lab::new().run("backend drain --help").out.contains("weir backend drain --host rack3-h7 --wait"));
}

#[test]
fn names_that_do_not_exist_exit_4_with_the_nearest() {
    let lab = Lab::new();
    let ran = lab.run("flows --backend web-9");
    assert_eq!(ran.exit, Exit::NotFound);
    assert!(
        ran.err.ends_with("weir: no such backend \"web-9\"; nearest: web-1, web-2, web-3\n"),
        "{}",
        ran.err
    );
    lab.daemon(0, 1);
    let ran = lab.run("backend drain web/web-9");
    assert_eq!((ran.exit, ran.out.as_str()), (Exit::NotFound, ""));
    assert_eq!(ran.err, "weir: no such backend \"web/web-9\"; nearest: web/web-1, web/web-2, web/web-3\n");
}

#[test]
fn ready_answers_by_exit_code() {
    let (ready, starting) = (Lab::new(), Lab::new());
    ready.daemon(0, 1);
    starting.daemon(0, 0);
    let ran = ready.run("ready");
    assert_eq!((ran.exit, ran.out.as_str()), (Exit::Done, "ready\n"));
    let ran = starting.run("ready");
    assert_eq!(
        (ran.exit, ran.out.as_str()),
        (Exit::Failed, "not ready\n  backend web/web-1 has no verdict yet\n")
    );
}

#[test]
fn a_drain_tells_its_effect_first() {
    let lab = Lab::new();
    lab.daemon(0, 1);
    let ran = lab.run("backend drain web-1 --for 2h --reason update");
    assert_eq!(ran.exit, Exit::Done);
    insta::assert_snapshot!(ran.out, @r"
    drains 1 of 3 backends of pool web, 812 live flows
    BACKEND    ADMIN     WEIGHT  FLOWS
    web/web-1  draining     100    812
    ");
}

#[test]
fn the_last_backend_of_a_pool_is_kept_unless_forced() {
    let lab = Lab::new();
    lab.daemon(0, 1);
    let ran = lab.run("backend drain web-1 web-2");
    assert_eq!((ran.exit, ran.out.as_str()), (Exit::Refused, ""));
    assert!(ran.err.contains("no backend would be left for new flows; --force overrides"), "{}", ran.err);
    assert_eq!(lab.run("backend drain web-1 web-2 --force").exit, Exit::Done);
}

#[test]
fn waiting_ends_when_no_flow_is_left() {
    let lab = Lab::new();
    lab.daemon(2, 1);
    let ran = lab.run("backend drain web-1 --wait -o jsonl");
    assert_eq!(ran.exit, Exit::Done, "{}", ran.err);
    let lines: Vec<serde_json::Value> =
        ran.out.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
    assert_eq!(lines[0]["effects"][0], "drains 1 of 3 backends of pool web, 812 live flows");
    let flows: Vec<Option<u64>> = lines[1..].iter().map(|line| line["flows"].as_u64()).collect();
    assert_eq!(flows, [Some(2), Some(1), Some(0)]);
}

#[test]
fn waiting_goes_on_while_the_daemon_restarts() {
    let lab = Lab::new();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let mut streams = Streams { out: &mut out, err: &mut err, audience: Audience::Log };
    let mut output = Output { streams: &mut streams, form: Form::Table };
    let client = Client::new(&lab.socket());
    let names = vec!["web/web-1".to_owned()];
    let last = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            lab.daemon(0, 1);
        });
        block_on(wait(&client, &names, Some(Duration::from_secs(20)), &mut output))
    });
    assert!(matches!(last, Ok(Waited::Empty(progress)) if progress.flows == 0));
    assert!(String::from_utf8(err).expect("text").contains("does not exist; start `weir run`"));
}

#[test]
fn a_deadline_that_passes_exits_6_and_says_what_is_left() {
    let lab = Lab::new();
    lab.daemon(7, 0);
    let ran = lab.run("backend drain web-1 --wait --deadline 700ms");
    assert_eq!(ran.exit, Exit::Deadline);
    assert!(ran.err.starts_with("web/web-1: 7 live flows, 0s left\n"), "{}", ran.err);
    assert!(
        ran.err
            .ends_with("weir: web/web-1: 7 live flows left after 700ms; they are kept, the drain goes on\n"),
        "{}",
        ran.err
    );
}

#[test]
fn an_invalid_config_exits_2_and_prints_each_problem() {
    let ran = Lab::new().run("check weir.toml");
    assert_eq!(ran.exit, Exit::Usage);
    insta::assert_snapshot!(ran.out, @r"
    weir.toml:3: error: unknown key `prot`; did you mean `port`?
         3 | prot = 80
    ");
    let lab = Lab::new();
    lab.daemon(0, 1);
    let ran = lab.run("reload");
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Usage, "weir: weir.toml:3: unknown key `prot`\n"));
}

#[test]
fn detach_under_a_running_daemon_needs_force() {
    let lab = Lab::new();
    let lock = Lock::acquire(lab.directory.path()).expect("locks");
    let ran = lab.run("detach");
    assert_eq!((ran.exit, ran.out.as_str()), (Exit::Refused, ""));
    assert!(ran.err.contains(&format!("another weir (pid {})", std::process::id())), "{}", ran.err);
    assert_eq!(lab.run("detach --force").out, "detached from eth0\nremoved 1 pinned objects\n");
    drop(lock);
    assert_eq!(lab.run("detach").exit, Exit::Done);
}

#[test]
fn run_gets_its_log_level() {
    let ran = Lab::new().run("run --log-level debug");
    assert_eq!((ran.exit, ran.err.as_str()), (Exit::Failed, "weir: run at debug\n"));
}

/// A reader that went away.
struct Closed;

impl Write for Closed {
    fn write(&mut self, _bytes: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_reader_that_has_seen_enough_is_no_failure() {
    let lab = Lab::new();
    let mut err = Vec::new();
    let mut streams = Streams { out: &mut Closed, err: &mut err, audience: Audience::Log };
    assert_eq!(super::main(&lab.host, lab.args("flows"), &mut streams), Exit::Done);
}

#[test]
fn explain_takes_a_flow_frames_or_a_capture_and_nothing_else() {
    let lab = Lab::new();
    lab.daemon(0, 1);
    let frame = lab.run("explain --from 203.0.113.9:51000 --to 198.51.100.10:80 -o jsonl");
    assert!(frame.out.contains("cb007109c633640a"), "{}", frame.out);
    let two = lab.run("explain --packet 0200 --packet 03:00 -o jsonl");
    assert_eq!(two.out.lines().count(), 2, "{}", two.out);
    for wrong in [
        "explain",
        "explain --from 203.0.113.9:51000",
        "explain --from 203.0.113.9 --to 198.51.100.10:80",
        "explain --packet 020",
        "explain --packet 0200 --pcap seen.pcap",
        "explain --from 203.0.113.9:1 --to 198.51.100.10:80 --flags push",
        "explain --config weir.toml --interface eth0 --packet 0200",
    ] {
        let ran = lab.run(wrong);
        assert_eq!(ran.exit, Exit::Usage, "{wrong}: {}{}", ran.out, ran.err);
    }
    let offline = lab.run("explain --config new.toml --packet 0200 -o json");
    assert!(offline.out.contains("new.toml"), "{}", offline.out);
}

#[test]
fn capture_says_what_it_wrote_and_fails_where_that_is_nothing() {
    let lab = Lab::new();
    let some = lab.run("capture -w seen.pcapng --count 7 --one-in 3");
    assert_eq!(some.exit, Exit::Done);
    assert!(some.err.contains("7 frames written to seen.pcapng, 2 samples lost"), "{}", some.err);
    assert_eq!(lab.run("capture -w seen.pcapng").exit, Exit::Failed);
    for wrong in ["capture", "capture -w x --one-in 0", "capture -w x --snap 10", "capture -w x --for soon"] {
        assert_eq!(lab.run(wrong).exit, Exit::Usage, "{wrong}");
    }
}
