//! From arguments to an exit code.

use std::ffi::OsString;
use std::future::Future;

use clap::Parser;
use clap::error::ErrorKind;

use super::args::{Cli, Form, Verb};
use super::host::Host;
use super::output::{Output, Streams, failure, form_of};
use super::{backend, capture, decap, deny, drill, events, explain, limits, lists, rollout};
use crate::admin::client::Client;
use crate::failure::{Code, Exit, Failure};
use crate::state::lock::{Lock, LockError};

/// Runs the verb that `args` (the program's name first) ask for.
pub fn main(host: &impl Host, args: impl IntoIterator<Item = OsString>, streams: &mut Streams<'_>) -> Exit {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(error) => return refused(&error, &args, streams),
    };
    let form = cli.global.output;
    let mut output = Output { streams, form };
    match dispatch(host, &cli, &mut output) {
        Ok(exit) => exit,
        Err(error) => {
            let exit = error.code.exit();
            failure(streams, form, error);
            exit
        }
    }
}

/// What the parser has to say: help and version are data, the rest is wrong usage.
fn refused(error: &clap::Error, args: &[OsString], streams: &mut Streams<'_>) -> Exit {
    let form = form_of(args);
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = error.render().ansi().to_string();
            match (Output { streams, form }).text(&text) {
                Ok(()) => Exit::Done,
                Err(_) => Exit::Failed,
            }
        }
        _ if form == Form::Table => {
            // Nobody is left to tell when stderr is closed; the exit code still does.
            let _ = write!(streams.err, "{}", error.render().ansi());
            Exit::Usage
        }
        _ => {
            let text = error.render().to_string();
            let text = text.trim().trim_start_matches("error: ");
            let message = text.split("\n\nUsage:").next().unwrap_or(text);
            let message = message.split("\n\nFor more information").next().unwrap_or(message);
            let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
            failure(streams, form, Failure::new(Code::Usage, message));
            Exit::Usage
        }
    }
}

fn dispatch(host: &impl Host, cli: &Cli, output: &mut Output<'_, '_>) -> Result<Exit, Failure> {
    let follows = match &cli.verb {
        Verb::Backend(verb) => verb.wait().is_some(),
        Verb::Events(args) => args.at.is_none(),
        Verb::Explain(_) => true,
        _ => false,
    };
    if output.form == Form::Jsonl && !follows {
        return Err(Failure::new(Code::Usage, "-o jsonl: this command does not follow; use -o json"));
    }
    let paths = &cli.global;
    let client = Client::new(&paths.socket);
    let lists = lists::Lists { host, client: &client, bpffs: &paths.bpffs };
    match &cli.verb {
        Verb::Run(log) => host.run(paths, &log.into()).map(|()| Exit::Done),
        Verb::Check { file } => {
            let checked = host.check(file.as_deref().unwrap_or(paths.config_file()))?;
            output.data(&checked)?;
            Ok(if checked.valid { Exit::Done } else { Exit::Usage })
        }
        Verb::Reload => {
            output.data(&block_on(client.reload())?)?;
            Ok(Exit::Done)
        }
        Verb::Ready => {
            let readiness = block_on(client.ready())?;
            output.data(&readiness)?;
            Ok(if readiness.ready { Exit::Done } else { Exit::Failed })
        }
        Verb::Status { check } => {
            let status = lists.status()?;
            output.data(&status)?;
            Ok(if *check && !status.problems.is_empty() { Exit::Failed } else { Exit::Done })
        }
        Verb::Services(args) => {
            let services = lists.services(&args.into(), output)?;
            output.data(&services)?;
            Ok(Exit::Done)
        }
        Verb::Backends(args) => {
            let backends = lists.backends(&args.into(), output)?;
            output.data(&backends)?;
            Ok(Exit::Done)
        }
        Verb::Flows(args) => {
            let flows = lists.flows(&args.into(), output)?;
            match (args.count, output.form) {
                (true, Form::Table) => output.text(&format!("{}\n", flows.total))?,
                _ => output.data(&flows)?,
            }
            Ok(Exit::Done)
        }
        Verb::Explain(args) => explain::run(host, &client, paths, args, output).map(|()| Exit::Done),
        Verb::Capture(args) => capture::run(host, paths, args, output).map(|()| Exit::Done),
        Verb::Events(args) => events::run(&client, &paths.state_dir, args, output).map(|()| Exit::Done),
        Verb::Drill(args) => drill::run(&client, args, output).map(|()| Exit::Done),
        Verb::Rollout(verb) => rollout::run(&client, verb, output).map(|()| Exit::Done),
        Verb::Limits { verb } => limits::run(&client, verb.as_ref(), output).map(|()| Exit::Done),
        Verb::Deny(verb) => deny::run(&client, verb, output).map(|()| Exit::Done),
        Verb::Backend(verb) => backend::run(&client, verb, output).map(|()| Exit::Done),
        Verb::Decap(args) => decap::run(host, args, output).map(|()| Exit::Done),
        Verb::Detach { force } => {
            let _lock = match (Lock::acquire(&paths.bpffs), force) {
                (Ok(lock), _) => Some(lock),
                (Err(error @ LockError::Held { .. }), false) => {
                    let message = format!("{error}; or detach under it with --force");
                    return Err(Failure::new(Code::Refused, message));
                }
                // A directory that is not there holds nothing to detach; the host says so.
                (Err(_), _) => None,
            };
            output.data(&host.detach(&paths.bpffs)?)?;
            Ok(Exit::Done)
        }
    }
}

/// Runs one conversation with the daemon.
pub(super) fn block_on<T>(conversation: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(Code::Failed, format!("start the runtime: {error}")))?;
    runtime.block_on(conversation)
}
