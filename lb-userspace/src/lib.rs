//! weir's control plane: configuration, maps, detection, network state, daemon and command line.

pub mod admin;
pub mod api;
pub mod apply;
pub mod capture;
pub mod cli;
pub mod command;
pub mod config;
pub mod daemon;
pub mod decap;
pub mod desired;
pub mod events;
pub mod explain;
pub mod failure;
pub mod filter;
pub mod flows;
pub mod health;
pub mod log;
pub mod maglev;
pub mod maps;
pub mod net;
pub mod objects;
pub mod rollout;
pub mod state;
pub mod view;
