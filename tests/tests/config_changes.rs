//! Reloads that rename, replace and reshape everything around connections that go on.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use weir_tests::{Downloads, Family, Get, Lab, Web, WeirProc, any_port};

/// More than the slow client reads in 45 s.
const BYTES: u64 = 768 << 10;
const DOWNLOADS: usize = 60;

const HEAD: &str = r#"
interfaces = ["eth0", "eth1"]
[limits]
flows_v4 = 16_384
flows_v6 = 1024
maglev_slots = 65_536
[defaults.timeouts]
tcp_embryonic = "2s"
tcp_closing = "1s"
"#;

fn pool(name: &str, backends: &[(&str, u8)]) -> String {
    let mut text = format!(
        "[[pool]]\nname = \"{name}\"\n[[pool.health]]\ntype = \"tcp\"\nport = 80\ninterval = \"50ms\"\ntimeout = \"2s\"\n"
    );
    for (backend, number) in backends {
        let _ =
            write!(text, "[[pool.backend]]\nname = \"{backend}\"\naddress = \"10.0.1.{}\"\n", 10 + number);
    }
    text
}

fn service(name: &str, port: &str, mode: &str, pool: &str) -> String {
    format!(
        "[[service]]\nname = \"{name}\"\nvip = \"198.51.100.10\"\nport = {port}\nprotocol = \"tcp\"\n\
         mode = \"{mode}\"\npool = \"{pool}\"\n"
    )
}

struct Scene {
    lab: Lab,
    weir: WeirProc,
    vip: SocketAddr,
    downloads: Downloads,
}

impl Scene {
    /// Four backends, and downloads in progress under a config.
    fn begin(config: &str) -> Result<Self> {
        let web = Web { big_bytes: BYTES, big_rate: 0, ..Web::default() };
        let lab = Lab::builder().direct(4).web(web).start()?;
        let weir = lab.weir(&format!("{HEAD}{config}"))?;
        let vip = SocketAddr::new(lab.vip().of(Family::V4), 80);
        let source = any_port(lab.client().addresses()[0], vip);
        let get = Get::new(vip).path("/big").from(source).timeout(Duration::from_secs(10));
        let downloads = Downloads::start_slow(lab.client(), vec![get; DOWNLOADS]);
        downloads.wait_started(Duration::from_secs(10))?;
        Ok(Self { lab, weir, vip, downloads })
    }

    fn reload(&self, config: &str) -> Result<()> {
        let output = self.weir.reload(&format!("{HEAD}{config}"))?;
        ensure!(output.status.success(), "reload: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Who answers new connections, once the backends of the pools are known to be up.
    fn answers(&self) -> Result<BTreeSet<String>> {
        let deadline = Instant::now() + Duration::from_secs(5);
        while !self.weir.cli(&["ready"])?.status.success() {
            ensure!(
                Instant::now() < deadline,
                "not ready: {:?}\n{}",
                self.weir.cli(&["ready"])?,
                self.weir.log()
            );
        }
        let mut seen = BTreeSet::new();
        for _ in 0..40 {
            seen.insert(self.lab.client().get(&Get::new(self.vip))?.backend);
        }
        Ok(seen)
    }

    /// All downloads are under way, and then arrive whole.
    fn end(self) -> Result<(Lab, WeirProc)> {
        let states = self.downloads.states();
        assert!(states.iter().all(|download| download.in_progress()), "{states:?}");
        self.downloads.hurry();
        let ended = self.downloads.finish(Duration::from_secs(30))?;
        let whole = ended.iter().filter(|d| matches!(d.end, Some(Ok(()))) && d.received == BYTES).count();
        assert_eq!(whole, DOWNLOADS, "{:?}", ended.iter().filter(|d| d.broken()).collect::<Vec<_>>());
        Ok((self.lab, self.weir))
    }
}

fn names(numbers: &[u8]) -> BTreeSet<String> {
    numbers.iter().map(|number| format!("direct-{number}")).collect()
}

/// The backends that `weir backends` lists, as `pool/name`.
fn listed(weir: &WeirProc) -> Result<BTreeSet<String>> {
    let document = weir.json(&["backends"])?;
    let all = document["backends"].as_array().map(Vec::as_slice).unwrap_or_default();
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    Ok(all.iter().map(|one| format!("{}/{}", text(&one["pool"]), text(&one["name"]))).collect())
}

#[test]
fn exact_port_beside_an_any_port_service_takes_new_connections_and_no_known_ones() -> Result<()> {
    let wide = pool("old", &[("a", 1), ("b", 2)]) + &service("all", "\"any\"", "dsr-l2", "old");
    let scene = Scene::begin(&wide)?;
    let exact = pool("new", &[("c", 3), ("d", 4)]) + &service("web", "80", "dsr-l2", "new");
    scene.reload(&format!("{wide}{exact}"))?;
    assert_eq!(scene.answers()?, names(&[3, 4]));
    scene.reload(&wide)?;
    assert_eq!(scene.answers()?, names(&[1, 2]), "and back");
    scene.end()?;
    Ok(())
}

#[test]
fn renaming_service_pool_and_backends_and_changing_the_mode_breaks_nothing() -> Result<()> {
    let before = pool("old", &[("a", 1), ("b", 2)]) + &service("all", "80", "dsr-l2", "old");
    let scene = Scene::begin(&before)?;
    scene.reload(&(pool("new", &[("x", 1), ("y", 2)]) + &service("renamed", "80", "ipip", "new")))?;
    let decapsulated = scene.lab.backend("direct-1").decapsulated()?;
    assert_eq!(scene.answers()?, names(&[1, 2]));
    assert!(scene.lab.backend("direct-1").decapsulated()? > decapsulated, "the new mode is in force");
    let (_lab, weir) = scene.end()?;
    println!("{:?}", listed(&weir)?);
    Ok(())
}

#[test]
fn removed_backend_drains_by_itself_and_a_returning_one_serves_again() -> Result<()> {
    let web = service("web", "80", "dsr-l2", "web");
    let all = pool("web", &[("a", 1), ("b", 2), ("c", 3)]) + &web;
    let scene = Scene::begin(&all)?;
    let fewer = pool("web", &[("b", 2)]) + &web;
    scene.reload(&fewer)?;
    assert_eq!(scene.answers()?, names(&[2]));
    assert!(listed(&scene.weir)?.contains("web/a"), "its flows have not ended");
    scene.reload(&(pool("web", &[("a", 1), ("b", 2)]) + &web))?;
    assert_eq!(scene.answers()?, names(&[1, 2]), "a is back, c is not");
    scene.reload(&fewer)?;
    assert_eq!(scene.answers()?, names(&[2]));
    let (lab, weir) = scene.end()?;
    // a is in the table that the last reload replaced, which is honoured for ten minutes; c is in none.
    let begin = Instant::now();
    loop {
        let (names, flows) = (listed(&weir)?, weir.json(&["flows", "--backend", "web/a", "--count"])?);
        if !names.contains("web/c") && flows["total"] == 0 {
            break;
        }
        ensure!(begin.elapsed() < Duration::from_secs(40), "{names:?} are still listed, {flows}");
        std::thread::sleep(Duration::from_millis(100));
    }
    println!("removed backends were empty {:?} after their downloads", begin.elapsed());
    assert!(lab.client().get(&Get::new((lab.vip().v4, 80).into())).is_ok());
    Ok(())
}
