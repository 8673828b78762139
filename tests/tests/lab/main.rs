//! The lab keeps its own promises, without weir.

mod faults;
mod network;
mod removal;
mod tunnels;

use std::time::Duration;

/// Long enough for everything that works.
const WITHIN: Duration = Duration::from_secs(2);
/// How long a test waits for what must not come.
const BRIEFLY: Duration = Duration::from_millis(150);
