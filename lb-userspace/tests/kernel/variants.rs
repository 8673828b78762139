//! The verifier takes every stage of every variant.

use lb_userspace::maps::load;
use weir_model::{Scene, SceneSizes};

use crate::instance::{Instance, sizes};

#[test]
fn every_stage_of_every_variant_loads() {
    let Some(instance) = Instance::new() else { return };
    let geometry = SceneSizes::SMALL.geometry(Scene::START);
    let _live = instance.load(&geometry);
    let (pins, sizes) = (&instance.pins, sizes());
    for loaded in [load::load_capture(pins, &sizes, &geometry), load::load_explain(pins, &sizes, &geometry)] {
        loaded.expect("the verifier takes it");
    }
    load::load_offline(&sizes, &geometry).expect("the verifier takes it");
}
