//! `cargo-fuzz`, which builds what libFuzzer runs.

use anyhow::Result;

use super::installer::Installer;
use crate::process;

const VERSION: &str = "0.13.2";

/// Installs `cargo-fuzz`, unless the installed one is of that version.
pub(super) fn ensure(installer: &mut Installer) -> Result<()> {
    let item = "cargo-fuzz";
    if installed() {
        installer.ok(item, VERSION);
        return Ok(());
    }
    let mut cargo = process::command("cargo");
    cargo.args(["install", "cargo-fuzz", "--version", VERSION, "--locked", "--force"]);
    installer.install(item, VERSION, vec![cargo])
}

fn installed() -> bool {
    process::find("cargo-fuzz")
        .and_then(|program| process::output(process::command(program).args(["fuzz", "--version"])).ok())
        .is_some_and(|version| version.trim() == format!("cargo-fuzz {VERSION}"))
}
