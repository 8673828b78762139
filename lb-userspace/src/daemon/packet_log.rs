//! The packet program's debug messages, relayed to the log. Only in builds with the feature `packet-log`.

use std::time::Duration;

use aya::programs::Xdp;
use aya_log::EbpfLogger;
use tracing::info;

use crate::failure::{Code, Failure};

/// How often messages are fetched; more than the ring buffer holds are lost.
const FETCH: Duration = Duration::from_millis(50);

/// Relays the messages of `program` for as long as the daemon runs.
pub(super) fn relay(program: &Xdp) -> Result<(), Failure> {
    let failed = |cause: &dyn std::error::Error| {
        Failure::new(Code::Failed, format!("read the packet program's messages: {cause}"))
    };
    let id = program.info().map_err(|error| failed(&error))?.id();
    let mut logger = EbpfLogger::init_from_id(id).map_err(|error| failed(&error))?;
    info!("relaying the packet program's messages");
    tokio::spawn(async move {
        let mut ticks = tokio::time::interval(FETCH);
        loop {
            ticks.tick().await;
            logger.flush();
        }
    });
    Ok(())
}
