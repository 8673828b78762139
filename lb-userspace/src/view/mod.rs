//! What the operator sees: one set of values for daemon answers, reads without the daemon, JSON and tables.
//!
//! Values here are plain data. [`from_maps`] fills them from the pinned maps; the daemon adds what only it knows.

pub mod backends;
pub mod check;
pub mod filter;
pub mod flows;
pub mod from_maps;
mod humane;
pub mod nearest;
pub mod services;
pub mod status;
pub mod table;

#[cfg(test)]
mod tests;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

pub use humane::{bytes, duration, number, parse_duration};

/// Version of the JSON documents.
pub const API: &str = "weir/v1";

/// The `api` field of every JSON document: always [`API`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Api;

impl Serialize for Api {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(API)
    }
}

impl<'de> Deserialize<'de> for Api {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let version = String::deserialize(deserializer)?;
        if version == API {
            return Ok(Self);
        }
        Err(de::Error::custom(format!("api version {version:?}, expected {API:?}")))
    }
}

/// A view as text for people.
pub trait Render {
    /// The text, with ANSI styles that the output stream strips where they are not wanted; ends in a newline.
    /// `now` is what ages are counted from.
    fn render(&self, now: Timestamp) -> String;
}
