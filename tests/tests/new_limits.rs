//! New map sizes and new builds of the program: taken at a restart, under load, without a lost packet.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use lb_common::layout::{CARRIED_SINCE, LAYOUT_VERSION};
use lb_userspace::maps::{load, mapping::Access, pins::Pins};
use weir_tests::{Downloads, Family, Get, Lab, Limits, Load, Rate, WeirProc, config, eventually};

#[test]
fn a_reload_that_changes_limits_is_refused_and_changes_nothing() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let weir = lab.weir(&config(2, Limits::default()))?;
    let before = weir.tables()?;
    // The backend that is gone too must stay.
    let larger = config(1, Limits { flows_v4: 8192, ..Limits::default() });
    let output = weir.reload(&larger)?;
    ensure!(output.status.code() == Some(5), "{output:?}");
    let told = String::from_utf8_lossy(&output.stderr);
    ensure!(told.contains("[limits]") && told.contains("Restart"), "{told}");
    ensure!(weir.tables()? == before, "a refused reload wrote maps");
    Ok(())
}

#[test]
fn a_restart_with_larger_limits_keeps_flows_and_counters_and_loses_no_packet() -> Result<()> {
    restart(Limits { flows_v4: 16_384, backends: 256 })
}

#[test]
fn a_restart_with_smaller_limits_keeps_flows_and_counters_and_loses_no_packet() -> Result<()> {
    restart(Limits { flows_v4: 2048, backends: 8 })
}

fn restart(limits: Limits) -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    let mut weir = lab.weir(&config(3, Limits::default()))?;
    let run = Run::start(&lab, &weir)?;
    weir.succeed(&["backend", "weight", "web/direct-1", "--to", "30"])?;
    let (pins, map_ids) = (weir.pins()?, weir.map_ids()?);
    let packets = weir.packets()?;
    weir.terminate()?;
    weir.write_config(&config(3, limits))?;
    weir.launch()?;
    ensure!(weir.packets()? >= packets, "counters were copied");
    let capacity = weir.json(&["status"])?["flows"]["capacity_v4"].clone();
    ensure!(capacity == limits.flows_v4, "{capacity}");
    ensure!(weir.pins()? == pins, "{:?}", weir.pins()?);
    let renewed = weir.map_ids()?;
    ensure!(renewed.iter().all(|(name, id)| map_ids[name] != *id), "{renewed:?} was {map_ids:?}");
    ensure!(weir.backend("direct-1")?["weight"] == 30);
    run.replaced_and_unharmed(&weir)
}

#[test]
fn new_maps_end_a_capture_whose_program_has_the_old_ones() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let mut weir = lab.weir(&config(2, Limits::default()))?;
    let before = weir.attachment("eth0")?;
    let mut capture = lab.weir_host().spawn(weir.command(&["capture", "-w", "/dev/null"]))?;
    eventually("the sampling program runs", || {
        weir.attachment("eth0").is_ok_and(|now| now.program != before.program)
    });
    weir.terminate()?;
    weir.write_config(&config(2, Limits { flows_v4: 16_384, ..Limits::default() }))?;
    weir.launch()?;
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    let answered_by_second_alone = || -> Result<bool> {
        let mut all = (0..30).map(|_| Ok(lab.client().get(&Get::new(vip))?.backend == "direct-2"));
        all.try_fold(true, |alone, one: Result<bool>| Ok(one? && alone))
    };
    weir.succeed(&["backend", "drain", "direct-1"])?;
    ensure!(answered_by_second_alone()?, "what the daemon writes reaches packets");
    let attached = weir.attachment("eth0")?;
    capture.signal(rustix::process::Signal::INT)?;
    capture.wait(Duration::from_secs(10))?;
    ensure!(weir.attachment("eth0")?.program == attached.program, "and the capture's end changes nothing");
    ensure!(answered_by_second_alone()?);
    Ok(())
}

#[test]
fn another_build_of_the_program_replaces_it_over_the_same_maps() -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    let mut weir = lab.weir(&config(3, Limits::default()))?;
    let run = Run::start(&lab, &weir)?;
    let (pins, map_ids) = (weir.pins()?, weir.map_ids()?);
    weir.terminate()?;
    pretend_another_build(weir.bpffs())?;
    let packets = weir.packets()?;
    weir.launch()?;
    ensure!(weir.packets()? >= packets);
    ensure!(weir.pins()? == pins && weir.map_ids()? == map_ids, "the maps are kept");
    let (_, maps) = load::open(&Pins::new(weir.bpffs()), Access::ReadOnly)?;
    ensure!(maps.meta[0].object == load::object_digest(), "the maps name the program that runs");
    run.replaced_and_unharmed(&weir)
}

#[test]
fn maps_of_an_older_layout_are_made_anew_and_flows_are_taken_over_without_a_lost_packet() -> Result<()> {
    let lab = Lab::builder().direct(3).start()?;
    let mut weir = lab.weir(&config(3, Limits::default()))?;
    let run = Run::start(&lab, &weir)?;
    weir.succeed(&["backend", "weight", "web/direct-1", "--to", "30"])?;
    let (pins, map_ids) = (weir.pins()?, weir.map_ids()?);
    let of_service = |weir: &WeirProc| -> Result<u64> {
        weir.json(&["services"])?["services"][0]["packets"].as_u64().context("packets")
    };
    let packets = of_service(&weir)?;
    weir.terminate()?;
    let (_, maps) = load::open(&Pins::new(weir.bpffs()), Access::ReadWrite)?;
    maps.meta.update(0, |meta| meta.layout_version = CARRIED_SINCE);
    // Maps that came later.
    for name in ["backend_handshakes", "fragments", "trace"] {
        fs::remove_file(weir.bpffs().join("maps").join(name))?;
    }
    weir.launch()?;
    ensure!(of_service(&weir)? >= packets, "counters of services were copied");
    ensure!(weir.pins()? == pins, "{:?}", weir.pins()?);
    let renewed = weir.map_ids()?;
    ensure!(renewed.iter().all(|(name, id)| map_ids[name] != *id), "{renewed:?} was {map_ids:?}");
    ensure!(weir.backend("direct-1")?["weight"] == 30);
    run.replaced_and_unharmed(&weir)
}

#[test]
fn maps_of_an_unknown_layout_are_refused_and_go_on_forwarding() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let mut weir = lab.weir(&config(2, Limits::default()))?;
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    let load = Load::start(lab.client(), Get::new(vip), Rate::per_second(100));
    weir.terminate()?;
    let (_, maps) = load::open(&Pins::new(weir.bpffs()), Access::ReadWrite)?;
    for version in [CARRIED_SINCE - 1, LAYOUT_VERSION + 1] {
        maps.meta.update(0, |meta| meta.layout_version = version);
        let before = (weir.pins()?, weir.map_ids()?, weir.attachment("eth0")?);
        let error = weir.launch().err().context("weir must not start")?.to_string();
        ensure!(error.contains(&format!("layout version {version}")), "{error}");
        ensure!(error.contains("`weir detach`"), "{error}");
        ensure!((weir.pins()?, weir.map_ids()?, weir.attachment("eth0")?) == before, "something was changed");
        weir.forget_ended()?;
    }
    maps.meta.update(0, |meta| meta.layout_version = LAYOUT_VERSION);
    weir.launch()?;
    ensure!(load.stop().iter().all(|shot| !shot.failed()));
    Ok(())
}

#[test]
fn a_start_that_fails_leaves_the_program_of_before_on_every_interface() -> Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    let mut weir = lab.weir(&config(2, Limits::default()))?;
    let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
    let load = Load::start(lab.client(), Get::new(vip), Rate::per_second(100));
    type Prepare = fn(&Path) -> Result<()>;
    let cases: [(&str, Limits, Prepare); 3] = [
        ("the same program", Limits::default(), |_| Ok(())),
        ("other limits", Limits { flows_v4: 8192, ..Limits::default() }, |_| Ok(())),
        ("another build", Limits::default(), pretend_another_build),
    ];
    for (case, limits, prepare) in cases {
        weir.terminate()?;
        prepare(weir.bpffs())?;
        let before = (weir.pins()?, weir.tables()?, weir.attachment("eth0")?, weir.attachment("eth1")?);
        // The loopback device has no native mode.
        let text = config(2, limits).replace("[\"eth0\", \"eth1\"]", "[\"eth0\", \"eth1\", \"lo\"]");
        weir.write_config(&text)?;
        let error = weir.launch().err().with_context(|| format!("{case}: weir must not start"))?;
        ensure!(error.to_string().contains("no native XDP"), "{case}: {error}");
        let after = (weir.pins()?, weir.tables()?, weir.attachment("eth0")?, weir.attachment("eth1")?);
        ensure!(after == before, "{case}: {:?} was {:?}", (&after.0, after.2), (&before.0, before.2));
        weir.forget_ended()?;
        weir.write_config(&config(2, Limits::default()))?;
        weir.launch()?;
    }
    ensure!(load.stop().iter().all(|shot| !shot.failed()));
    Ok(())
}

/// Marks the pinned maps as those of a program that this build does not contain.
fn pretend_another_build(bpffs: &Path) -> Result<()> {
    let (_, maps) = load::open(&Pins::new(bpffs), Access::ReadWrite)?;
    maps.meta.update(0, |meta| meta.object ^= 1);
    Ok(())
}

/// Load and downloads around a restart.
struct Run {
    load: Load,
    downloads: Downloads,
    attached: Vec<weir_tests::PinnedLink>,
    flows: std::collections::BTreeMap<SocketAddr, String>,
}

impl Run {
    fn start(lab: &Lab, weir: &WeirProc) -> Result<Self> {
        let vip: SocketAddr = (lab.vip().of(Family::V4), 80).into();
        let get = Get::new(vip).timeout(Duration::from_secs(5));
        let downloads = Downloads::start(lab.client(), vec![get.clone().path("/big"); 30]);
        downloads.wait_started(Duration::from_secs(5))?;
        let flows = weir.flow_backends(&[])?;
        ensure!(flows.len() >= 30, "{flows:?}");
        let load = Load::start(lab.client(), get, Rate { per_second: 200, threads: 32 });
        eventually("the load runs", || load.count() > 50);
        Ok(Self { load, downloads, attached: both(weir)?, flows })
    }

    /// Another program on the same links; flows where they were; nothing failed.
    fn replaced_and_unharmed(self, weir: &WeirProc) -> Result<()> {
        for (before, after) in self.attached.iter().zip(both(weir)?) {
            ensure!(after.link == before.link, "{after:?} was {before:?}");
            ensure!(after.program != before.program, "the program was not replaced: {after:?}");
        }
        let flows = weir.flow_backends(&[])?;
        for (client, backend) in &self.flows {
            ensure!(flows.get(client) == Some(backend), "{client}: {:?} was {backend}", flows.get(client));
        }
        let ended = self.downloads.finish(Duration::from_secs(30))?;
        ensure!(ended.iter().all(|download| !download.broken()), "{ended:?}");
        let shots = self.load.stop();
        let failed: Vec<_> = shots.iter().filter(|shot| shot.failed()).collect();
        ensure!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), shots.len(), failed.first());
        // A lost SYN is sent again after a second.
        let slow = shots.iter().filter(|shot| shot.took > Duration::from_millis(900)).count();
        ensure!(slow == 0, "{slow} of {} requests needed a retransmission", shots.len());
        Ok(())
    }
}

fn both(weir: &WeirProc) -> Result<Vec<weir_tests::PinnedLink>> {
    Ok(vec![weir.attachment("eth0")?, weir.attachment("eth1")?])
}
