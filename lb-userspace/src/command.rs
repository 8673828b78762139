//! Runs a command of the operator's, for a bounded time.

#![forbid(unsafe_code)]

use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;

/// Ends a command that took too long, with all that it started.
struct Group(Option<Pid>);

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // Fails where all of them have ended.
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

/// Runs a command (its words, no shell) with variables and standard input; its output is discarded.
///
/// # Errors
/// What kept it from exit code 0 within the limit, in words.
pub async fn run(
    words: &[String],
    environment: &[(&str, String)],
    input: &[u8],
    limit: Duration,
) -> Result<(), String> {
    match tokio::time::timeout(limit, to_its_end(words, environment, input)).await {
        Ok(ended) => ended,
        Err(_) => Err(format!("not done within {} ms", limit.as_millis())),
    }
}

async fn to_its_end(words: &[String], environment: &[(&str, String)], input: &[u8]) -> Result<(), String> {
    let Some((program, arguments)) = words.split_first() else { return Err("no command".to_owned()) };
    let mut child = Command::new(program)
        .args(arguments)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("run {program}: {error}"))?;
    let mut group = Group(child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?)));
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read its input ends all the same, and its exit code says how.
        let _ = stdin.write_all(input).await;
    }
    let status = child.wait().await.map_err(|error| format!("wait for {program}: {error}"))?;
    // What it left running on purpose runs on.
    group.0 = None;
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}")) }
}
