//! Detection: probes, their judgement, and the health of backends.

pub mod flap;
pub mod judge;
pub mod machine;
pub mod pool_view;
pub mod time;
