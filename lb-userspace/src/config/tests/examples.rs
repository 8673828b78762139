//! The files that are shipped.

use std::path::Path;

use super::super::{keys, load};

fn example(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

#[test]
fn shipped_examples_parse_without_a_remark() {
    for name in ["minimal.toml", "nat.toml", "weir.toml"] {
        let loaded = load(&example(name)).unwrap_or_else(|problems| panic!("{problems}"));
        // A program of the full example is its reader's.
        let remarks = loaded.warnings.0.iter().filter(|warning| warning.key != "command");
        assert_eq!(remarks.count(), 0, "{name}: {}", loaded.warnings);
    }
}

#[test]
fn the_full_example_and_the_reference_name_every_key() {
    let full = std::fs::read_to_string(example("weir.toml")).unwrap();
    let reference = std::fs::read_to_string(example("../docs/config.md")).unwrap();
    let tables = [
        keys::INTERFACE,
        keys::LIMITS,
        keys::TUNNEL,
        keys::GUARD,
        keys::VIP,
        keys::POOL,
        keys::HEALTH,
        keys::SERVICE,
        keys::SNAT,
        keys::TIMEOUTS,
        keys::EVENTS,
        keys::HOOK,
        keys::TOP,
        keys::BACKEND,
    ];
    for key in tables.concat() {
        assert!(reference.contains(&format!("`{key}`")), "docs/config.md does not explain `{key}`");
        let later = key == "metrics";
        assert!(later || full.contains(key), "examples/weir.toml does not show {key}");
    }
}

#[test]
fn the_decap_example_and_its_page_name_every_key() {
    super::super::decap::load(&example("decap.toml")).unwrap_or_else(|problems| panic!("{problems}"));
    let text = std::fs::read_to_string(example("decap.toml")).unwrap();
    let page = std::fs::read_to_string(example("../docs/decap.md")).unwrap();
    for key in keys::DECAP {
        assert!(text.contains(&format!("\n{key} = ")), "examples/decap.toml does not show {key}");
        assert!(page.contains(&format!("| `{key}` |")), "docs/decap.md does not explain `{key}`");
    }
}
