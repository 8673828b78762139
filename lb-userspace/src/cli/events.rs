//! `weir events`: what happened, what happens, and how it was at a time; from the daemon, or from its files when it
//! does not answer.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::{Instant, sleep};

use super::args::Form;
use super::event_args::EventArgs;
use super::output::{Output, Reader};
use super::run::block_on;
use crate::admin::client::Client;
use crate::events::{EventFilter, history};
use crate::failure::{Code, Failure};
use crate::view::events::Events;

/// How long a request waits for the next event.
const WAIT_S: u64 = 20;
/// Time between two looks where the daemon does not wait.
const POLL: Duration = Duration::from_millis(500);
/// Events shown before those to come.
const BEFORE: u64 = 10;

pub(super) fn run(
    client: &Client,
    state_directory: &Path,
    args: &EventArgs,
    output: &mut Output<'_, '_>,
) -> Result<(), Failure> {
    if let Some(at) = args.at {
        return state_at(client, state_directory, at, output);
    }
    let mut filter = args.filter(Timestamp::now());
    if !args.follow {
        let events = block_on(listed(client, state_directory, &filter, output))?;
        return match output.form {
            Form::Jsonl => events.events.iter().try_for_each(|event| output.line(event)),
            Form::Table | Form::Json => output.data(&events),
        };
    }
    if output.form == Form::Json {
        return Err(Failure::new(Code::Usage, "-o json: one document has no end here; use -o jsonl with -f"));
    }
    if filter.since.is_none() && filter.limit.is_none() {
        filter.limit = Some(BEFORE);
    }
    block_on(follow(client, state_directory, filter, output))
}

/// Prints what is there, then what comes, until nobody reads any more.
async fn follow(
    client: &Client,
    state_directory: &Path,
    filter: EventFilter,
    output: &mut Output<'_, '_>,
) -> Result<(), Failure> {
    let mut answer = listed(client, state_directory, &filter, output).await?;
    let mut told = Told::Nothing;
    loop {
        for event in &answer.events {
            let reader = match output.form {
                Form::Table => output.followed(&Events::line(event))?,
                _ => output.followed(&json_line(event)?)?,
            };
            if reader == Reader::Gone {
                return Ok(());
            }
        }
        let next = EventFilter {
            since: None,
            after: Some(answer.latest),
            limit: Some(0),
            wait_s: Some(WAIT_S),
            ..filter.clone()
        };
        let begin = Instant::now();
        let came = match client.events(&next).await {
            Err(failure) if failure.code == Code::Unreachable => {
                if told == Told::Nothing {
                    output.message(&format!("{failure}; waiting for it, its files are read meanwhile"));
                }
                told = Told::Unreachable;
                let came = history::listed(state_directory, &next)?;
                // Files without events are of a daemon that has yet to come.
                Events { latest: came.latest.max(answer.latest), ..came }
            }
            came => {
                told = Told::Nothing;
                came?
            }
        };
        answer = came;
        if answer.events.is_empty() && begin.elapsed() < POLL {
            sleep(POLL).await;
        }
    }
}

/// Whether the reader knows that the daemon does not answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    Nothing,
    Unreachable,
}

fn json_line(event: &crate::events::Event) -> Result<String, Failure> {
    let json = serde_json::to_string(event);
    json.map(|json| json + "\n").map_err(|error| Failure::new(Code::Failed, format!("write json: {error}")))
}

async fn listed(
    client: &Client,
    state_directory: &Path,
    filter: &EventFilter,
    output: &mut Output<'_, '_>,
) -> Result<Events, Failure> {
    let events = match client.events(filter).await {
        Err(failure) if failure.code == Code::Unreachable => {
            instead(&failure, state_directory, output)?;
            history::listed(state_directory, filter)?
        }
        answer => answer?,
    };
    if events.unreadable > 0 {
        output.message(&format!("{} lines were cut off or are damaged, and left out", events.unreadable));
    }
    Ok(events)
}

fn state_at(
    client: &Client,
    state_directory: &Path,
    at: Timestamp,
    output: &mut Output<'_, '_>,
) -> Result<(), Failure> {
    let state = match block_on(client.state_at(at)) {
        Err(failure) if failure.code == Code::Unreachable => {
            instead(&failure, state_directory, output)?;
            history::state_at(state_directory, at)?
        }
        answer => answer?,
    };
    output.data(&state)
}

fn instead(
    unreachable: &Failure,
    state_directory: &Path,
    output: &mut Output<'_, '_>,
) -> Result<(), Failure> {
    let directory = state_directory.display();
    if !state_directory.is_dir() {
        let message = format!("{unreachable}; and {directory} is no state directory to read events from");
        return Err(Failure::new(Code::Unreachable, message));
    }
    output.message(&format!("{unreachable}; this is read from {directory}"));
    Ok(())
}
