//! The packet logic over the tables of the test model: `cargo xtask fuzz pipeline`.
//!
//! An input that fails goes to `fuzz/crashers`, from where `cargo test` replays it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Err(broken) = weir_model::replay(data) {
        panic!("{broken}");
    }
});
