//! Options of `weir backend`.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::state::request::{Action, BackendRequest, Force, Targets};
use crate::view::parse_duration;

/// What to do to backends.
#[derive(Debug, Subcommand)]
pub enum BackendVerb {
    /// Take no new flows; known flows stay.
    #[command(after_help = "\
Examples:
  weir backend drain web/web-1 --reason 'kernel update' --for 2h
  weir backend drain --host rack3-h7 --wait --deadline 5m
  weir backend drain web-1 --wait --deadline 10m --then reset")]
    Drain {
        /// Which.
        #[command(flatten)]
        targets: TargetArgs,
        /// Why, and until when.
        #[command(flatten)]
        note: NoteArgs,
        /// Whether to wait.
        #[command(flatten)]
        wait: WaitArgs,
        /// Drain a pool's last backends, too.
        #[arg(long)]
        force: bool,
    },
    /// Take out of service for work on it.
    Maintenance {
        /// Which.
        #[command(flatten)]
        targets: TargetArgs,
        /// Why, and until when.
        #[command(flatten)]
        note: NoteArgs,
        /// Whether to wait.
        #[command(flatten)]
        wait: WaitArgs,
        /// Take out a pool's last backends, too.
        #[arg(long)]
        force: bool,
    },
    /// End a drain or maintenance; a weight set at run time stays.
    Ready {
        /// Which.
        #[command(flatten)]
        targets: TargetArgs,
        /// Why, for the record.
        #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
        reason: String,
    },
    /// Set the weight until the config's value for it changes.
    #[command(after_help = "\
Examples:
  weir backend weight web/web-1 --to 50 --reason canary --for 30m
  weir backend weight web/web-1 --to config")]
    Weight {
        /// Which.
        #[command(flatten)]
        targets: TargetArgs,
        /// 0 to 1000, or `config` for the config's own.
        #[arg(long, value_name = "WEIGHT", value_parser = parse_weight)]
        to: WeightArg,
        /// Why, and until when.
        #[command(flatten)]
        note: NoteArgs,
        /// Set weight 0 on a pool's last backends, too.
        #[arg(long)]
        force: bool,
    },
}

/// A weight as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightArg {
    /// The config's.
    Config,
    /// This one.
    Value(u16),
}

/// Which backends.
#[derive(Args, Clone, Debug)]
pub struct TargetArgs {
    /// web-1 in all pools, web/web-1 in one, 'web-*' by pattern.
    #[arg(value_name = "NAME", required_unless_present_any = ["pool", "host"])]
    names: Vec<String>,
    /// All of this pool, or the named ones in it.
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// All on this host, or the named ones on it.
    #[arg(long, value_name = "LABEL")]
    host: Option<String>,
}

/// Why, and until when.
#[derive(Args, Clone, Debug)]
pub struct NoteArgs {
    /// Why, for the record.
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    reason: String,
    /// End by itself after this time: 90s, 2h, 1d.
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    time: Option<Duration>,
}

impl NoteArgs {
    fn parts(&self) -> (&String, Option<Duration>) {
        (&self.reason, self.time)
    }
}

/// Whether and how long to wait for live flows to end.
#[derive(Args, Clone, Copy, Debug)]
pub struct WaitArgs {
    /// Wait until no flow is left.
    #[arg(long)]
    pub wait: bool,
    /// Longest wait; exit code 6 when it passes, unless what is left is reset.
    #[arg(long, value_name = "TIME", value_parser = parse_duration, requires = "wait")]
    pub deadline: Option<Duration>,
    /// What happens to flows that are left at the deadline.
    #[arg(long, value_enum, default_value_t, requires = "deadline")]
    pub then: Then,
}

/// What happens to flows that are left at the deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Then {
    /// They stay.
    #[default]
    Keep,
    /// TCP connections are reset with their next packet; other flows go to another backend with theirs.
    Reset,
}

impl BackendVerb {
    /// The request, on behalf of the user behind a root shell.
    #[must_use]
    pub fn request(&self, on_behalf_of: Option<String>) -> BackendRequest {
        let forced = |force: &bool| if *force { Force::Forced } else { Force::Unforced };
        let (action, targets, (reason, time), force) = match self {
            Self::Drain { targets, note, force, .. } => (Action::Drain, targets, note.parts(), forced(force)),
            Self::Maintenance { targets, note, force, .. } => {
                (Action::Maintenance, targets, note.parts(), forced(force))
            }
            Self::Ready { targets, reason } => (Action::Ready, targets, (reason, None), Force::Unforced),
            Self::Weight { targets, to, note, force } => {
                let weight = match to {
                    WeightArg::Config => None,
                    WeightArg::Value(weight) => Some(*weight),
                };
                (Action::Weight { weight }, targets, note.parts(), forced(force))
            }
        };
        BackendRequest {
            action,
            targets: Targets {
                names: targets.names.clone(),
                pool: targets.pool.clone(),
                host: targets.host.clone(),
            },
            reason: reason.clone(),
            // A part of a second counts as a whole one: a change must not end before its time.
            for_s: time.map(|time| time.as_millis().div_ceil(1000) as u64),
            force,
            on_behalf_of,
        }
    }

    /// The waiting that was asked for.
    #[must_use]
    pub fn wait(&self) -> Option<WaitArgs> {
        match self {
            Self::Drain { wait, .. } | Self::Maintenance { wait, .. } if wait.wait => Some(*wait),
            _ => None,
        }
    }
}

fn parse_weight(text: &str) -> Result<WeightArg, String> {
    match (text, text.parse::<u16>()) {
        ("config", _) => Ok(WeightArg::Config),
        (_, Ok(weight)) if weight <= 1000 => Ok(WeightArg::Value(weight)),
        _ => Err(format!("`{text}`: expected 0 to 1000, or config")),
    }
}
