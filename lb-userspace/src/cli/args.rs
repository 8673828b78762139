//! Verbs and options.

use std::path::{Path, PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::backend_args::BackendVerb;
use super::capture::CaptureArgs;
use super::decap::DecapArgs;
use super::deny::DenyVerb;
use super::drill::DrillArgs;
use super::event_args::EventArgs;
use super::explain_args::ExplainArgs;
use super::limits::LimitsVerb;
use super::rollout::RolloutVerb;
use crate::log::{LogFormat, LogOptions};
use crate::view::filter::{BACKEND_STATES, BackendFilter, FLOW_STATES, FlowFilter, ServiceFilter};

const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  failed
  2  wrong usage or invalid config
  3  daemon unreachable
  4  no such object
  5  refused by a guard (--force overrides where it makes sense)
  6  deadline passed";

/// A layer-4 load balancer.
#[derive(Debug, Parser)]
#[command(name = "weir", version, after_help = EXIT_CODES, arg_required_else_help = true, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
    /// Where things are.
    #[command(flatten)]
    pub global: Global,
}

/// Options of every verb.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// Config file [default: /etc/weir/weir.toml]
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Admin socket of the daemon.
    #[arg(long, global = true, value_name = "FILE", default_value = "/run/weir/weir.sock")]
    pub socket: PathBuf,
    /// Directory of runtime changes.
    #[arg(long, global = true, value_name = "DIR", default_value = "/var/lib/weir")]
    pub state_dir: PathBuf,
    /// Directory of pinned objects, in a bpffs.
    #[arg(long, global = true, value_name = "DIR", default_value = "/sys/fs/bpf/weir")]
    pub bpffs: PathBuf,
    /// Form of data and errors: table, json, or jsonl with --wait, of events and of explain.
    #[arg(
        short,
        long,
        global = true,
        value_name = "FORM",
        value_enum,
        default_value_t,
        hide_possible_values = true
    )]
    pub output: Form,
}

impl Global {
    /// The config file.
    #[must_use]
    pub fn config_file(&self) -> &Path {
        self.config.as_deref().unwrap_or(Path::new("/etc/weir/weir.toml"))
    }
}

/// Form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For people; may change.
    #[default]
    Table,
    /// One document.
    Json,
    /// One document a line, as things happen.
    Jsonl,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the daemon in the foreground.
    #[command(after_help = "\
Traffic does not depend on the daemon: stopping it leaves the program attached.
`weir detach` takes it off.

Examples:
  weir run
  weir run --config edge.toml --socket /run/weir/edge.sock --state-dir /var/lib/weir-edge --bpffs /sys/fs/bpf/edge")]
    Run(LogArgs),
    /// Validate a config; print every problem with its line.
    #[command(after_help = "\
Prints the memory that a valid config takes and the worst-case detection times that it implies.

Examples:
  weir check weir.toml
  weir check -o json | jq '.problems[]'")]
    Check {
        /// Config file [default: that of --config]
        file: Option<PathBuf>,
    },
    /// Have the daemon read its config again, all or nothing.
    Reload,
    /// Show the instance on one page, anything wrong first.
    #[command(after_help = "\
Without the daemon the page is read from the pinned maps.

Examples:
  weir status
  weir status --check >/dev/null || page-somebody
  weir status -o json | jq '.counters'")]
    Status {
        /// Exit with 1 if anything is wrong.
        #[arg(long)]
        check: bool,
    },
    /// Tell by the exit code whether to announce this instance's VIPs.
    #[command(after_help = "\
Exit code 0: the daemon's heartbeat is fresh, the program is attached, every check has a verdict.
Exit code 1: not yet.")]
    Ready,
    /// List services.
    Services(ServiceArgs),
    /// List backends.
    #[command(after_help = "\
Examples:
  weir backends --state down
  weir backends --pool web -o json | jq -r '.backends[] | select(.flows > 0) | .name'")]
    Backends(BackendArgs),
    /// Take backends out, bring them back, change weights.
    #[command(
        subcommand,
        after_help = "\
NAME is web-1 (in all pools), web/web-1 (in one), or a pattern: 'web/*'.
Changes survive reload, restart and reboot; `weir status` lists them with who, when and why."
    )]
    Backend(BackendVerb),
    /// Rehearse a backend's failure, and measure detection and return.
    #[command(after_help = "\
Probes are sent and answered as ever; what weir hears of the backend is replaced until the time is over. Traffic is
treated as in a real failure: new flows go elsewhere, and once it is down its known flows are selected anew, so that
connections of theirs break. A drill lives in the daemon's memory: it ends by itself, with the daemon, and goes on
without this command. Refused where the pool would be left with too little.

Examples:
  weir drill web/web-1 --fail crash --for 5s
  weir drill web-1 --fail loss=30% --for 30s -o json | jq .new_flows_stopped_after_us")]
    Drill(DrillArgs),
    /// Give canaries a share of a pool's new flows, and take it back when guards fail.
    #[command(
        subcommand,
        after_help = "Rollouts survive reload, restart and reboot; `weir status` lists them, `weir events` keeps their steps."
    )]
    Rollout(RolloutVerb),
    /// Show limits of new flows and the sources that reach them; limit them at run time.
    Limits {
        /// What to do; without it `list`.
        #[command(subcommand)]
        verb: Option<LimitsVerb>,
    },
    /// Keep sources out at run time; show deny and allow lists.
    #[command(subcommand)]
    Deny(DenyVerb),
    /// List flows.
    #[command(after_help = "\
Examples:
  weir flows --client 203.0.113.9
  weir flows --backend web/web-1 --count
  weir flows --client 2001:db8::/32 --state proven -o json | jq '.total'")]
    Flows(FlowArgs),
    /// Run one packet through the program and tell what it does, and why.
    #[command(after_help = "\
Against the running instance the live maps are read and nothing is written. With --config a private instance is
filled from that file, every backend up; frames of one call share its flow table.

Examples:
  weir explain --from 203.0.113.9:51000 --to 198.51.100.10:80
  weir explain --from 203.0.113.9:51000 --to 198.51.100.10:80 --flags ack --interface eth1 --vlan 100
  weir explain --config new.toml --pcap seen.pcapng -o jsonl | jq -r '[.verdict, .reason, .backend] | @tsv'")]
    Explain(ExplainArgs),
    /// Write sampled frames as pcapng, with verdict and reason in the packets' comments.
    #[command(after_help = "\
Each frame is written as it arrived and, where it was sent on or answered, as it left. While it runs, the interfaces
have a variant of the program that forwards the same; without a capture nothing is spent on it. Needs root.

Examples:
  weir capture -w seen.pcapng --for 10s
  weir capture -w seen.pcapng --host 203.0.113.9 --for 1m
  weir capture -w - --one-in 1000 | tshark -r - -T fields -e frame.comment -e ip.src")]
    Capture(CaptureArgs),
    /// Show what happened, with evidence.
    #[command(after_help = "\
Works without the daemon, from its files under --state-dir.

Examples:
  weir events --since 1h --pool web
  weir events --kind health,admin --backend web/web-1 -o jsonl | jq .reason
  weir events -f
  weir events --at 2026-11-18T12:00:00Z")]
    Events(EventArgs),
    /// On a backend: take packets for its VIPs out of weir's tunnels.
    #[command(after_help = "\
Attaches, and ends; what it attached stays until `weir decap detach` or a reboot.
Run again it takes new settings over without losing a packet.
Without options it reads the config file, which has the same keys.

Examples:
  weir decap --interface eth0 --vip 198.51.100.10 --vip 2001:db8::10 --source 10.0.0.0/24
  weir decap --config /etc/weir/decap.toml
  weir decap status -o json | jq '.counters'
  weir decap detach")]
    Decap(DecapArgs),
    /// Take the program off the interfaces and remove everything pinned.
    #[command(
        after_help = "Traffic to the VIPs ends. Refused while a daemon runs: stop it first, or give --force."
    )]
    Detach {
        /// Detach under a running daemon, too.
        #[arg(long)]
        force: bool,
    },
}

/// Options of the log.
#[derive(Args, Clone, Debug, PartialEq, Eq)]
pub struct LogArgs {
    /// What is logged: error, warn, info, debug, trace, or a filter such as warn,lb_userspace::health=debug.
    #[arg(long, env = "WEIR_LOG", value_name = "LEVEL", default_value = "info")]
    pub log_level: String,
    /// Form of the log: text or json.
    #[arg(long, value_name = "FORM", value_enum, default_value_t, hide_possible_values = true)]
    pub log_format: LogFormat,
}

impl From<&LogArgs> for LogOptions {
    fn from(args: &LogArgs) -> Self {
        Self { level: args.log_level.clone(), format: args.log_format }
    }
}

/// Filters of `weir services`.
#[derive(Args, Debug)]
pub struct ServiceArgs {
    /// Only this service.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only services of this pool.
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
}

impl From<&ServiceArgs> for ServiceFilter {
    fn from(args: &ServiceArgs) -> Self {
        Self { service: args.service.clone(), pool: args.pool.clone() }
    }
}

/// Filters of `weir backends`.
#[derive(Args, Debug)]
pub struct BackendArgs {
    /// Only these: web-1, web/web-1, 'web-*'.
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Only backends of this pool.
    #[arg(long, value_name = "NAME")]
    pool: Option<String>,
    /// Only backends of this service.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only backends on this host.
    #[arg(long, value_name = "LABEL")]
    host: Option<String>,
    /// Only backends in this admin or health state.
    #[arg(long, value_parser = BACKEND_STATES)]
    state: Option<String>,
}

impl From<&BackendArgs> for BackendFilter {
    fn from(args: &BackendArgs) -> Self {
        Self {
            backend: args.backend.clone(),
            pool: args.pool.clone(),
            service: args.service.clone(),
            host: args.host.clone(),
            state: args.state.clone(),
        }
    }
}

/// Filters of `weir flows`.
#[derive(Args, Debug)]
pub struct FlowArgs {
    /// Only flows of this service.
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only flows of these backends: web-1, web/web-1, 'web-*'.
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Only flows from this address or prefix.
    #[arg(long, value_name = "PREFIX")]
    client: Option<String>,
    /// Only flows in this state.
    #[arg(long, value_parser = FLOW_STATES)]
    state: Option<String>,
    /// Print how many there are, not which.
    #[arg(long)]
    pub count: bool,
    /// Most flows to list; 0 lists all. The total counts all that match.
    #[arg(long, value_name = "N", default_value_t = 1000, conflicts_with = "count")]
    limit: u64,
}

impl From<&FlowArgs> for FlowFilter {
    fn from(args: &FlowArgs) -> Self {
        Self {
            service: args.service.clone(),
            backend: args.backend.clone(),
            client: args.client.clone(),
            state: args.state.clone(),
            limit: Some(args.limit),
            count: args.count,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
