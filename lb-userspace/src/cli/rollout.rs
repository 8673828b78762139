//! `weir rollout …`.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::output::Output;
use super::run::block_on;
use crate::admin::client::Client;
use crate::failure::Failure;
use crate::rollout::request::{Action, RolloutRequest};
use crate::view::filter::BackendFilter;
use crate::view::parse_duration;

/// What to do to rollouts.
#[derive(Debug, Subcommand)]
pub enum RolloutVerb {
    /// Give canaries a share of a pool's new flows.
    #[command(after_help = "\
The share grows by --step every --every, as long as all guards hold; a guard that fails takes it away at once.
Metrics of the canaries: handshake_ratio (completed of opened TCP flows; mode nat: answered), probe_p99_ms, up_ratio.
Without --guard: up_ratio>=1.

Examples:
  weir rollout start web --canary web-1 --percent 10
  weir rollout start web --canary web-1,web-2 --percent 10 --step 25 --every 2m --guard 'handshake_ratio>=0.99,probe_p99_ms<50'
  weir rollout start web --canary web-1 --guard-exec 'curl -fs http://10.0.0.11/selftest'")]
    Start(StartArgs),
    /// Give the canaries all new flows, or another share.
    Promote {
        /// Whose rollout.
        pool: String,
        /// Go to this share, in percent, and go on from there.
        #[arg(long, value_name = "PERCENT", value_parser = clap::value_parser!(u8).range(1..=100))]
        to: Option<u8>,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
        /// Promote an aborted rollout, too.
        #[arg(long)]
        force: bool,
    },
    /// Take the canaries' share away: they get no new flows until another start, or the end.
    Abort {
        /// Whose rollout.
        pool: String,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Forget a rollout that is over: everybody takes new flows by weight again.
    End {
        /// Whose rollout.
        pool: String,
        /// End a running one as it is.
        #[arg(long)]
        force: bool,
    },
    /// List rollouts.
    Status {
        /// Of this pool.
        pool: Option<String>,
    },
}

/// Options of a start.
#[derive(Args, Debug)]
pub struct StartArgs {
    /// Whose new flows are divided.
    pool: String,
    /// The canaries: backends of the pool.
    #[arg(long, value_name = "NAME", value_delimiter = ',', required = true)]
    canary: Vec<String>,
    /// Their share of the new flows to begin with.
    #[arg(long, value_name = "PERCENT", default_value_t = 10, value_parser = clap::value_parser!(u8).range(1..=100))]
    percent: u8,
    /// Points by which the share grows.
    #[arg(long, value_name = "PERCENT", requires = "every", value_parser = clap::value_parser!(u8).range(1..=100))]
    step: Option<u8>,
    /// Time after which it grows: 30s, 2m.
    #[arg(long, value_name = "TIME", requires = "step", value_parser = parse_duration)]
    every: Option<Duration>,
    /// Conditions that the canaries must meet, separated by commas.
    #[arg(long, value_name = "CONDITIONS")]
    guard: Option<String>,
    /// A shell command that must succeed, run as root every 10 s; for root only.
    #[arg(long, value_name = "COMMAND")]
    guard_exec: Option<String>,
    /// Why, for the record.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// Start also where one side takes no new flows at present.
    #[arg(long)]
    force: bool,
}

impl RolloutVerb {
    /// The request; `None` for a list.
    fn request(&self, on_behalf_of: Option<String>) -> Option<RolloutRequest> {
        let request = match self {
            Self::Start(args) => RolloutRequest {
                canary: args.canary.clone(),
                percent: Some(args.percent),
                step: args.step,
                every_s: args.every.map(|every| every.as_millis().div_ceil(1000) as u64),
                guard: args.guard.clone(),
                guard_exec: args.guard_exec.clone(),
                reason: args.reason.clone(),
                force: args.force,
                ..RolloutRequest::new(Action::Start, &args.pool)
            },
            Self::Promote { pool, to, reason, force } => RolloutRequest {
                percent: *to,
                reason: reason.clone(),
                force: *force,
                ..RolloutRequest::new(Action::Promote, pool)
            },
            Self::Abort { pool, reason } => {
                RolloutRequest { reason: reason.clone(), ..RolloutRequest::new(Action::Abort, pool) }
            }
            Self::End { pool, force } => {
                RolloutRequest { force: *force, ..RolloutRequest::new(Action::End, pool) }
            }
            Self::Status { .. } => return None,
        };
        Some(RolloutRequest { on_behalf_of, ..request })
    }
}

pub(super) fn run(client: &Client, verb: &RolloutVerb, output: &mut Output<'_, '_>) -> Result<(), Failure> {
    let user = std::env::var("SUDO_USER").ok();
    let rollouts = match (verb.request(user), verb) {
        (Some(request), _) => block_on(client.rollout(&request))?,
        (None, RolloutVerb::Status { pool: Some(pool) }) => {
            let mut rollouts = block_on(client.rollouts())?;
            rollouts.rollouts.retain(|rollout| rollout.pool == *pool);
            if rollouts.rollouts.is_empty() {
                // Says of a pool that does not exist that it does not.
                block_on(
                    client.backends(&BackendFilter { pool: Some(pool.clone()), ..BackendFilter::default() }),
                )?;
            }
            rollouts
        }
        (None, _) => block_on(client.rollouts())?,
    };
    output.data(&rollouts)
}
