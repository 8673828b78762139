//! The host's interfaces and addresses, looked at once.
#![forbid(unsafe_code)]

use std::time::Duration;

use crate::failure::{Code, Failure};
use crate::net::{NetState, NetWatch};

/// Longer than any command runs.
const NEVER: Duration = Duration::from_secs(3600);

/// Reads the state of the namespace of the calling thread.
pub(super) fn network() -> Result<NetState, Failure> {
    let failed = |error: std::io::Error| Failure::new(Code::Failed, format!("open netlink: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    runtime.block_on(async {
        let (watch, _events) = NetWatch::start(NEVER).await.map_err(failed)?;
        let state = watch.read().clone();
        Ok(state)
    })
}
