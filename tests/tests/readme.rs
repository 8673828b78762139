//! What the README shows works as it stands there.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::Context as _;
use weir_tests::{Get, Lab};

const README: &str = include_str!("../../README.md");

/// The config that stands there as this one, from 0 on.
fn config(number: usize) -> anyhow::Result<&'static str> {
    let rest = README.split("```toml\n").nth(number + 1).context("the README has a config")?;
    Ok(rest.split_once("```").context("the config ends")?.0)
}

#[test]
fn the_first_config_serves_requests_of_backends_that_have_no_vip() -> anyhow::Result<()> {
    let lab = Lab::builder().direct(2).start()?;
    for backend in lab.backends() {
        backend.ip("address del 198.51.100.10/32 dev lo")?;
    }
    serves(&lab, config(0)?)
}

#[test]
fn the_second_config_serves_requests_as_given() -> anyhow::Result<()> {
    serves(&Lab::builder().direct(2).start()?, config(1)?)
}

fn serves(lab: &Lab, config: &str) -> anyhow::Result<()> {
    let mut weir = lab.weir(config)?;
    let target: SocketAddr = "198.51.100.10:80".parse()?;
    let mut seen = BTreeSet::new();
    for _ in 0..40 {
        seen.insert(lab.client().get(&Get::new(target))?.backend);
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    for view in [&["check"][..], &["status"], &["backends"], &["services"], &["flows", "--limit", "3"]] {
        println!("$ weir {}\n{}", view.join(" "), weir.succeed(view)?);
    }
    println!("$ weir backend drain\n{}", weir.succeed(&["backend", "drain", "web-1"])?);
    println!("{}", weir.succeed(&["backends"])?);
    println!("$ weir backend ready\n{}", weir.succeed(&["backend", "ready", "web-1"])?);
    weir.terminate()?;
    assert!(!lab.client().get(&Get::new(target))?.backend.is_empty(), "traffic goes on without the daemon");
    println!("$ weir status, without the daemon\n{}", weir.succeed(&["status"])?);
    println!("$ weir detach\n{}", weir.succeed(&["detach"])?);
    Ok(())
}
