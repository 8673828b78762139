//! weir's control plane: configuration, maps, detection, network state, daemon and command line.

/// Configuration: what the operator asks for.
pub mod config {
    pub mod model;
}

/// Detection of failed backends.
pub mod health;
