//! Configuration: what the operator asks for.

pub mod model;
