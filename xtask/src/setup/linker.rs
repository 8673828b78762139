//! `bpf-linker`, built against the LLVM whose bitcode the chosen compiler writes.

use std::path::Path;

use anyhow::Result;

use super::installer::Installer;
use crate::process;

const VERSION: &str = "0.13.0";

/// The LLVM versions that this `bpf-linker` can be built against and whose BPF backend knows
/// `allows-misaligned-mem-access` (`.cargo/bpf-linker`).
pub(super) const LLVM: std::ops::RangeInclusive<u32> = 22..=23;

/// Installs `bpf-linker` for LLVM `llvm`, unless the installed one is of that version and LLVM.
pub(super) fn ensure(installer: &mut Installer, llvm: u32) -> Result<()> {
    let item = "bpf-linker";
    if installed_for() == Some(llvm) {
        installer.ok(item, &format!("{VERSION} for LLVM {llvm}"));
        return Ok(());
    }
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !Path::new(&prefix).join("bin/llvm-config").exists() || !Path::new("/usr/include/zstd.h").exists() {
        let packages = [
            format!("llvm-{llvm}-dev"),
            format!("libpolly-{llvm}-dev"),
            "libzstd-dev".into(),
            "zlib1g-dev".into(),
        ];
        installer.install_packages("LLVM", &packages)?;
    }
    let mut cargo = process::command("cargo");
    cargo.env("LLVM_PREFIX", prefix);
    cargo.args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force"]);
    cargo.args(["--no-default-features", "--features", &format!("llvm-{llvm}")]);
    installer.install(item, &format!("{VERSION} for LLVM {llvm} (takes minutes)"), vec![cargo])
}

/// The LLVM of the installed `bpf-linker`, if that is of the wanted version and starts.
pub(super) fn installed_for() -> Option<u32> {
    let program = process::find("bpf-linker")?;
    let version = process::output(process::command(&program).arg("--version")).ok()?;
    if version.trim() != format!("bpf-linker {VERSION}") {
        return None;
    }
    linked_llvm(&process::output(process::command("ldd").arg(&program)).ok()?)
}

/// The major version of LLVM's library in what `ldd` prints.
fn linked_llvm(libraries: &str) -> Option<u32> {
    let after = ["libLLVM.so.", "libLLVM-"].iter().find_map(|name| libraries.split_once(name))?.1;
    let digits = after.find(|c: char| !c.is_ascii_digit())?;
    after[..digits].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_of_a_linker_is_read_from_its_libraries() {
        let newer = "\tlibLLVM.so.22.1 => /usr/lib/llvm-22/lib/libLLVM.so.22.1 (0x00007f)";
        assert_eq!(linked_llvm(newer), Some(22));
        let older = "\tlibLLVM-15.so.1 => /lib/x86_64-linux-gnu/libLLVM-15.so.1 (0x00007f)";
        assert_eq!(linked_llvm(older), Some(15));
        assert_eq!(linked_llvm("\tstatically linked"), None);
    }
}
