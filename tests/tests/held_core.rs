//! A core of weir's own host that is away for a while, with the answers that it was about to hand on, is no silence of
//! the backends.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
    process::Command,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TcAttachType, tc},
};
use rustix::thread::{CpuSet, sched_setaffinity};
use weir_tests::{Family, Lab, WeirProc, eventually};

/// A verdict of silence takes 3 ms.
const CONFIG: &str = r#"
interfaces = ["eth0", "eth1"]
[limits]
flows_v4 = 16_384
flows_v6 = 1024
maglev_slots = 65_536
[[service]]
name = "web"
vip = "198.51.100.10"
port = 80
protocol = "tcp"
mode = "dsr-l2"
[[service.health]]
type = "ping"
interval = "1ms"
timeout = "3ms"
fall = 3
rise = 3
[[service.backend]]
name = "direct-1"
address = "10.0.1.11"
[[service.backend]]
name = "direct-2"
address = "10.0.1.12"
"#;

const HELD: Duration = Duration::from_millis(10);
const TIMES: usize = 40;
/// The lab's program that holds a core listens here.
const HOLD_PORT: u16 = 9;

/// Attaches the program that holds a core to weir's link to its backends; it is there as long as the object.
fn attach_hold(lab: &Lab) -> Result<Ebpf> {
    lab.weir_host().run(|| {
        let mut object = Ebpf::load(lb_userspace::objects::LAB).context("load the lab's programs")?;
        tc::qdisc_add_clsact("eth1").context("add clsact to eth1")?;
        let hold = object.program_mut("hold").context("find program hold")?;
        let hold: &mut SchedClassifier = hold.try_into()?;
        hold.load()?;
        hold.attach("eth1", TcAttachType::Ingress).context("attach hold to eth1")?;
        Ok(object)
    })
}

/// Has weir's probe thread run on one core alone.
fn pin_probe_thread(weir: &WeirProc, core: usize) -> Result<()> {
    let process = weir.pid().context("weir runs")?.as_raw_nonzero();
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = entry?;
        if fs::read_to_string(task.path().join("comm"))?.trim() == "weir-probe" {
            let thread = task.file_name();
            let status = Command::new("taskset").args(["-pc", &core.to_string()]).arg(thread).status()?;
            ensure!(status.success(), "taskset: {status}");
            return Ok(());
        }
    }
    anyhow::bail!("weir has no probe thread")
}

#[test]
fn backends_stay_up_while_a_core_with_their_answers_is_away() -> Result<()> {
    ensure!(thread::available_parallelism()?.get() > 1, "one core is away, another asks");
    let lab = Lab::builder().direct(2).start()?;
    let weir = lab.weir(CONFIG)?;
    let _object = attach_hold(&lab)?;
    eventually("both backends are up", || weir.log().matches("to=\"up\"").count() >= 2);
    pin_probe_thread(&weir, 1)?;
    let before = weir.log().len();

    let target = (lab.weir_host().addresses()[1].of(Family::V4), HOLD_PORT);
    let sender = lab.backends()[0].run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    thread::spawn(move || -> Result<()> {
        let mut only = CpuSet::new();
        only.set(0);
        sched_setaffinity(None, &only)?;
        let micros = u32::try_from(HELD.as_micros())?;
        for _ in 0..TIMES {
            sender.send_to(&micros.to_be_bytes(), target)?;
            thread::sleep(HELD * 3);
        }
        Ok(())
    })
    .join()
    .expect("the sender does not panic")?;

    let log = weir.log().split_off(before);
    let lost: Vec<&str> = log
        .lines()
        .filter(|line| ["\"suspect\"", "\"down\""].iter().any(|to| line.contains(&format!("to={to}"))))
        .collect();
    let noted = log.lines().filter(|line| line.contains("a core handled no packets")).count();
    println!("a core away for {HELD:?}, {TIMES} times: {} lost, {noted} noted by weir", lost.len());
    assert_eq!(lost, Vec::<&str>::new());
    assert!(noted > TIMES / 2, "answers waited on the core:\n{log}");
    Ok(())
}
