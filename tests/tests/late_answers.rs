//! Answers that come late: by the fault of the backend, or of a core of weir's own host that was away for a while with the
//! answers that it was about to hand on.

use std::{
    fs,
    io::Read as _,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aya::{
    Ebpf,
    programs::{SchedClassifier, TcAttachType, tc},
};
use rustix::thread::{CpuSet, Pid, sched_setaffinity};
use socket2::{Domain, Protocol, Socket, Type};
use weir_tests::{Backend, Family, Lab, WeirProc, eventually, frame};

/// One service over two backends, with this check.
fn config(check: &str) -> String {
    let head = r#"
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
"#;
    let backends = (1..=2).map(|number| {
        format!("[[service.backend]]\nname = \"direct-{number}\"\naddress = \"10.0.1.1{number}\"\n")
    });
    format!("{head}[[service.health]]\n{check}\n{}", backends.collect::<String>())
}

/// A verdict of silence takes 3 ms.
const PING: &str = "type = \"ping\"\ninterval = \"1ms\"\ntimeout = \"3ms\"\nfall = 3\nrise = 3";

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

fn only(core: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(core);
    set
}

/// Has weir's probe thread run on one core alone.
fn pin_probe_thread(weir: &WeirProc, core: usize) -> Result<()> {
    let process = weir.pid().context("weir runs")?.as_raw_nonzero();
    for entry in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = entry?;
        if fs::read_to_string(task.path().join("comm"))?.trim() == "weir-probe" {
            let thread = task.file_name().to_string_lossy().parse().context("a thread's id")?;
            return Ok(sched_setaffinity(Pid::from_raw(thread), &only(core))?);
        }
    }
    anyhow::bail!("weir has no probe thread")
}

#[test]
fn backends_stay_up_while_a_core_with_their_answers_is_away() -> Result<()> {
    ensure!(thread::available_parallelism()?.get() > 1, "one core is away, another asks");
    let lab = Lab::builder().direct(2).start()?;
    let weir = lab.weir(&config(PING))?;
    let _object = attach_hold(&lab)?;
    eventually("both backends are up", || weir.log().matches("to=\"up\"").count() >= 2);
    pin_probe_thread(&weir, 1)?;
    let before = weir.log().len();

    let target = (lab.weir_host().addresses()[1].of(Family::V4), HOLD_PORT);
    let sender = lab.backends()[0].run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    thread::spawn(move || -> Result<()> {
        sched_setaffinity(None, &only(0))?;
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

/// Has a backend's echo replies come after a delay, which is in milliseconds.
fn answer_echo_late(backend: &Backend) -> Result<Arc<AtomicU64>> {
    backend.sysctl("ipv4/icmp_echo_ignore_all", "1")?;
    let delay = Arc::new(AtomicU64::new(0));
    let mut socket = backend.run(|| Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::ICMPV4)))?;
    let of_thread = delay.clone();
    thread::spawn(move || -> Result<()> {
        let mut packet = [0; 256];
        loop {
            let length = socket.read(&mut packet)?;
            let header = usize::from(packet[0] & 0x0f) * 4;
            let mut message = packet.get(header..length).unwrap_or_default().to_vec();
            if message.len() < 8 || message[0] != 8 {
                continue;
            }
            let from = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
            let (socket, delay) =
                (socket.try_clone()?, Duration::from_millis(of_thread.load(Ordering::Relaxed)));
            thread::spawn(move || {
                thread::sleep(delay);
                message[..4].fill(0);
                let sum = frame::checksum(&message).to_be_bytes();
                message[2..4].copy_from_slice(&sum);
                // Whoever asked may have gone.
                let _ = socket.send_to(&message, &SocketAddr::from((from, 0)).into());
            });
        }
    });
    Ok(delay)
}

#[test]
fn a_backend_that_answers_after_the_timeout_is_down_however_regularly_it_answers() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let delay = answer_echo_late(&lab.backends()[0])?;
    let check = "type = \"ping\"\ninterval = \"5ms\"\ntimeout = \"20ms\"\nfall = 3\nrise = 3";
    let weir = lab.weir(&config(check))?;
    let turns = |to: &str| {
        let (log, to) = (weir.log(), format!("to=\"{to}\""));
        log.lines().filter(|line| line.contains("/direct-1 ") && line.contains(&to)).count()
    };
    eventually("it is up", || turns("up") == 1);
    delay.store(50, Ordering::Relaxed);
    let stays_down_for_a_second = || {
        eventually("it is down", || turns("down") == turns("up"));
        let (before, log) = ((turns("up"), turns("down")), weir.log().len());
        thread::sleep(Duration::from_secs(1));
        let steady = (turns("up"), turns("down")) == before;
        // Where a core was away as long as the answers are late, they may have been in time.
        let excused = weir.log()[log..].contains("a core handled no packets");
        assert!(steady || excused, "{}", weir.log());
        steady
    };
    eventually("it stays down for a second in which every core runs", stays_down_for_a_second);
    let ups = turns("up");
    delay.store(0, Ordering::Relaxed);
    eventually("it is up again", || turns("up") == ups + 1);
    Ok(())
}
