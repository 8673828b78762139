//! weir's control plane: configuration, maps, detection, network state, daemon and command line.

pub mod apply;
pub mod config;
pub mod desired;
pub mod flows;
pub mod maglev;
pub mod maps;
