//! Detection: probes, their judgement, and the health of backends.
//!
//! ```text
//! probe (sockets, one thread) → judge → machine → pool_view → Applier (one store per slot), then HealthEvent
//! ```
//!
//! `judge`, `machine`, `flap`, `tripwire` and `pool_view` are pure; `board` joins them; `probe` is the only part with sockets.

pub mod bfd;
mod board;
mod command;
pub mod drill;
mod event;
mod failed;
pub mod flap;
pub mod guard;
mod guard_status;
mod handle;
pub mod hearsay;
mod history;
pub mod judge;
pub mod machine;
pub mod passive;
pub mod pool_view;
mod probe;
mod self_check;
mod snapshot;
pub mod split;
pub mod time;
pub mod timings;
mod tripwire;
mod watched;

pub use board::{StreamId, Tunnelled};
pub use command::{HealthError, Targets, Which, Wish};
pub use event::{Applier, BackendKey, Evidence, GuardEvent, GuardEventKind, HealthEvent, NoWay, Wrapped};
pub use guard_status::{FrozenStatus, GuardStatus};
pub use handle::{Health, Opened, Prepared};
pub use snapshot::{Adopted, BackendHealth, CheckStatus, HandshakeStatus, LastProbe, kind_name};
