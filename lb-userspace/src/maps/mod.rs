//! The maps: sizes, memory, loading, pinning, adoption.

pub mod mapping;
pub mod set;
pub mod sizes;
