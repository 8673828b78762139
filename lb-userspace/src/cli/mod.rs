//! The command line: arguments → daemon, or this process → one document on stdout, exit code.
//!
//! Data goes to stdout; messages, progress and errors go to stderr, so that a pipe only ever carries data.

pub mod args;
mod backend;
pub mod backend_args;
pub mod capture;
pub mod decap;
pub mod deny;
pub mod drill;
pub mod event_args;
mod events;
mod explain;
pub mod explain_args;
pub mod host;
pub mod limits;
mod lists;
pub mod output;
pub mod rollout;
mod run;
mod wait;

#[cfg(test)]
mod tests;

pub use run::main;
