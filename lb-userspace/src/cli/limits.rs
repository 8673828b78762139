//! `weir limits`: limits of new flows, also at run time.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::output::Output;
use super::run::block_on;
use crate::admin::client::Client;
use crate::failure::Failure;
use crate::state::limited::{LimitAction, LimitRequest};
use crate::view::parse_duration;

/// Verbs of `weir limits`.
#[derive(Debug, Subcommand)]
pub enum LimitsVerb {
    /// Show limits of new flows, what they refused, and the sources that reach them.
    #[command(after_help = "\
Examples:
  weir limits list
  weir limits list -o json | jq -r '.sources[].source'")]
    List,
    /// Limit new flows of services, whatever the config says; survives reload, restart and reboot.
    #[command(after_help = "\
Examples:
  weir limits add web --per-source 20/s --for 2h --reason flood
  weir limits add web api --per-source 100/s --prefix-v4 24 --total 5000/s")]
    Add {
        /// Names of services.
        #[arg(value_name = "SERVICE", required = true)]
        services: Vec<String>,
        /// New flows of each source: 100/s, 20/m, 500/h.
        #[arg(long, value_name = "RATE")]
        per_source: Option<String>,
        /// Leading bits of an IPv4 address that make a source; default: the config's, else 32.
        #[arg(long, value_name = "BITS")]
        prefix_v4: Option<u8>,
        /// Leading bits of an IPv6 address that make a source; default: the config's, else 64.
        #[arg(long, value_name = "BITS")]
        prefix_v6: Option<u8>,
        /// New flows of each service.
        #[arg(long, value_name = "RATE")]
        total: Option<String>,
        /// Why, and for how long.
        #[command(flatten)]
        record: RecordArgs,
    },
    /// Limit nothing, whatever the config says.
    Lift {
        /// Names of services.
        #[arg(value_name = "SERVICE", required = true)]
        services: Vec<String>,
        /// Why, and for how long.
        #[command(flatten)]
        record: RecordArgs,
    },
    /// End what was added or lifted at run time: the config holds again.
    Remove {
        /// Names of services.
        #[arg(value_name = "SERVICE", required = true)]
        services: Vec<String>,
    },
}

/// What goes on record.
#[derive(Args, Debug)]
pub struct RecordArgs {
    /// Why, for the record.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// End by itself after this time: 90s, 2h, 1d.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    time: Option<Duration>,
}

pub(super) fn run(
    client: &Client,
    verb: Option<&LimitsVerb>,
    output: &mut Output<'_, '_>,
) -> Result<(), Failure> {
    let request = |action, services: &[String], record: Option<&RecordArgs>| LimitRequest {
        action,
        services: services.to_vec(),
        per_source: None,
        prefix_v4: None,
        prefix_v6: None,
        total: None,
        reason: record.map(|record| record.reason.clone()).unwrap_or_default(),
        // A part of a second counts as a whole one: a limit must not end before its time.
        for_s: record.and_then(|record| record.time).map(|time| time.as_millis().div_ceil(1000) as u64),
        on_behalf_of: std::env::var("SUDO_USER").ok(),
    };
    let request = match verb {
        None | Some(LimitsVerb::List) => return output.data(&block_on(client.limits())?),
        Some(LimitsVerb::Add { services, per_source, prefix_v4, prefix_v6, total, record }) => LimitRequest {
            per_source: per_source.clone(),
            prefix_v4: *prefix_v4,
            prefix_v6: *prefix_v6,
            total: total.clone(),
            ..request(LimitAction::Add, services, Some(record))
        },
        Some(LimitsVerb::Lift { services, record }) => request(LimitAction::Lift, services, Some(record)),
        Some(LimitsVerb::Remove { services }) => request(LimitAction::Remove, services, None),
    };
    output.data(&block_on(client.limit(&request))?)
}
