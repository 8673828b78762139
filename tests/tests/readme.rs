//! What the README shows works as it stands there.

use std::{collections::BTreeSet, net::SocketAddr};

use anyhow::Context as _;
use weir_tests::{Get, Lab};

const README: &str = include_str!("../../README.md");

#[test]
fn the_first_config_serves_requests_as_given() -> anyhow::Result<()> {
    let (_, rest) = README.split_once("```toml\n").context("the README has a config")?;
    let (config, _) = rest.split_once("```").context("the config ends")?;
    let lab = Lab::builder().direct(2).start()?;
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
