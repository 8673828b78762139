//! Waits for the live flows of drained backends to end.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::args::Form;
use super::output::{Audience, Output};
use crate::admin::answers::DrainProgress;
use crate::admin::client::Client;
use crate::failure::{Code, Failure};
use crate::view::{duration, number};

/// Time between two looks.
const POLL: Duration = Duration::from_millis(500);
/// Least time for a look, also at the deadline.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// Least time between two lines where nobody looks on.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How the waiting ended.
pub(super) enum Waited {
    /// No live flow is left.
    Empty(DrainProgress),
    /// The deadline passed; live flows by the last look, if there was one.
    Passed(Option<u64>),
}

/// Polls the daemon until `backends` (`pool/name`) have no live flow. A daemon that restarts meanwhile is waited for.
///
/// # Errors
/// What the daemon answers; a drain that somebody ended.
pub(super) async fn wait(
    client: &Client,
    backends: &[String],
    deadline: Option<Duration>,
    output: &mut Output<'_, '_>,
) -> Result<Waited, Failure> {
    let start = Instant::now();
    let mut screen = Screen { last: None, shown: String::new() };
    let mut flows = None;
    loop {
        let left = deadline.map(|deadline| deadline.saturating_sub(start.elapsed()));
        match look(client, backends, left).await {
            Ok(progress) => {
                flows = Some(progress.flows);
                screen.show(output, &told(&progress, left))?;
                if output.form == Form::Jsonl {
                    output.line(&progress)?;
                }
                if progress.flows == 0 {
                    screen.end(output);
                    return Ok(Waited::Empty(progress));
                }
                if let Some(back) = progress.backends.iter().find(|backend| backend.admin == "active") {
                    screen.end(output);
                    let name = format!("{}/{}", back.pool, back.name);
                    return Err(Failure::new(
                        Code::Failed,
                        format!("{name} takes new flows again: waiting ended"),
                    ));
                }
            }
            Err(failure) if failure.code == Code::Unreachable => {
                screen.show(output, &format!("{failure}; waiting for it"))?;
            }
            Err(failure) => {
                screen.end(output);
                return Err(failure);
            }
        }
        if left.is_some_and(|left| left.is_zero()) {
            screen.end(output);
            return Ok(Waited::Passed(flows));
        }
        sleep(left.map_or(POLL, |left| POLL.min(left))).await;
    }
}

/// One look, which a deadline bounds.
async fn look(
    client: &Client,
    backends: &[String],
    left: Option<Duration>,
) -> Result<DrainProgress, Failure> {
    let Some(left) = left else { return client.drain_progress(backends).await };
    match timeout(left.max(LAST_LOOK), client.drain_progress(backends)).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::new(Code::Unreachable, "the daemon does not answer")),
    }
}

fn told(progress: &DrainProgress, left: Option<Duration>) -> String {
    let of = match progress.backends.as_slice() {
        [one] => format!("{}/{}", one.pool, one.name),
        several => {
            let empty = several.iter().filter(|backend| backend.flows == 0).count();
            format!("{} backends ({empty} empty)", several.len())
        }
    };
    let left = left
        .map(|left| format!(", {} left", duration(Duration::from_secs(left.as_secs()))))
        .unwrap_or_default();
    format!("{of}: {} live flows{left}", number(progress.flows))
}

/// What is told where the flows that are left are kept.
pub(super) fn kept(backends: &[String], flows: Option<u64>, deadline: Duration) -> Failure {
    let flows = flows.map_or("an unknown number of".to_owned(), number);
    let message = format!(
        "{}: {flows} live flows left after {}; they are kept, the drain goes on",
        backends.join(", "),
        duration(deadline)
    );
    Failure::new(Code::Deadline, message)
}

/// The countdown on stderr: one line rewritten on a terminal, a new line at times elsewhere.
struct Screen {
    last: Option<Instant>,
    shown: String,
}

impl Screen {
    fn show(&mut self, output: &mut Output<'_, '_>, text: &str) -> Result<(), Failure> {
        if output.form != Form::Table || self.shown == text {
            return Ok(());
        }
        let due = self.last.is_none_or(|last| last.elapsed() >= LINE_EVERY);
        let written = match output.streams.audience {
            // Spaces rather than an escape sequence, which NO_COLOR takes out.
            Audience::Terminal => {
                let width = self.shown.chars().count();
                write!(output.streams.err, "\r{text:<width$}").and_then(|()| output.streams.err.flush())
            }
            Audience::Log if due => writeln!(output.streams.err, "{text}"),
            Audience::Log => return Ok(()),
        };
        self.last = Some(Instant::now());
        text.clone_into(&mut self.shown);
        written.map_err(|error| Failure::new(Code::Failed, format!("write to stderr: {error}")))
    }

    fn end(&self, output: &mut Output<'_, '_>) {
        if output.form == Form::Table && output.streams.audience == Audience::Terminal {
            // The line stays as it is when stderr is closed.
            let _ = writeln!(output.streams.err);
        }
    }
}
