//! A daemon that is stopped and continued (SIGSTOP, SIGCONT) blames nobody for the time in between.

use std::{thread, time::Duration};

use anyhow::Result;
use rustix::process::Signal;
use weir_tests::{Lab, eventually};

const HEAD: &str = r#"
interfaces = ["eth0", "eth1"]

[limits]
flows_v4 = 65_536
flows_v6 = 1024
maglev_slots = 65_536
"#;

/// Every kind of check that one server on port 80 can answer, each as impatient as it may be.
const CHECKS: [(&str, &str); 5] = [
    ("ping", "type = \"ping\"\ninterval = \"1ms\"\ntimeout = \"3ms\"\nfall = 3"),
    ("syn", "type = \"syn\"\ninterval = \"5ms\"\ntimeout = \"10ms\"\nfall = 2"),
    ("tcp", "type = \"tcp\"\ninterval = \"5ms\"\ntimeout = \"10ms\"\nfall = 2"),
    ("http", "type = \"http\"\ninterval = \"50ms\"\ntimeout = \"1s\"\nfall = 1\nexpect_status = \"200-499\""),
    (
        "exec",
        "type = \"exec\"\ncommand = [\"/bin/sleep\", \"0.2\"]\ninterval = \"1s\"\ntimeout = \"1s\"\nfall = 1",
    ),
];

fn service(vip: u8, name: &str, check: &str) -> String {
    let backends = (1..=3).map(|number| {
        format!("[[pool.backend]]\nname = \"direct-{number}\"\naddress = \"10.0.1.{}\"\n", 10 + number)
    });
    let backends: String = backends.collect();
    format!(
        "[[service]]\nname = \"{name}\"\nvip = \"198.51.100.{vip}\"\nport = 80\nprotocol = \"tcp\"\nmode = \"dsr-l2\"\n\
         pool = \"{name}\"\n[[pool]]\nname = \"{name}\"\nhold_down = \"0s\"\n[[pool.health]]\n{check}\nrise = 2\n{backends}"
    )
}

#[test]
fn stopped_and_continued_daemon_takes_nobody_down_and_suspects_nobody_for_long() -> Result<()> {
    let services = CHECKS.iter().zip(10..).map(|((name, check), vip)| service(vip, name, check));
    let config = services.fold(HEAD.to_owned(), |text, service| text + &service);
    let lab = Lab::builder().direct(3).vips(CHECKS.len() as u8).start()?;
    let weir = lab.weir(&config)?;
    let all_up = || {
        let backends = weir.json(&["backends"]).unwrap_or_default();
        let all = backends["backends"].as_array().cloned().unwrap_or_default();
        all.len() == 3 * CHECKS.len() && all.iter().all(|one| one["health"] == "up")
    };
    eventually("every backend is up", all_up);
    let before = weir.log().len();
    for _ in 0..3 {
        weir.signal(Signal::STOP)?;
        thread::sleep(Duration::from_secs(2));
        weir.signal(Signal::CONT)?;
        thread::sleep(Duration::from_secs(2));
    }
    let log = weir.log().split_off(before);
    let lines = |to: &str| -> Vec<&str> {
        log.lines().filter(|line| line.contains(&format!("to=\"{to}\""))).collect()
    };
    println!(
        "3 × 2 s stopped, {} checks on 3 backends: {} suspicions, {} downs",
        CHECKS.len(),
        lines("suspect").len(),
        lines("down").len()
    );
    assert_eq!(lines("down"), Vec::<&str>::new());
    eventually("every backend is up again", all_up);
    Ok(())
}
