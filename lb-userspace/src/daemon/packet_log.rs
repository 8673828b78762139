//! The packet program's debug messages, relayed to the log. Only in builds with the feature `packet-log`.

use aya::programs::Xdp;
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tracing::{info, warn};

use crate::failure::{Code, Failure};

/// Relays the messages of `program` for as long as the daemon runs.
pub(super) fn relay(program: &Xdp) -> Result<(), Failure> {
    let failed = |cause: &dyn std::error::Error| {
        Failure::new(Code::Failed, format!("read the packet program's messages: {cause}"))
    };
    let id = program.info().map_err(|error| failed(&error))?.id();
    let logger = EbpfLogger::init_from_id(id).map_err(|error| failed(&error))?;
    let mut logger = AsyncFd::with_interest(logger, Interest::READABLE).map_err(|error| failed(&error))?;
    info!("relaying the packet program's messages");
    tokio::spawn(async move {
        loop {
            match logger.readable_mut().await {
                Ok(mut ready) => {
                    ready.get_inner_mut().flush();
                    ready.clear_ready();
                }
                Err(error) => return warn!("the packet program's messages end: {error}"),
            }
        }
    });
    Ok(())
}
