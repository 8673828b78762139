//! Builds the XDP program and hands it to `include_bytes_aligned!` through `OUT_DIR`.
use std::{
    env, fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya_build::{Package, Toolchain};
use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

/// The folder of the linker wrapper, and of the file in which `cargo xtask setup` records the rustup
/// toolchain that compiles for `bpfel-unknown-none`; without it `nightly` is used.
const CARGO_DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../.cargo");

fn main() -> Result<()> {
    // The folder, not the file: cargo takes a missing file for a changed one, always.
    println!("cargo:rerun-if-changed={CARGO_DIR}");
    println!("cargo:rerun-if-changed=../lb-common/src");
    let record = fs::read_to_string(format!("{CARGO_DIR}/bpf-toolchain"));
    let toolchain = match &record {
        Ok(name) => Toolchain::Custom(name.trim()),
        Err(_) => Toolchain::Nightly,
    };
    let features: &[&str] = if env::var_os("CARGO_FEATURE_PACKET_LOG").is_some() { &["log"] } else { &[] };
    build_once(features)?;
    let root_dir = concat!(env!("CARGO_MANIFEST_DIR"), "/../lb-ebpf");
    let package = Package { name: "lb-ebpf", root_dir, no_default_features: false, features };
    aya_build::build_ebpf([package], toolchain)
        .context("build the packet program: `cargo xtask setup` installs its compiler and linker")?;
    let objects = ["weir-xdp", "weir-decap", "weir-lab", "weir-bench"];
    let out = out_dir()?;
    for name in objects {
        let path = out.join(name);
        if !path.exists() {
            // AYA_BUILD_SKIP is set: the object that was built last serves.
            let built = out.join("aya-build/target/lb-ebpf/bpfel-unknown-none/release").join(name);
            fs::copy(&built, &path)
                .with_context(|| format!("copy {}; build once without AYA_BUILD_SKIP", built.display()))?;
        }
        strip(&path).with_context(|| format!("strip {}", path.display()))?;
    }
    Ok(())
}

/// Takes DWARF away, three quarters of the object: it was there for the linker to make BTF of, which stays, with its
/// source lines.
fn strip(path: &Path) -> Result<()> {
    let bytes = fs::read(path)?;
    let mut object = Builder::read(&*bytes)?;
    for section in &mut object.sections {
        let name = section.name.as_slice();
        // The loader finds functions and lines by section and offset, not by relocation.
        section.delete =
            [&b".debug_"[..], b".rel.debug_", b".rel.BTF"].iter().any(|prefix| name.starts_with(prefix));
    }
    object.delete_orphan_symbols();
    // LLVM keeps the names of sections in the table of those of symbols, which this writer does not.
    if !object.sections.iter().any(|section| matches!(section.data, SectionData::SectionString)) {
        let names = object.sections.add();
        (names.name, names.sh_type, names.sh_addralign) = (b".shstrtab"[..].into(), SHT_STRTAB, 1);
        names.data = SectionData::SectionString;
    }
    let mut stripped = Vec::new();
    object.write(&mut stripped)?;
    Ok(fs::write(path, stripped)?)
}

fn out_dir() -> Result<PathBuf> {
    Ok(env::var_os("OUT_DIR").context("OUT_DIR not set")?.into())
}

/// Lets every build with the same features compile the program in one folder of the target directory. Clippy,
/// debug and release builds have an `OUT_DIR` each, and compiling it takes a minute and more.
fn build_once(features: &[&str]) -> Result<()> {
    let out = out_dir()?;
    // <target directory>/<profile>/build/<package>/out
    let target =
        out.ancestors().nth(4).with_context(|| format!("find the target directory of {}", out.display()))?;
    let shared = target.join("bpf-objects").join(if features.is_empty() { "plain" } else { "log" });
    fs::create_dir_all(&shared).with_context(|| format!("create {}", shared.display()))?;
    // Where aya-build compiles.
    let link = out.join("aya-build");
    match fs::read_link(&link) {
        Ok(to) if to == shared => return Ok(()),
        // Of a tree that was copied or moved.
        Ok(_) => fs::remove_file(&link)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        // A folder, from before there was a link.
        Err(_) => return Ok(()),
    }
    symlink(&shared, &link).with_context(|| format!("link {} to {}", link.display(), shared.display()))
}
