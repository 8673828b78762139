//! `weir backend …`: asks for the change, then waits where told to.

use super::args::Form;
use super::backend_args::{BackendVerb, Then};
use super::output::Output;
use super::run::block_on;
use super::wait::wait;
use crate::admin::client::Client;
use crate::failure::{Code, Failure};

pub(super) fn run(client: &Client, verb: &BackendVerb, output: &mut Output<'_, '_>) -> Result<(), Failure> {
    let waits = verb.wait();
    if waits.is_some_and(|wait| wait.then == Then::Reset) {
        let message = "--then reset: flows cannot be reset yet; use --then keep";
        return Err(Failure::new(Code::Usage, message));
    }
    let user = std::env::var("SUDO_USER").ok();
    block_on(async {
        let mut changed = client.change(&verb.request(user)).await?;
        let Some(options) = waits else { return output.data(&changed) };
        if output.form != Form::Json {
            output.data(&changed)?;
        }
        let names = changed.backends.iter().map(|backend| format!("{}/{}", backend.pool, backend.name));
        let last = wait(client, names.collect(), options.deadline, output).await?;
        if output.form == Form::Json {
            changed.backends = last.backends;
            output.data(&changed)?;
        }
        Ok(())
    })
}
