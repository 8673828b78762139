//! weir's control plane: configuration, maps, detection, network state, daemon and command line.

pub mod config;
pub mod maglev;
pub mod maps;
