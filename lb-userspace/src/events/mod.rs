//! What happened, with evidence: recorded on disk, followed, handed to hooks.
//!
//! ```text
//! event → recorder (a thread of its own) → ring of files → followers → hooks
//! ```
//!
//! Whoever records never waits: a queue that is full loses events and counts them. The ring is read without the
//! daemon, too. `event`, `state` and `filter` are pure; only `ring` touches files, only `hook` runs commands.

pub mod event;
pub mod filter;
pub mod history;
mod hook;
pub mod recorder;
pub mod ring;
pub mod state;

pub use event::{Event, Kind};
pub use filter::EventFilter;
pub use history::History;
pub use recorder::Recorder;
