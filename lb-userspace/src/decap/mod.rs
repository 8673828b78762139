//! `weir decap`: the backend's side of tunnels.
//!
//! One command attaches and ends; what it attached lives in the kernel, pinned under a directory of its own:
//! `links/<interface>` (XDP), `egress/<interface>` (the MSS clamp), `program`, `mss`, `maps/<name>`. A later command
//! brings new programs over new maps and swaps them in link by link; the counters are kept.

mod apply;
mod egress;
mod observe;
mod program;
pub mod settings;
pub mod status;

pub use apply::{apply, detach};
pub use program::{DecapPins, Programs};
pub use settings::{Mss, Settings};
pub use status::{Status, status};
