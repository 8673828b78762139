//! Builds the XDP program and hands it to `include_bytes_aligned!` through `OUT_DIR`.
use aya_build::{Package, Toolchain};

/// The compiler that `cargo xtask setup` found or installed for `bpfel-unknown-none`; without it
/// the nightly toolchain is tried, which needs `rust-src`.
const TOOLCHAIN_VARIABLE: &str = "WEIR_BPF_TOOLCHAIN";

fn main() -> anyhow::Result<()> {
    println!("cargo:rerun-if-env-changed={TOOLCHAIN_VARIABLE}");
    println!("cargo:rerun-if-changed=../lb-common/src");
    let name = std::env::var(TOOLCHAIN_VARIABLE);
    let toolchain = match &name {
        Ok(name) => Toolchain::Custom(name),
        Err(_) => Toolchain::Nightly,
    };
    let features: &[&str] =
        if std::env::var_os("CARGO_FEATURE_PACKET_LOG").is_some() { &["log"] } else { &[] };
    let root_dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-ebpf");
    aya_build::build_ebpf(
        [Package { name: "lb-ebpf", root_dir, no_default_features: false, features }],
        toolchain,
    )
}
