//! `weir decap …`: from options or the config file to settings.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use ipnet::IpNet;
use lb_common::wire::GUE_PORT;

use super::host::Host;
use super::output::Output;
use crate::config::decap as config;
use crate::config::model::XdpMode;
use crate::decap::{Mss, Settings};
use crate::failure::{Code, Failure};

/// What `weir decap` is told.
#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = false, subcommand_negates_reqs = true)]
pub struct DecapArgs {
    /// What to do instead of attaching.
    #[command(subcommand)]
    verb: Option<DecapVerb>,
    /// Where tunnelled packets come in and answers go out; may be repeated.
    #[arg(long, value_name = "NAME")]
    interface: Vec<String>,
    /// An address that this host serves; may be repeated.
    #[arg(long, value_name = "ADDRESS", value_parser = config::vip)]
    vip: Vec<IpAddr>,
    /// Open only tunnels whose outer source is in this prefix; may be repeated [default: any source].
    #[arg(long, value_name = "PREFIX", value_parser = config::source)]
    source: Vec<IpNet>,
    /// UDP port that GUE comes to [default: 6080].
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    gue_port: Option<u16>,
    /// The largest MSS that answers announce: auto (what fits into the interface's MTU), a number, or off [default: auto].
    #[arg(long, value_name = "MSS", value_parser = config::mss)]
    mss: Option<Mss>,
    /// Where the program runs: native, generic, or auto (generic where the driver has no native XDP) [default: native].
    #[arg(long, value_name = "MODE", value_parser = mode)]
    mode: Option<XdpMode>,
    /// Config file, read where no option says what to do.
    #[arg(long, global = true, value_name = "FILE", default_value = "/etc/weir/decap.toml")]
    config: PathBuf,
    /// Directory of pinned objects, in a bpffs.
    #[arg(long, global = true, value_name = "DIR", default_value = "/sys/fs/bpf/weir-decap")]
    bpffs: PathBuf,
}

/// What `weir decap` does instead of attaching.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Subcommand)]
pub enum DecapVerb {
    /// Show interfaces, VIPs, sources and counters.
    Status,
    /// Take the programs off the interfaces and remove everything pinned.
    Detach,
}

fn mode(text: &str) -> Result<XdpMode, String> {
    match text {
        "native" => Ok(XdpMode::Native),
        "generic" => Ok(XdpMode::Generic),
        "auto" => Ok(XdpMode::Auto),
        _ => Err(format!("`{text}`: expected native, generic or auto")),
    }
}

impl DecapArgs {
    /// The settings, from the options where there are any, else from the file.
    fn settings(&self) -> Result<Settings, Failure> {
        let Self { interface, vip, source, gue_port, mss, mode, .. } = self;
        let lists = interface.is_empty() && vip.is_empty() && source.is_empty();
        if lists && gue_port.is_none() && mss.is_none() && mode.is_none() {
            return config::load(&self.config)
                .map_err(|problems| Failure::new(Code::InvalidConfig, problems.to_string()));
        }
        for (option, given) in [("--interface NAME", interface.len()), ("--vip ADDRESS", vip.len())] {
            if given == 0 {
                let message = format!(
                    "{option} is missing: give all settings by options, or none and a config file ({})",
                    self.config.display()
                );
                return Err(Failure::new(Code::Usage, message));
            }
        }
        Ok(Settings {
            interfaces: once(interface),
            vips: once(vip),
            sources: once(source),
            gue_port: gue_port.unwrap_or(GUE_PORT),
            mss: mss.unwrap_or_default(),
            mode: mode.unwrap_or(XdpMode::Native),
        })
    }
}

/// The values in their order, without repetitions.
fn once<T: Clone + PartialEq>(values: &[T]) -> Vec<T> {
    let mut found: Vec<T> = Vec::new();
    for value in values {
        if !found.contains(value) {
            found.push(value.clone());
        }
    }
    found
}

pub(super) fn run(host: &impl Host, args: &DecapArgs, output: &mut Output<'_, '_>) -> Result<(), Failure> {
    match args.verb {
        None => output.data(&host.decap(&args.bpffs, &args.settings()?)?),
        Some(DecapVerb::Status) => output.data(&host.decap_status(&args.bpffs)?),
        Some(DecapVerb::Detach) => output.data(&host.decap_detach(&args.bpffs)?),
    }
}
