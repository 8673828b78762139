//! What must hold of every frame, over random runs and those that once broke it.
#![cfg(not(loom))]

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use weir_model::decap::replay_decap;
use weir_model::replay;

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_frame_breaks_a_promise(data in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert_eq!(replay(&data), Ok(()));
    }

    #[test]
    fn no_frame_breaks_a_promise_at_a_backend(data in prop::collection::vec(any::<u8>(), 0..4096)) {
        prop_assert_eq!(replay_decap(&data), Ok(()));
    }
}

#[test]
fn runs_that_once_failed_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/crashers");
    let mut runs = 0;
    for entry in fs::read_dir(&folder).expect("the folder of past crashers exists") {
        let path = entry.expect("its entries can be read").path();
        let data = fs::read(&path).expect("a run can be read");
        assert_eq!(replay(&data), Ok(()), "{}", path.display());
        assert_eq!(replay_decap(&data), Ok(()), "{}", path.display());
        runs += 1;
    }
    assert!(runs > 0, "{} has no runs", folder.display());
}
