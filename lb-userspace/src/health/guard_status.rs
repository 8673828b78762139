//! The guard as operators see it.

#![forbid(unsafe_code)]

use std::fmt;
use std::time::SystemTime;

use super::guard::Frozen;
use super::time::Moment;

/// What the guard is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuardStatus {
    /// The freeze under way.
    pub frozen: Option<FrozenStatus>,
    /// Addresses that are silent.
    pub silent: usize,
    /// Addresses that count: heard before, and not silent for long.
    pub counted: usize,
}

/// A freeze under way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrozenStatus {
    /// Since when.
    pub since: SystemTime,
    /// When it ends at the latest.
    pub until: SystemTime,
    /// What is wrong with weir itself.
    pub cause: String,
}

impl GuardStatus {
    pub(super) fn new(
        frozen: Option<Frozen>,
        silent: usize,
        counted: usize,
        now: Moment,
        wall: SystemTime,
    ) -> Self {
        let frozen = frozen.map(|Frozen { since, until, cause }| FrozenStatus {
            since: since.to_wall(now, wall),
            until: until.to_wall(now, wall),
            cause,
        });
        Self { frozen, silent, counted }
    }
}

impl fmt::Display for FrozenStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let until = jiff::Timestamp::try_from(self.until).unwrap_or_default();
        write!(
            f,
            "detection is frozen, the last good state is kept: {}; silence of backends counts again by {until:.0}",
            self.cause
        )
    }
}
