//! `weir capture`: sampled frames as they come and as they leave, with verdict and reason, as pcapng.
//!
//! While it runs the interfaces have a variant of the program that forwards the same and copies what it samples; links
//! are switched over and back without a packet that meets neither. Without a capture nothing is spent on it.

mod file;
mod session;

pub use file::{CaptureFile, NameOf};
pub use session::{Captured, Rules, Session};
