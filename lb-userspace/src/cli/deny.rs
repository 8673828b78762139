//! `weir deny`: sources to keep out at run time, and the lists in force.

use std::time::Duration;

use clap::{Args, Subcommand};

use super::output::Output;
use super::run::block_on;
use crate::admin::client::Client;
use crate::failure::Failure;
use crate::state::denied::{DenyAction, DenyRequest};
use crate::view::deny::DenyFilter;
use crate::view::parse_duration;

/// Verbs of `weir deny`.
#[derive(Debug, Subcommand)]
pub enum DenyVerb {
    /// Show deny and allow lists, with what they refused and where entries come from.
    #[command(after_help = "\
Examples:
  weir deny list
  weir deny list --vip edge -o json | jq -r '.entries[] | select(.from == \"runtime\") | .prefix'")]
    List {
        /// Lists that concern this VIP.
        #[arg(long, value_name = "NAME")]
        vip: Option<String>,
    },
    /// Keep sources out, known flows included; survives reload, restart and reboot.
    #[command(after_help = "\
Examples:
  weir deny add 203.0.113.0/24 2001:db8:bad::/48 --for 2h --reason scans
  weir deny add 203.0.113.7 --vip edge")]
    Add {
        /// Which, and where.
        #[command(flatten)]
        sources: SourceArgs,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
        /// End by itself after this time: 90s, 2h, 1d.
        #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
        time: Option<Duration>,
        /// Also everybody.
        #[arg(long)]
        force: bool,
    },
    /// Let sources back in that were kept out at run time.
    Remove {
        /// Which, and where.
        #[command(flatten)]
        sources: SourceArgs,
    },
}

/// Sources.
#[derive(Args, Debug)]
pub struct SourceArgs {
    /// 203.0.113.0/24, 2001:db8::/32, or an address.
    #[arg(value_name = "PREFIX", required = true)]
    prefixes: Vec<String>,
    /// At this VIP alone.
    #[arg(long, value_name = "NAME")]
    vip: Option<String>,
}

pub(super) fn run(client: &Client, verb: &DenyVerb, output: &mut Output<'_, '_>) -> Result<(), Failure> {
    let request = |action, sources: &SourceArgs| DenyRequest {
        action,
        prefixes: sources.prefixes.clone(),
        vip: sources.vip.clone(),
        reason: String::new(),
        for_s: None,
        force: false,
        on_behalf_of: std::env::var("SUDO_USER").ok(),
    };
    let request = match verb {
        DenyVerb::List { vip } => {
            return output.data(&block_on(client.denied(&DenyFilter { vip: vip.clone() }))?);
        }
        DenyVerb::Remove { sources } => request(DenyAction::Remove, sources),
        DenyVerb::Add { sources, reason, time, force } => DenyRequest {
            reason: reason.clone(),
            // A part of a second counts as a whole one: a denial must not end before its time.
            for_s: time.map(|time| time.as_millis().div_ceil(1000) as u64),
            force: *force,
            ..request(DenyAction::Add, sources)
        },
    };
    output.data(&block_on(client.deny(&request))?)
}
