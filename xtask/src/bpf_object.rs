//! The packet program's object as it is embedded in `weir`: where cargo put it, that nothing in it panics, and that its
//! programs are inlined whole: a call of a subprogram costs every packet 9 ns.
//!
//! A panic in the kernel has nowhere to go: the handler is an endless loop, which the verifier refuses at best.
//! So no symbol of the panic machinery may be left, and no jump to itself, which is how an inlined handler looks.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use object::{Object as _, ObjectSection as _, ObjectSymbol as _, SectionKind};

use crate::process;

/// The names of `lb-ebpf`'s binaries that are shipped.
pub(crate) const PROGRAMS: [&str; 2] = ["weir-xdp", "weir-decap"];

/// `goto -1`: an unconditional jump to itself.
const ENDLESS_LOOP: [u8; 8] = [0x05, 0, 0xff, 0xff, 0, 0, 0, 0];

/// `call` of a subprogram: the operation, and the pseudo source register that tells it from a helper's.
const SUBPROGRAM_CALL: [u8; 2] = [0x85, 0x10];

/// Parts of the names that rustc gives to what only a panic calls.
const PANIC_NAMES: [&str; 4] = ["panic", "rust_begin_unwind", "unwrap_failed", "expect_failed"];

/// Builds `lb-userspace`, whose build script compiles the object, and tells its folder.
pub(crate) fn build() -> Result<PathBuf> {
    let mut cargo = process::cargo();
    cargo.args(["build", "--package", "lb-userspace", "--message-format", "json"]);
    let messages = process::output(&mut cargo)?;
    let out_dir = messages.lines().find_map(build_script_folder);
    out_dir.context("find the packet program: cargo told no output folder of lb-userspace's build script")
}

/// The output folder, if the message tells the one of `lb-userspace`.
fn build_script_folder(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    let of_interest = message["reason"] == "build-script-executed"
        && message["package_id"].as_str().is_some_and(|id| id.contains("/lb-userspace#"));
    of_interest.then(|| message["out_dir"].as_str().map(PathBuf::from))?
}

/// Checks an object; the answer says how large its programs are.
///
/// # Errors
/// When it is no object file, something in it can panic, or a program calls a subprogram.
pub(crate) fn check(bytes: &[u8]) -> Result<String> {
    let object = object::File::parse(bytes).context("read the packet program")?;
    let names = object.symbols().filter_map(|symbol| symbol.name().ok());
    let panics: Vec<&str> = names.filter(|name| PANIC_NAMES.iter().any(|part| name.contains(part))).collect();
    if !panics.is_empty() {
        bail!("the packet program can panic; its object has the symbols {}", panics.join(", "));
    }
    let mut instructions = 0;
    for section in object.sections().filter(|section| section.kind() == SectionKind::Text) {
        let name = section.name().unwrap_or("?");
        let code = section.data().with_context(|| format!("read section {name}"))?;
        let endless = code.chunks_exact(8).position(|instruction| instruction == ENDLESS_LOOP);
        if let Some(at) = endless {
            bail!("the packet program can panic; section {name} has an endless loop at instruction {at}");
        }
        let call = code.chunks_exact(8).position(|instruction| instruction.starts_with(&SUBPROGRAM_CALL));
        if let Some(at) = call {
            bail!(
                "section {name} calls a subprogram at instruction {at}, which costs every packet; mark what it calls \
                 `#[inline(always)]`"
            );
        }
        instructions += code.len() / 8;
    }
    if instructions == 0 {
        bail!("the packet program has no code");
    }
    Ok(format!("ok, {instructions} instructions, nothing panics"))
}

#[cfg(test)]
mod tests {
    use object::{
        Architecture, BinaryFormat, Endianness, SymbolFlags, SymbolKind, SymbolScope,
        write::{Object, Symbol, SymbolSection},
    };

    use super::*;

    const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];

    /// An object with one program.
    fn program(symbol: &str, code: &[[u8; 8]]) -> Vec<u8> {
        let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        let section = object.add_section(Vec::new(), b"xdp".to_vec(), SectionKind::Text);
        object.append_section_data(section, code.as_flattened(), 8);
        object.add_symbol(Symbol {
            name: symbol.into(),
            value: 0,
            size: code.as_flattened().len() as u64,
            kind: SymbolKind::Text,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        });
        object.write().unwrap()
    }

    #[test]
    fn a_program_that_only_returns_is_accepted() {
        assert!(check(&program("weir", &[EXIT])).unwrap().contains("1 instructions"));
    }

    #[test]
    fn a_symbol_of_the_panic_machinery_is_found() {
        let error = check(&program("_RNvNtCs1_4core9panicking9panic_fmt", &[EXIT])).unwrap_err();
        assert!(error.to_string().contains("panic_fmt"), "{error}");
    }

    #[test]
    fn an_inlined_panic_handler_is_found() {
        let error = check(&program("weir", &[EXIT, ENDLESS_LOOP])).unwrap_err();
        assert!(error.to_string().contains("section xdp has an endless loop at instruction 1"), "{error}");
    }

    #[test]
    fn a_call_of_a_subprogram_is_found() {
        let call = [0x85, 0x10, 0, 0, 0xff, 0xff, 0xff, 0xff];
        let helper = [0x85, 0, 0, 0, 12, 0, 0, 0];
        assert!(check(&program("weir", &[helper, EXIT])).is_ok());
        let error = check(&program("weir", &[helper, call, EXIT])).unwrap_err();
        assert!(error.to_string().contains("section xdp calls a subprogram at instruction 1"), "{error}");
    }

    #[test]
    fn bytes_without_a_program_are_refused() {
        assert!(check(b"not an object").is_err());
        assert!(check(&program("weir", &[])).is_err());
    }

    #[test]
    fn the_folder_of_the_build_script_is_read_from_cargos_messages() {
        let message = r#"{"reason":"build-script-executed","package_id":"path+file:///src/weir/lb-userspace#0.1.0","out_dir":"/t/out"}"#;
        assert_eq!(build_script_folder(message), Some("/t/out".into()));
        assert_eq!(build_script_folder(&message.replace("lb-userspace", "libc")), None);
        assert_eq!(build_script_folder("Compiling"), None);
    }
}
