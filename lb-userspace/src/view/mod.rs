//! What the operator sees: one set of values for daemon answers, reads without the daemon, JSON and tables.
//!
//! Values here are plain data. [`from_maps`] fills them from the pinned maps; the daemon adds what only it knows.

pub mod backends;
pub mod check;
pub mod deny;
pub mod drill;
pub mod events;
pub mod filter;
pub mod flows;
pub mod from_maps;
mod humane;
pub mod limits;
pub mod nearest;
pub mod rollouts;
pub mod services;
pub mod status;
pub mod table;

#[cfg(test)]
pub(crate) mod tests;

use jiff::Timestamp;

pub use crate::api::{API, Api};
pub use humane::{bytes, duration, number, parse_duration};

/// A view as text for people.
pub trait Render {
    /// The text, with ANSI styles that the output stream strips where they are not wanted; ends in a newline.
    /// `now` is what ages are counted from.
    fn render(&self, now: Timestamp) -> String;
}
