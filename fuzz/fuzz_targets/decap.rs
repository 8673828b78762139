//! The backend's packet logic over the scene of the test model: `cargo xtask fuzz decap`.
//!
//! An input that fails goes to `fuzz/crashers`, from where `cargo test` replays it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Err(broken) = weir_model::decap::replay_decap(data) {
        panic!("{broken}");
    }
});
