//! The admin API: HTTP/1.1 and JSON over a Unix socket, between the daemon and `weir`'s verbs.
//!
//! The daemon implements [`operations::Operations`]; [`server`] owns the socket, tells who calls and bounds every
//! request; [`client`] is what the verbs use. Both ends share the values of [`crate::view`], [`answers`] and [`crate::state::request`].

pub mod answers;
pub mod client;
pub mod operations;
pub mod peer;
mod router;
pub mod server;
mod status_code;

pub(crate) use router::answering;

#[cfg(test)]
mod tests;
