//! Builds the XDP program and hands it to `include_bytes_aligned!` through `OUT_DIR`.
use anyhow::Context as _;
use aya_build::{Package, Toolchain};

/// The folder of the linker wrapper, and of the file in which `cargo xtask setup` records the rustup
/// toolchain that compiles for `bpfel-unknown-none`; without it `nightly` is used.
const CARGO_DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.cargo");

fn main() -> anyhow::Result<()> {
    // The folder, not the file: cargo takes a missing file for a changed one, always.
    println!("cargo:rerun-if-changed={CARGO_DIR}");
    println!("cargo:rerun-if-changed=../lb-common/src");
    let record = std::fs::read_to_string(format!("{CARGO_DIR}/bpf-toolchain"));
    let toolchain = match &record {
        Ok(name) => Toolchain::Custom(name.trim()),
        Err(_) => Toolchain::Nightly,
    };
    let features: &[&str] =
        if std::env::var_os("CARGO_FEATURE_PACKET_LOG").is_some() { &["log"] } else { &[] };
    let root_dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-ebpf");
    let package = Package { name: "lb-ebpf", root_dir, no_default_features: false, features };
    aya_build::build_ebpf([package], toolchain)
        .context("build the packet program: `cargo xtask setup` installs its compiler and linker")
}
