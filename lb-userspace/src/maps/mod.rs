//! The maps: sizes, memory, loading, pinning, adoption.

pub mod attach;
pub mod bpffs;
pub mod counters;
pub mod load;
pub mod mapping;
pub mod next_program;
pub mod pins;
pub mod schema;
pub mod set;
pub mod sizes;
