//! `weir backend …`: asks for the change, then waits where told to.

use super::args::Form;
use super::backend_args::{BackendVerb, Then};
use super::output::Output;
use super::run::block_on;
use super::wait::{Waited, kept, wait};
use crate::admin::client::Client;
use crate::failure::Failure;
use crate::state::request::{Action, BackendRequest, Targets};

pub(super) fn run(client: &Client, verb: &BackendVerb, output: &mut Output<'_, '_>) -> Result<(), Failure> {
    let request = verb.request(std::env::var("SUDO_USER").ok());
    block_on(async {
        let mut changed = client.change(&request).await?;
        let Some(options) = verb.wait() else { return output.data(&changed) };
        if output.form != Form::Json {
            output.data(&changed)?;
        }
        let names = changed.backends.iter().map(|backend| format!("{}/{}", backend.pool, backend.name));
        let names: Vec<String> = names.collect();
        match (wait(client, &names, options.deadline, output).await?, options.then) {
            (Waited::Empty(last), _) => changed.backends = last.backends,
            (Waited::Passed(flows), Then::Keep) => {
                return Err(kept(&names, flows, options.deadline.unwrap_or_default()));
            }
            (Waited::Passed(_), Then::Reset) => {
                let reset = client.change(&reset(request, names)).await?;
                if output.form != Form::Json {
                    return output.data(&reset);
                }
                changed.effects.extend(reset.effects);
                changed.backends = reset.backends;
            }
        }
        if output.form == Form::Json {
            output.data(&changed)?;
        }
        Ok(())
    })
}

/// What resets the flows that are left on backends, by name, at the end of the waiting that `request` began.
fn reset(request: BackendRequest, names: Vec<String>) -> BackendRequest {
    let targets = Targets { names, ..Targets::default() };
    BackendRequest { action: Action::Reset, targets, for_s: None, ..request }
}
