//! `weir drill`: asks for a rehearsed failure, waits for its end, prints what happened.

use std::time::Duration;

use clap::Args;
use tokio::time::sleep;

use super::output::Output;
use super::run::block_on;
use crate::admin::client::Client;
use crate::failure::Failure;
use crate::health::drill::Fail;
use crate::view::drill::DrillRequest;
use crate::view::parse_duration;

/// Time between two looks.
const POLL: Duration = Duration::from_millis(200);

/// Options of `weir drill`.
#[derive(Args, Debug)]
pub struct DrillArgs {
    /// web/web-1, or web-1 where one pool has it.
    #[arg(value_name = "BACKEND")]
    backend: String,
    /// How it fails: crash, silence, slow, slow=200ms, loss=30%.
    #[arg(long, value_name = "FAILURE")]
    fail: Fail,
    /// For how long: 5s, 500ms.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    time: Duration,
    /// Also where the pool would be left with too little.
    #[arg(long)]
    force: bool,
}

pub(super) fn run(client: &Client, args: &DrillArgs, output: &mut Output<'_, '_>) -> Result<(), Failure> {
    let request = DrillRequest {
        backend: args.backend.clone(),
        fail: args.fail,
        for_ms: u64::try_from(args.time.as_millis()).unwrap_or(u64::MAX),
        force: args.force,
        on_behalf_of: std::env::var("SUDO_USER").ok(),
    };
    let report = block_on(async {
        let mut report = client.drill(&request).await?;
        while !report.done {
            sleep(POLL).await;
            report = client.drill_report(&format!("{}/{}", report.pool, report.backend)).await?;
        }
        Ok(report)
    })?;
    output.data(&report)
}
