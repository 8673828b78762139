//! The compiler for `bpfel-unknown-none`, which needs that target's `core`: a nightly builds it from `rust-src`,
//! Debian ships it beside its own compiler.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{installer::Installer, linker};
use crate::process;

/// Where the compiler comes from.
#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
pub(crate) enum Preference {
    /// What an earlier run chose; else a nightly where one can be had, else Debian's.
    Auto,
    /// The rustup toolchain `nightly`, or the nightly weir is known to build with.
    Nightly,
    /// Debian's rustc-web, linked into rustup as `weir-bpf`.
    Debian,
}

/// The nightly to install where there is none: rustc 1.97 with LLVM 22, which the aya crates and Debian's LLVM
/// packages fit.
const KNOWN_NIGHTLY: &str = "nightly-2026-05-20";
const DEBIAN: &str = "weir-bpf";
const DEBIAN_PACKAGES: [&str; 4] = ["rustc-web", "cargo-web", "rust-web-clippy", "libstd-rust-web-dev-bpf"];
const DEBIAN_LLVM: u32 = 22;
const OLDEST_RUSTC: (u32, u32) = (1, 95);

/// A rustup toolchain that compiles for `bpfel-unknown-none`.
pub(crate) struct BpfToolchain {
    /// Its name for `rustup run`.
    pub(crate) name: String,
    /// The major version of its LLVM.
    pub(crate) llvm: u32,
}

impl BpfToolchain {
    /// The name that the last set-up chose, which the build script of `lb-userspace` reads as well.
    pub(crate) fn recorded() -> String {
        fs::read_to_string(record_path()).map_or("nightly".into(), |name| name.trim().to_owned())
    }

    /// Keeps the choice for later builds; an unchanged record stays untouched, as builds watch it.
    pub(crate) fn record(&self) -> Result<()> {
        let path = record_path();
        if fs::read_to_string(&path).is_ok_and(|name| name.trim() == self.name) {
            return Ok(());
        }
        fs::write(&path, format!("{}\n", self.name)).with_context(|| format!("write {}", path.display()))
    }

    /// The arguments that make cargo build `core` where the toolchain brings none for the target.
    pub(crate) fn core_args(name: &str) -> &'static [&'static str] {
        if name == DEBIAN { &[] } else { &["-Z", "build-std=core"] }
    }
}

fn record_path() -> PathBuf {
    process::root().join(".cargo/bpf-toolchain")
}

/// What a toolchain lacks.
#[derive(Debug)]
enum Unready {
    /// It is not installed.
    Absent,
    /// It is there without `core` for the target, or without clippy.
    Incomplete,
    /// It cannot be made to work; the text says why.
    Unfit(String),
}

/// Installs rustfmt and clippy beside the compiler that builds weir.
pub(super) fn ensure_host_components(installer: &mut Installer) -> Result<()> {
    if ["cargo-fmt", "cargo-clippy"].iter().all(|program| process::find(program).is_some())
        && process::output(process::cargo().args(["clippy", "--version"])).is_ok()
        && process::output(process::cargo().args(["fmt", "--version"])).is_ok()
    {
        installer.ok("rustfmt, clippy", "beside cargo");
        return Ok(());
    }
    if process::find("rustup").is_none() {
        return installer
            .install_packages("rustfmt, clippy", &["rustfmt-web", "rust-web-clippy"].map(str::to_owned));
    }
    let mut rustup = process::command("rustup");
    rustup.args(["component", "add", "rustfmt", "clippy"]);
    installer.install("rustfmt, clippy", "rustfmt clippy", vec![rustup])
}

/// Finds the compiler, or installs one.
pub(super) fn ensure(installer: &mut Installer, preference: Preference) -> Result<BpfToolchain> {
    let recorded = BpfToolchain::recorded();
    let candidates: &[&str] = match preference {
        Preference::Auto => &[&recorded, "nightly", KNOWN_NIGHTLY, DEBIAN],
        Preference::Nightly => &["nightly", KNOWN_NIGHTLY],
        Preference::Debian => &[DEBIAN],
    };
    for name in candidates {
        if let Ok(toolchain) = inspect(installer, name) {
            installer.ok("BPF compiler", &format!("rustup toolchain {name}, LLVM {}", toolchain.llvm));
            return Ok(toolchain);
        }
    }
    if preference != Preference::Debian {
        match install_nightly(installer) {
            Ok(toolchain) => return Ok(toolchain),
            Err(error) if preference == Preference::Nightly => return Err(error),
            Err(error) => println!("{error:#}\nno nightly can be had: taking Debian's compiler"),
        }
    }
    install_debian(installer)
}

fn install_nightly(installer: &mut Installer) -> Result<BpfToolchain> {
    let mut rustup = process::command("rustup");
    if installer.installs() {
        // Where nothing answers, Debian's compiler is the better use of the time.
        rustup.env("RUSTUP_MAX_RETRIES", "1");
    }
    let name = match inspect(installer, "nightly") {
        Err(Unready::Incomplete) => {
            rustup.args(["component", "add", "--toolchain", "nightly", "rust-src", "clippy"]);
            "nightly"
        }
        _ => {
            rustup.args(["toolchain", "install", KNOWN_NIGHTLY, "--profile", "minimal"]);
            rustup.args(["--component", "rust-src", "--component", "clippy"]);
            KNOWN_NIGHTLY
        }
    };
    installer.install("BPF compiler", &format!("{name} with rust-src"), vec![rustup])?;
    installed(installer, name)
}

fn install_debian(installer: &mut Installer) -> Result<BpfToolchain> {
    installer.install_packages("BPF compiler", &DEBIAN_PACKAGES.map(str::to_owned))?;
    if process::find("rustup").is_some() {
        let mut rustup = process::command("rustup");
        rustup.args(["toolchain", "link", DEBIAN, "/usr"]);
        installer.install("BPF compiler", &format!("rustup toolchain {DEBIAN}"), vec![rustup])?;
    }
    installed(installer, DEBIAN)
}

/// The toolchain that was just installed, or is about to be by the commands told.
fn installed(installer: &mut Installer, name: &str) -> Result<BpfToolchain> {
    if !installer.installs() {
        return Ok(BpfToolchain { name: name.to_owned(), llvm: DEBIAN_LLVM });
    }
    match inspect(installer, name) {
        Ok(toolchain) => Ok(toolchain),
        Err(Unready::Unfit(why)) => bail!("use rustup toolchain {name}: {why}"),
        Err(other) => bail!("use rustup toolchain {name}: still {other:?} after its installation"),
    }
}

/// Whether the toolchain `name` is there and fits.
fn inspect(installer: &mut Installer, name: &str) -> Result<BpfToolchain, Unready> {
    let Some(version) = rustc(name, &["-vV"]) else { return Err(Unready::Absent) };
    let (Some(release), Some(llvm)) =
        (version_field(&version, "release"), version_field(&version, "LLVM version"))
    else {
        return Err(Unready::Unfit(format!("rustc -vV told no release and LLVM version: {version}")));
    };
    if release < OLDEST_RUSTC {
        return Err(Unready::Unfit(format!("rustc is older than {}.{}", OLDEST_RUSTC.0, OLDEST_RUSTC.1)));
    }
    let llvm = llvm.0;
    if !linker::LLVM.contains(&llvm) {
        return Err(Unready::Unfit(format!("bpf-linker cannot be built for its LLVM {llvm}")));
    }
    let sysroot = rustc(name, &["--print", "sysroot"]).ok_or(Unready::Absent)?;
    let sysroot = Path::new(sysroot.trim());
    let core = match name {
        DEBIAN => "lib/rustlib/bpfel-unknown-none/lib",
        _ => "lib/rustlib/src/rust/library/core",
    };
    if !sysroot.join(core).is_dir() || !sysroot.join("bin/cargo-clippy").exists() {
        return Err(Unready::Incomplete);
    }
    let has_llvm = linker::installed_for() == Some(llvm)
        || Path::new(&format!("/usr/lib/llvm-{llvm}")).is_dir()
        || installer.debian_has(&format!("llvm-{llvm}-dev"));
    if !has_llvm {
        return Err(Unready::Unfit(format!("Debian has no llvm-{llvm}-dev to build bpf-linker with")));
    }
    Ok(BpfToolchain { name: name.to_owned(), llvm })
}

/// What the toolchain's rustc prints; the compiler in `PATH` stands for Debian's where there is no rustup.
fn rustc(name: &str, args: &[&str]) -> Option<String> {
    let mut command = match (process::find("rustup"), name) {
        (Some(_), _) => {
            let mut rustup = process::command("rustup");
            rustup.env("RUSTUP_AUTO_INSTALL", "0").args(["run", name, "rustc"]);
            rustup
        }
        (None, DEBIAN) => process::command("rustc"),
        (None, _) => return None,
    };
    process::output(command.args(args)).ok()
}

/// Major and minor of a version field of `rustc -vV`.
fn version_field(version: &str, field: &str) -> Option<(u32, u32)> {
    let line = version.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(": "))?;
    let mut numbers = line.split(['.', '-']).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rustc_and_llvm_versions_are_read_from_rustc() {
        let text =
            "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nrelease: 1.97.0-nightly\nLLVM version: 22.1.4\n";
        assert_eq!(version_field(text, "release"), Some((1, 97)));
        assert_eq!(version_field(text, "LLVM version"), Some((22, 1)));
        assert_eq!(version_field(text, "host"), None);
    }

    #[test]
    fn only_a_nightly_builds_core_from_source() {
        assert_eq!(BpfToolchain::core_args("nightly"), ["-Z", "build-std=core"]);
        assert!(BpfToolchain::core_args(DEBIAN).is_empty());
    }
}
