//! What failures do to flows: new ones go elsewhere, known ones stay or go as the kind of failure and the config say.

use std::{
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use weir_tests::{
    Backend, Download, Downloads, Get, Lab, Load, Rate, Shot, SynLoad, WeirProc, answer_without_memory,
    eventually, monotonic,
};

const HEAD: &str = r#"
interfaces = ["eth0", "eth1"]

[limits]
flows_v4 = 65_536
flows_v6 = 1024
maglev_slots = 65_536
"#;

/// One service and its pool of direct backends.
struct Service {
    name: &'static str,
    /// Host number of the VIP.
    vip: u8,
    backends: u8,
    /// Lines of the service.
    keys: &'static str,
    /// Lines of the pool.
    pool: &'static str,
    /// The check.
    health: &'static str,
}

impl Service {
    fn text(&self) -> String {
        let Self { name, vip, keys, pool, health, .. } = self;
        let backend = |number: u8| {
            format!("[[pool.backend]]\nname = \"direct-{number}\"\naddress = \"10.0.1.{}\"\n", number + 10)
        };
        let backends: String = (1..=self.backends).map(backend).collect();
        format!(
            r#"
[[service]]
name = "{name}"
vip = "198.51.100.{vip}"
port = 80
protocol = "tcp"
mode = "dsr-l2"
pool = "{name}"
{keys}

[[pool]]
name = "{name}"
hold_down = "0s"
{pool}
[[pool.health]]
{health}
{backends}
"#
        )
    }
}

fn config(services: &[Service]) -> String {
    services.iter().fold(HEAD.to_owned(), |text, service| text + &service.text())
}

fn target(vip: u8) -> SocketAddr {
    SocketAddr::from(([198, 51, 100, vip], 80))
}

/// Quick, and refused at once by a killed server.
const TCP: &str = "type = \"tcp\"\nport = 80\ninterval = \"10ms\"\ntimeout = \"50ms\"";
/// Silent when a backend ignores pings, while its server serves on.
const PING: &str = "type = \"ping\"\ninterval = \"10ms\"\ntimeout = \"100ms\"";
/// Soft when it fails.
const HTTP: &str =
    "type = \"http\"\nport = 80\npath = \"/healthz\"\ninterval = \"50ms\"\ntimeout = \"1s\"\nfall = 2";

/// Whether a backend's kernel answers pings.
fn set_pings(backend: &Backend, ignored: &str) -> Result<()> {
    backend.sysctl("ipv4/icmp_echo_ignore_all", ignored)
}

/// A backend's health in a pool, as weir tells it.
fn health(weir: &WeirProc, pool: &str, backend: &str) -> Result<String> {
    let list = weir.json(&["backends"])?;
    let found = list["backends"].as_array().into_iter().flatten();
    let found = found.into_iter().find(|one| one["pool"] == pool && one["name"] == backend);
    Ok(found.and_then(|one| one["health"].as_str()).unwrap_or_default().to_owned())
}

fn wait_for_health(weir: &WeirProc, pool: &str, backend: &str, wanted: &str) {
    eventually(&format!("{pool}/{backend} is {wanted}"), || {
        health(weir, pool, backend).is_ok_and(|health| health == wanted)
    });
}

/// A download of `/big` that a backend serves, among others that it is started with.
struct Kept {
    downloads: Downloads,
    index: usize,
}

impl Kept {
    fn start(lab: &Lab, vip: u8, backend: &str) -> Result<Self> {
        let request = Get::new(target(vip)).path("/big").timeout(Duration::from_secs(2));
        let downloads = Downloads::start(lab.client(), vec![request; 12]);
        downloads.wait_started(Duration::from_secs(5))?;
        let states = downloads.states();
        match states.iter().position(|download| download.backend.as_deref() == Some(backend)) {
            Some(index) => Ok(Self { downloads, index }),
            None => bail!("none of {} downloads went to {backend}", states.len()),
        }
    }

    fn state(&self) -> Download {
        self.downloads.states().swap_remove(self.index)
    }

    /// Whether data still comes in.
    fn goes_on(&self) -> bool {
        go_on([self]).contains(&true)
    }
}

/// Of which of these data still comes in. They are watched at once, until it comes from all or for more than two of the
/// bursts (one a second) in which nginx sends at a limited rate.
fn go_on<'a>(kept: impl IntoIterator<Item = &'a Kept>) -> Vec<bool> {
    let before: Vec<_> = kept.into_iter().map(|kept| (kept, kept.state().received)).collect();
    let goes_on = |(kept, before): &(&Kept, _)| {
        let state = kept.state();
        state.end.is_none() && state.received > before + 32_000
    };
    let deadline = Instant::now() + Duration::from_millis(2500);
    loop {
        let going: Vec<bool> = before.iter().map(goes_on).collect();
        if Instant::now() > deadline || !going.contains(&false) {
            return going;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Which backends answer new connections to a VIP; an error where one fails.
fn answering(lab: &Lab, vip: u8) -> Result<Vec<String>> {
    let request = Get::new(target(vip)).timeout(Duration::from_millis(400));
    let answers = (0..24).map(|_| Ok(lab.client().get(&request)?.backend));
    let mut names = answers.collect::<Result<Vec<_>>>()?;
    names.sort();
    names.dedup();
    Ok(names)
}

fn share(shots: &[Shot], backend: &str) -> f64 {
    shots.iter().filter(|shot| shot.backend() == Some(backend)).count() as f64 / shots.len().max(1) as f64
}

#[test]
fn requests_go_to_the_others_until_a_failed_backend_is_back_with_its_share() -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    let service = Service { name: "web", vip: 10, backends: 3, keys: "", pool: "", health: TCP };
    let weir = lab.weir(&config(&[service]))?;
    let load = Load::start(lab.client(), Get::new(target(10)), Rate { per_second: 300, threads: 32 });
    thread::sleep(Duration::from_millis(500));
    let (killed, frozen) = (lab.backend("direct-1"), lab.backend("direct-2"));
    let mut windows = Vec::new();

    let failed_at = killed.kill();
    thread::sleep(Duration::from_secs(1));
    windows.push(("direct-1", failed_at, monotonic()));
    killed.start()?;
    wait_for_health(&weir, "web", "direct-1", "up");

    let failed_at = frozen.freeze()?;
    thread::sleep(Duration::from_secs(1));
    windows.push(("direct-2", failed_at, monotonic()));
    frozen.thaw()?;
    wait_for_health(&weir, "web", "direct-2", "up");

    let back_at = monotonic();
    thread::sleep(Duration::from_secs(2));
    let shots = load.stop();
    let sent_in = |from: Duration, to: Duration| -> Vec<Shot> {
        shots.iter().filter(|shot| shot.sent >= from && shot.sent < to).cloned().collect()
    };
    // Three checks' timeouts after each failure.
    let noticed = Duration::from_millis(150);
    for (name, failed_at, mended_at) in windows {
        let during = sent_in(failed_at + noticed, mended_at);
        let failed: Vec<_> = during.iter().filter(|shot| shot.failed()).collect();
        println!("{name}: {} requests while it was out, {} failed", during.len(), failed.len());
        assert!(during.len() > 100, "the load went on: {}", during.len());
        assert!(failed.is_empty(), "{failed:?}");
        assert!(share(&during, name) == 0.0, "{name} answered while it was out");
    }
    let after = sent_in(back_at, monotonic());
    for name in ["direct-1", "direct-2", "direct-3"] {
        let share = share(&after, name);
        println!("{name}: {:.0} % of {} requests after the recovery", share * 100.0, after.len());
        assert!((0.2..0.5).contains(&share), "{name}: {share}");
    }
    Ok(())
}

#[test]
fn suspected_backend_keeps_its_flows_and_takes_no_new_ones() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    lab.backends().iter().try_for_each(|backend| answer_without_memory(backend))?;
    // Doubt comes at half of the timeout: time enough to look.
    let health = "type = \"ping\"\ninterval = \"100ms\"\ntimeout = \"4s\"\nfall = 3";
    let service = Service { name: "web", vip: 10, backends: 2, keys: "", pool: "", health };
    let weir = lab.weir(&config(&[service]))?;
    let backend = lab.backend("direct-1");
    let kept = Kept::start(&lab, 10, "direct-1")?;
    let _load = SynLoad::start(lab.client(), &[target(10)], 500)?;
    set_pings(backend, "1")?;
    wait_for_health(&weir, "web", "direct-1", "suspect");
    let before = backend.witness()?;
    assert!(kept.goes_on(), "{:?}", kept.state());
    let after = backend.witness()?;
    assert_eq!(after.syns, before.syns, "a suspected backend takes no new connections");
    assert!(after.packets > before.packets, "its known flow's packets still reach it");
    set_pings(backend, "0")?;
    wait_for_health(&weir, "web", "direct-1", "up");
    eventually("new connections come again", || {
        backend.witness().is_ok_and(|now| now.syns > after.syns + 20)
    });
    assert!(kept.goes_on(), "{:?}", kept.state());
    let log = weir.log();
    assert!(
        log.contains("from=\"up\" to=\"suspect\"") && log.contains("from=\"suspect\" to=\"up\""),
        "{log}"
    );
    assert!(!log.contains("to=\"down\""), "{log}");
    Ok(())
}

#[test]
fn known_flows_stay_or_go_by_the_kind_of_failure_and_on_down() -> Result<()> {
    let lab = Lab::builder().direct(2).vips(5).start()?;
    let service = |name, vip, keys, health| Service { name, vip, backends: 2, keys, pool: "", health };
    let services = [
        service("soft-auto", 10, "", HTTP),
        service("soft-reselect", 11, "on_down = \"reselect\"", HTTP),
        service("hard-auto", 12, "", PING),
        service("hard-keep", 13, "on_down = \"keep\"", PING),
        service("soft-keep", 14, "on_down = \"keep\"", HTTP),
    ];
    let weir = lab.weir(&config(&services))?;
    let backend = lab.backend("direct-1");
    let kept = services.iter().map(|service| Kept::start(&lab, service.vip, "direct-1"));
    let kept = kept.collect::<Result<Vec<_>>>()?;
    backend.sicken()?;
    set_pings(backend, "1")?;
    for service in &services {
        wait_for_health(&weir, service.name, "direct-1", "down");
    }
    let goes_on: Vec<_> = services.iter().map(|service| service.name).zip(go_on(&kept)).collect();
    println!("known flows that go on: {goes_on:?}");
    let wanted = [
        ("soft-auto", true),
        ("soft-reselect", false),
        ("hard-auto", false),
        ("hard-keep", true),
        ("soft-keep", true),
    ];
    assert_eq!(goes_on, wanted);
    for service in &services {
        assert_eq!(answering(&lab, service.vip)?, ["direct-2"], "{}", service.name);
    }
    let kinds = weir.json(&["backends", "--pool", "soft-auto"])?;
    assert_eq!(kinds["backends"][0]["failure_kind"], "soft", "{kinds}");
    let kinds = weir.json(&["backends", "--pool", "hard-auto"])?;
    assert_eq!(kinds["backends"][0]["failure_kind"], "hard", "{kinds}");

    backend.heal()?;
    set_pings(backend, "0")?;
    for service in &services {
        wait_for_health(&weir, service.name, "direct-1", "up");
        assert_eq!(answering(&lab, service.vip)?, ["direct-1", "direct-2"], "{}", service.name);
    }
    Ok(())
}

#[test]
fn last_resort_keeps_or_drops_when_every_backend_is_down() -> Result<()> {
    let lab = Lab::builder().direct(2).vips(2).start()?;
    let service = |name, vip, pool| Service { name, vip, backends: 2, keys: "", pool, health: PING };
    let services =
        [service("keeps", 10, "last_resort = \"keep\""), service("drops", 11, "last_resort = \"drop\"")];
    let weir = lab.weir(&config(&services))?;
    for service in &services {
        assert_eq!(answering(&lab, service.vip)?, ["direct-1", "direct-2"], "{}", service.name);
    }
    lab.backends().iter().try_for_each(|backend| set_pings(backend, "1"))?;
    for (service, backend) in
        services.iter().flat_map(|service| ["direct-1", "direct-2"].map(|name| (service, name)))
    {
        wait_for_health(&weir, service.name, backend, "down");
    }
    assert_eq!(answering(&lab, 10)?, ["direct-1", "direct-2"]);
    let refused = answering(&lab, 11);
    assert!(refused.is_err(), "{refused:?}");

    set_pings(lab.backend("direct-2"), "0")?;
    for service in &services {
        wait_for_health(&weir, service.name, "direct-2", "up");
        assert_eq!(answering(&lab, service.vip)?, ["direct-2"], "{}", service.name);
    }
    Ok(())
}

#[test]
fn backend_that_goes_down_during_reloads_stays_out() -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    lab.backends().iter().try_for_each(|backend| answer_without_memory(backend))?;
    let service = |keys| Service { name: "web", vip: 10, backends: 3, keys, pool: "", health: TCP };
    let variants = ["", "on_down = \"reselect\""].map(|keys| config(&[service(keys)]));
    let weir = lab.weir(&variants[0])?;
    let _load = SynLoad::start(lab.client(), &[target(10)], 1000)?;
    for trial in 0..40_u32 {
        let backend = lab.backend(["direct-1", "direct-2", "direct-3"][trial as usize % 3]);
        let before = backend.witness()?.syns;
        eventually("it takes new connections", || backend.witness().is_ok_and(|now| now.syns > before + 20));
        // One reload, so that no later one mends what it does; it and the detection meet in every order.
        let reload = &variants[(trial as usize + 1) % 2];
        let killed_at = thread::scope(|scope| {
            let reloader = scope.spawn(|| weir.reload(reload));
            thread::sleep(Duration::from_millis(u64::from(trial % 20)));
            let killed_at = backend.kill();
            let output = reloader.join().expect("the reload does not panic")?;
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            anyhow::Ok(killed_at)
        })?;
        thread::sleep(Duration::from_millis(150));
        let (at, settled) = (monotonic(), backend.witness()?);
        thread::sleep(Duration::from_millis(100));
        let later = backend.witness()?;
        assert_eq!(
            later.syns,
            settled.syns,
            "{} was killed in trial {trial}, and {:?} later still took new connections: {}",
            backend.name(),
            at.saturating_sub(killed_at),
            weir.succeed(&["backends"])?
        );
        backend.start()?;
    }
    Ok(())
}
